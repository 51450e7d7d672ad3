"""Existing map tiles as the top of the cascade: served as they are, used as references, never overwritten."""

from __future__ import annotations

import io
import shutil
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from mercantile import Tile
from PIL import Image
from pmtiles.tile import Compression, TileType, zxy_to_tileid
from pmtiles.writer import Writer

from tests.conftest import PLACE, SceneMaker, picture, place_bounds, write_scene
from tests.support import MakeSettings, run, write_mbtiles
from tilecascade.app.api.app import create_app
from tilecascade.app.errors import BaseMapError, SceneError
from tilecascade.app.settings import LayerSettings, Settings
from tilecascade.app.sources.base_map import open_base_map
from tilecascade.app.tiles.references import read_conditions
from tilecascade.app.tiles.resolver import TileResolver
from tilecascade.app.tiles.work import Work
from tilecascade.model.engine import Priority

CHILD = Tile(2 * PLACE.x + 1, 2 * PLACE.y, 15)
"""The one tile of zoom 15 that the test's base map has."""


def image(seed: int, form: str = "PNG", size: int = 256, mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture(size, seed)).convert(mode).save(out, form)
    return out.getvalue()


REAL = {Tile(PLACE.x >> 1, PLACE.y >> 1, 13): image(1), PLACE: image(2), CHILD: image(3)}


def write_pmtiles(path: Path, tiles: dict[Tile, bytes]) -> Path:
    with path.open("wb") as file:
        writer = Writer(file)
        for tile, data in sorted(tiles.items(), key=lambda item: zxy_to_tileid(item[0].z, item[0].x, item[0].y)):
            writer.write_tile(zxy_to_tileid(tile.z, tile.x, tile.y), data)
        header = {"tile_type": TileType.PNG, "tile_compression": Compression.NONE, "center_zoom": 13}
        edges = {f"{end}_{axis}_e7": 0 for end in ("min", "max", "center") for axis in ("lon", "lat")}
        writer.finalize(header | edges, {})
    return path


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_mbtiles(tmp_path / "base.mbtiles", REAL)


@pytest.fixture
def layer(make_scene: SceneMaker, base: Path) -> LayerSettings:
    return LayerSettings(scenes=[make_scene()], base_map=str(base))


def below(tile: Tile, zoom: int) -> list[Tile]:
    edge = 1 << (zoom - tile.z)
    return [Tile(tile.x * edge + i, tile.y * edge + j, zoom) for j in range(edge) for i in range(edge)]


def generate(settings: Settings, layer: LayerSettings, tiles: list[Tile]) -> tuple[dict[Tile, bytes], TileResolver]:
    async def story(resolver: TileResolver) -> tuple[dict[Tile, bytes], TileResolver]:
        return {tile: (await resolver.find(tile)).data for tile in tiles}, resolver

    return run(settings, layer, story)


def test_tiles_of_the_base_map_are_served_and_are_references_in_any_order(
    make_settings: MakeSettings, layer: LayerSettings
) -> None:
    settings = make_settings()
    tiles = [PLACE, *below(PLACE, 15), *below(PLACE, 16)]
    first, resolver = generate(settings, layer, tiles)
    assert first[PLACE] == REAL[PLACE]
    assert first[CHILD] == REAL[CHILD]
    files = [path for path in (settings.data_dir / "tiles").rglob("*.png") if ".field" not in path.name]
    kept = {path.relative_to(settings.data_dir).parts[3:] for path in files}
    assert len(kept) == len(tiles) - 2, "every generated tile is stored, no tile of the base map is"
    shutil.rmtree(settings.data_dir)
    again, _ = generate(settings, layer, tiles[::-1])
    assert again == first
    shutil.rmtree(settings.data_dir)
    bare, other = generate(settings, layer.model_copy(update={"base_map": None}), tiles)
    assert other.layer.version != resolver.layer.version
    assert all(bare[tile] != first[tile] for tile in below(CHILD, 16)), "what is generated below must depend on it"


