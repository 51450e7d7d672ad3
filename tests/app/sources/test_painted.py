"""A layer whose imagery is painted beyond its own resolution, over HTTP."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from mercantile import Tile
from PIL import Image
from pydantic import ValidationError

from tests.conftest import PLACE, SceneMaker
from tests.support import HeldEngine, tiny_octaves, until, wait_ready
from tilecascade.app.api.app import create_app
from tilecascade.app.errors import SettingsError
from tilecascade.app.service import Service
from tilecascade.app.settings import LayerSettings, Settings, read_configuration
from tilecascade.app.sources.mosaic import SceneMosaic
from tilecascade.app.sources.scene import open_scene
from tilecascade.app.tiles.formats import PLAIN, PNG_START
from tilecascade.model.cascade import tile_window
from tilecascade.model.engine import Priority
from tilecascade.model.engine.device import choose_dtype
from tilecascade.model.imagery.gate import Gate
from tilecascade.model.imagery.painter import ImageryCascade, OctavePainter

MakeSettings = Callable[..., Settings]
KEY = {"X-API-Key": "secret-key-of-this-test"}


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tilecascade.app.tiles.loaded_model.load_octaves", lambda stem: (tiny_octaves(), Gate()))


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
    never = Gate(tuple((2.0**octave, (50.0,) * 3, (60.0,) * 3) for octave in range(-3, 9)))
    monkeypatch.setattr("tilecascade.app.tiles.loaded_model.load_octaves", lambda stem: (tiny_octaves(), never))
    layers = [LayerSettings(name="map", scenes=[make_scene()], painted_zoom=18, keep_rejected=True)]
    data = tmp_path / "kept"
    with TestClient(create_app(make_settings(data_dir=data, api_key="a-key-of-this-test-only"), layers)) as running:
        wait_ready(running)
        levels = 18 - PLACE.z
        answer = running.get(f"/imagery/map/18/{PLACE.x << levels}/{PLACE.y << levels}.png")
        above = running.get(f"/imagery/map/{PLACE.z}/{PLACE.x}/{PLACE.y}.png")
        metrics = running.get("/metrics", headers={"X-API-Key": "a-key-of-this-test-only"}).text
    assert int(answer.headers["x-imagery-attempts"]) >= 2
    assert "x-imagery-attempts" not in above.headers  # as it was given
    assert 'tilecascade_painted_blocks_total{attempts="' in metrics
    assert 'tilecascade_painted_blocks_unaccepted_total{layer="map-imagery"}' in metrics
    kept = list((data / "layers" / "map" / "rejected").glob("*.png"))
    assert kept
    with Image.open(kept[0]) as image:
        assert image.size == (512, 512)


def test_its_imagery_is_a_layer_that_is_kept(make_settings: MakeSettings, make_scene: SceneMaker) -> None:
    """Tiles of imagery are those of the model by itself, in whatever order they come, and outlive the server."""
    layers = [LayerSettings(name="map", scenes=[make_scene()], painted_zoom=18, seed=4)]
    wanted = [Tile(PLACE.x * 16 + i, PLACE.y * 16 + j, 18) for i, j in ((3, 3), (4, 3), (9, 12))]
    settings = make_settings(interactive_wait=60, batch_blocks=2)
    with TestClient(create_app(settings, layers)) as running:
        wait_ready(running)
        first = {tile: running.get(f"/tiles/map-imagery/18/{tile.x}/{tile.y}.png") for tile in wanted}
        map_tile = running.get(f"/tiles/map/18/{wanted[0].x}/{wanted[0].y}.png")
        coarse = running.get(f"/tiles/map-imagery/15/{PLACE.x * 2}/{PLACE.y * 2}.png")
        confidence = running.get(f"/tiles/map-imagery/confidence/18/{wanted[0].x}/{wanted[0].y}.png")
    assert map_tile.status_code == 200
    assert coarse.headers["x-tile-notice"] == "imagery, not a map"
    assert confidence.status_code == 404
    source = SceneMosaic([open_scene(layers[0].scenes[0])])
    painter = OctavePainter(lambda: (tiny_octaves(), Gate()), dtype=choose_dtype("auto", "cpu"))
    alone = ImageryCascade(source.read, source.native_zoom, painter, 4)
    for tile, answer in first.items():
        assert answer.headers["x-tile-state"] in ("generated", "cached")
        pixels = np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB"))
        # batches of two may round otherwise than one block by itself
        assert np.abs(pixels.astype(int) - alone.read(tile_window(tile))[0]).max() <= 1
    with TestClient(create_app(settings, layers)) as again:
        wait_ready(again)
        for tile in reversed(wanted):
            answer = again.get(f"/tiles/map-imagery/18/{tile.x}/{tile.y}.png")
            assert answer.headers["x-tile-state"] == "cached"
            assert answer.content == first[tile].content


def test_other_formats_of_what_is_finished_come_at_once(client: TestClient) -> None:
    """Tiles are kept as WebP; nobody who asks for PNG is told to wait for the generator."""
    coarse = f"/tiles/map-imagery/15/{PLACE.x * 2}/{PLACE.y * 2}.png?wait=0"
    for _ in range(2):
        answer = client.get(coarse)
        assert (answer.status_code, answer.headers["x-tile-state"]) == (200, "base-map")
        assert answer.headers["x-tile-notice"] == "imagery, not a map"
        assert answer.content.startswith(PNG_START)
    assert client.head(coarse).status_code == 200
    fine = f"/tiles/map-imagery/17/{PLACE.x * 8 + 2}/{PLACE.y * 8 + 2}"
    assert client.head(fine + ".png").status_code == 404
    assert client.get(fine + ".webp").headers["x-tile-state"] == "generated"
    portable = client.get(fine + ".png?wait=0")
    assert portable.headers["x-tile-state"] == "generated"
    assert portable.content.startswith(PNG_START)
    assert client.get(fine + ".png?wait=0").headers["x-tile-state"] == "cached"


def test_addresses_name_the_format_that_is_kept(client: TestClient) -> None:
    assert ".webp?v=" in client.get("/tiles/map-imagery/tilejson.json").json()["tiles"][0]
    assert ".png?v=" in client.get("/tiles/map/tilejson.json").json()["tiles"][0]
    links = {each["rel"]: each for each in client.get("/tiles/map-imagery/stac.json").json()["links"]}
    assert links["xyz"]["type"] == "image/webp"
    place = f"tilematrix=15&tilecol={PLACE.x * 2}&tilerow={PLACE.y * 2}"
    for layer, kept in (("map", "image/png"), ("map-imagery", "image/webp")):
        wmts = client.get(f"/wmts?request=GetTile&layer={layer}&{place}")
        ogc = client.get(f"/ogc/collections/{layer}/map/tiles/WebMercatorQuad/15/{PLACE.y * 2}/{PLACE.x * 2}")
        assert (wmts.headers["content-type"], ogc.headers["content-type"]) == (kept, kept)


def test_a_map_hurries_the_imagery_that_it_waits_for(make_settings: MakeSettings, make_scene: SceneMaker) -> None:
    async def run() -> None:
        layer = LayerSettings(name="map", scenes=[make_scene()], painted_zoom=17)
        async with Service.running(make_settings(), [layer]) as service:
            maps, imagery = service.resolver("map"), service.resolver("map-imagery")
            held = HeldEngine(imagery.generator.works.engine)
            imagery.generator.works.engine = held
            tile = Tile(PLACE.x * 8 + 3, PLACE.y * 8 + 3, 17)
            slow = asyncio.ensure_future(maps.find(tile, PLAIN, Priority.PREFETCH))
            await until(lambda: bool(held.priorities))
            assert set(held.priorities.values()) == {Priority.PREFETCH}
            fast = asyncio.ensure_future(maps.find(tile, PLAIN, Priority.INTERACTIVE))
            await until(lambda: set(held.priorities.values()) == {Priority.INTERACTIVE})
            held.open()
            assert (await slow).data == (await fast).data

    asyncio.run(run())


def test_work_that_nobody_waits_for_any_more_is_dropped(make_settings: MakeSettings, make_scene: SceneMaker) -> None:
    async def run() -> None:
        layer = LayerSettings(name="map", scenes=[make_scene()], painted_zoom=17)
        async with Service.running(make_settings(threads=1), [layer]) as service:
            maps, imagery = service.resolver("map"), service.resolver("map-imagery")
            held = HeldEngine(imagery.generator.works.engine)
            imagery.generator.works.engine = held
            left = asyncio.ensure_future(maps.find(Tile(PLACE.x * 8 + 3, PLACE.y * 8 + 3, 17)))
            await until(lambda: len(held.priorities) > 4)
            left.cancel()
            await until(lambda: any(future.cancelled() for future in held.priorities))
            held.open()

    asyncio.run(run())


def test_a_painted_layer_goes_beyond_its_scenes(client: TestClient) -> None:
    layer, imagery_layer = client.get("/ogc/collections").json()["collections"]
    limits = client.get("/ogc/collections/map/map/tiles/WebMercatorQuad").json()["tileMatrixSetLimits"]
    assert limits[-1]["tileMatrix"] == "18"
    assert (layer["id"], imagery_layer["id"]) == ("map", "map-imagery")
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


def test_names_leave_room_for_the_layer_of_imagery(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="at most 24 characters"):
        LayerSettings(name="a" * 25, scenes=[tmp_path / "a.tif"], painted_zoom=18)
    file = tmp_path / "layers.toml"
    file.write_text(
        '[[layer]]\nname = "a"\nscenes = ["a.tif"]\npainted_zoom = 18\n'
        '[[layer]]\nname = "a-imagery"\nscenes = ["a.tif"]\n'
    )
    with pytest.raises(SettingsError, match="uses a layer name twice"):
        read_configuration(file)


def test_a_country_is_not_painted() -> None:
    with pytest.raises(ValidationError, match="painted_zoom is for scenes"):
        LayerSettings(country=1, painted_zoom=20)
