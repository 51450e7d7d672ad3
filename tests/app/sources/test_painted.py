"""A layer whose imagery is painted beyond its own resolution, over HTTP."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from pydantic import ValidationError

from tests.conftest import PLACE, SceneMaker
from tests.support import wait_ready
from tilecascade.app.api.app import create_app
from tilecascade.app.settings import LayerSettings, Settings

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
