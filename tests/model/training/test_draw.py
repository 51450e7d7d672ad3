"""Pairs as tensors on a device, batches that cross tile borders, and the stage that draws."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.model.training.test_training import config
from tilecascade.model.data.labels import ANYTHING, LABEL_OF
from tilecascade.model.palette import PALETTE
from tilecascade.model.sgdm.config import tiny
from tilecascade.model.sgdm.network import load_network, random_network
from tilecascade.model.training import loop
from tilecascade.model.training.config import StageConfig
from tilecascade.model.training.draw import DrawTask
from tilecascade.model.training.losses import shown_colour
from tilecascade.model.training.run import train
from tilecascade.model.training.samples import SampleSource
from tilecascade.model.training.tensor_augment import Augmenter, blur
from tilecascade.model.training.tile_bank import EDGE, TileBank, rotations, symmetries

STAGE = StageConfig("draw", 2, batch=4, crop=128, widths=(16,) * 4, objects=0.5, all_sources=True, self_reference=0.3)


@pytest.fixture(scope="module")
def bank(pairs_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> TileBank:
    return TileBank(SampleSource(config(pairs_dir, tmp_path_factory.mktemp("run"), 1), "train"), "cpu")


@pytest.mark.parametrize("turn", range(8))
def test_a_sample_is_what_the_mosaic_of_its_neighbours_shows(bank: TileBank, turn: int) -> None:
    left = next(i for i in range(len(bank.pairs)) if bank.neighbours[i, 1, 2] >= 0)
    right = int(bank.neighbours[left, 1, 2])
    mosaic = torch.cat([bank.maps[left], bank.maps[right]], dim=1)
    places = bank.places(
        torch.tensor([left]), symmetries(torch.tensor([turn])), torch.tensor([0]), torch.tensor([100]), EDGE
    )
    sample = bank.maps[places.pixels][0]
    window = mosaic[:, 100 : 100 + EDGE]
    labels = torch.cat([bank.labels[left], bank.labels[right]], dim=1)[:, 100 : 100 + EDGE]

    def turned(image: torch.Tensor) -> list[torch.Tensor]:
        return [torch.rot90(side, k, (0, 1)) for side in (image, image.flip(0)) for k in range(4)]

    found = [place for place, each in enumerate(turned(window)) if torch.equal(sample, each)]
    assert len(found) == 1
    assert torch.equal(bank.labels[places.pixels][0], turned(labels)[found[0]])
    rows, columns = (place[0, ::2, ::2] // 2 for place in places.pixels[1:])
    cells = (place[0] for place in places.cells[1:])
    # a cell's first pixel is its first or its last by the symmetry: both are of that cell
    assert all(torch.equal(a, b) for a, b in zip((rows, columns), cells, strict=True))


def test_a_turned_sample_shows_the_same_place(bank: TileBank) -> None:
    alone = next(i for i in range(len(bank.pairs)) if (bank.neighbours[i] >= 0).sum() == 1)
    chosen, still = torch.tensor([alone]), torch.tensor([0])
    quarter = bank.places(chosen, rotations(torch.tensor([torch.pi / 2]), torch.tensor([1.0])), still, still, EDGE)
    plain = bank.places(chosen, symmetries(torch.tensor([0])), still, still, EDGE)
    assert torch.equal(bank.maps[quarter.pixels][0], torch.rot90(bank.maps[plain.pixels][0], -1, (0, 1)))
    eighth = bank.places(chosen, rotations(torch.tensor([torch.pi / 4]), torch.tensor([1.0])), still, still, EDGE)
    # the corners of the square lie outside of its tile
    assert 0.15 < float((eighth.pixels[0] < 0).float().mean()) < 0.19
    middle = tuple(place[0, EDGE // 2, EDGE // 2] for place in eighth.pixels)
    assert [int(place) for place in middle] == [alone, EDGE // 2, EDGE // 2]


def test_nothing_is_taken_from_a_neighbour_that_there_is_not(bank: TileBank) -> None:
    alone = next(i for i in range(len(bank.pairs)) if (bank.neighbours[i] >= 0).sum() == 1)
    moved = torch.tensor([-128]), torch.tensor([128])
    places = bank.places(torch.tensor([alone]), symmetries(torch.tensor([0])), *moved, EDGE)
    assert torch.equal(bank.maps[places.pixels][0], bank.maps[alone])


def test_changes_are_the_generators_and_stay_in_range() -> None:
    images = torch.rand(6, 3, 64, 64)
    one, again, other = (Augmenter(torch.Generator().manual_seed(seed)).imagery(images) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert 0 <= float(one.min()) <= float(one.max()) <= 1
    change = Augmenter(torch.Generator().manual_seed(3))
    assert float((change.packed(images) - images).abs().mean()) < 0.15
    assert torch.allclose(blur(torch.full((1, 3, 32, 32), 0.4), 2.0), torch.tensor(0.4))
    edge = change.scene_edge(images)
    assert edge.dtype == torch.bool
    assert edge.any()


@pytest.mark.parametrize(("path", "critic"), [("noise", 0.0), ("bridge", 1.0)])
def test_the_stage_learns_and_tells(path: str, critic: float, pairs_dir: Path, tmp_path: Path) -> None:
    settings = config(pairs_dir, tmp_path, 2)
    stage = replace(STAGE, path=path, critic=critic)  # type: ignore[arg-type]
    task = DrawTask(random_network(tiny(), 3), SampleSource(settings, "train"), SampleSource(settings, "val"), stage)
    batch = task.batch(np.random.default_rng(1))
    again = task.batch(np.random.default_rng(1))
    assert torch.equal(batch.imagery, again.imagery)
    assert torch.equal(batch.reference, again.reference)
    optimizer = torch.optim.Adam([p for group in task.groups() for p in group["params"]], lr=3e-3)  # type: ignore[attr-defined]
    losses = []
    for _ in range(6):
        loss, told = task.loss(batch, torch.Generator().manual_seed(7))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(told["through"] + told["full"]))
    assert losses[-1] < losses[0]
    scores, picture = task.validate(task.module)
    assert {"draft_miou", "1_miou", "4_road"} <= set(scores)
    assert picture.dtype == np.uint8


def test_what_a_casing_shows_is_a_road() -> None:
    names = [name for name, *_ in PALETTE]
    labels = torch.tensor([LABEL_OF["casing"], ANYTHING, names.index("water")])
    assert [names[i] for i in shown_colour(labels).tolist()] == ["road", "land", "water"]


@pytest.mark.slow
def test_own_maps_are_references_from_the_start_and_the_same_after_an_interruption(
    pairs_dir: Path, tmp_path: Path
) -> None:
    stage = replace(STAGE, steps=4, checkpoint_every=2, self_reference=0.9, reference_dropout=0.0)

    def task(out: Path) -> DrawTask:
        settings = config(pairs_dir, out, 2)
        sources = SampleSource(settings, "train"), SampleSource(settings, "val")
        return DrawTask(random_network(tiny(), 3), *sources, stage)

    whole = task(tmp_path / "whole")
    expected = loop.run(whole, stage, tmp_path / "whole", 1).state_dict()
    assert whole.bank.known[:, 2:].any()

    class Stopped(Exception):
        pass

    def stop(step: int) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        loop.run(task(tmp_path / "two"), stage, tmp_path / "two", 1, stop)
    resumed = loop.run(task(tmp_path / "two"), stage, tmp_path / "two", 1).state_dict()
    assert all(torch.equal(resumed[key], value) for key, value in expected.items())


def test_a_run_gives_a_network_that_perceives(pairs_dir: Path, tmp_path: Path) -> None:
    settings = replace(config(pairs_dir, tmp_path, 2), stages=(replace(STAGE, checkpoint_every=2),))
    network = load_network(train(settings))
    assert network.perception is not None
    start = random_network(network.config, 3).perception
    assert start is not None
    mine, theirs = network.perception.prior.logits.weight, start.prior.logits.weight
    assert not torch.allclose(mine, theirs, atol=1e-3)
