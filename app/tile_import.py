"""`tilecascade import`: tiles of an exported MBTiles or PMTiles file back into a cache.

Only tiles that this cache would draw to the same bytes: the file says which revision of a layer it comes from, and the
cache must have served that revision last. Other maps can be a layer's base map instead.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mercantile import Tile
from pmtiles.reader import MmapSource, Reader, all_tiles
from tqdm import tqdm

from app.hits import is_whole
from app.settings import SettingsError
from cache.disk import DiskStore

REVISION = "tilecascade_revision"
"""The metadata that an export carries."""


def import_file(path: Path, data_dir: Path) -> tuple[int, int]:
    """Put a file's tiles into the cache at `data_dir`; returns how many are new, and how many were there.

    Raises SettingsError with a sentence if the file is none of ours, or of another revision than the cache's.
    """
    if not path.is_file():
        raise SettingsError(f"{path} does not exist")
    if path.suffix not in (".mbtiles", ".pmtiles"):
        raise SettingsError(f"{path} is neither .mbtiles nor .pmtiles")
    try:
        metadata, tiles = (_mbtiles if path.suffix == ".mbtiles" else _pmtiles)(path)
    except Exception as error:  # the libraries raise whatever comes up
        raise SettingsError(f"{path} cannot be read: {error or type(error).__name__}") from None
    layer, revision = str(metadata.get("name", "")), str(metadata.get(REVISION, ""))
    if not revision:
        raise SettingsError(f"{path} is no export of tilecascade; as base_map of a layer it can be drawn from")
    link = data_dir / "tiles" / layer / revision
    if "/" in layer + revision or not link.is_symlink():
        raise SettingsError(
            f"{path} holds revision {revision} of layer {layer}, which this cache does not serve: it needs the same "
            "scenes, network and kind of machine"
        )
    store, version = DiskStore(data_dir / "tiles", 1 << 62), link.readlink().name
    fresh = there = 0
    for tile, data in tqdm(tiles, unit="tile"):
        key = f"{layer}/{version}/{tile.z}/{tile.x}/{tile.y}.png"
        if store.stat(key) is not None:
            there += 1
        elif is_whole(data):
            store.put(key, data)
            fresh += 1
    return fresh, there


Tiles = Iterator[tuple[Tile, bytes]]


def _mbtiles(path: Path) -> tuple[dict[str, Any], Tiles]:
    file = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    metadata = dict(file.execute("SELECT name, value FROM metadata"))
    rows = file.execute("SELECT zoom_level, tile_column, tile_row, tile_data FROM tiles")
    return metadata, ((Tile(x, (1 << z) - 1 - row, z), bytes(data)) for z, x, row, data in rows)


def _pmtiles(path: Path) -> tuple[dict[str, Any], Tiles]:
    source = MmapSource(path.open("rb"))
    metadata: dict[str, Any] = Reader(source).metadata()
    return metadata, ((Tile(x, y, z), bytes(data)) for (z, x, y), data in all_tiles(source))
