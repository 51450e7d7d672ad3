"""A style is data: its colours are learned from maps, and a network is fine-tuned to draw in them."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.program import run_cli
from tilecascade.model.data.style import learn_palette
from tilecascade.model.palette import COLOURS, DEFAULT, PALETTE, palette_of
from tilecascade.model.sgdm.config import SGDMConfig, default
from tilecascade.model.sgdm.network import load_network, random_network, save_network
from tilecascade.model.training import run as training
from tilecascade.model.training.config import DataConfig, StageConfig, TrainConfig
from tilecascade.model.training.run import train
from tilecascade.model.training.samples import STYLE


def restyled(image: np.ndarray) -> np.ndarray:
    """A map of the default style in other colours."""
    return COLOURS.astype(np.uint8)[::-1][DEFAULT.nearest(image)] // 2


@pytest.fixture(scope="module")
def styled(pairs_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pairs with maps of another style."""
    root = tmp_path_factory.mktemp("styled")
    for path in pairs_dir.glob("*.png"):
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        Image.fromarray(restyled(pixels) if ".map" in path.name else pixels).save(root / path.name)
    (root / "manifest.csv").write_bytes((pairs_dir / "manifest.csv").read_bytes())
    return root


def test_the_colours_of_maps_are_found() -> None:
    rng = np.random.default_rng(1)
    wanted = rng.integers(0, 256, (26, 3))
    # one colour is everywhere, the others are lines
    image = np.broadcast_to(wanted[0], (256, 256, 3)).astype(np.uint8).copy()
    for row, colour in enumerate(wanted[1:]):
        image[row * 10 : row * 10 + 3] = colour
    found = np.array(learn_palette([image]))
    distance = np.abs(wanted[:, None] - found[None]).max(axis=2).min(axis=1)
    assert (distance <= 6).mean() > 0.9
    assert np.abs(found[0] - wanted[0]).max() <= 2
    assert learn_palette([image]) == learn_palette([image])
    with pytest.raises(ValueError, match="fewer than three colours"):
        learn_palette([np.zeros((256, 256, 3), dtype=np.uint8)])


def test_a_palette_has_as_many_colours_as_the_default_one() -> None:
    assert palette_of(()) is DEFAULT
    assert (palette_of(COLOURS.tolist()).classes == DEFAULT.classes).all()
    with pytest.raises(ValueError, match="26 colours, not 2"):
        palette_of([(0, 0, 0), (1, 1, 1)])


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> SGDMConfig:
    """The default preset at the smallest size."""
    from tilecascade.model.sgdm.config import tiny

    config = replace(tiny(), name="default")
    monkeypatch.setitem(training.PRESETS, "default", lambda: config)
    return config


@pytest.mark.slow
def test_a_network_learns_a_style_and_goes_on_where_it_was_interrupted(
    styled: Path, small: SGDMConfig, tmp_path: Path
) -> None:
    save_network(random_network(small, seed=2), tmp_path / "start")
    with (styled / "manifest.csv").open() as lines:
        maps = [np.asarray(Image.open(styled / row["map"])) for row in csv.DictReader(lines) if row["split"] == "train"]
    palette = learn_palette(maps)
    stage = StageConfig("style", 16, batch=2, warmup=2, checkpoint_every=8, self_reference=0.5)
    config = TrainConfig(
        "default", (DataConfig(styled, "s", reading=STYLE),), tmp_path / "whole", init=tmp_path / "start",
        spans=(1,), palette=palette, stages=(stage,),
    )  # fmt: skip
    whole = load_network(train(config))
    assert whole.config.autoencoder.palette == palette
    assert (whole.config.finish, whole.perception, whole.config.calibration) == ("none", None, ())
    log = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert all(np.isfinite(entry["loss"]) for entry in log if "loss" in entry)

    class InterruptedError(Exception):
        pass

    def stop(step: int) -> None:
        if step == 8:
            raise InterruptedError

    parts = replace(config, out=tmp_path / "parts")
    with pytest.raises(InterruptedError):
        train(parts, on_checkpoint=stop)
    resumed = load_network(train(parts)).state_dict()
    assert all((value == resumed[name]).all() for name, value in whole.state_dict().items())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_command_fine_tunes_measures_and_refuses(styled: Path, tmp_path: Path) -> None:
    """The program itself with the shipped network, for a few steps; more pairs than the fixture has."""
    root = tmp_path / "pairs"
    root.mkdir()
    with (styled / "manifest.csv").open() as lines:
        rows = [row for row in csv.DictReader(lines) if row["source"] == "s"]
    for path in styled.glob("*.png"):
        (root / path.name).write_bytes(path.read_bytes())
    with (root / "manifest.csv").open("w", newline="") as out:
        writer = csv.DictWriter(out, rows[0])
        writer.writeheader()
        for row in rows:
            for copy in range(4 if row["split"] == "train" else 1):
                writer.writerow(row | {"x": int(row["x"]) + 64 * copy})
    few = run_cli("finetune", "--pairs", str(styled), "--source", "s", "--out", str(tmp_path / "few"))
    assert (few.returncode, "at least 20" in few.stderr) == (2, True)
    arguments = ["finetune", "--pairs", str(root), "--source", "s", "--minutes", "0.1", "--out", str(tmp_path / "m")]
    done = run_cli(*arguments, timeout=500)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "m" / "report.json").read_text())
    assert report["held_out"] == 7
    assert f"PSNR_Y {report['psnr_y_before']} dB before, {report['psnr_y_after']} after" in done.stdout
    with Image.open(tmp_path / "m" / "held-out.png") as sheet:
        assert sheet.size == (7 * 256, 4 * 256)
    network = load_network(tmp_path / "m" / "network")
    assert len(network.config.autoencoder.palette) == len(PALETTE)
    assert replace(network.config.encoder) == default().encoder
    again = run_cli(*arguments)
    assert (again.returncode, "holds a model already" in again.stderr) == (2, True)
    neither = run_cli("finetune", "--out", str(tmp_path / "n"))
    assert (neither.returncode, "--scene and --map, or --pairs" in neither.stderr) == (2, True)
