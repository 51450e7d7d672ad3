"""`/reviews`: what is said about an object is in every tile when the answer comes, and survives the server."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import mercantile
import numpy as np
import pytest
import shapely
from fastapi.testclient import TestClient
from mercantile import Tile
from PIL import Image

from tests.conftest import PLACE, SceneMaker
from tests.support import drawn, house, wait_ready
from tilecascade.app.api.app import create_app
from tilecascade.app.scenes.journal import review_journal
from tilecascade.app.settings import DataDir, LayerSettings, Settings
from tilecascade.app.storage.keys import add_key, owner_secret
from tilecascade.app.tiles.reviews import Reviews, review_of
from tilecascade.model.palette import COLOURS, PALETTE

MakeSettings = Callable[..., Settings]
TILES = [PLACE, *mercantile.children(PLACE), *mercantile.children(PLACE, zoom=16)]
BUILDING = COLOURS[[name for name, *_ in PALETTE].index("building")]


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    return make_settings(interactive_wait=60, max_wait=60)


@contextmanager
def serving(settings: Settings, scene: Path) -> Iterator[TestClient]:
    layers = [
        LayerSettings(name="map", scenes=[scene], finish="cartographic"),
        LayerSettings(name="plain", scenes=[scene], finish="none"),
    ]
    with TestClient(create_app(settings, layers)) as running:
        wait_ready(running)
        running.headers["X-API-Key"] = owner_secret(settings)
        yield running


@pytest.fixture
def client(settings: Settings, make_scene: SceneMaker) -> Iterator[TestClient]:
    with serving(settings, make_scene()) as running:
        yield running


def tiles(client: TestClient) -> dict[Tile, bytes]:
    """All tiles of the scene."""
    found = {tile: client.get(f"/tiles/{tile.z}/{tile.x}/{tile.y}.png?wait=60") for tile in TILES}
    assert {answer.status_code for answer in found.values()} == {200}
    return {tile: answer.content for tile, answer in found.items()}


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def test_a_house_that_was_missing_is_in_the_tiles_and_goes_with_its_review(client: TestClient) -> None:
    before = tiles(client)
    place = house(0.2, 0.2)
    answer = client.post("/reviews/map", json=drawn(place))
    assert answer.status_code == 201, answer.text
    review = answer.json()
    assert review["properties"]["by"] == "owner"
    after = tiles(client)
    changed = {tile for tile in TILES if before[tile] != after[tile]}
    at = Tile(4 * PLACE.x, 4 * PLACE.y, 16)
    assert at in changed
    assert Tile(4 * PLACE.x + 3, 4 * PLACE.y + 3, 16) not in changed, "far away nothing changes"
    corner = int(0.2 * 1024)
    assert np.abs(pixels(after[at])[corner + 6 : corner + 18, corner + 6 : corner + 18] - BUILDING).max() <= 2
    features = client.get(f"/features/map/{at.z}/{at.x}/{at.y}.geojson").json()["features"]
    (mine,) = (each for each in features if each["properties"].get("reviewed"))
    assert mine["properties"]["confidence"] == 1
    found, asked = (shapely.geometry.shape(each) for each in (mine["geometry"], place))
    assert found.symmetric_difference(asked).area < 0.02 * asked.area

    listed = client.get("/reviews/map").json()
    assert [each["id"] for each in listed["features"]] == [review["id"]]
    assert client.delete(answer.headers["location"]).status_code == 204
    assert client.delete(answer.headers["location"]).status_code == 404
    assert tiles(client) == before


def test_a_rejected_object_is_no_longer_there(client: TestClient) -> None:
    address = f"/features/map?bbox={','.join(map(str, mercantile.bounds(PLACE)))}&zoom=16"
    features = client.get(address).json()["features"]
    seen = max(features, key=lambda each: shapely.geometry.shape(each["geometry"]).area)
    properties = seen["properties"]
    said = {"verdict": "rejected", "layer": properties["layer"], "class": properties["class"], "zoom": 16}
    assert client.post("/reviews/map", json=said | {"seen": seen["geometry"]}).status_code == 201
    left = [each for each in client.get(address).json()["features"] if each["properties"] == properties]
    shape = shapely.geometry.shape(seen["geometry"])
    shared = sum(shape.intersection(shapely.geometry.shape(each["geometry"])).area for each in left)
    assert shared < 0.02 * shape.area


def test_reviews_are_there_after_a_restart_and_a_change_cut_off_is_made_good(
    settings: Settings, make_scene: SceneMaker
) -> None:
    scene = make_scene()
    with serving(settings, scene) as client:
        plain = tiles(client)
        client.post("/reviews/map", json=drawn(house(0.2, 0.2))).raise_for_status()
        one = tiles(client)
    data = DataDir(settings.data_dir)
    known = Reviews.read(data.reviews("map"))
    more = review_of(drawn_feature := known.all[0].feature() | {"geometry": house(0.6, 0.6)})
    assert drawn_feature["id"] != more.id
    both = known.add(more)
    with serving(settings, scene) as client:
        assert tiles(client) == one
        version = client.get(f"/tiles/14/{PLACE.x}/{PLACE.y}.png").headers["x-tile-version"]
    # the server was killed when the review was written, and no outdated tile was removed yet
    journal = review_journal(data.review_journal("map", version))
    journal.begin(known.all, both.all)
    both.write(data.reviews("map"))
    with serving(settings, scene) as client:
        two = tiles(client)
    changed = {tile for tile in TILES if one[tile] != two[tile]}
    assert Tile(4 * PLACE.x + 2, 4 * PLACE.y + 2, 16) in changed
    anew = settings.model_copy(update={"data_dir": settings.data_dir / "anew"})
    both.write(DataDir(anew.data_dir).reviews("map"))
    with serving(anew, scene) as client:
        assert tiles(client) == two, "no outdated tile is left"
    data.reviews("map").unlink()  # taken away by hand while nothing ran
    with serving(settings, scene) as client:
        assert tiles(client) == plain


def test_reviews_that_came_while_nothing_ran_are_in_tiles_that_were_stored_without_any(
    settings: Settings, make_scene: SceneMaker
) -> None:
    """As after going back to weights that were served before the first review."""
    scene = make_scene()
    with serving(settings, scene) as client:
        plain = tiles(client)
    review = review_of({"properties": drawn(house(0.2, 0.2)), "geometry": house(0.2, 0.2)})
    Reviews((review,)).write(DataDir(settings.data_dir).reviews("map"))
    with serving(settings, scene) as client:
        assert plain[Tile(4 * PLACE.x, 4 * PLACE.y, 16)] != tiles(client)[Tile(4 * PLACE.x, 4 * PLACE.y, 16)]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"layer": "pipe"}, "layer"),
        ({"class": "castle"}, "class of a building is one of building"),
        ({"there": None}, "there is what is drawn"),
        ({"there": {"type": "Point", "coordinates": [0, 0]}}, "GeoJSON Polygon"),
        ({"there": {"type": "Polygon", "coordinates": "everywhere"}}, "GeoJSON Polygon"),
        ({"there": {"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [1, 0], [0, 1], [0, 0]]]}}, "must be valid"),
        ({"there": house(50, 50)}, "no imagery there"),
        ({"note": "x" * 501}, "note"),
        ({"more": 1}, "more"),
    ],
    ids=str,
)
def test_what_cannot_be_drawn_is_refused(client: TestClient, change: dict[str, Any], sentence: str) -> None:
    answer = client.post("/reviews/map", json=drawn(house(0.2, 0.2)) | change)
    assert answer.status_code in (400, 422), answer.text
    assert sentence in answer.text
    assert client.get("/reviews/map").json()["features"] == []


def test_reviewing_needs_objects_and_a_key_with_the_role(client: TestClient, settings: Settings) -> None:
    said = drawn(house(0.2, 0.2))
    assert "finish is none" in client.post("/reviews/plain", json=said).json()["detail"]
    keys = DataDir(settings.data_dir).keys
    soon = datetime.now(UTC) + timedelta(hours=1)
    for role, status in (("read", 403), ("prefetch", 403), ("review", 201)):
        headers = {"X-API-Key": add_key(keys, role, (role,), soon, 0)}
        assert client.post("/reviews/map", json=said, headers=headers).status_code == status, role
    assert client.get("/reviews/map").json()["features"][0]["properties"]["by"] == "review"