def test_the_network_knows_which_references_are_the_base_maps(
    make_settings: MakeSettings, layer: LayerSettings
) -> None:
    async def story(resolver: TileResolver) -> np.ndarray:
        ladder, generator = resolver.layer.ladder, resolver.generator
        block = ladder.block(below(CHILD, 16)[0])
        references = await generator.references(block, Work(Priority.INTERACTIVE))
        conditions = read_conditions(resolver.layer, ladder.window(block), references)
        assert conditions.from_base_map is not None
        return conditions.from_base_map

    trusted = run(make_settings(), layer, story)
    margin = (trusted.shape[0] - 512) // 2
    expected = np.zeros_like(trusted)
    expected[margin : margin + 512, margin : margin + 512] = True
    assert (trusted == expected).all()


def test_the_map_begins_with_a_base_map_that_ends_early(make_settings: MakeSettings, layer: LayerSettings) -> None:
    early = layer.model_copy(update={"base_max_zoom": 13})
    drawn, resolver = generate(make_settings(), early, [Tile(PLACE.x >> 1, PLACE.y >> 1, 13), PLACE])
    assert resolver.layer.ladder.root == 13
    assert resolver.layer.min_zoom == 13
    assert drawn[PLACE] != REAL[PLACE]


@pytest.fixture
def client(make_settings: MakeSettings, layer: LayerSettings) -> Iterator[TestClient]:
    with TestClient(create_app(make_settings(interactive_wait=60), [layer])) as running:
        deadline = time.monotonic() + 30
        while running.get("/health").status_code != 200 and time.monotonic() < deadline:
            time.sleep(0.05)
        yield running


def path_of(tile: Tile, suffix: str = ".png") -> str:
    return f"/tiles/{tile.z}/{tile.x}/{tile.y}{suffix}"


def test_answers_say_what_is_of_the_base_map(client: TestClient) -> None:
    real = client.get(path_of(PLACE))
    assert (real.status_code, real.headers["x-tile-state"]) == (200, "base-map")
    assert real.headers["x-tile-notice"] == "from the base map"
    assert real.content == REAL[PLACE]
    assert client.get(path_of(PLACE), headers={"If-None-Match": real.headers["etag"]}).status_code == 304
    webp = client.get(path_of(PLACE, ".webp"))
    assert webp.headers["x-tile-state"] == "base-map"
    with Image.open(io.BytesIO(webp.content)) as picture:
        assert (np.asarray(picture) == np.asarray(Image.open(io.BytesIO(REAL[PLACE])))).all()
    other = Tile(2 * PLACE.x, 2 * PLACE.y, 15)
    assert client.get(path_of(other)).headers["x-tile-state"] == "generated"
    assert client.get(path_of(PLACE, "@2x.png")).headers["x-tile-state"] == "generated"
    assert client.get("/tilejson.json").json()["minzoom"] == 13


def test_only_the_base_maps_tiles_on_request(client: TestClient) -> None:
    assert client.get(path_of(PLACE) + "?synthetic=0").content == REAL[PLACE]
    drawn = path_of(Tile(2 * PLACE.x, 2 * PLACE.y, 15))
    assert client.get(drawn).status_code == 200
    refused = client.get(drawn + "?synthetic=0")
    assert refused.status_code == 404
    assert "base map has nothing" in refused.json()["detail"]
    assert client.get(path_of(PLACE, "@2x.png") + "?synthetic=0").status_code == 404
    assert client.get(drawn + "?synthetic=2").status_code == 400


