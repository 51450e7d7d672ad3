"""The shipped weights: they load, they are small, and on real scenes they draw a map and not noise."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.golden import SHARED
from tests.program import run_cli
from tilecascade.model.sgdm.config import WEIGHTS_DIR
from tilecascade.model.sgdm.network import load_network

needs_scenes = pytest.mark.skipif(
    not (SHARED / "data" / "scenes").is_dir(), reason="the real scenes are not on this machine (set TILECASCADE_SHARED)"
)


def test_the_shipped_network_loads() -> None:
    network = load_network(WEIGHTS_DIR / "default")
    assert network.config.name == "default"
    assert network.config.encoder.reference == "spade"
    assert (WEIGHTS_DIR / "default.safetensors").stat().st_size < 40e6
    card = (WEIGHTS_DIR / "README.md").read_text()
    assert "CC BY-NC 4.0" in card
    assert all(np.isfinite(p.detach().numpy()).all() for p in network.parameters())


@needs_scenes
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_real_scene_from_imagery_alone(tmp_path: Path) -> None:
    """One validation scene through the whole cascade; the bar is well below the measured value (docs/lab-book.md)."""
    scene = SHARED / "data" / "scenes" / "val_14_10956_5095.tif"
    arguments = [str(scene), "--truth", str(SHARED / "data" / "pairs"), "--split", "val"]
    result = run_cli("evaluate", "scene", *arguments, "--zooms", "14-16", "--out", str(tmp_path))
    assert result.returncode == 0, result.stderr
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    drawn, enlarged = metrics["zooms"]["16"], metrics["baselines"]["root_enlarged"]["16"]
    median = metrics["baselines"]["median"]["16"]
    assert drawn["n"] == 13
    assert drawn["miou"] > enlarged["miou"] + 0.03
    assert drawn["miou"] > median["miou"] + 0.08
