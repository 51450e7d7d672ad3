"""MBTiles and PMTiles files: written by exports, read by imports and as base maps."""

from __future__ import annotations

import sqlite3
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import mercantile
from mercantile import Tile
from pmtiles.reader import MmapSource, Reader, all_tiles
from pmtiles.tile import Compression, TileType, zxy_to_tileid
from pmtiles.writer import Writer

Bounds = tuple[float, float, float, float]
"""West, south, east, north in degrees."""

REVISION = "tilecascade_revision"
"""Name of the metadata that says which revision of a layer an exported file holds."""


BIG_PLANET = 17
"""The zoom that OsmAnd's files count down from."""


class ArchiveError(ValueError):
    """A file that is not an archive of tiles, or that cannot be read."""


class TileArchive(Protocol):
    """A file of tiles. zooms: where there may be some."""

    zooms: range

    def get(self, tile: Tile) -> bytes | None:
        """A tile's image file; None if there is none."""
        ...

    def metadata(self) -> dict[str, Any]:
        """What the file says of itself."""
        ...

    def tiles(self) -> Iterator[tuple[Tile, bytes]]:
        """All tiles with their image files."""
        ...


class MBTilesArchive:
    """An MBTiles file: SQLite, with rows that count from the south. Thread-safe."""

    def __init__(self, path: Path) -> None:
        """Raises ArchiveError."""
        self._path = path
        self._local = threading.local()
        try:
            low, high = self._connection().execute("SELECT min(zoom_level), max(zoom_level) FROM tiles").fetchone()
        except sqlite3.Error as error:
            raise ArchiveError(f"{path} is not an MBTiles file: {error}") from None
        if low is None:
            raise ArchiveError(f"{path} holds no tiles")
        self.zooms = range(low, high + 1)

    def _connection(self) -> sqlite3.Connection:
        """This thread's connection."""
        if "file" not in self._local.__dict__:
            self._local.file = sqlite3.connect(f"file:{self._path}?mode=ro&immutable=1", uri=True)
        file: sqlite3.Connection = self._local.file
        return file

    def get(self, tile: Tile) -> bytes | None:
        """See TileArchive."""
        query = "SELECT tile_data FROM tiles WHERE zoom_level = ? AND tile_column = ? AND tile_row = ?"
        row = self._connection().execute(query, (tile.z, tile.x, _flipped(tile.y, tile.z))).fetchone()
        return None if row is None else bytes(row[0])

    def metadata(self) -> dict[str, Any]:
        """See TileArchive."""
        return dict(self._connection().execute("SELECT name, value FROM metadata"))

    def tiles(self) -> Iterator[tuple[Tile, bytes]]:
        """See TileArchive."""
        rows = self._connection().execute("SELECT zoom_level, tile_column, tile_row, tile_data FROM tiles")
        return ((Tile(x, _flipped(row, z), z), bytes(data)) for z, x, row, data in rows)


def _flipped(row: int, zoom: int) -> int:
    """A row that counts from the south for one that counts from the north, and the other way round."""
    return (1 << zoom) - 1 - row


class PMTilesArchive:
    """A PMTiles file."""

    def __init__(self, path: Path) -> None:
        """Raises ArchiveError."""
        self._source = MmapSource(path.open("rb"))
        self._reader = Reader(self._source)
        try:
            header = self._reader.header()
        except Exception as error:  # the library raises whatever comes up
            raise ArchiveError(f"{path} is not a PMTiles file: {error or type(error).__name__}") from None
        self.zooms = range(int(header["min_zoom"]), int(header["max_zoom"]) + 1)

    def get(self, tile: Tile) -> bytes | None:
        """See TileArchive."""
        found: bytes | None = self._reader.get(tile.z, tile.x, tile.y)
        return found

    def metadata(self) -> dict[str, Any]:
        """See TileArchive."""
        found: dict[str, Any] = self._reader.metadata()
        return found

    def tiles(self) -> Iterator[tuple[Tile, bytes]]:
        """See TileArchive."""
        return ((Tile(x, y, z), bytes(data)) for (z, x, y), data in all_tiles(self._source))


ARCHIVES: dict[str, type[MBTilesArchive | PMTilesArchive]] = {".mbtiles": MBTilesArchive, ".pmtiles": PMTilesArchive}
"""Kinds of archives that can be read, by file suffix."""


class ExportedLayer(Protocol):
    """What a file says of the layer that its tiles come from."""

    @property
    def name(self) -> str:
        """The layer's name."""
        ...

    @property
    def attribution(self) -> str:
        """Who made the imagery."""
        ...

    @property
    def notice(self) -> str:
        """What everybody who sees the tiles has to know."""
        ...

    @property
    def revision(self) -> str:
        """Which revision of the layer the tiles are."""
        ...

    @property
    def form(self) -> str:
        """Format of the image files: "png" or "webp"."""
        ...


