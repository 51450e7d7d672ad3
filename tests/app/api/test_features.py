"""`/features` and `/vector` over a small scene: real answers of tiny random weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import mapbox_vector_tile
import mercantile
import pytest
import shapely
from fastapi.testclient import TestClient
from mercantile import Tile

from tests.conftest import PLACE, SceneMaker
from tests.support import wait_ready
from tilecascade.app.api.app import create_app
from tilecascade.app.settings import LayerSettings, Settings

MakeSettings = Callable[..., Settings]
TILE = Tile(4 * PLACE.x + 1, 4 * PLACE.y + 1, 16)
ADDRESS = f"{TILE.z}/{TILE.x}/{TILE.y}"
PARENT = f"15/{TILE.x // 2}/{TILE.y // 2}"


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    return make_settings(interactive_wait=60)


@pytest.fixture
def client(settings: Settings, make_scene: SceneMaker) -> Iterator[TestClient]:
    scene = make_scene()
    layers = [
        LayerSettings(name="map", scenes=[scene], finish="cartographic"),
        LayerSettings(name="plain", scenes=[scene], finish="none"),
    ]
    with TestClient(create_app(settings, layers)) as running:
        wait_ready(running)
        yield running


def box(tile: Tile, margin: float = 1e-6) -> str:
    west, south, east, north = mercantile.bounds(tile)
    return f"{west + margin},{south + margin},{east - margin},{north - margin}"


def test_an_area_has_its_objects_each_once(client: TestClient) -> None:
    answer = client.get("/features/map", params={"bbox": box(PLACE)})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/geo+json"
    assert answer.headers["x-tile-notice"] == "generated, not surveyed"
    features = answer.json()["features"]
    assert features, "these weights show something"
    assert len({each["id"] for each in features}) == len(features)
    for each in features:
        assert shapely.geometry.shape(each["geometry"]).is_valid
        properties = each["properties"]
        assert properties["generated"] is True
        assert 0 <= properties["confidence"] <= 1
        assert properties["class"] != "land"
        assert properties["captured"]
        assert properties["source"].startswith("tilecascade ")
    least = sorted(each["properties"]["confidence"] for each in features)[-1]
    fewer = client.get("/features/map", params={"bbox": box(PLACE), "min_confidence": least}).json()["features"]
    assert 0 < len(fewer) <= len(features)


def test_tiles_have_the_parts_of_the_same_objects(client: TestClient) -> None:
    whole = client.get("/features/map", params={"bbox": box(PLACE)}).json()["features"]
    area = {kind: 0.0 for kind in ("landcover", "building")}
    parts = dict(area)
    for tile in mercantile.children(PLACE, zoom=16):
        answer = client.get(f"/features/map/{tile.z}/{tile.x}/{tile.y}.geojson")
        assert answer.status_code == 200
        for each in answer.json()["features"]:
            if each["properties"]["layer"] in parts:
                parts[each["properties"]["layer"]] += shapely.geometry.shape(each["geometry"]).area
    for each in whole:
        if each["properties"]["layer"] in area:
            area[each["properties"]["layer"]] += shapely.geometry.shape(each["geometry"]).area
    assert parts["landcover"] == pytest.approx(area["landcover"], rel=1e-3)


def test_a_tile_answers_with_an_etag_and_from_the_store(client: TestClient, settings: Settings) -> None:
    first = client.get(f"/features/map/{ADDRESS}.geojson")
    assert first.status_code == 200
    assert (
        client.get(f"/features/map/{ADDRESS}.geojson", headers={"if-none-match": first.headers["etag"]}).status_code
        == 304
    )
    (kept,) = {path.name for path in (settings.data_dir / "tiles" / "map").rglob("16/*/*.objects.bin")}
    assert kept == f"{TILE.y - TILE.y % 2}.objects.bin"
    revision = first.json()["version"]
    assert "immutable" in client.get(f"/features/map/{ADDRESS}.geojson?v={revision}").headers["cache-control"]


def test_a_vector_tile_holds_the_objects_of_its_tile(client: TestClient) -> None:
    answer = client.get(f"/vector/map/{PARENT}.mvt")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/vnd.mapbox-vector-tile"
    decoded = mapbox_vector_tile.decode(answer.content)
    assert set(decoded) <= {"landcover", "building", "road"}
    assert decoded
    for name, layer in decoded.items():
        assert layer["extent"] == 4096
        for each in layer["features"]:
            assert each["properties"]["generated"] is True
            low, high = -64, 4096 + 64
            left, bottom, right, top = shapely.geometry.shape(each["geometry"]).bounds
            assert low <= left <= right <= high, name
            assert low <= bottom <= top <= high, name


def test_tilejson_and_style_of_vector_tiles(client: TestClient) -> None:
    described = client.get("/vector/map/tilejson.json").json()
    assert [each["id"] for each in described["vector_layers"]] == ["landcover", "building", "road"]
    assert (described["minzoom"], described["maxzoom"]) == (13, 15)
    address = described["tiles"][0].format(z=15, x=TILE.x // 2, y=TILE.y // 2).removeprefix("http://testserver")
    assert client.get(address).status_code == 200
    style = client.get("/vector/map/style.json").json()
    assert style["version"] == 8
    assert style["sources"]["objects"]["tiles"] == described["tiles"]
    named = {each.get("source-layer") for each in style["layers"]}
    assert named == {None, "landcover", "building", "road"}


@pytest.mark.parametrize(
    ("address", "status", "words"),
    [
        ("/features/map?bbox=1,2,3", 400, "W,S,E,N"),
        ("/features/map?bbox=3,2,1,4", 400, "west < east"),
        ("/features/map?bbox=0,0,1,1", 404, "no imagery"),
        (f"/features/map?bbox={box(PLACE)}&zoom=13", 400, "14 to 16"),
        ("/features/map/16/1/1.geojson", 404, "no imagery"),
        ("/features/map/13/1/1.geojson", 404, "zooms 14 to 16"),
        (f"/features/map/{ADDRESS}.json", 404, ".geojson"),
        (f"/vector/map/{ADDRESS}.png", 404, ".mvt"),
        (f"/vector/map/16/{TILE.x}/99999999.mvt", 400, "0 to"),
        (f"/features/plain/{ADDRESS}.geojson", 404, "finish is none"),
        (f"/vector/map/{ADDRESS}.mvt", 404, "zooms 14 to 16"),
        ("/vector/plain/tilejson.json", 404, "finish is none"),
        ("/features/nothing?bbox=0,0,1,1", 404, "no layer"),
    ],
)
def test_what_cannot_be_answered_is_said(client: TestClient, address: str, status: int, words: str) -> None:
    answer = client.get(address)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["detail"]


def test_damaged_objects_are_made_again(client: TestClient, settings: Settings) -> None:
    first = client.get(f"/features/map/{ADDRESS}.geojson")
    for path in (settings.data_dir / "tiles" / "map").rglob("*.objects.bin"):
        data = path.read_bytes()
        path.write_bytes(data[:-8] + bytes(8))
    client.app.app.app.app.state.service.caches.store.tiers[0].purge("map", lambda key: True)  # type: ignore[attr-defined]
    assert client.get(f"/features/map/{ADDRESS}.geojson").content == first.content
