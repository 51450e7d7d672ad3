"""Training on synthetic pairs: every stage learns, an interrupted run is the run that was not interrupted."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mercantile import Tile
from PIL import Image
from safetensors.torch import save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.model.training.conftest import BUILDING_AND_ROAD, imagery_of
from tests.support import map_picture
from tilecascade.model.cascade import enlarge_part
from tilecascade.model.data.alignment import estimate_offsets, offset_of, shift
from tilecascade.model.data.labels import ANYTHING, LABEL_OF, READERS, buildings
from tilecascade.model.data.pairs import Pair, read_pairs
from tilecascade.model.evaluation.baselines import BASELINES, load_baselines
from tilecascade.model.palette import COLOURS, LAND, PALETTE, classify, nearest_colour
from tilecascade.model.sgdm.autoencoder import PaletteAutoencoder
from tilecascade.model.sgdm.config import tiny
from tilecascade.model.sgdm.network import load_network, random_network, save_network
from tilecascade.model.training.augment import degrade_reference, outdate_reference, scene_edge, symmetry
from tilecascade.model.training.baselines import train_baselines
from tilecascade.model.training.config import BASELINE_PRESET, STAGES, DataConfig, StageConfig, TrainConfig, read_config
from tilecascade.model.training.losses import (
    CLOSE,
    LABEL_WEIGHT,
    TRUSTED,
    colour_loss,
    comb_loss,
    label_loss,
    lattice_loss,
)
from tilecascade.model.training.objects import halved, object_planes
from tilecascade.model.training.perceive import CAP, capped_loss
from tilecascade.model.training.run import train
from tilecascade.model.training.run_log import RunLog
from tilecascade.model.training.samples import SampleSource


def config(pairs: Path, out: Path, steps: int, **changes: object) -> TrainConfig:
    stage = StageConfig(
        "condition", steps, batch=2, crop=64, checkpoint_every=max(1, steps // 2), warmup=1, all_sources=True, threads=1
    )
    stages = (
        stage,
        replace(stage, name="autoencoder", all_sources=False),
        replace(stage, name="refine", crop=64, batch=2, self_reference=0.5, all_sources=True),
        replace(stage, name="perceive", objects=1.0),
        replace(stage, name="draw", objects=0.5, crop=256, self_reference=0.5, widths=(16, 16, 16, 16), sampled=1),
        replace(stage, name="colours", widths=(16, 16, 16, 16), variants=1, cache=str(out / "features")),
        replace(stage, name="diffusion", crop=64, batch=2, all_sources=False),
        replace(stage, name="adversarial", crop=64, batch=2, all_sources=False),
    )
    data = (DataConfig(pairs, "s", 0.7), DataConfig(pairs, "other", 0.3, "roads"))
    return TrainConfig(preset="tiny", data=data, out=out, stages=stages, **changes)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_interrupted_run_is_the_run_that_was_not(pairs_dir: Path, tmp_path: Path) -> None:
    whole = load_network(train(config(pairs_dir, tmp_path / "a", 2)))
    full = config(pairs_dir, tmp_path / "b", 2)
    for stage in [each.name for each in full.stages]:
        stopping_at(1, full, stage)
        path = tmp_path / "b" / f"{stage}.ckpt"
        assert torch.load(path, weights_only=True)["step"] == 1
        train(full, only=stage)
    again = load_network(tmp_path / "b" / "network")
    for (name, a), b in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_objects_of_a_map_are_outlines_gaps_and_centrelines() -> None:
    image = np.full((64, 64, 3), LAND, dtype=np.uint8)
    fill, outline, white = (COLOURS[[name for name, *_ in PALETTE].index(n)] for n in BUILDING_AND_ROAD)
    for left in (6, 22):  # two houses, three pixels apart
        image[8:22, left : left + 13] = outline
        image[9:21, left + 1 : left + 12] = fill
    image[40:46, :] = white
    image[40:, 30:36] = white
    boundary, contact, centreline, junction = object_planes(image)
    assert boundary[8, 6:19].all()
    assert not boundary[9:21, 7:18].any()
    assert contact[10:20, 20].all()
    assert not contact[30:].any()
    assert centreline[42:44].any(0)[4:-4].all()
    assert 60 < centreline.sum() < 100
    assert junction[40:46, 28:38].any()
    assert not junction[:, :20].any()
    assert halved(object_planes(image)).shape == (4, 32, 32)


def test_quarries_and_casings_are_no_buildings() -> None:
    image = np.full((64, 64, 3), LAND, dtype=np.uint8)
    image[:30] = (197, 195, 195)
    image[40:46] = (196, 182, 171)  # a casing: no fill beside it
    image[42:44] = 255
    labels = READERS["exact"](image)
    assert (labels[2:28] == LABEL_OF["land"]).all()
    assert (labels[40] == LABEL_OF["casing"]).all()
    assert not buildings(image).any()


def test_unmapped_ground_costs_no_more_than_a_bound() -> None:
    logits = torch.full((1, len(PALETTE), 4, 4), -20.0)
    logits[:, 10] = 20.0  # sure of a wood
    land, water = (torch.full((1, 8, 8), index) for index in (0, 19))
    assert float(capped_loss(logits, land)) == pytest.approx(CAP)
    assert float(capped_loss(logits, water)) > 30


def stopping_at(step: int, settings: TrainConfig, stage: str) -> None:
    """Run a stage and stop it, as a signal would, right after the checkpoint of `step`."""

    def stop(reached: int) -> None:
        if reached == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(settings, only=stage, on_checkpoint=stop)


def test_tensorboard_gets_what_the_log_gets(tmp_path: Path) -> None:
    stage = StageConfig("perceive", 4, tensorboard=True)
    log = RunLog(tmp_path, stage)
    log.write(2, {"loss": 0.5, "validation": {"miou": 0.25}, "note": "words are not drawn"})
    log.picture(2, np.zeros((8, 16, 3), np.uint8))
    events = EventAccumulator(str(tmp_path / "tensorboard" / "perceive")).Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "validation/miou"}
    assert [(event.step, event.value) for event in events.Scalars("validation/miou")] == [(2, 0.25)]
    assert events.Images("validation")[0].width == 16
    assert Image.open(tmp_path / "perceive-000002.png").size == (16, 8)


def test_a_run_without_the_package_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match=r"pip install 'tilecascade\[tensorboard\]'"):
        RunLog(tmp_path, StageConfig("perceive", 4, tensorboard=True))


@pytest.mark.slow
def test_a_run_leaves_log_grids_and_a_network(pairs_dir: Path, tmp_path: Path) -> None:
    train(config(pairs_dir, tmp_path, 2))
    names = {path.name for path in tmp_path.iterdir()}
    assert {"log.jsonl", "network.safetensors", "network.json", "diffusion-000002.png"} <= names
    entries = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert {entry["stage"] for entry in entries} == set(STAGES) - {"style"}
    assert any("miou" in entry.get("validation", {}) for entry in entries)


def test_a_run_can_start_from_another_network(pairs_dir: Path, tmp_path: Path) -> None:
    other = random_network(tiny(), 5)
    save_network(other, tmp_path / "other", half=False)
    settings = config(pairs_dir, tmp_path / "out", 0, init=tmp_path / "other")
    started = load_network(train(settings))
    assert torch.allclose(started.encoder.merge.weight, other.encoder.merge.weight, atol=1e-3)
    # the latents are those that its U-Net and decoder were trained with
    basis, before = started.state_dict()["autoencoder.basis"], other.state_dict()["autoencoder.basis"]
    assert torch.allclose(basis, before, atol=1e-3)
    with pytest.raises(ValueError, match="does not exist"):
        train(replace(settings, init=tmp_path / "nothing"))
    save_file({"stranger": torch.zeros(1)}, tmp_path / "stranger.safetensors")
    with pytest.raises(ValueError, match="no tensor"):
        train(replace(settings, init=tmp_path / "stranger"))


@pytest.mark.slow
def test_the_condition_stage_learns(pairs_dir: Path, tmp_path: Path) -> None:
    settings = config(pairs_dir, tmp_path, 60)
    stage = replace(settings.stages[0], rate=3e-3, batch=4, crop=128, checkpoint_every=60, all_sources=False)
    train(replace(settings, stages=(stage,)))
    losses = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    values = [entry["loss"] for entry in losses if "loss" in entry]
    assert values[-1] < 0.75 * values[0]


def test_the_linear_encoder_keeps_what_it_was_fitted_to() -> None:
    rng = np.random.default_rng(1)
    maps = [torch.from_numpy(nearest_colour(map_picture(rng)).astype(np.int64)) for _ in range(6)]
    wide = replace(tiny(), autoencoder=replace(tiny().autoencoder, latent_channels=48))
    errors = {}
    for network in (random_network(tiny()), random_network(wide)):
        auto = network.autoencoder
        assert isinstance(auto, PaletteAutoencoder)
        auto.fit(maps)
        batch = torch.stack(maps)
        with torch.no_grad():
            latent = auto.encode_embedded(auto.embed(batch))
            errors[latent.shape[1]] = float((auto.decode_linear(latent) - auto.embed(batch)).square().mean())
        assert float(latent.var(dim=(0, 2, 3)).mean()) == pytest.approx(1, abs=0.2)
        assert torch.allclose(auto.basis @ auto.basis.T, torch.eye(latent.shape[1]), atol=1e-5)
    assert errors[48] < 0.3 * errors[4]


def test_offsets_are_found_and_removed() -> None:
    rng = np.random.default_rng(2)
    truth = {("val", 10, 20): (-4, 3), ("val", 11, 20): (5, -2)}
    pairs = []
    for (split, ax, ay), offset in truth.items():
        for zoom, factor in ((17, 1.0), (16, 0.5)):
            for i in range(4):
                generated = map_picture(rng)
                moved = (round(offset[0] * factor), round(offset[1] * factor))
                k = zoom - 14
                pairs.append(Pair(zoom, (ax << k) + i, ay << k, split, imagery_of(generated, rng, moved), generated))
    found = estimate_offsets(pairs)
    assert {area: tuple(np.abs(np.subtract(found[area], truth[area])) <= 1) for area in truth} == dict.fromkeys(
        truth, (True, True)
    )
    pair = pairs[0]
    dx, dy = offset_of(pair, found)
    aligned = shift(pair.imagery, dx, dy)
    before = np.corrcoef(pair.imagery.ravel(), pair.map.ravel())[0, 1]
    assert abs(np.corrcoef(aligned.ravel(), pair.map.ravel())[0, 1]) > abs(before)
    assert offset_of(replace(pair, zoom=14, x=99), {}) == (0, 0)


def test_pairs_are_read_with_their_parents(pairs_dir: Path) -> None:
    pairs = read_pairs(pairs_dir, "s", "train")
    assert len(pairs) == 7
    assert all((pair.parent is not None) == (pair.zoom > 14) for pair in pairs)
    with pytest.raises(ValueError, match="no pair of source"):
        read_pairs(pairs_dir, "none", "train")
    with pytest.raises(ValueError, match=r"neither a manifest"):
        read_pairs(pairs_dir / "none", "s", "train")


def test_pairs_without_a_position_get_places_of_their_own(pairs_dir: Path) -> None:
    pairs = read_pairs(pairs_dir, "other", "train", reading="roads")
    assert len({pair.area for pair in pairs}) == len(pairs) == 2
    assert {pair.reading for pair in pairs} == {"roads"}


def test_only_stages_that_may_use_other_styles_see_them(pairs_dir: Path, tmp_path: Path) -> None:
    settings = config(pairs_dir, tmp_path, 1)
    source = SampleSource(settings, "train")
    seen = {}
    for name, stage in (("style", settings.stages[1]), ("all", settings.stages[0])):
        labels = [source.batch(stage, np.random.default_rng(i)).labels for i in range(20)]
        seen[name] = set(torch.cat([x.flatten() for x in labels]).tolist())
    assert max(seen["style"] - {ANYTHING}) < len(PALETTE)
    assert LABEL_OF["not road"] in seen["all"]
    assert len(SampleSource(settings, "val").pairs) == 7


def test_the_label_loss_is_the_cross_entropy_and_generalises_it() -> None:
    logits = torch.randn(2, len(PALETTE), 8, 8)
    labels = torch.randint(0, len(PALETTE), (2, 8, 8))
    weight = LABEL_WEIGHT[: len(PALETTE)]
    assert torch.allclose(label_loss(logits, labels), torch.nn.functional.cross_entropy(logits, labels, weight))
    labels[1] = LABEL_OF["road"]
    assert label_loss(logits, labels).isfinite()
    sure = torch.full_like(logits, -30.0)
    for name, generated, small in (
        ("road", "secondary road", True),
        ("road", "water", False),
        ("not road", "water", True),
        ("not road", "road", False),
        ("open", "forest", False),
    ):
        sure[:] = -30.0
        sure[:, [entry[0] for entry in PALETTE].index(generated)] = 30.0
        loss = float(label_loss(sure, torch.full_like(labels, LABEL_OF[name])))
        assert (loss < 1e-3) == small, (name, generated, loss)
    assert float(label_loss(logits, torch.full_like(labels, ANYTHING))) == 0


def test_the_colour_loss_counts_what_is_close_and_known() -> None:
    truth, generated = torch.zeros(2, 3, 8, 8), torch.zeros(2, 1, 8, 8)
    labels = torch.zeros(2, 8, 8, dtype=torch.int64)
    labels[1, 0, 0] = len(PALETTE)  # a set of colours: a map of another style
    half = colour_loss(truth + CLOSE**0.5, truth, labels, generated)
    assert float(half) == pytest.approx(0.25)  # half of one of two samples
    assert float(colour_loss(truth + 1, truth, labels, generated)) == pytest.approx(0.5, abs=0.01)
    steps = [float(colour_loss(truth + 10**-e, truth, labels, generated + 1)) for e in (0.0, 0.5, 1.0)]
    assert steps[0] - steps[1] == pytest.approx(TRUSTED * math.log(10) / 2, rel=0.01), "a trusted one's decibels"
    assert steps[1] - steps[2] == pytest.approx(TRUSTED * math.log(10) / 2, rel=0.02)
    labels[0, :, 1:] = ANYTHING
    wrong = truth.clone()
    wrong[:, :, :, 1:] = 1
    for trusted in (generated, generated + 1):
        assert float(colour_loss(wrong, truth, labels, trusted)) == 0
        assert float(colour_loss(truth, truth, labels, trusted)) == 0


def test_the_comb_loss_sees_cells_and_nothing_else() -> None:
    smooth = torch.nn.functional.interpolate(torch.randn(4, 3, 30, 30), size=(256, 256), mode="bicubic")
    cells = torch.nn.functional.interpolate(torch.randn(4, 3, 32, 32), size=(256, 256), mode="nearest")
    assert float(comb_loss(smooth)) < 0.002
    assert float(comb_loss(cells)) > 1
    assert float(comb_loss(cells.roll(3, dims=3))) > 1
    assert float(comb_loss(smooth + 0.05 * cells)) > 2 * float(comb_loss(smooth))
    assert float(comb_loss(torch.zeros(1, 3, 64, 64))) == pytest.approx(1)


def test_the_lattice_loss_sees_what_keeps_its_phase_and_neither_edges_nor_slopes() -> None:
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    chequered, striped = 0.1 * ((rows + columns) % 2), 0.1 * (columns % 2)
    slope = torch.stack([rows, columns, rows + columns]).float()[None] / 64
    assert float(lattice_loss(slope)) == pytest.approx(0, abs=1e-6)
    for lattice in (chequered, striped, striped.T):
        assert float(lattice_loss(slope + lattice)) > 100
    blocks = torch.rand(1, 3, 10, 10, generator=torch.Generator().manual_seed(1))
    edges = torch.nn.functional.interpolate(blocks, size=(64, 64), mode="nearest-exact")  # of 6 and 7 pixels
    assert float(lattice_loss(edges)) < 0.2 * float(lattice_loss(chequered.expand(1, 3, 64, 64)))


def test_maps_of_other_styles_are_read_as_far_as_they_can_be_trusted() -> None:
    colours = np.array([[(255, 255, 255), (173, 209, 158), (0, 0, 0), (170, 211, 223)]], dtype=np.uint8)
    names = [["road", "vegetation", "anything", "water"]]
    assert READERS["classes"](colours).tolist() == [[LABEL_OF[name] for name in names[0]]]
    assert READERS["roads"](colours)[0, [0, 1, 3]].tolist() == [
        LABEL_OF[name] for name in ("road", "not road", "not road")
    ]
    assert READERS["roads and water"](colours)[0, [1, 3]].tolist() == [
        LABEL_OF[name] for name in ("neither road nor water", "water")
    ]
    sheet = np.array([[(255, 255, 255), (195, 225, 185), (30, 30, 30), (150, 215, 250)]], dtype=np.uint8)
    assert READERS["topographic"](sheet).tolist() == [
        [LABEL_OF[name] for name in ("open", "wooded", "anything", "water")]
    ]


def test_samples_are_a_function_of_the_seed_and_the_root_has_no_reference(pairs_dir: Path, tmp_path: Path) -> None:
    settings = config(pairs_dir, tmp_path, 1, zoom_weights={14: 1.0, 15: 0.0, 16: 0.0, 17: 0.0})
    source = SampleSource(settings, "train")
    stage = replace(settings.stages[2], reference_dropout=0.0, self_reference=0.0, all_sources=False)
    a, b = (source.batch(stage, np.random.default_rng([1, 2])) for _ in range(2))
    assert torch.equal(a.imagery, b.imagery)
    assert torch.equal(a.labels, b.labels)
    assert not a.reference.any()
    assert "reference" not in a.texts[0]
    source = SampleSource(replace(settings, zoom_weights={14: 0.0}), "train")
    later = source.batch(stage, np.random.default_rng(3))
    assert later.reference.any()
    assert "reference" in later.texts[0]


def test_the_quadrant_is_the_right_one() -> None:
    parent = np.zeros((256, 256, 3), dtype=np.uint8)
    parent[128:, :128] = 200
    assert (enlarge_part(parent, Tile(4, 7, 3), 1)[16:-16, 16:-16] == 200).all()
    assert (enlarge_part(parent, Tile(5, 7, 3), 1)[16:-16, 16:-16] == 0).all()
    parent[:] = 0
    parent[64:128, 192:] = 99
    assert (enlarge_part(parent, Tile(7, 5, 3), 2)[16:-16, 16:-16] == 99).all()


def test_augmentations() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert len({symmetry(image, i).tobytes() for i in range(8)}) == 8
    assert (symmetry(image, 0) == image).all()
    shares = [scene_edge(64, rng).mean() for _ in range(50)]
    assert 0.2 < np.mean(shares) < 0.95
    changed = [degrade_reference(image, image[::-1], rng) for _ in range(20)]
    assert all(c.shape == image.shape and c.dtype == np.uint8 for c in changed)
    assert sum((c != image).any() for c in changed) > 10


def test_an_outdated_reference_is_a_map_still_and_marked_as_trusted(pairs_dir: Path, tmp_path: Path) -> None:
    image, other = map_picture(np.random.default_rng(1)), map_picture(np.random.default_rng(2))
    rng = np.random.default_rng(3)
    changed = [outdate_reference(image, other, rng) for _ in range(60)]
    for generated in changed:
        same, land, elsewhere = (np.all(generated == like, axis=2) for like in (image, np.array(LAND), other))
        assert (same | land | elsewhere).all()
    assert 8 < sum(np.array_equal(generated, other) for generated in changed) < 35
    assert sum(np.array_equal(generated, image) for generated in changed) < 10

    settings = config(pairs_dir, tmp_path, 1, spans=(1,))
    source = SampleSource(settings, "train")
    stage = replace(settings.stages[2], reference_dropout=0.0, self_reference=0.0, degraded=0.0, outdated=1.0, crop=256)
    pair = next(pair for pair in source.pairs if pair.zoom == 16)
    samples = [source.sample(pair, stage, np.random.default_rng(seed)) for seed in range(12)]
    assert all(sample.trusted for sample in samples)
    truth = source.reference(pair, 1)
    assert truth is not None
    references = [sample.reference for sample in samples if sample.reference is not None]
    same = [any(np.array_equal(symmetry(truth, i), reference) for i in range(8)) for reference in references]
    assert sum(same) < len(same) / 2


def test_configuration_mistakes_are_named(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    good = 'preset = "tiny"\nout = "o"\n[[data]]\npairs = "p"\nsource = "s"\n[stage.condition]\nsteps = 1\n'
    path.write_text(good)
    assert read_config(path).data[0].pairs == tmp_path / "p"
    for text, words in [
        ("preset =", "not valid TOML"),
        (good.replace("condition", "conditoin"), "stages are"),
        (good + "stepz = 2\n", "stepz"),
        (good.replace('preset = "tiny"\n', ""), "preset"),
        (good.replace('pairs = "p"\n', ""), "needs 'pairs'"),
        (good.replace('source = "s"', 'source = "s"\nreading = "runes"'), "reading is one of"),
        ('preset = "tiny"\nout = "o"\n[stage.condition]\nsteps = 1\n', "no .*data.* table"),
    ]:
        path.write_text(text)
        with pytest.raises(ValueError, match=words):
            read_config(path)
    path.write_text(good.replace("tiny", "huge"))
    with pytest.raises(ValueError, match="unknown preset"):
        train(read_config(path))


def test_nearest_colours() -> None:
    for index, colour in enumerate(COLOURS):
        assert nearest_colour(np.array(colour, dtype=np.uint8)) == index
    assert classify(np.array([[[255, 255, 255], [171, 210, 222]]], dtype=np.uint8)).tolist() == [[2, 3]]


def test_baselines_are_trained_on_the_same_samples(pairs_dir: Path, tmp_path: Path) -> None:
    stage = StageConfig(
        "sharpener", 2, batch=2, crop=64, checkpoint_every=2, warmup=1, threads=1, reference_dropout=0.0
    )
    stages = (stage, replace(stage, name="regression"), replace(stage, name="segmentation", all_sources=True))
    settings = replace(config(pairs_dir, tmp_path / "out", 2), preset=BASELINE_PRESET, stages=stages)
    assert set(load_baselines(train_baselines(settings))) == set(BASELINES)
    path = tmp_path / "c.toml"
    path.write_text(
        'preset = "baselines"\nout = "o"\n[[data]]\npairs = "p"\nsource = "s"\n[stage.condition]\nsteps = 1\n'
    )
    with pytest.raises(ValueError, match="stages are sharpener, regression, segmentation"):
        read_config(path)
