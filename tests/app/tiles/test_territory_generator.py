"""Map objects of a territory are those of the map that is shown, and what people say of them is drawn on it."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mercantile
import numpy as np
import pytest
import shapely
from fastapi.testclient import TestClient
from mercantile import Tile
from PIL import Image

from tests.conftest import picture, write_scene
from tests.support import as_kept, drawn, wait_ready, with_service
from tilecascade.app.api.app import create_app
from tilecascade.app.service import Service
from tilecascade.app.settings import LayerSettings, Settings
from tilecascade.app.sources.scene import open_scene, window_bounds
from tilecascade.app.storage.keys import owner_secret
from tilecascade.app.tiles import territory_generator
from tilecascade.app.tiles.geojson import pixels_of
from tilecascade.app.tiles.resolver import TileResolver
from tilecascade.app.tiles.reviews import Review
from tilecascade.app.tiles.territory_generator import draw_block
from tilecascade.model.cascade import tile_window
from tilecascade.model.engine import Priority
from tilecascade.model.palette import CLASSES, classify
from tilecascade.model.world.sketch import NUMBER, Line, Territory

AT = Tile(72860, 47080, 17)
"""Half of it is town, a quarter water, and the rest grass."""


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings(interactive_wait=60, max_wait=60)


@pytest.fixture
def layer(tmp_path: Path) -> LayerSettings:
    left, bottom, right, top = mercantile.xy_bounds(AT)
    edge = right - left
    kinds = np.full((8, 8), NUMBER["town"], np.uint8)
    kinds[:4, 4:], kinds[4:, 4:] = NUMBER["water"], NUMBER["grass"]
    box = left - edge, bottom - edge, right + edge, top + edge
    road = Line("primary", np.array([box[:2], (left + 0.3 * edge, bottom + 0.21 * edge), (right, top), box[2:]]))
    Territory(kinds, box, 7, [road]).write(tmp_path / "map")
    return LayerSettings(
        name="map",
        territory=tmp_path / "map",
        base_map=str(tmp_path / "map.json"),
        base_map_drawn=True,
        root_zoom=16,
        max_zoom=18,
        finish="cartographic",
    )


@pytest.fixture
def client(settings: Settings, layer: LayerSettings) -> Iterator[TestClient]:
    with TestClient(create_app(settings, [layer])) as running:
        wait_ready(running)
        running.headers["X-API-Key"] = owner_secret(settings)
        yield running


def shown(client: TestClient, tile: Tile) -> tuple[np.ndarray, str]:
    """Its pixels, and what the answer says of where they come from."""
    answer = client.get(f"/tiles/{tile.z}/{tile.x}/{tile.y}.png?wait=60")
    assert answer.status_code == 200, answer.text
    with Image.open(io.BytesIO(answer.content)) as image:
        return np.asarray(image.convert("RGB")), answer.headers["x-tile-notice"]


def outlines(client: TestClient, tile: Tile, layer: str, kind: str) -> shapely.Geometry:
    """All of a tile's objects of a kind, in its pixels."""
    features = client.get(f"/features/map/{tile.z}/{tile.x}/{tile.y}.geojson").raise_for_status().json()["features"]
    place = tile_window(tile)
    found = [
        pixels_of(shapely.geometry.shape(each["geometry"]), tile.z)
        for each in features
        if (each["properties"]["layer"], each["properties"]["class"]) == (layer, kind)
    ]
    moved = [shapely.transform(each, lambda points: points - [place.left, place.top]) for each in found]
    return shapely.intersection(shapely.union_all(moved), shapely.box(0, 0, 256, 256))


@pytest.mark.parametrize("zoom", [16, 17, 18])
def test_the_objects_are_those_of_the_map(client: TestClient, zoom: int) -> None:
    tile = AT if zoom == AT.z else mercantile.parent(AT) if zoom < AT.z else mercantile.children(AT)[0]
    classes = classify(shown(client, tile)[0])
    for layer, kind, name in (("landcover", "water", "water"), ("building", "building", "building")):
        share = (classes == CLASSES.index(name)).mean()
        found = outlines(client, tile, layer, kind).area / 256**2
        assert abs(found - share) < 0.25 * share + 0.002, (kind, found, share)


