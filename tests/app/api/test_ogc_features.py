"""OGC API - Features over a small scene: with plain requests, and with GDAL's own client against a real server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import mercantile
import pyogrio.raw
import pytest
import shapely
from fastapi.testclient import TestClient

from tests.conftest import PLACE, SceneMaker
from tests.program import Server
from tests.support import wait_ready
from tilecascade.app.api.app import create_app
from tilecascade.app.settings import LayerSettings, Settings
from tilecascade.model.sgdm.config import tiny
from tilecascade.model.sgdm.network import random_network, save_network

MakeSettings = Callable[..., Settings]
ITEMS = "/ogc/collections/map/items"


@pytest.fixture
def client(make_settings: MakeSettings, make_scene: SceneMaker) -> Iterator[TestClient]:
    scene = make_scene()
    layers = [
        LayerSettings(name="map", scenes=[scene], finish="cartographic"),
        LayerSettings(name="plain", scenes=[scene], finish="none"),
    ]
    with TestClient(create_app(make_settings(interactive_wait=60), layers)) as running:
        wait_ready(running)
        yield running


def test_a_layer_with_objects_says_where_its_items_are(client: TestClient) -> None:
    conforms = client.get("/ogc/conformance").json()["conformsTo"]
    assert any(each.endswith("ogcapi-features-1/1.0/conf/core") for each in conforms)
    rels = {
        name: [each["rel"] for each in client.get(f"/ogc/collections/{name}").json()["links"]]
        for name in ("map", "plain")
    }
    assert "items" in rels["map"]
    assert "items" not in rels["plain"]
    assert client.get("/ogc/collections/plain/items").status_code == 404


def test_pages_follow_one_another_and_each_item_is_found_again(client: TestClient) -> None:
    first = client.get(ITEMS, params={"limit": 1})
    assert first.status_code == 200, first.text
    assert first.headers["content-type"] == "application/geo+json"
    body, seen = first.json(), []
    assert body["numberReturned"] == 1 < body["numberMatched"]
    while True:
        seen += body["features"]
        following = [each["href"] for each in body["links"] if each["rel"] == "next"]
        if not following or len(seen) > 40:
            break
        body = client.get(following[0]).json()
    assert len({each["id"] for each in seen}) == len(seen)
    if len(seen) < 40:
        assert len(seen) == body["numberMatched"]
    for each in (seen[0], seen[-1]):
        again = client.get(f"{ITEMS}/{each['id']}").json()
        assert again["geometry"] == each["geometry"]
        assert {link["rel"] for link in again["links"]} == {"self", "collection"}


def test_a_box_a_zoom_and_a_time_leave_less(client: TestClient) -> None:
    everything = client.get(ITEMS, params={"limit": 10_000}).json()
    west, south, east, north = mercantile.bounds(4 * PLACE.x + 1, 4 * PLACE.y + 1, 16)
    some = client.get(ITEMS, params={"bbox": f"{west},{south},{east},{north}", "limit": 10_000}).json()
    assert 0 < some["numberMatched"] < everything["numberMatched"]
    assert {each["properties"]["zoom"] for each in everything["features"]} == {16}
    assert client.get(ITEMS, params={"zoom": 15}).json()["numberMatched"] != everything["numberMatched"]
    assert client.get(ITEMS, params={"bbox": "0,0,1,1"}).json()["features"] == []
    assert client.get(ITEMS, params={"datetime": "1990-01-01T00:00:00Z/1991-01-01T00:00:00Z"}).json()["features"] == []
    later = client.get(ITEMS, params={"datetime": "1990-01-01T00:00:00Z/..", "limit": 10_000}).json()
    assert later["numberMatched"] == everything["numberMatched"]


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        (f"{ITEMS}?colour=red", 400, "unknown parameter 'colour'"),
        (f"{ITEMS}?bbox=1,2,3", 400, "W,S,E,N"),
        (f"{ITEMS}?zoom=3", 400, "zoom must be 14 to 16"),
        (f"{ITEMS}?datetime=yesterday", 400, "begin/end"),
        (f"{ITEMS}/house", 404, "no identifier"),
        (f"{ITEMS}/16-0-0-65535-65535-00", 404, "no identifier"),
        (f"{ITEMS}/16-{4 * PLACE.x}-{4 * PLACE.y}-{4 * PLACE.x}-{4 * PLACE.y}-00", 404, "any more"),
        ("/ogc/collections/none/items", 404, "none"),
    ],
)
def test_what_cannot_be_answered_gets_a_sentence(path: str, status: int, said: str, client: TestClient) -> None:
    answer = client.get(path)
    assert answer.status_code == status
    assert said in answer.text


@pytest.mark.slow
def test_gdal_reads_the_features(make_scene: SceneMaker, tmp_path: Path) -> None:
    if "OAPIF" not in pyogrio.list_drivers():
        pytest.skip("this GDAL has no OGC API - Features client")
    stem = tmp_path / "weights"
    save_network(random_network(replace(tiny(), finish="cartographic"), 1), stem)
    server = Server(make_scene(), stem, tmp_path / "data", {"TILECASCADE_INTERACTIVE_WAIT": "60"})
    try:
        (layer,) = (each["id"] for each in server.get("/ogc/collections").json()["collections"])
        told = server.get(f"/ogc/collections/{layer}/items?limit=10000").json()
        about, _, geometry, _ = pyogrio.raw.read(f"OAPIF:{server.url}/ogc", layer=layer)
        assert len(geometry) == told["numberMatched"] > 0
        assert {"class", "confidence", "generated"} <= set(about["fields"])
        assert all(shapely.from_wkb(each).is_valid for each in geometry)
    finally:
        server.stop()
