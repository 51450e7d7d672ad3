"""A layer whose imagery is painted beyond its own resolution, over HTTP."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from pydantic import ValidationError

from tests.conftest import PLACE, SceneMaker
from tests.support import wait_ready
from tilecascade.app.api.app import create_app
from tilecascade.app.settings import LayerSettings, Settings
from tilecascade.model.imagery.gate import Gate
from tilecascade.model.imagery.painter import load_octaves
from tilecascade.model.sgdm.config import WEIGHTS_DIR

MakeSettings = Callable[..., Settings]
KEY = {"X-API-Key": "secret-key-of-this-test"}


@pytest.fixture
def client(make_settings: MakeSettings, make_scene: SceneMaker) -> Iterator[TestClient]:
    layers = [LayerSettings(name="map", scenes=[make_scene()], painted_zoom=18)]
    with TestClient(create_app(make_settings(interactive_wait=60, api_key=KEY["X-API-Key"]), layers)) as running:
        wait_ready(running)
        yield running


def imagery(client: TestClient, z: int, x: int, y: int) -> np.ndarray:
    answer = client.get(f"/imagery/map/{z}/{x}/{y}.png")
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB")).astype(float)


def test_what_the_gate_rejects_is_counted_and_can_be_kept(
    make_settings: MakeSettings, make_scene: SceneMaker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    net, _ = load_octaves(WEIGHTS_DIR / "imagery")
    never = Gate(tuple((2.0**octave, (50.0,) * 3, (60.0,) * 3) for octave in range(-3, 9)))
    monkeypatch.setattr("tilecascade.app.sources.painted.load_octaves", lambda stem: (net, never))
    layers = [LayerSettings(name="map", scenes=[make_scene()], painted_zoom=18, keep_rejected=True)]
    data = tmp_path / "kept"
    with TestClient(create_app(make_settings(data_dir=data, api_key="a-key-of-this-test-only"), layers)) as running:
        wait_ready(running)
        levels = 18 - PLACE.z
        answer = running.get(f"/imagery/map/18/{PLACE.x << levels}/{PLACE.y << levels}.png")
        above = running.get(f"/imagery/map/{PLACE.z}/{PLACE.x}/{PLACE.y}.png")
        metrics = running.get("/metrics", headers={"X-API-Key": "a-key-of-this-test-only"}).text
    assert int(answer.headers["x-imagery-attempts"]) >= 2
    assert above.headers["x-imagery-attempts"] == "0"
    assert 'tilecascade_painted_blocks_total{attempts="' in metrics
    assert 'tilecascade_painted_blocks_unaccepted_total{layer="map"}' in metrics
    kept = list((data / "layers" / "map" / "rejected").glob("*.png"))
    assert kept
    with Image.open(kept[0]) as image:
        assert image.size == (512, 512)


def test_a_painted_layer_goes_beyond_its_scenes(client: TestClient) -> None:
    (layer,) = client.get("/ogc/collections").json()["collections"]
    limits = client.get("/ogc/collections/map/map/tiles/WebMercatorQuad").json()["tileMatrixSetLimits"]
    assert limits[-1]["tileMatrix"] == "18"
    assert layer["id"] == "map"
    x, y = PLACE.x * 4 + 1, PLACE.y * 4 + 2
    above = imagery(client, 16, x, y)
    below = np.concatenate(
        [np.concatenate([imagery(client, 17, 2 * x + i, 2 * y + j) for i in (0, 1)], 1) for j in (0, 1)], 0
    )
    assert np.abs(below.reshape(256, 2, 256, 2, 3).mean((1, 3)) - above).max() < 1.0
    tile = f"/tiles/map/18/{4 * x}/{4 * y}.png"
    answer = client.get(tile)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-tile-notice"] == "generated, not surveyed"


def test_its_scenes_stay_as_they_are(client: TestClient, make_scene: SceneMaker) -> None:
    new = make_scene("new.tif", seed=5)
    answer = client.post("/scenes?layer=map", content=new.read_bytes(), headers=KEY)
    assert answer.status_code == 422, answer.text
    assert "shows painted imagery; start the server with other scenes" in answer.text


def test_a_country_is_not_painted() -> None:
    with pytest.raises(ValidationError, match="painted_zoom is for scenes"):
        LayerSettings(country=1, painted_zoom=20)
