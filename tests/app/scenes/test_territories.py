"""Territories that are made while the server runs."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from mercantile import Tile, tile, xy_bounds
from PIL import Image

from tests.conftest import SceneMaker, picture, write_scene
from tests.support import tiny_octaves, wait_ready
from tilecascade.app.api.app import create_app
from tilecascade.app.scenes import territories
from tilecascade.app.settings import LayerSettings, Settings
from tilecascade.app.sources.mosaic import SceneMosaic
from tilecascade.app.sources.scene import open_scene
from tilecascade.app.tiles.image import decode
from tilecascade.model.cascade import tile_window
from tilecascade.model.confidence import BASE_MAP_COLOUR, KNOTS
from tilecascade.model.imagery.gate import Gate
from tilecascade.model.palette import CLASSES
from tilecascade.model.sgdm.config import tiny
from tilecascade.model.sgdm.network import random_network, save_network
from tilecascade.model.world.sketch import COVERS

MakeSettings = Callable[..., Settings]
KEY = {"X-API-Key": "secret-key-of-this-test"}
BOUNDS = "10.0,50.0,10.1,50.06"
MIDDLE = (10.05, 50.03)


def painting(size: int = 64) -> bytes:
    """A wood beside farmland with a lake and a town, as a hand paints them."""
    colours = {cover.name: cover.paint for cover in COVERS}
    picture = np.empty((size, size, 3), dtype=np.uint8)
    picture[:] = colours["farmland"]
    picture[:, : size // 3] = colours["forest"]
    picture[: size // 4, size // 2 :] = colours["water"]
    picture[size // 2 - 6 : size // 2 + 6, size // 2 - 6 : size // 2 + 6] = colours["town"]
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tilecascade.app.tiles.loaded_model.load_octaves", lambda stem: (tiny_octaves(), Gate()))


@pytest.fixture
def running(make_settings: MakeSettings, make_scene: SceneMaker) -> Callable[[], TestClient]:
    layers = [LayerSettings(name="map", scenes=[make_scene()])]
    settings = make_settings(interactive_wait=60, api_key=KEY["X-API-Key"])
    return lambda: TestClient(create_app(settings, layers))


@pytest.fixture
def client(running: Callable[[], TestClient]) -> Iterator[TestClient]:
    with running() as client:
        wait_ready(client)
        yield client


def make(client: TestClient, name: str = "carana", query: str = f"?bounds={BOUNDS}&seed=7", **options: object) -> dict:
    answer = client.put(f"/territories/{name}{query}", headers=KEY, **({"content": painting()} | options))
    assert answer.status_code in (200, 201), answer.text
    return answer.json()


def get(client: TestClient, path: str, zoom: int) -> bytes:
    at: Tile = tile(*MIDDLE, zoom)
    answer = client.get(path.format(z=at.z, x=at.x, y=at.y))
    assert answer.status_code == 200, answer.text
    return answer.content


def test_a_territory_is_made_served_and_there_after_a_restart(running: Callable[[], TestClient]) -> None:
    with running() as client:
        wait_ready(client)
        assert client.get("/territories").json() == []
        made = make(client)
        assert (made["name"], made["seed"]) == ("carana", 7)
        assert made["zooms"] == [6, 18]
        assert "town" in made["says"]
        paths = ["/tiles/carana/{z}/{x}/{y}.png", "/tiles/carana-imagery/{z}/{x}/{y}.png"]
        tiles = {(path, zoom): get(client, path, zoom) for path in paths for zoom in (12, 16, 17)}
        assert client.get("/territories/carana/sketch").content == painting()
        layers = [each["id"] for each in client.get("/ogc/collections").json()["collections"]]
        assert layers == ["map", "carana", "carana-imagery"]
    with running() as again:
        wait_ready(again)
        assert [each["name"] for each in again.get("/territories").json()] == ["carana"]
        assert all(get(again, path, zoom) == data for (path, zoom), data in tiles.items())


def test_another_seed_keeps_the_sketch_and_changes_the_country(client: TestClient) -> None:
    first = make(client)
    before = {zoom: get(client, "/tiles/carana-imagery/{z}/{x}/{y}.png", zoom) for zoom in (15, 17)}
    second = make(client, query="?seed=8", content=b"")
    assert second["bounds"] == first["bounds"]
    assert (second["seed"], second["revision"] != first["revision"]) == (8, True)
    after = {zoom: get(client, "/tiles/carana-imagery/{z}/{x}/{y}.png", zoom) for zoom in (15, 17)}
    assert all(after[zoom] != before[zoom] for zoom in after)
    third = make(client, query="?seed=7", content=b"")
    assert third["revision"] == first["revision"]
    assert all(get(client, "/tiles/carana-imagery/{z}/{x}/{y}.png", zoom) == before[zoom] for zoom in before)


def test_a_territory_is_removed_with_its_tiles_and_its_jobs(client: TestClient, tmp_path: Path) -> None:
    make(client)
    get(client, "/tiles/carana-imagery/{z}/{x}/{y}.png", 17)
    box = [float(side) for side in BOUNDS.split(",")]
    order = {"layer": "carana-imagery", "bbox": box, "zooms": [18, 18], "rate": 1}
    job = client.post("/jobs", json=order, headers=KEY).json()["id"]
    assert client.delete("/territories/carana", headers=KEY).status_code == 204
    assert client.get(f"/jobs/{job}").json()["state"] == "cancelled"
    assert client.get("/territories").json() == []
    for path in ("/tiles/carana/12/1/1.png", "/tiles/carana-imagery/17/1/1.png", "/territories/carana/sketch"):
        assert client.get(path).status_code == 404
    end = time.monotonic() + 30
    while (tmp_path / "data" / "tiles" / "carana-imagery").exists():
        assert time.monotonic() < end, "its tiles are still there"
        time.sleep(0.1)
    assert client.delete("/territories/carana", headers=KEY).status_code == 404
    make(client)
    get(client, "/tiles/carana/{z}/{x}/{y}.png", 12)


def test_a_server_that_stops_at_once_leaves_no_tiles_of_what_was_removed(
    running: Callable[[], TestClient], tmp_path: Path
) -> None:
    tiles = tmp_path / "data" / "tiles"
    with running() as client:
        wait_ready(client)
        make(client)
        get(client, "/tiles/carana-imagery/{z}/{x}/{y}.png", 17)
        assert (tiles / "carana-imagery").exists()
        assert client.delete("/territories/carana", headers=KEY).status_code == 204
    assert [path.name for path in tiles.glob("carana*")] == []


@pytest.mark.parametrize(
    ("name", "query", "body", "words"),
    [
        ("carana", "?seed=1", None, "takes bounds=W,S,E,N, and a picture"),
        ("carana", f"?bounds={BOUNDS}", b"", "takes bounds=W,S,E,N, and a picture"),
        ("carana", f"?bounds={BOUNDS}", b"no picture", "the sketch is no picture"),
        (
            "carana",
            f"?bounds={BOUNDS}",
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n",
            "the sketch is no picture",
        ),
        ("carana", "?bounds=5,5,4,6", None, "bounds wants west < east"),
        ("carana", "?bounds=5,85.5,6,86", None, "bounds goes beyond"),
        ("carana", f"?bounds={BOUNDS}&painted_zoom=30", None, "painted_zoom"),
        ("Carana", f"?bounds={BOUNDS}", None, "name"),
        ("..", f"?bounds={BOUNDS}", None, ""),
        ("a" * 25, f"?bounds={BOUNDS}", None, "at most 24 characters"),
        ("map", f"?bounds={BOUNDS}", None, "a layer map that is no territory"),
        ("confidence", f"?bounds={BOUNDS}", None, "confidence"),
    ],
)
def test_what_cannot_be_made_is_refused(
    client: TestClient, tmp_path: Path, name: str, query: str, body: bytes | None, words: str
) -> None:
    sent = painting() if body is None else body
    answer = client.put(f"/territories/{name}{query}", content=sent, headers=KEY)
    assert answer.status_code in (400, 404, 405), answer.text
    assert words in answer.json()["detail"]
    assert str(tmp_path) not in answer.text
    assert client.get("/territories").json() == []
    assert not list((tmp_path / "data" / "territories").glob("*"))


def test_it_needs_a_key_and_there_is_a_limit(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = client.put(f"/territories/carana?bounds={BOUNDS}", content=painting())
    assert refused.status_code == 403
    assert "'scenes'" in refused.json()["detail"]
    assert client.delete("/territories/carana").status_code == 403
    large = client.put(f"/territories/carana?bounds={BOUNDS}", content=b"x" * ((32 << 20) + 1), headers=KEY)
    assert large.status_code == 413
    monkeypatch.setattr(territories, "MOST", 1)
    make(client)
    full = client.put(f"/territories/other?bounds={BOUNDS}", content=painting(), headers=KEY)
    assert (full.status_code, "1 territories at most" in full.text) == (400, True)
    make(client)  # replacing is no other one


def test_a_real_mosaic_lies_over_the_country(client: TestClient, tmp_path: Path) -> None:
    """It is shown and generated from where it is; everywhere else all stays, and so it does when it is gone again."""
    make(client)
    inside, far = tile(10.05, 50.03, 17), tile(10.09, 50.05, 17)
    paths = ["/tiles/carana/17/{x}/{y}.png", "/imagery/carana/17/{x}/{y}.png", "/tiles/carana/15/{x}/{y}.png"]

    def fetch(path: str, at: Tile) -> bytes:
        levels = 17 - int(path.split("/")[3])
        answer = client.get(path.format(x=at.x >> levels, y=at.y >> levels))
        assert answer.status_code == 200, answer.text
        return answer.content

    before = {(path, at): fetch(path, at) for path in paths for at in (inside, far)}
    pixels = picture(512, 5)
    scene = write_scene(tmp_path / "drone.tif", pixels, xy_bounds(inside))
    added = client.post("/scenes?layer=carana", content=scene.read_bytes(), headers=KEY)
    assert added.status_code == 201, added.text
    after = {(path, at): fetch(path, at) for path in paths for at in (inside, far)}
    shown = np.asarray(Image.open(io.BytesIO(after[paths[1], inside])).convert("RGB")).astype(int)
    truth, _ = SceneMosaic([open_scene(scene)]).read(tile_window(inside))
    assert np.abs(shown - truth).mean() < 8, "the mosaic is the imagery"
    assert after[paths[0], inside] != before[paths[0], inside], "and the map is generated from it"
    assert all(after[path, far] == before[path, far] for path in paths)
    assert after[paths[2], inside] == before[paths[2], inside], "coarse zooms are the map of the sketch"
    removed = client.delete(f"/scenes/{added.json()['id']}?layer=carana", headers=KEY)
    assert removed.status_code == 200, removed.text
    assert {key: fetch(*key) for key in before} == before


def test_what_is_drawn_of_a_sketch_is_never_called_surveyed(
    make_settings: MakeSettings, make_scene: SceneMaker, tmp_path: Path
) -> None:
    """It has no confidence, and what a scene shows beside it has one."""
    table = tuple(place / 100 for place in range(KNOTS))
    save_network(random_network(replace(tiny(), calibration=(table,) * len(CLASSES))), tmp_path / "calibrated")
    settings = make_settings(interactive_wait=60, api_key=KEY["X-API-Key"], weights=tmp_path / "calibrated")
    with TestClient(create_app(settings, [LayerSettings(name="map", scenes=[make_scene()])])) as client:
        wait_ready(client)
        make(client)
        inside = tile(10.05, 50.03, 17)
        west, south, east, north = xy_bounds(inside)
        scene = write_scene(tmp_path / "drone.tif", picture(512, 5), (west + 2, south + 2, east - 2, north - 2))
        assert client.post("/scenes?layer=carana", content=scene.read_bytes(), headers=KEY).status_code == 201
        answers = {
            place: client.get(f"/tiles/carana/confidence/17/{place.x}/{place.y}.png?wait=60")
            for place in (inside, Tile(inside.x ^ 1, inside.y, 17), tile(10.09, 50.05, 17))
        }
    generated, *drawn = answers.values()
    assert generated.status_code == 200, generated.text
    assert not (decode(generated.content)[..., :3] == BASE_MAP_COLOUR).all(axis=-1).any()
    for answer in drawn:
        assert (answer.status_code, "drawn from a sketch" in answer.text) == (404, True)


def test_nothing_is_painted_where_a_mosaic_hides_it(client: TestClient, tmp_path: Path) -> None:
    make(client)
    inside = tile(10.05, 50.03, 15)
    scene = write_scene(tmp_path / "drone.tif", picture(512, 5), xy_bounds(inside))
    assert client.post("/scenes?layer=carana", content=scene.read_bytes(), headers=KEY).status_code == 201
    middle = Tile(inside.x * 8 + 4, inside.y * 8 + 4, 18)
    for kind in ("tiles", "imagery"):
        assert client.get(f"/{kind}/carana/18/{middle.x}/{middle.y}.png").status_code == 200
    metrics = client.get("/metrics", headers=KEY).text
    assert 'tilecascade_blocks_generated_total{layer="carana",zoom="18"} 1.0' in metrics
    assert 'tilecascade_blocks_generated_total{layer="carana-imagery",zoom="18"}' not in metrics


def test_a_mosaic_may_reach_beyond_the_country_and_goes_with_it(client: TestClient, tmp_path: Path) -> None:
    make(client)
    edge = tile(10.1, 50.03, 17)
    west, south, east, north = xy_bounds(edge)
    beyond = (west, south, east + 2 * (east - west), north)
    scene = write_scene(tmp_path / "drone.tif", picture(512, 5), beyond)
    assert client.post("/scenes?layer=carana", content=scene.read_bytes(), headers=KEY).status_code == 201
    outside = Tile(edge.x + 1, edge.y, 17)
    assert client.get(f"/imagery/carana/17/{outside.x}/{outside.y}.png").status_code == 200
    assert list((tmp_path / "data" / "scenes").glob("*.tif"))
    assert client.delete("/territories/carana", headers=KEY).status_code == 204
    assert not list((tmp_path / "data" / "scenes").glob("*.tif"))
    make(client)
    assert client.get("/scenes?layer=carana").json()["scenes"] == []


def test_what_a_killed_server_was_replacing_comes_back(client: TestClient, tmp_path: Path) -> None:
    make(client)
    folder = tmp_path / "data" / "territories"
    (folder / ".old-1").mkdir()
    (folder / "carana").rename(folder / ".old-1" / "carana")
    (folder / ".incoming-2" / "carana").mkdir(parents=True)
    kept = territories.Territories(folder)
    assert kept.names() == []
    kept.tidy()
    assert kept.names() == ["carana"]
    assert sorted(path.name for path in folder.iterdir()) == ["carana"]


def test_one_that_cannot_be_read_keeps_nobody_from_the_others(
    running: Callable[[], TestClient], tmp_path: Path
) -> None:
    with running() as client:
        wait_ready(client)
        make(client)
        make(client, "other")
    (tmp_path / "data" / "territories" / "carana" / "map.png").write_bytes(b"damaged")
    with running() as again:
        wait_ready(again)
        assert [each["name"] for each in again.get("/territories").json()] == ["other"]
