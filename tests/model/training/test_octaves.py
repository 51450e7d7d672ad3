"""Training the network of imagery: both stages learn, the same command goes on, and the result loads."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import picture
from tilecascade.model.imagery.network import OctaveConfig, OctaveNet
from tilecascade.model.imagery.painter import load_octaves
from tilecascade.model.training.config import DataConfig, StageConfig, TrainConfig, read_config
from tilecascade.model.training.octaves import OctaveStepsTask, OctaveTask, read_images, train_octaves

SMALL = OctaveConfig((8, 8, 8), (1, 1, 1), 16, 2)
FLOW = StageConfig("octaves", 2, batch=4, crop=32, rate=3e-3, warmup=1, checkpoint_every=2, threads=1)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    root = tmp_path_factory.mktemp("pairs")
    with (root / "manifest.csv").open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["source", "split", "zoom", "x", "y", "rs"])
        for split, count in (("train", 4), ("val", 2)):
            for y in range(count):
                for x in range(count):
                    name = f"{split}_{x}_{y}.png"
                    Image.fromarray(picture(256, x + 7 * y)).save(root / name)
                    writer.writerow(["s", split, 14, 4000 + x, 4000 + y, name])
    steps = replace(FLOW, name="octave_steps", critic=0.5)
    return TrainConfig("imagery", (DataConfig(root, "s"),), root / "run", stages=(FLOW, steps))


def test_images_are_reduced_where_four_make_one(config: TrainConfig) -> None:
    images, metres, weights = read_images(config, "train")
    assert len(images) == 16 + 4 + 1
    assert metres[-1] == pytest.approx(4 * metres[0], rel=0.01)
    assert len(weights) == len(images)
    mean = np.mean([image.mean() for image in images[:16]])
    assert images[-1].mean() == pytest.approx(mean, abs=1)
    assert len(read_images(config, "val")[0]) == 4


@pytest.mark.parametrize("kind", [OctaveTask, OctaveStepsTask])
def test_a_stage_learns(kind: type[OctaveTask], config: TrainConfig) -> None:
    torch.manual_seed(0)
    stage = config.stages[kind is OctaveStepsTask]
    task = kind(OctaveNet(SMALL), config, stage)
    batch = task.batch(np.random.default_rng(1))
    assert torch.equal(batch.detail, task.batch(np.random.default_rng(1)).detail)
    assert batch.detail.shape == (4, 9, 16, 16)
    optimizer = torch.optim.Adam([p for group in task.groups() for p in group["params"]], lr=1e-2)  # type: ignore[attr-defined]
    losses = []
    for _ in range(8):
        loss, _ = task.loss(batch, torch.Generator().manual_seed(3))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def test_a_run_gives_a_network_that_loads(config: TrainConfig) -> None:
    stem = train_octaves(config, SMALL)
    net, _ = load_octaves(stem)
    assert net.config == SMALL
    again, _ = load_octaves(train_octaves(config, SMALL))
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))


def test_the_configuration_that_ships_is_read() -> None:
    parsed = read_config(Path(__file__).resolve().parents[3] / "model" / "training" / "octaves.toml")
    assert [stage.name for stage in parsed.stages] == ["octaves", "octave_steps"]