def test_what_people_say_is_drawn_where_they_say_it(client: TestClient) -> None:
    before, notice = shown(client, AT)
    assert notice == "drawn from a sketch, not surveyed"
    west, south, east, north = mercantile.bounds(AT)
    ring = [[0.8, 0.8], [0.9, 0.8], [0.9, 0.9], [0.8, 0.9], [0.8, 0.8]]
    place = {
        "type": "Polygon",
        "coordinates": [[[west + x * (east - west), north - y * (north - south)] for x, y in ring]],
    }
    answer = client.post("/reviews/map", json=drawn(place))
    assert answer.status_code == 201, answer.text
    after, notice = shown(client, AT)
    assert notice == "generated, not surveyed"
    changed = (before != after).any(axis=2)
    rows, columns = np.nonzero(changed)
    assert 195 <= rows.min() <= 206
    assert 225 <= rows.max() <= 236
    assert 195 <= columns.min() <= 206
    assert 225 <= columns.max() <= 236
    assert (classify(after)[210:225, 210:225] == CLASSES.index("building")).all()
    asked = shapely.box(204.8, 204.8, 230.4, 230.4)
    assert outlines(client, AT, "building", "building").intersection(asked).area > 0.95 * asked.area
    far = Tile(AT.x - 1, AT.y - 1, AT.z)
    assert shown(client, far)[1] == "drawn from a sketch, not surveyed"
    assert client.delete(answer.headers["location"]).status_code == 204
    again, notice = shown(client, AT)
    assert np.array_equal(again, before)
    assert notice == "drawn from a sketch, not surveyed"


def over(tile: Tile, folder: Path) -> Path:
    """A scene over a tile, among the uploaded ones."""
    path = write_scene(folder / "drone.tif", picture(512, 3), window_bounds(tile_window(tile)))
    return as_kept(path, folder)


def test_a_block_that_a_scene_comes_upon_while_it_is_drawn_is_generated(
    settings: Settings, layer: LayerSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = open_scene(over(AT, tmp_path))
    drawings = 0

    async def story(service: Service, resolver: TileResolver) -> tuple[bytes, bytes]:
        loop = asyncio.get_running_loop()

        def draw(*arguments: Any) -> Any:
            nonlocal drawings
            drawings += 1
            drawn = draw_block(*arguments)
            asyncio.run_coroutine_threadsafe(
                service.change_scenes(None, lambda scenes: scenes.add(scene)), loop
            ).result()
            return drawn

        monkeypatch.setattr(territory_generator, "draw_block", draw)
        block = resolver.layer.ladder.block(AT)
        objects = await resolver.generator.objects(block, Priority.INTERACTIVE)
        return objects, (await resolver.find(AT)).data

    objects, tile = with_service(settings, layer, story)
    assert drawings == 1
    monkeypatch.undo()
    fresh = settings.model_copy(update={"data_dir": tmp_path / "fresh"})

    async def from_the_beginning(service: Service, resolver: TileResolver) -> tuple[bytes, bytes]:
        await service.change_scenes(None, lambda scenes: scenes.add(scene))
        found = (await resolver.find(AT)).data
        return await resolver.generator.objects(resolver.layer.ladder.block(AT), Priority.INTERACTIVE), found

    assert with_service(fresh, layer, from_the_beginning) == (objects, tile)


def test_what_people_say_beside_a_scene_changes_no_reference(
    settings: Settings, layer: LayerSettings, tmp_path: Path
) -> None:
    """A tile of the scene is the same, made before or after a review that is too far away to change it."""
    scene = open_scene(over(AT, tmp_path))
    beside = mercantile.bounds(Tile(AT.x + 1, AT.y, AT.z))
    x, y = (beside.west + beside.east) / 2, (beside.north + beside.south) / 2
    ring = [[x, y], [x + 1e-4, y], [x + 1e-4, y + 1e-4], [x, y + 1e-4], [x, y]]
    said = Review("redrawn", "building", "building", None, {"type": "Polygon", "coordinates": [ring]}, 17)
    child = mercantile.children(AT)[1]

    def made(name: str, first: bool) -> bytes:
        async def story(service: Service, resolver: TileResolver) -> bytes:
            await service.change_scenes(None, lambda scenes: scenes.add(scene))
            if first:
                await resolver.find(child)
            await service.review(None, lambda reviews: reviews.add(said))
            return (await resolver.find(child)).data

        return with_service(settings.model_copy(update={"data_dir": tmp_path / name}), layer, story)

    assert made("before", first=True) == made("after", first=False)
