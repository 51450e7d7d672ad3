"""`tilecascade dataset weather` on real rasters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio

from tests.conftest import SceneMaker, picture, place_bounds, write_scene
from tests.program import run_cli
from tilecascade.app.tools import weather as tool
from tilecascade.app.tools.weather import add_weather
from tilecascade.model.imagery.weather import Weather


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as raster:
        return raster.read().transpose(1, 2, 0)


def test_a_scene_keeps_its_place_and_its_mask_and_says_what_was_added(tmp_path: Path) -> None:
    mask = np.ones((512, 512), dtype=bool)
    mask[:, :100] = False
    scene = write_scene(tmp_path / "a.tif", picture(512, 1), place_bounds(), mask=mask)
    out = tmp_path / "fog.tif"
    done = run_cli("dataset", "weather", scene, "--kind", "fog", "--strength", "0.5", "--seed", "7", "--out", out)
    assert done.returncode == 0, done.stderr
    with rasterio.open(scene) as before, rasterio.open(out) as after:
        assert after.transform == before.transform
        assert after.crs == before.crs
        assert (after.dataset_mask() == before.dataset_mask()).all()
        tags = after.tags()
    assert tags["TILECASCADE_WEATHER"] == "fog"
    assert (tags["TILECASCADE_WEATHER_STRENGTH"], tags["TILECASCADE_WEATHER_SEED"]) == ("0.5", "7")
    assert "not as taken" in tags["TIFFTAG_IMAGEDESCRIPTION"]
    assert np.abs(read(out).astype(int) - read(scene)).mean() > 20


def test_parts_join(tmp_path: Path, make_scene: SceneMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = make_scene(size=512)
    add_weather(scene, Weather("snow", 0.7), tmp_path / "whole.tif")
    monkeypatch.setattr(tool, "PART", 160)
    add_weather(scene, Weather("snow", 0.7), tmp_path / "parts.tif")
    assert (read(tmp_path / "whole.tif") == read(tmp_path / "parts.tif")).all()


def test_sixteen_bits_degrees_and_heights(tmp_path: Path) -> None:
    deep = picture(256, 3).astype(np.uint16) * 20
    bounds = place_bounds("EPSG:4326")
    scene = write_scene(tmp_path / "deep.tif", deep, bounds, "EPSG:4326", photometric="RGB")
    slope = np.linspace(100, 500, 64, dtype=np.float32)[:, None].repeat(64, 1)[..., None]
    heights = write_scene(tmp_path / "dem.tif", slope, bounds, "EPSG:4326", tiled=False)
    add_weather(scene, Weather("fog", 0.9), tmp_path / "low.tif", heights)
    add_weather(scene, Weather("fog", 0.0), tmp_path / "none.tif")
    change = np.abs(read(tmp_path / "low.tif").astype(int) - read(tmp_path / "none.tif")).mean(axis=(1, 2))
    assert change[:40].mean() > 3 * change[-40:].mean(), "the fog lies in the north, where the ground is low"


def test_what_cannot_be_done_is_said(tmp_path: Path, make_scene: SceneMaker) -> None:
    scene, out = make_scene(size=256), tmp_path / "out.tif"
    (tmp_path / "text.tif").write_text("no raster")
    cases = [
        ([tmp_path / "none.tif", "--kind", "fog"], "does not exist"),
        ([tmp_path / "text.tif", "--kind", "fog"], "is no GeoTIFF"),
        ([scene, "--kind", "hail"], "hail"),
        ([scene, "--kind", "fog", "--strength", "2"], "strength"),
        ([scene, "--kind", "fog", "--height", scene], "is no height raster"),
    ]
    for arguments, words in cases:
        done = run_cli("dataset", "weather", *arguments, "--out", out)
        assert done.returncode == 2, done.stderr
        assert words in done.stderr
        assert "Traceback" not in done.stderr
        assert not out.exists()
    done = run_cli("dataset", "weather", scene, "--kind", "fog", "--out", scene)
    assert (done.returncode, "exists already" in done.stderr) == (2, True)