def test_every_kind_of_file(tmp_path: Path, base: Path) -> None:
    for path in (base, write_pmtiles(tmp_path / "base.pmtiles", REAL)):
        opened = open_base_map(str(path), None, 14, tmp_path)
        assert (opened.zooms[0], opened.zooms[-1]) == (13, 15)
        assert opened.get(CHILD) == REAL[CHILD]
        assert opened.get(Tile(CHILD.x + 1, CHILD.y, 15)) is None
    scan = write_scene(tmp_path / "sheet.tif", picture(512, 4), place_bounds())  # zoom 15
    sheet = open_base_map(str(scan), None, 14, tmp_path)
    assert list(sheet.zooms) == [14, 15]
    data = sheet.get(PLACE)
    assert data is not None
    with Image.open(io.BytesIO(data)) as drawn:
        expected = picture(512, 4).astype(float).reshape(256, 2, 256, 2, 3).mean((1, 3))
        assert np.abs(np.asarray(drawn) - expected).mean() < 3
    assert sheet.get(Tile(PLACE.x + 1, PLACE.y, 14)) is None


def test_tiles_of_other_shapes_become_ours(tmp_path: Path) -> None:
    odd = {PLACE: image(5, "JPEG", 512), CHILD: image(6, mode="RGBA")}
    hole = np.dstack([picture(256, 7), np.full((256, 256), 255, dtype=np.uint8)])
    hole[:9, :9, 3] = 0
    out = io.BytesIO()
    Image.fromarray(hole).save(out, "PNG")
    partly = Tile(PLACE.x + 1, PLACE.y, 14)
    base = open_base_map(
        str(write_mbtiles(tmp_path / "odd.mbtiles", odd | {partly: out.getvalue()})), None, 14, tmp_path
    )
    large = base.get(PLACE)
    assert large is not None
    with Image.open(io.BytesIO(large)) as drawn:
        assert (drawn.format, drawn.size, drawn.mode) == ("PNG", (256, 256), "RGB")
    assert base.get(CHILD) == odd[CHILD]
    assert base.get(partly) is None, "a tile with a hole is generated"


class Upstream(BaseHTTPRequestHandler):
    asked: list[str]
    status = 200

    def do_GET(self) -> None:
        type(self).asked.append(self.path)
        z, x, y = (int(part) for part in self.path.strip("/").split("/"))
        data = REAL.get(Tile(x, y, z), b"")
        self.send_response(type(self).status if data else 404)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: object) -> None:
        pass


def test_another_server_is_asked_once(tmp_path: Path) -> None:
    handler = type("Handler", (Upstream,), {"asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/{{z}}/{{x}}/{{y}}"
    base = open_base_map(url, 15, 14, tmp_path / "kept")
    missing = Tile(CHILD.x + 1, CHILD.y, 15)
    handler.status = 500
    with pytest.raises(BaseMapError, match="500"):
        base.get(CHILD)
    handler.status = 200
    for _ in range(2):
        assert base.get(CHILD) == REAL[CHILD]
        assert base.get(missing) is None
    assert len(handler.asked) == 3
    server.shutdown()
    server.server_close()
    again = open_base_map(url, 15, 14, tmp_path / "kept")
    assert again.get(CHILD) == REAL[CHILD], "the network may be gone"
    assert again.get(missing) is None
    with pytest.raises(BaseMapError, match="does not answer"):
        again.get(PLACE)


@pytest.mark.parametrize(
    ("place", "max_zoom", "problem"),
    [
        ("missing.mbtiles", None, "does not exist"),
        ("http://127.0.0.1/{z}/{x}", 12, "needs"),
        ("http://127.0.0.1/{z}/{x}/{y}", None, "base_max_zoom"),
        ("bad.mbtiles", None, "not an MBTiles"),
        ("bad.pmtiles", None, "not a PMTiles"),
        ("base.mbtiles", 3, "begins at zoom 13"),
    ],
)
def test_what_is_no_base_map_is_refused(
    tmp_path: Path, base: Path, place: str, max_zoom: int | None, problem: str
) -> None:
    for name in ("bad.mbtiles", "bad.pmtiles"):
        (tmp_path / name).write_bytes(b"not a map" * 400)
    where = place if place.startswith("http") else str(tmp_path / place)
    with pytest.raises(SceneError, match=problem):
        open_base_map(where, max_zoom, 14, tmp_path)
