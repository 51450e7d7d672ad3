"""Painted imagery is kept, served, exported and imported as lossless WebP; every other format is made of that."""

from __future__ import annotations

import io
import sqlite3
import subprocess
from pathlib import Path

import mercantile
import numpy as np
import pytest
import rasterio
from mercantile import Tile
from PIL import Image
from pmtiles.reader import MmapSource, Reader
from pmtiles.tile import TileType

from tests.conftest import PLACE, SceneMaker
from tests.program import TILECASCADE, Server

ZOOM = 17
TILE = Tile(PLACE.x * 8 + 3, PLACE.y * 8 + 5, ZOOM)
BLOCK = [Tile(TILE.x // 2 * 2 + column, TILE.y // 2 * 2 + row, ZOOM) for column in (0, 1) for row in (0, 1)]


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def export(server: Server, out: Path) -> None:
    west, south, east, north = mercantile.bounds(mercantile.parent(TILE))
    box = f"{west + 1e-7},{south + 1e-7},{east - 1e-7},{north - 1e-7}"
    command = [*TILECASCADE, "export", "--url", server.url, "--layer", "map-imagery", "--bbox", box]
    command += ["--zooms", f"{ZOOM - 1}-{ZOOM}", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_files_of_imagery_are_lossless_webp(make_scene: SceneMaker, tiny_weights: Path, tmp_path: Path) -> None:
    (tmp_path / "layers.toml").write_text(
        f'[[layer]]\nname = "map"\nscenes = ["{make_scene()}"]\nroot_zoom = 14\npainted_zoom = {ZOOM}\n'
    )
    env = {"TILECASCADE_LAYERS_FILE": str(tmp_path / "layers.toml"), "TILECASCADE_REDIS_URL": "none"}
    data, archives = tmp_path / "data", [tmp_path / "area.mbtiles", tmp_path / "area.pmtiles"]
    server = Server(None, tiny_weights, data, env)
    try:
        address = server.get("/tiles/map-imagery/tilejson.json?wait=60").json()["tiles"][0]
        assert ".webp?v=" in address
        for archive in archives:
            export(server, archive)
        answers = {tile: server.get(f"/tiles/map-imagery/{tile.z}/{tile.x}/{tile.y}.webp") for tile in BLOCK}
        assert {answer.headers["content-type"] for answer in answers.values()} == {"image/webp"}
        assert {answer.headers["x-tile-state"] for answer in answers.values()} == {"cached"}
        kept = list((data / "tiles" / "map-imagery").rglob(f"{ZOOM}/*/*.*"))
        assert {path.suffix for path in kept} == {".webp"}, "no other format is kept unless somebody asks for it"
        portable = server.get(f"/tiles/map-imagery/{TILE.z}/{TILE.x}/{TILE.y}.png")
        assert portable.headers["content-type"] == "image/png"
        assert np.array_equal(pixels(portable.content), pixels(answers[TILE].content))
        map_ = server.get(f"/tiles/map/{TILE.z}/{TILE.x}/{TILE.y}.png?wait=100")
        assert map_.headers["x-tile-state"] in ("generated", "cached")
        assert server.stop() == 0
    finally:
        server.kill()
    with sqlite3.connect(archives[0]) as file:
        assert file.execute("SELECT value FROM metadata WHERE name = 'format'").fetchone() == ("webp",)
        assert file.execute("SELECT count(*) FROM tiles WHERE zoom_level = ?", (ZOOM,)).fetchone() == (4,)
    with archives[1].open("rb") as file:
        reader = Reader(MmapSource(file))
        assert reader.header()["tile_type"] == TileType.WEBP
        assert all(reader.get(tile.z, tile.x, tile.y) == answers[tile].content for tile in BLOCK)
    with rasterio.open(archives[0]) as dataset:  # as QGIS does
        bounds = mercantile.xy_bounds(TILE)
        found = dataset.read((1, 2, 3), window=dataset.window(*bounds)).transpose(1, 2, 0)
        assert np.array_equal(found, pixels(answers[TILE].content))
    lost = next(path for path in kept if path.parts[-2:] == (str(TILE.x), f"{TILE.y}.webp"))
    lost.unlink()
    for archive, added in zip(archives, (1, 0), strict=True):
        command = [*TILECASCADE, "import", str(archive), "--data-dir", str(data)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert f"{added} tiles added" in done.stdout, done.stderr
    assert lost.read_bytes() == answers[TILE].content
