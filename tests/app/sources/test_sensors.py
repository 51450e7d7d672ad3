"""Scenes that no camera has taken: which bands they have, and maps of them over HTTP."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import mercantile
import numpy as np
import pytest
import rasterio
from fastapi.testclient import TestClient
from PIL import Image
from rasterio.enums import ColorInterp

from tests.conftest import SceneMaker, picture, place_bounds, write_scene
from tests.model.sensors.test_sensors import random_stem
from tests.program import run_cli
from tests.support import wait_ready
from tilecascade.app.api.app import create_app
from tilecascade.app.errors import SceneError
from tilecascade.app.settings import LayerSettings, Settings
from tilecascade.app.sources import sensors
from tilecascade.app.sources.bands import SENSOR_TAG, bands_of
from tilecascade.app.sources.mosaic import SceneMosaic
from tilecascade.app.sources.scene import open_scene
from tilecascade.app.tiles.invalidation import changed_scenes
from tilecascade.app.tools.sensor import write_sensor
from tilecascade.model.cascade import Window, tile_window
from tilecascade.model.sensors.modality import Sensor, sensor_named

MakeSettings = Callable[..., Settings]
KEY = {"X-API-Key": "secret-key-of-this-test"}


@pytest.fixture(autouse=True)
def tiny_stems(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {name: random_stem(name) for name in ("sar", "pan", "nir")}
    monkeypatch.setattr(sensors, "_stem", lambda sensor: made[sensor])


def raster(path: Path, bands: np.ndarray, descriptions: tuple[str, ...] = (), **options: object) -> Path:
    """A GeoTIFF of H x W x bands values at the tests' place."""
    write_scene(path, bands, place_bounds(), "EPSG:3857", **options)
    with rasterio.open(path, "r+") as out:
        for number, text in enumerate(descriptions, start=1):
            out.set_band_description(number, text)
    return path


def radar(path: Path, seed: int = 1) -> Path:
    """Decibels of something with structure, one band."""
    values = picture(512, seed)[..., :1].astype(np.float32) / 10 - 26
    return raster(path, values, ("VV",), nodata=-9999)


@pytest.mark.parametrize(
    ("count", "descriptions", "said", "found", "indexes"),
    [
        (3, (), None, "rgb", (1, 2, 3)),
        (1, (), None, "pan", (1,)),
        (1, (), "sar", "sar", (1,)),
        (2, ("VH", "VV"), None, "sar", (2,)),
        (4, ("red", "green", "blue", "NIR"), None, "nir", (1, 2, 3, 4)),
        (5, ("", "", "", "", "B08"), None, "nir", (1, 2, 3, 5)),
        (4, (), None, "rgb", (1, 2, 3)),
        (4, (), "nir", "nir", (1, 2, 3, 4)),
        (4, ("red", "green", "blue", "NIR"), "rgb", "rgb", (1, 2, 3)),
        (3, (), "pan", "pan", (1,)),
    ],
)
def test_what_took_a_scene_is_told_by_its_bands_or_said(
    tmp_path: Path, count: int, descriptions: tuple[str, ...], said: str | None, found: str, indexes: tuple[int, ...]
) -> None:
    values = np.random.default_rng(1).integers(1, 255, (256, 256, count)).astype(np.uint8)
    path = raster(tmp_path / "scene.tif", values, descriptions, photometric="MINISBLACK")
    with rasterio.open(path, "r+") as out:
        out.colorinterp = [ColorInterp.gray, *[ColorInterp.undefined] * (count - 1)]
    with rasterio.open(path) as dataset:
        bands = bands_of(dataset, said)
    assert (bands.sensor, bands.indexes) == (found, indexes)
    scene = open_scene(path, sensor=said)
    assert scene.sensor == found
    assert scene.id.endswith(f"-{found}") == (found != "rgb")


def test_bands_that_are_missing_are_named(tmp_path: Path) -> None:
    one = raster(tmp_path / "one.tif", np.full((64, 64, 1), 9, dtype=np.uint8))
    with pytest.raises(SceneError, match="none of near infrared"):
        open_scene(one, sensor="nir")
    with pytest.raises(SceneError, match=r"has 1 colour band\(s\).*sensor: pan, sar"):
        open_scene(one, sensor="rgb")
    with pytest.raises(SceneError, match=r"a sensor is one of rgb .*, not 'lidar'"):
        open_scene(one, sensor="lidar")
    three = raster(tmp_path / "three.tif", picture(64, 1))
    with pytest.raises(SceneError, match=r"has 3 band\(s\) and none of near infrared"):
        open_scene(three, sensor="nir")


def test_windows_of_radar_agree_and_amplitudes_are_calibrated(tmp_path: Path) -> None:
    path = radar(tmp_path / "radar.tif")
    scene = open_scene(path)
    assert (scene.sensor, scene.decibels) == ("sar", True)
    mosaic = SceneMosaic([scene])
    tile = mercantile.tile(*mosaic.center, scene.native_zoom)
    whole = tile_window(tile).grown(64)
    colours, known = mosaic.read(whole)
    part, there = SceneMosaic([scene]).read(Window(whole.zoom, whole.left + 37, whole.top + 50, 200, 150))
    assert (part == colours[50:200, 37:237]).all()
    assert there.any()
    assert colours[known].std() > 2
    with rasterio.open(path) as dataset:
        values = 10 ** (dataset.read(1) / 20) * 700
    amplitude = raster(tmp_path / "amplitude.tif", values[..., None].astype(np.float32), ("VV",))
    other = open_scene(amplitude)
    assert not other.decibels
    assert other.levels(values[None])[0].mean() == pytest.approx(255 * (30 - 11) / 38, abs=12)