class TileWriter(ABC):
    """Takes tiles in the order of `order`, and then `finish`es the file at `path`."""

    def __init__(self, path: Path, layer: ExportedLayer, area: Bounds, zooms: range) -> None:
        self.path, self.layer, self.area, self.zooms = path, layer, area, zooms

    def order(self) -> list[Tile]:
        """The tiles wanted, parents before children."""
        return [tile for zoom in self.zooms for tile in mercantile.tiles(*self.area, zooms=zoom)]

    def metadata(self) -> dict[str, str]:
        """What the file says of itself, by the names of MBTiles 1.3."""
        west, south, east, north = self.area
        return {
            "name": self.layer.name,
            "format": self.layer.form,
            "type": "baselayer",
            "version": "1.0.0",
            "description": f"tilecascade: {self.layer.notice}.",
            "attribution": self.layer.attribution,
            "bounds": f"{west},{south},{east},{north}",
            "center": f"{(west + east) / 2},{(south + north) / 2},{self.zooms[0]}",
            "minzoom": str(self.zooms[0]),
            "maxzoom": str(self.zooms[-1]),
            "generated": "true",
            REVISION: self.layer.revision,
        }

    @abstractmethod
    def add(self, tile: Tile, data: bytes) -> None:
        """Add one tile."""

    @abstractmethod
    def finish(self) -> None:
        """Write what is left and close the file."""


class MBTilesWriter(TileWriter):
    """Writes MBTiles 1.3."""

    def __init__(self, path: Path, layer: ExportedLayer, area: Bounds, zooms: range) -> None:
        super().__init__(path, layer, area, zooms)
        self._file = sqlite3.connect(path)
        self._file.executescript(
            """
            PRAGMA application_id = 0x4d504258;
            CREATE TABLE metadata (name text, value text);
            CREATE TABLE tiles (zoom_level integer, tile_column integer, tile_row integer, tile_data blob);
            CREATE UNIQUE INDEX tile_index ON tiles (zoom_level, tile_column, tile_row);
            """
        )

    def add(self, tile: Tile, data: bytes) -> None:
        """See TileWriter."""
        place = (tile.z, tile.x, _flipped(tile.y, tile.z))
        self._file.execute("INSERT INTO tiles VALUES (?, ?, ?, ?)", (*place, data))

    def finish(self) -> None:
        """See TileWriter."""
        self._file.executemany("INSERT INTO metadata VALUES (?, ?)", self.metadata().items())
        self._file.commit()
        self._file.close()


class OsmAndWriter(TileWriter):
    """Writes OsmAnd's sqlitedb, in which zooms count down from 17 (BigPlanet's numbering)."""

    def __init__(self, path: Path, layer: ExportedLayer, area: Bounds, zooms: range) -> None:
        super().__init__(path, layer, area, zooms)
        self._file = sqlite3.connect(path)
        self._file.executescript(
            """
            CREATE TABLE info (minzoom integer, maxzoom integer, tilenumbering text, ellipsoid integer, url text);
            CREATE TABLE tiles (x integer, y integer, z integer, s integer, image blob, PRIMARY KEY (x, y, z, s));
            """
        )

    def add(self, tile: Tile, data: bytes) -> None:
        """See TileWriter."""
        self._file.execute("INSERT INTO tiles VALUES (?, ?, ?, 0, ?)", (tile.x, tile.y, BIG_PLANET - tile.z, data))

    def finish(self) -> None:
        """See TileWriter."""
        zooms = (BIG_PLANET - self.zooms[-1], BIG_PLANET - self.zooms[0])
        self._file.execute("INSERT INTO info VALUES (?, ?, 'BigPlanet', 0, '')", zooms)
        self._file.commit()
        self._file.close()


class PMTilesWriter(TileWriter):
    """Writes PMTiles 3, with tiles in the order of their ids (clustered)."""

    def __init__(self, path: Path, layer: ExportedLayer, area: Bounds, zooms: range) -> None:
        super().__init__(path, layer, area, zooms)
        self._file = path.open("wb")
        self._writer = Writer(self._file)

    def order(self) -> list[Tile]:
        """See TileWriter."""
        return sorted(super().order(), key=lambda tile: zxy_to_tileid(tile.z, tile.x, tile.y))

    def add(self, tile: Tile, data: bytes) -> None:
        """See TileWriter."""
        self._writer.write_tile(zxy_to_tileid(tile.z, tile.x, tile.y), data)

    def finish(self) -> None:
        """See TileWriter."""
        west, south, east, north = (round(edge * 1e7) for edge in self.area)
        header: dict[str, Any] = {
            "tile_type": TileType[self.layer.form.upper()],
            "tile_compression": Compression.NONE,
            "min_lon_e7": west,
            "min_lat_e7": south,
            "max_lon_e7": east,
            "max_lat_e7": north,
            "center_zoom": self.zooms[0],
            "center_lon_e7": (west + east) // 2,
            "center_lat_e7": (south + north) // 2,
        }
        in_header = ("bounds", "center", "format")
        self._writer.finalize(header, {k: v for k, v in self.metadata().items() if k not in in_header})
        self._file.close()
