"""Base maps: existing map tiles that a layer takes as they are, and draws from: the real top of its cascade.

An MBTiles or PMTiles file, a georeferenced picture of a map, or a tile server's URL. A tile is real if all of it is
there, opaque; of a picture's edge tiles the cascade draws anew. What a URL has answered once, that there is no such
tile too, is kept for good below the data directory: which tiles are real must not depend on today's network.
"""

from __future__ import annotations

import hashlib
import io
import os
import sqlite3
import threading
import uuid
from pathlib import Path
from typing import Protocol

import httpx
import numpy as np
from mercantile import Tile
from PIL import Image, UnidentifiedImageError
from pmtiles.reader import MmapSource, Reader

from app.imagery import SceneError, SceneImagery, open_scene
from model.cascade import tile_window
from model.sgdm.config import TILE_SIZE

FETCH_SECONDS = 20.0
"""How long another server may take for a tile."""

MOST_BYTES = 4 << 20
"""Of a tile from elsewhere."""


class BaseMapError(RuntimeError):
    """A base map does not answer; the message says why. What depends on it cannot be drawn now."""


class BaseMap(Protocol):
    """Real tiles. id: names what they are; zooms: where there may be some."""

    id: str
    zooms: range

    def get(self, tile: Tile) -> bytes | None:
        """A tile's image file in any format; None if there is none. May block. Raises BaseMapError."""
        ...


class MBTilesMap:
    """An MBTiles file (SQLite; rows count from the south)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open = threading.local()
        try:
            low, high = self._connection().execute("SELECT min(zoom_level), max(zoom_level) FROM tiles").fetchone()
        except sqlite3.Error as error:
            raise SceneError(f"base map {path} is not an MBTiles file: {error}") from None
        if low is None:
            raise SceneError(f"base map {path} holds no tiles")
        self.zooms = range(low, high + 1)
        self.id = file_id(path)

    def _connection(self) -> sqlite3.Connection:
        if "file" not in self._open.__dict__:
            self._open.file = sqlite3.connect(f"file:{self._path}?mode=ro&immutable=1", uri=True)
        file: sqlite3.Connection = self._open.file
        return file

    def get(self, tile: Tile) -> bytes | None:
        """See BaseMap."""
        place = (tile.z, tile.x, (1 << tile.z) - 1 - tile.y)
        query = "SELECT tile_data FROM tiles WHERE zoom_level = ? AND tile_column = ? AND tile_row = ?"
        row = self._connection().execute(query, place).fetchone()
        return None if row is None else bytes(row[0])


class PMTilesMap:
    """A PMTiles file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        try:
            self._reader = Reader(MmapSource(self._file))
            header = self._reader.header()
        except Exception as error:  # the library raises whatever comes up
            raise SceneError(f"base map {path} is not a PMTiles file: {error or type(error).__name__}") from None
        self.zooms = range(int(header["min_zoom"]), int(header["max_zoom"]) + 1)
        self.id = file_id(path)

    def get(self, tile: Tile) -> bytes | None:
        """See BaseMap."""
        found: bytes | None = self._reader.get(tile.z, tile.x, tile.y)
        return found


class PictureMap:
    """A GeoTIFF of a map, for the zooms up to its own resolution."""

    def __init__(self, path: Path, lowest: int) -> None:
        scene = open_scene(path)
        self._pixels = SceneImagery([scene])
        self.zooms = range(min(lowest, scene.native_zoom), scene.native_zoom + 1)
        self.id = scene.id

    def get(self, tile: Tile) -> bytes | None:
        """See BaseMap."""
        colours, known = self._pixels.read(tile_window(tile))
        return png_of(colours) if known.all() else None


