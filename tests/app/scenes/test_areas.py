"""Areas of a territory with prompts: what they change, and what they leave."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mercantile
import numpy as np
import pytest
from fastapi.testclient import TestClient
from mercantile import Tile
from PIL import Image

from tests.app.scenes.test_territories import KEY, MIDDLE, make
from tests.conftest import SceneMaker
from tests.support import tiny_layouts, tiny_octaves, wait_ready
from tilecascade.app.api.app import create_app
from tilecascade.app.errors import PurgeError
from tilecascade.app.scenes.journal import area_journal
from tilecascade.app.settings import LayerSettings, Settings
from tilecascade.app.sources.areas import area_of
from tilecascade.app.tiles.invalidation import AffectedTiles
from tilecascade.model.imagery.gate import Gate

MakeSettings = Callable[..., Settings]
PATHS = {"map": "/tiles/carana/{z}/{x}/{y}.png", "imagery": "/tiles/carana-imagery/{z}/{x}/{y}.png"}
ZOOMS = (13, 16, 17)


@pytest.fixture(autouse=True)
def tiny_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tilecascade.app.tiles.loaded_model.load_octaves", lambda stem: (tiny_octaves(), Gate()))
    monkeypatch.setattr("tilecascade.app.scenes.areas.load_layouts", lambda stem: tiny_layouts())


@pytest.fixture
def running(make_settings: MakeSettings, make_scene: SceneMaker) -> Callable[[], TestClient]:
    layers = [LayerSettings(name="map", scenes=[make_scene()])]
    settings = make_settings(interactive_wait=60, api_key=KEY["X-API-Key"], warm_tiles=0)
    return lambda: TestClient(create_app(settings, layers))


@pytest.fixture
def client(running: Callable[[], TestClient]) -> Iterator[TestClient]:
    with running() as client:
        wait_ready(client)
        make(client)
        yield client


def area(lng: float = MIDDLE[0], lat: float = MIDDLE[1], size: float = 0.012, **properties: Any) -> dict[str, Any]:
    """A square around a place, in degrees."""
    corners = [(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)]
    ring = [[lng + size / 2 * x, lat + 0.6 * size / 2 * y] for x, y in corners]
    return {"type": "Feature", "properties": properties, "geometry": {"type": "Polygon", "coordinates": [ring]}}


def put(client: TestClient, *areas: dict[str, Any], status: int = 200) -> dict[str, Any]:
    body = {"type": "FeatureCollection", "features": list(areas)}
    answer = client.put("/areas/carana", content=json.dumps(body), headers=KEY)
    assert answer.status_code == status, answer.text
    return dict(answer.json())


def tiles_of(client: TestClient, places: list[tuple[float, float]]) -> dict[tuple[str, Tile], bytes]:
    found = {}
    for name, path in PATHS.items():
        for tile in {mercantile.tile(*place, zoom) for place in places for zoom in ZOOMS}:
            answer = client.get(path.format(z=tile.z, x=tile.x, y=tile.y))
            assert answer.status_code == 200, answer.text
            found[name, tile] = answer.content
    return found


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


FAR = (10.012, 50.01)


def test_weather_changes_the_tiles_of_its_area_only_and_goes_again(client: TestClient) -> None:
    before = tiles_of(client, [MIDDLE, FAR])
    revision = client.get("/territories").json()[0]["revision"]
    said = put(client, area(weather="fog", strength=0.9))
    assert (said["areas"], said["notes"]) == (1, [])
    assert said["revision"] != revision
    after = tiles_of(client, [MIDDLE, FAR])
    for (name, tile), data in after.items():
        here = mercantile.tile(*MIDDLE, tile.z) == tile
        if not here:
            assert data == before[name, tile], (name, tile)
        elif name == "imagery":
            assert data != before[name, tile], (name, tile)
    middle = after["imagery", mercantile.tile(*MIDDLE, 17)]
    assert pixels(middle).std() < 0.5 * pixels(before["imagery", mercantile.tile(*MIDDLE, 17)]).std()
    assert put(client)["revision"] == revision
    assert tiles_of(client, [MIDDLE, FAR]) == before


def test_a_caption_changes_the_ground_for_good(running: Callable[[], TestClient]) -> None:
    with running() as client:
        wait_ready(client)
        make(client)
        before = tiles_of(client, [MIDDLE, FAR])
        put(client, area(prompt="dense residential north of a river"), area(*FAR, 0.004, weather="dusk"))
        kept = client.get("/areas/carana").json()
        assert kept["features"][0]["properties"]["layout"]
        steered = tiles_of(client, [MIDDLE, FAR])
        changed = {key for key in steered if steered[key] != before[key]}
        assert ("map", mercantile.tile(*MIDDLE, 16)) in changed
        assert ("imagery", mercantile.tile(*MIDDLE, 17)) in changed
        # sent back as they are, they change nothing, and a change of one leaves the other
        again = client.put("/areas/carana", json=kept, headers=KEY).json()
        assert again["revision"] == client.get("/territories").json()[0]["revision"]
        put(client, area(prompt="dense residential north of a river"))
        assert client.get("/areas/carana").json()["features"][0] == kept["features"][0]
        alone = tiles_of(client, [MIDDLE])
        assert all(alone[key] == steered[key] for key in alone if key[1].z > 13)
    with running() as later:
        wait_ready(later)
        assert tiles_of(later, [MIDDLE]) == alone
        assert later.get("/areas/carana").json()["features"] == [kept["features"][0]]


def test_an_area_of_words_that_are_refused_by_now_is_made_anew(tmp_path: Path) -> None:
    said = area(prompt="fog, forest")
    journal = area_journal(tmp_path / "areas.json")
    journal.finish([area_of(said)])
    text = (tmp_path / "areas.json").read_text()
    (tmp_path / "areas.json").write_text(text.replace("fog, forest", "a zoo"))
    (found,) = journal.read().items
    assert found != area_of(said)
    assert found.bounds == area_of(said).bounds


def test_areas_changed_while_no_server_ran_are_noticed(running: Callable[[], TestClient], tmp_path: Path) -> None:
    with running() as client:
        wait_ready(client)
        make(client)
        before = tiles_of(client, [MIDDLE])
        put(client, area(weather="snow", strength=1.0))
        snowed = tiles_of(client, [MIDDLE])
    assert snowed != before
    (tmp_path / "data" / "layers" / "carana" / "areas.geojson").unlink()
    with running() as later:
        wait_ready(later)
        assert tiles_of(later, [MIDDLE]) == before


REFUSED: list[tuple[Any, str]] = [
    (area(weather="hail"), "weather is one of fog, low light, snow, dusk, night, not 'hail'"),
    (area(weather="fog", strength=2), "the strength of weather is 0 to 1, not 2"),
    (area(weather="fog", strength="thick"), "a number from 0 to 1, not 'thick'"),
    (area(strength=0.5), "give weather, too"),
    (area(prompt="snow, dense residential", weather="fog"), "the prompt says snow, and weather says fog"),
    (area(prompt="a zoo with giraffes"), "'zoo', 'giraffes'"),
    (area(prompt="industrial", caption="forest"), "a prompt or a caption, not both"),
    (area(caption={"scene": "forest"}), "has no relation"),
    (area(caption={"scene": "forest", "relation": "a road under a bridge", "element": "road"}), "'under'"),
    (area(caption={"scene": "forest", "relation": "", "element": ", ".join(["road"] * 80)}), "75 fit"),
    (area(caption="scene: forest. elements: walrus."), "'walrus' in the caption is no word"),
    (area(colour="red"), "has a property 'colour'; there are name, prompt, caption, weather, strength, seed"),
    (area(seed=-1, weather="fog"), "a whole number from 0, not -1"),
    (area(caption="forest", size=0.0005), "too small for ground of its own"),
    (area(20.0, 60.0, caption="forest"), "lies outside the territory"),
    (area(weather="fog", layout="nonsense", caption="forest"), "layout of area 1 is none of this program's"),
    ({"type": "Feature", "properties": {}}, "no GeoJSON feature with a polygon"),
    ({"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}}, "its type is Point"),
    (7, "no GeoJSON feature with a polygon"),
    (area(weather="fog", strength=10**400), "area 1"),
    (area(weather="fog", seed=True), "a whole number from 0, not True"),
    (area(prompt=["fog"]), "the prompt of area 1 is a text"),
    (area(name="\ud800", weather="fog"), "the name of area 1 is a text"),
    (area(prompt="fog, " + "a" * 1001), "the prompt of area 1 is a text of at most 1000"),
]


def test_what_cannot_be_told_is_refused_with_a_sentence(client: TestClient) -> None:
    revision = client.get("/territories").json()[0]["revision"]
    twice = {"type": "FeatureCollection", "features": [area(weather="fog"), area(weather="fog", name="the same")]}
    answer = client.put("/areas/carana", json=twice, headers=KEY)
    assert (answer.status_code, "area 2 is the same as area 1" in answer.json()["detail"]) == (400, True)
    for feature, words in REFUSED:
        assert words in put(client, feature, status=400)["detail"]
    assert client.get("/areas/carana").json()["features"] == []
    assert client.get("/territories").json()[0]["revision"] == revision


def test_areas_do_not_change_each_other_and_words_that_mean_nothing_change_nothing(client: TestClient) -> None:
    lower = area(MIDDLE[0] - 0.006, prompt="dense residential north of a river")
    upper = area(MIDDLE[0] + 0.004, prompt="forest with a road across the river")
    put(client, upper)
    (alone,) = client.get("/areas/carana").json()["features"]
    both = put(client, lower, upper)
    kept = client.get("/areas/carana").json()["features"]
    assert kept[1] == alone
    named = [{**each, "properties": each["properties"] | {"name": f"number {i}"}} for i, each in enumerate(kept)]
    assert put(client, *named)["revision"] == both["revision"], "a name changes no tile"
    # other words: the layout of those before is not used
    other = {**kept[0], "properties": kept[0]["properties"] | {"prompt": "farmland"}}
    put(client, other)
    layout = client.get("/areas/carana").json()["features"][0]["properties"]["layout"]
    assert layout != kept[0]["properties"]["layout"]
    null = area(prompt=None, weather="fog", strength=None)
    assert put(client, null)["areas"] == 1


def test_a_cache_that_does_not_answer_leaves_no_outdated_tile(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tiles_of(client, [MIDDLE])
    stores = [client.app.app.app.app.state.service.resolvers[name].store for name in ("carana-imagery", "carana")]
    working = stores[0].invalidate
    failed: list[int] = []

    def fails_once(affected: AffectedTiles) -> None:
        if not failed:
            failed.append(1)
            raise PurgeError("these caches do not answer: redis")
        working(affected)

    monkeypatch.setattr(stores[0], "invalidate", fails_once)
    put(client, area(weather="snow", strength=1.0), status=503)
    assert failed
    put(client, area(weather="fog", strength=1.0))
    fogged = tiles_of(client, [MIDDLE])
    put(client)
    assert tiles_of(client, [MIDDLE]) == before
    put(client, area(weather="fog", strength=1.0))
    assert tiles_of(client, [MIDDLE]) == fogged != before


def test_what_is_not_used_of_a_prompt_is_said(client: TestClient) -> None:
    notes = put(client, area(name="bay", prompt="High precision resolution, snow, farmland, Sentinel-2"))["notes"]
    assert notes[0].startswith("bay: 'High precision resolution' is not used")
    assert notes[1].startswith("bay: 'Sentinel-2' is not used")


def test_areas_are_for_territories_and_tiles_have_no_prompts(client: TestClient) -> None:
    body = {"type": "FeatureCollection", "features": [area(weather="fog")]}
    answer = client.put("/areas/map", json=body, headers=KEY)
    assert (answer.status_code, "is no territory" in answer.json()["detail"]) == (400, True)
    assert client.put("/areas/carana", json=body).status_code in (401, 403)
    assert client.put("/areas/carana", content=b"{", headers=KEY).status_code == 400
    assert client.put("/areas/carana", json=[], headers=KEY).status_code == 400
    assert client.put("/areas/nowhere", json=body, headers=KEY).status_code == 404
    refused = client.get("/tiles/carana/14/1/1.png?prompt=a+forest")
    assert refused.status_code == 400
    assert "PUT /areas/LAYER" in refused.json()["detail"]
