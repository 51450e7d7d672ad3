"""Layouts: pictures of what lies where, and the small network that makes them of captions."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support import tiny_layouts
from tilecascade.model.layout.layout import CELL, EDGE, KINDS, NUMBER, caption_of, layout_of, shown
from tilecascade.model.layout.network import LayoutConfig, LayoutNet, mean_of, one_hot, times
from tilecascade.model.layout.sampling import (
    EDGE_COST,
    LayoutGenerator,
    Wanted,
    fidelity,
    load_layouts,
    save_layouts,
    shores,
)
from tilecascade.model.text.captions import Caption, CaptionError
from tilecascade.model.text.segments import LENGTHS, SEGMENTS, Schedule, Vocabulary

FOREST = Caption("forest", ("a road across the river",), ("forest", "water", "road"))


def test_a_layout_is_read_from_the_picture_of_it() -> None:
    rng = np.random.default_rng(1)
    layout = rng.integers(0, len(KINDS), (EDGE, EDGE)).astype(np.uint8)
    picture = shown(layout)
    assert picture.shape == (EDGE * CELL, EDGE * CELL, 3)
    assert (layout_of(picture) == layout).all()


def test_thin_roads_are_kept_and_lines_that_are_no_ground_are_not() -> None:
    layout = np.full((EDGE, EDGE), NUMBER["forest"], dtype=np.uint8)
    tile = shown(layout)
    tile[31:33] = (250, 128, 114)  # a path
    tile[:, 101] = (255, 255, 255)  # one of five pixels across
    found = layout_of(tile)
    assert (found[:, 20] == NUMBER["road"]).all()
    assert (np.delete(found, 20, axis=1) == NUMBER["forest"]).all()
    assert caption_of(layout).scene == "forest"


def test_the_schedule_has_the_scene_first_and_the_elements_last() -> None:
    schedule = Schedule()
    weights = np.array([schedule.weights(progress) for progress in np.linspace(0, 1, 11)])
    assert np.allclose(weights.sum(axis=1), 1)
    assert (np.diff(weights[:, 0]) < 0.005).all()
    assert (np.diff(weights[:, 2]) > 0).all()
    assert weights[:, 1].argmax() not in (0, 10)
    assert weights[0].argmax() == 0
    assert weights[-1].argmax() == 2
    assert torch.allclose(
        schedule.tensor(torch.tensor([0.0, 1.0])), torch.tensor(weights[[0, 10]], dtype=torch.float32)
    )


def test_words_that_were_not_learned_are_named() -> None:
    vocabulary = Vocabulary.of([FOREST])
    assert len(vocabulary.tokens(FOREST)) == sum(LENGTHS)
    assert vocabulary.unknown(FOREST) == []
    strange = dataclasses.replace(FOREST, elements=("forest", "giraffe", "zoo"))
    with pytest.raises(CaptionError, match=r"'giraffe', 'zoo'.*it knows a, across"):
        vocabulary.tokens(strange)
    with pytest.raises(CaptionError, match="the element of the caption has 29 words and 27 fit"):
        vocabulary.tokens(Caption("forest", (), ("water road",) * 10))


def test_each_segment_changes_the_output_and_only_when_it_is_said() -> None:
    generator = tiny_layouts()
    net, tokens = generator.net, generator.vocabulary.tokens(FOREST)[None]
    state, known = torch.randn(1, len(KINDS), EDGE, EDGE), torch.zeros(1, len(KINDS) + 1, EDGE, EDGE)
    with torch.inference_mode():

        def logits(*said: bool, words: torch.Tensor = tokens) -> torch.Tensor:
            return net(state, known, torch.tensor([0.5]), words, torch.tensor([said]))

        whole = logits(True, True, True)
        for number, name in enumerate(SEGMENTS):
            said = [each != number for each in range(3)]
            assert not torch.equal(logits(*said), whole), name
            other = tokens.clone()
            start = sum(LENGTHS[:number])
            other[0, start : start + 2] = other[0, start : start + 2].flip(0) + 1
            assert torch.equal(logits(*said, words=other), logits(*said)), f"{name} is not said"
            assert not torch.equal(logits(True, True, True, words=other), whole), name


def test_generating_is_repeatable_and_keeps_what_is_given(tmp_path: Path) -> None:
    generator = tiny_layouts()
    known = np.full((EDGE, EDGE), NUMBER["water"], dtype=np.uint8)
    mask = np.zeros((EDGE, EDGE), dtype=bool)
    mask[:10] = True
    wanted = [Wanted(FOREST, 1), Wanted(FOREST, 2), Wanted(None, 1), Wanted(FOREST, 1, known, mask)]
    found = generator(wanted)
    assert all((one == other).all() for one, other in zip(found, generator(wanted), strict=True))
    assert (found[0] != found[1]).any()
    assert (found[0] != found[2]).any()
    assert (found[3][mask] == NUMBER["water"]).all()
    (dry,) = generator([Wanted(FOREST, 1, known, mask, dry=True)])
    assert ((dry == NUMBER["water"]) == mask).all()
    save_layouts(generator.net, tmp_path / "layout")
    again = load_layouts(tmp_path / "layout")
    assert again.config == generator.config
    assert (again([wanted[0]])[0] == LayoutGenerator(again.net)([wanted[0]])[0]).all()


def test_the_candidate_that_shows_most_of_a_caption_is_kept() -> None:
    generator = tiny_layouts()
    every = generator([Wanted(FOREST, 3, draw=number) for number in range(4)])
    assert len({layout.tobytes() for layout in every}) == 4
    best = generator.best(Wanted(FOREST, 3), 4)
    assert fidelity(FOREST, best) == max(fidelity(FOREST, layout) for layout in every)
    right = np.full((EDGE, EDGE), NUMBER["forest"], dtype=np.uint8)
    assert fidelity(Caption("forest", (), ("forest",)), right) == 3
    assert fidelity(Caption("water", (), ("water",)), right) == 1
    assert (generator.best(Wanted(None, 3)) == generator([Wanted(None, 3)])[0]).all()


def test_lakes_that_an_edge_cuts_off_cost() -> None:
    mask = np.ones((EDGE, EDGE), dtype=bool)
    mask[10:30, 10:30] = False
    dry = np.full((EDGE, EDGE), NUMBER["farmland"], dtype=np.uint8)
    full, lake, river = dry.copy(), dry.copy(), dry.copy()
    full[10:30, 10:30] = lake[14:26, 14:26] = river[20:22] = NUMBER["water"]
    assert shores(dry, mask) == shores(lake, mask) == shores(river, mask) == 0
    assert shores(full, mask) == EDGE_COST


def test_layouts_as_they_are_denoised() -> None:
    layout = torch.randint(0, len(KINDS), (2, EDGE, EDGE))
    clean = one_hot(layout)
    assert (clean.argmax(1) == layout).all()
    certain = torch.where(clean > 0, 50.0, -50.0)
    assert torch.allclose(mean_of(certain), clean, atol=1e-5)
    assert times(8)[0] == 1
    assert all(a > b for a, b in zip(times(8), times(8)[1:], strict=False))


def test_a_config_is_read_as_it_was_written() -> None:
    config = LayoutConfig(("a", "b"), schedule=Schedule((0.1, 0.2, 0.9), 0.4, 0.2))
    assert LayoutConfig.from_dict(LayoutNet(config).config.to_dict()) == config