class RemoteMap:
    """A tile server, by a URL with {z}, {x} and {y}; what it answers is kept in `folder`."""

    def __init__(self, url: str, max_zoom: int, folder: Path) -> None:
        self._url, self._folder = url, folder
        self.zooms = range(max_zoom + 1)
        self.id = hashlib.sha256(url.encode()).hexdigest()[:12]
        self._client = httpx.Client(timeout=FETCH_SECONDS, headers={"User-Agent": "tilecascade"})

    def get(self, tile: Tile) -> bytes | None:
        """See BaseMap."""
        kept = self._folder / self.id / str(tile.z) / str(tile.x) / str(tile.y)
        try:
            return kept.read_bytes() or None
        except FileNotFoundError:
            pass
        data = self._fetch(tile)
        kept.parent.mkdir(parents=True, exist_ok=True)
        fresh = kept.with_name(f".{tile.y}-{uuid.uuid4().hex}")
        fresh.write_bytes(data)
        os.replace(fresh, kept)
        return data or None

    def _fetch(self, tile: Tile) -> bytes:
        """The server's answer; empty if it has no such tile."""
        url = self._url.replace("{z}", str(tile.z)).replace("{x}", str(tile.x)).replace("{y}", str(tile.y))
        try:
            answer = self._client.get(url)
        except httpx.HTTPError as error:
            raise BaseMapError(f"the base map's server does not answer: {error or type(error).__name__}") from None
        if answer.status_code in (204, 404, 410):
            return b""
        if answer.status_code != 200:
            raise BaseMapError(f"the base map's server answers {answer.status_code}")
        if len(answer.content) > MOST_BYTES:
            raise BaseMapError("the base map's server sends a tile of more than 4 MiB")
        return answer.content


class OpaqueTiles:
    """The real tiles of a base map as the cascade needs them: PNG of 256 x 256 pixels, opaque, of the zooms wanted."""

    def __init__(self, base: BaseMap, max_zoom: int | None) -> None:
        last = base.zooms[-1] if max_zoom is None else min(max_zoom, base.zooms[-1])
        if last < base.zooms[0]:
            raise SceneError(f"the base map begins at zoom {base.zooms[0]}, above base_max_zoom {max_zoom}")
        self._base = base
        self.zooms = range(base.zooms[0], last + 1)
        self.id = f"{base.id} to {last}"

    def get(self, tile: Tile) -> bytes | None:
        """A real tile as PNG; None if there is none. May block. Raises BaseMapError."""
        if tile.z not in self.zooms:
            return None
        data = self._base.get(tile)
        if not data:
            return None
        try:
            with Image.open(io.BytesIO(data)) as image:
                fits = image.format == "PNG" and image.size == (TILE_SIZE, TILE_SIZE)
                pixels = image.convert("RGBA")
        except (UnidentifiedImageError, OSError) as error:
            raise BaseMapError(f"tile {tile.z}/{tile.x}/{tile.y} of the base map is not an image: {error}") from None
        if np.asarray(pixels)[..., 3].min() < 255:
            return None
        if fits:
            return data
        if pixels.size != (TILE_SIZE, TILE_SIZE):
            pixels = pixels.resize((TILE_SIZE, TILE_SIZE), Image.Resampling.BOX)
        return png_of(np.asarray(pixels)[..., :3])


def open_base_map(place: str, max_zoom: int | None, lowest: int, folder: Path) -> OpaqueTiles:
    """The base map at a path or URL. Raises SceneError with a sentence.

    max_zoom: the last zoom to take from it (needed for a URL). lowest: where a picture's zooms begin. folder: where
    a URL's tiles are kept.
    """
    if place.startswith(("http://", "https://")):
        if not all(name in place for name in ("{z}", "{x}", "{y}")):
            raise SceneError(f"base_map {place} needs {{z}}, {{x}} and {{y}}")
        if max_zoom is None:
            raise SceneError("a base_map by URL needs base_max_zoom: the last zoom that it is real at")
        return OpaqueTiles(RemoteMap(place, max_zoom, folder), max_zoom)
    path = Path(place)
    if not path.is_file():
        raise SceneError(f"base map {path} does not exist; give a file .mbtiles, .pmtiles or .tif, or a URL")
    if path.suffix == ".mbtiles":
        return OpaqueTiles(MBTilesMap(path), max_zoom)
    if path.suffix == ".pmtiles":
        return OpaqueTiles(PMTilesMap(path), max_zoom)
    return OpaqueTiles(PictureMap(path, lowest), max_zoom)


def png_of(colours: np.ndarray) -> bytes:
    """H x W x 3 uint8 -> PNG."""
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(colours)).save(out, "PNG", compress_level=4)
    return out.getvalue()


def file_id(path: Path) -> str:
    """Twelve hex digits of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]
