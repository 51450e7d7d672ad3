"""Base maps: existing map tiles that a layer serves as they are, and that are the top of its cascade.

A base map is an MBTiles or PMTiles file, a georeferenced picture of a map, or a tile server's URL. It has a tile if all
of the tile is there and opaque; the edge tiles of a picture are generated instead. What a URL has answered once is kept
for good below the data directory, also that there is no such tile: which tiles the base map has must not depend on
today's network.
"""

from __future__ import annotations

import hashlib
import io
import threading
from operator import attrgetter
from pathlib import Path
from typing import Any, Protocol

import httpx
import numpy as np
from cachetools import LRUCache, cachedmethod
from mercantile import Tile
from PIL import Image, UnidentifiedImageError

from tilecascade.app.errors import BaseMapError, SceneError
from tilecascade.app.sources.areas import Areas
from tilecascade.app.sources.mosaic import SceneMosaic
from tilecascade.app.sources.scene import open_scene
from tilecascade.app.sources.territory import TerritorySource
from tilecascade.app.storage.archives import ARCHIVES, ArchiveError
from tilecascade.app.storage.atomic import write_atomically
from tilecascade.model.cascade import TILE_SIZE, tile_window

FETCH_SECONDS = 20.0
"""How long the base map's server may take for a tile."""

NO_TILE = b"no tile"
"""Content of the file that records that a server has no such tile."""

FIRST_DRAWN, LAST_DRAWN = 6, 20
"""Zooms of a territory's map that are drawn of its sketch. The network takes over where there is a scene."""

KEPT_DRAWN = 1024
"""Drawn tiles that are kept in memory."""

MAX_BYTES = 4 << 20
"""Largest image file accepted from the base map's server."""


class BaseMap(Protocol):
    """Existing map tiles. id: names their content. zooms: where there may be some."""

    id: str
    zooms: range

    def get(self, tile: Tile) -> bytes | None:
        """A tile's image file in any format; None if there is none. May block. Raises BaseMapError."""
        ...


class ArchiveMap:
    """A file of tiles: MBTiles or PMTiles."""

    def __init__(self, path: Path) -> None:
        """Raises SceneError."""
        try:
            self._archive = ARCHIVES[path.suffix](path)
        except ArchiveError as error:
            raise SceneError(f"base map {error}") from None
        self.zooms = self._archive.zooms
        self.id = file_id(path)

    def get(self, tile: Tile) -> bytes | None:
        """See BaseMap."""
        return self._archive.get(tile)


class PictureMap:
    """A GeoTIFF of a map, for the zooms up to its own resolution."""

    def __init__(self, path: Path, lowest: int) -> None:
        scene = open_scene(path, sensor="rgb")
        self._pixels = SceneMosaic([scene])
        self.zooms = range(min(lowest, scene.native_zoom), scene.native_zoom + 1)
        self.id = scene.id

    def get(self, tile: Tile) -> bytes | None:
        """See BaseMap."""
        colours, known = self._pixels.read(tile_window(tile))
        return png_of(colours) if known.all() else None


class DrawnMap:
    """The map of a territory that does not exist, drawn when a tile is asked for."""

    def __init__(self, path: Path, areas: Areas | None) -> None:
        """areas: what is different in some places; they are no part of the id. Raises SceneError."""
        source = TerritorySource(path.with_suffix(""), areas)
        self._territory = source.territory
        self.zooms = range(FIRST_DRAWN, LAST_DRAWN + 1)
        self.id = f"map of the sketch {source.plain_id}"
        self._tiles: LRUCache[Any, bytes] = LRUCache(maxsize=KEPT_DRAWN)
        self._covers = source.covers
        self._lock = threading.Lock()

    def get(self, tile: Tile) -> bytes | None:
        """See BaseMap."""
        return self._drawn(tile) if self._covers(tile) else None

    @cachedmethod(attrgetter("_tiles"), lock=attrgetter("_lock"))
    def _drawn(self, tile: Tile) -> bytes:
        window = tile_window(tile)
        known = self._territory.inside(*self._territory.axes(window))
        colours = self._territory.map(window)
        return png_of(colours if known.all() else np.dstack([colours * known[..., None], known.astype(np.uint8) * 255]))


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
            data = kept.read_bytes()
        except FileNotFoundError:
            data = b""
        if data:  # an empty file is what a power cut left: it says nothing
            return None if data == NO_TILE else data
        data = self._fetch(tile)
        write_atomically(kept, data or NO_TILE)
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
        if len(answer.content) > MAX_BYTES:
            raise BaseMapError("the base map's server sends a tile of more than 4 MiB")
        return answer.content


class BaseMapTiles:
    """The tiles of a base map as the cascade needs them: PNG files of 256 x 256 pixels, at the zooms wanted.

    A tile that is transparent in part counts as none, and is generated; not so if the map is drawn of what its imagery
    is drawn of, too (`whole` is false): it ends where that ends.
    """

    def __init__(self, base: BaseMap, max_zoom: int | None, whole: bool = True) -> None:
        last = base.zooms[-1] if max_zoom is None else min(max_zoom, base.zooms[-1])
        if last < base.zooms[0]:
            raise SceneError(f"the base map begins at zoom {base.zooms[0]}, above base_max_zoom {max_zoom}")
        self._base, self._whole = base, whole
        self.zooms = range(base.zooms[0], last + 1)
        self.id = f"{base.id} to {last}"

    def get(self, tile: Tile) -> bytes | None:
        """A tile as PNG; None if the base map has none. May block. Raises BaseMapError."""
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
        if self._whole and np.asarray(pixels)[..., 3].min() < 255:
            return None
        if fits:
            return data
        if pixels.size != (TILE_SIZE, TILE_SIZE):
            pixels = pixels.resize((TILE_SIZE, TILE_SIZE), Image.Resampling.BOX)
        return png_of(np.asarray(pixels)[..., :3])


def open_base_map(
    place: str, max_zoom: int | None, lowest: int, folder: Path, areas: Areas | None = None
) -> BaseMapTiles:
    """The base map at a path or URL. Raises SceneError with a sentence.

    max_zoom: the last zoom to take from it (needed for a URL). lowest: where a picture's zooms begin. folder: where
    a URL's tiles are kept. areas: of a territory, if the map is drawn of one.
    """
    if place.startswith(("http://", "https://")):
        if not all(name in place for name in ("{z}", "{x}", "{y}")):
            raise SceneError(f"base_map {place} needs {{z}}, {{x}} and {{y}}")
        if max_zoom is None:
            raise SceneError("a base_map by URL needs base_max_zoom: the last zoom to take from it")
        return BaseMapTiles(RemoteMap(place, max_zoom, folder), max_zoom)
    path = Path(place)
    if not path.is_file():
        raise SceneError(f"base map {path} does not exist; give a file .mbtiles, .pmtiles or .tif, or a URL")
    if path.suffix == ".json":
        return BaseMapTiles(DrawnMap(path, areas), max_zoom, whole=False)
    if path.suffix in ARCHIVES:
        return BaseMapTiles(ArchiveMap(path), max_zoom)
    return BaseMapTiles(PictureMap(path, lowest), max_zoom)


def png_of(colours: np.ndarray) -> bytes:
    """H x W x 3 or, with alpha, 4 uint8 -> PNG."""
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(colours)).save(out, "PNG", compress_level=4)
    return out.getvalue()


def file_id(path: Path) -> str:
    """Twelve hex digits of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]