@pytest.fixture
def client(make_settings: MakeSettings, make_scene: SceneMaker) -> Iterator[TestClient]:
    settings = make_settings(interactive_wait=60, api_key=KEY["X-API-Key"], warm_tiles=0)
    with TestClient(create_app(settings, [LayerSettings(scenes=[make_scene()])])) as client:
        wait_ready(client)
        yield client


def test_a_scene_of_radar_alone_is_mapped_over_http(client: TestClient, tmp_path: Path) -> None:
    before = client.get("/scenes").json()["scenes"]
    data = radar(tmp_path / "radar.tif").read_bytes()
    added = client.post("/scenes", content=data, headers=KEY)
    assert added.status_code == 201, added.text
    assert added.json()["id"].endswith("-sar")
    assert "sensor: sar (radar amplitude); its colours are guessed" in " ".join(added.json()["notes"])
    west, south, east, north = added.json()["bounds"]
    tile = mercantile.tile((west + east) / 2, (south + north) / 2, 15)
    answer = client.get(f"/tiles/{tile.z}/{tile.x}/{tile.y}.png")
    assert answer.status_code == 200
    assert answer.headers["X-Tile-Sensor"].startswith("sar (radar amplitude)")
    assert "simulated pairs" in Image.open(io.BytesIO(answer.content)).text["tilecascade:sensor"]
    seen = client.get(f"/imagery/map/{tile.z}/{tile.x}/{tile.y}.png")
    assert np.asarray(Image.open(io.BytesIO(seen.content)).convert("RGB")).std() > 2
    # the same file as if a panchromatic camera had taken it is another scene
    other = client.post("/scenes?sensor=pan", content=data, headers=KEY).json()["id"]
    assert other.endswith("-pan")
    for scene in (added.json()["id"], other):
        assert client.delete(f"/scenes/{scene}", headers=KEY).status_code == 200
    assert client.get("/scenes").json()["scenes"] == before
    assert "X-Tile-Sensor" not in client.get(f"/tiles/{tile.z}/{tile.x}/{tile.y}.png").headers


def test_tiles_of_radar_are_made_anew_when_its_stem_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = open_scene(radar(tmp_path / "radar.tif"))
    plain = open_scene(raster(tmp_path / "plain.tif", picture(64, 1)))
    monkeypatch.setattr("tilecascade.app.sources.scene.stems_id", lambda: "another")
    later, same = scene.verified(), plain.verified()
    assert (later.id, same.stem) == (scene.id, "")
    assert changed_scenes([scene, plain], [later, same]) == [scene, later]
    assert changed_scenes([scene, plain], [scene, same]) == []


def test_a_sensor_that_there_is_not_is_refused(client: TestClient, tmp_path: Path) -> None:
    data = radar(tmp_path / "radar.tif").read_bytes()
    wrong = {"lidar": "a sensor is one of rgb", "nir": "none of near infrared", "rgb": "1 colour band"}
    for query, words in wrong.items():
        answer = client.post(f"/scenes?sensor={query}", content=data, headers=KEY)
        assert answer.status_code == 422, answer.text
        assert words in answer.json()["detail"]
    assert len(client.get("/scenes").json()["scenes"]) == 1


def test_a_layers_file_says_the_sensor_and_the_program_ends_with_a_sentence(tmp_path: Path) -> None:
    radar(tmp_path / "radar.tif")
    layers = tmp_path / "layers.toml"
    layers.write_text('[[layer]]\nscenes = ["radar.tif"]\nsensor = "nir"\n')
    done = run_cli("serve", "--layers", str(layers), "--data-dir", str(tmp_path / "data"), "--port", "1")
    assert done.returncode == 2
    assert "none of near infrared" in done.stderr
    assert "Traceback" not in done.stderr
    layers.write_text('[[layer]]\nscenes = ["radar.tif"]\nsensor = "lidar"\n')
    done = run_cli("serve", "--layers", str(layers), "--data-dir", str(tmp_path / "data"), "--port", "1")
    assert (done.returncode, "sensor" in done.stderr) == (2, True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sar", "nir", "pan"])
def test_a_simulated_scene_is_read_as_its_sensors(tmp_path: Path, name: Sensor) -> None:
    scene = write_scene(tmp_path / "scene.tif", picture(300, 2), place_bounds(), "EPSG:3857")
    drawn = tmp_path / "map"
    found = open_scene(scene)
    for tile in mercantile.tiles(*found.bounds, zooms=[found.native_zoom]):
        file = drawn / str(tile.z) / str(tile.x) / f"{tile.y}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (256, 256), (170, 211, 223)).save(file)
    out = tmp_path / "out.tif"
    zoom = write_sensor(scene, name, drawn, 1, out)
    assert zoom == found.native_zoom
    made = open_scene(out)
    assert (made.sensor, made.native_zoom) == (sensor_named(name), zoom)
    assert np.allclose(made.bounds, found.bounds, atol=0.01)
    with rasterio.open(out) as dataset:
        assert dataset.tags()[SENSOR_TAG] == name
        assert "simulated" in dataset.tags()["TIFFTAG_IMAGEDESCRIPTION"]
    command = ["dataset", "sensor", str(scene), "--sensor", name, "--map", str(drawn)]
    again = run_cli(*command, "--out", str(out))
    assert (again.returncode, "exists already" in again.stderr) == (2, True)
    other = run_cli("dataset", "sensor", str(scene), "--sensor", "lidar", "--map", str(drawn), "--out", "x.tif")
    assert (other.returncode, "a sensor is one of" in other.stderr) == (2, True)
