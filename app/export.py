"""`tilecascade export` and `render`: tiles of an area out of a running server into one file.

MBTiles and PMTiles hold the tiles as they are; a GeoTIFF (cloud-optimised, EPSG:3857) or a PNG holds one zoom's mosaic.
Files appear whole or not at all.
"""

from __future__ import annotations

import io
import os
import sqlite3
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import mercantile
import numpy as np
import rasterio
from mercantile import Tile
from PIL import Image
from pmtiles.tile import Compression, TileType, zxy_to_tileid
from pmtiles.writer import Writer
from rasterio.enums import ColorInterp
from rasterio.shutil import copy as copy_raster
from rasterio.transform import from_origin
from rasterio.windows import Window
from tqdm import tqdm

from app.client import Bounds, ServedLayer, TileFailedError, area_tiles, connect
from app.hits import NOTICE
from app.settings import SettingsError
from app.tile_import import REVISION
from model.sgdm.config import TILE_SIZE

MAX_PIXELS = 1 << 31
"""Of a mosaic."""

MAX_PICTURE = 1 << 26
"""Pixels of a PNG, which is held in memory."""


class TileWriter(ABC):
    """Takes tiles in the order of `order`, then `finish`es the file at `path`."""

    def __init__(self, path: Path, layer: ServedLayer, area: Bounds, zooms: range) -> None:
        self.path, self.layer, self.area, self.zooms = path, layer, area, zooms

    def order(self) -> list[Tile]:
        """The tiles wanted; parents first."""
        return list(area_tiles(self.area, self.zooms))

    def metadata(self) -> dict[str, str]:
        """What the file says of itself (MBTiles 1.3's names)."""
        west, south, east, north = self.area
        return {
            "name": self.layer.name,
            "format": "png",
            "type": "baselayer",
            "version": "1.0.0",
            "description": f"Map drawn by a diffusion cascade from imagery; {NOTICE}.",
            "attribution": self.layer.attribution,
            "bounds": f"{west},{south},{east},{north}",
            "center": f"{(west + east) / 2},{(south + north) / 2},{self.zooms[0]}",
            "minzoom": str(self.zooms[0]),
            "maxzoom": str(self.zooms[-1]),
            "generated": "true",
            REVISION: self.layer.revision,
        }

    @abstractmethod
    def add(self, tile: Tile, png: bytes) -> None:
        """One tile."""

    @abstractmethod
    def finish(self) -> None:
        """Write what is left."""


class MBTilesWriter(TileWriter):
    """SQLite (MBTiles 1.3); rows count from the south there."""

    def __init__(self, path: Path, layer: ServedLayer, area: Bounds, zooms: range) -> None:
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

    def add(self, tile: Tile, png: bytes) -> None:
        """See TileWriter."""
        row = (1 << tile.z) - 1 - tile.y
        self._file.execute("INSERT INTO tiles VALUES (?, ?, ?, ?)", (tile.z, tile.x, row, png))

    def finish(self) -> None:
        """See TileWriter."""
        self._file.executemany("INSERT INTO metadata VALUES (?, ?)", self.metadata().items())
        self._file.commit()
        self._file.close()


class PMTilesWriter(TileWriter):
    """PMTiles 3, tiles in the order of their ids (clustered)."""

    def __init__(self, path: Path, layer: ServedLayer, area: Bounds, zooms: range) -> None:
        super().__init__(path, layer, area, zooms)
        self._file = path.open("wb")
        self._writer = Writer(self._file)

    def order(self) -> list[Tile]:
        """See TileWriter."""
        return sorted(super().order(), key=lambda tile: zxy_to_tileid(tile.z, tile.x, tile.y))

    def add(self, tile: Tile, png: bytes) -> None:
        """See TileWriter."""
        self._writer.write_tile(zxy_to_tileid(tile.z, tile.x, tile.y), png)

    def finish(self) -> None:
        """See TileWriter."""
        west, south, east, north = (round(edge * 1e7) for edge in self.area)
        header: dict[str, Any] = {
            "tile_type": TileType.PNG,
            "tile_compression": Compression.NONE,
            "min_lon_e7": west,
            "min_lat_e7": south,
            "max_lon_e7": east,
            "max_lat_e7": north,
            "center_zoom": self.zooms[0],
            "center_lon_e7": (west + east) // 2,
            "center_lat_e7": (south + north) // 2,
        }
        metadata = {
            name: value for name, value in self.metadata().items() if name not in ("bounds", "center", "format")
        }
        self._writer.finalize(header, metadata)
        self._file.close()


class MosaicWriter(TileWriter):
    """One zoom's tiles side by side as RGBA: a cloud-optimised GeoTIFF."""

    limit = MAX_PIXELS

    def __init__(self, path: Path, layer: ServedLayer, area: Bounds, zooms: range) -> None:
        super().__init__(path, layer, area, zooms)
        if len(zooms) > 1:
            raise SettingsError("a picture has one zoom: give --zooms as one number")
        tiles = self.order()
        self._left, self._top = min(tile.x for tile in tiles), min(tile.y for tile in tiles)
        self._width = (max(tile.x for tile in tiles) - self._left + 1) * TILE_SIZE
        self._height = (max(tile.y for tile in tiles) - self._top + 1) * TILE_SIZE
        if self._width * self._height > self.limit:
            raise SettingsError(f"{self._width} x {self._height} pixels are too many for one {path.suffix}; take less")
        self._begin()

    def _begin(self) -> None:
        corner = mercantile.xy_bounds(self._left, self._top, self.zooms[0])
        size = (corner.right - corner.left) / TILE_SIZE
        self._plain = plain_of(self.path)
        self._file = rasterio.open(
            self._plain,
            "w",
            driver="GTiff",
            width=self._width,
            height=self._height,
            count=4,
            dtype="uint8",
            crs="EPSG:3857",
            transform=from_origin(corner.left, corner.top, size, size),
            tiled=True,
            blockxsize=TILE_SIZE,
            blockysize=TILE_SIZE,
            compress="deflate",
            bigtiff="if_safer",
        )
        self._file.colorinterp = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
        self._file.update_tags(
            TIFFTAG_SOFTWARE="tilecascade", TIFFTAG_IMAGEDESCRIPTION=NOTICE, TIFFTAG_COPYRIGHT=self.layer.attribution
        )

    def add(self, tile: Tile, png: bytes) -> None:
        """See TileWriter."""
        with Image.open(io.BytesIO(png)) as image:
            pixels = np.asarray(image.convert("RGBA"))
        column, row = (tile.x - self._left) * TILE_SIZE, (tile.y - self._top) * TILE_SIZE
        self._place(pixels, column, row)

    def _place(self, pixels: np.ndarray, column: int, row: int) -> None:
        self._file.write(pixels.transpose(2, 0, 1), window=Window(column, row, TILE_SIZE, TILE_SIZE))

    def finish(self) -> None:
        """See TileWriter."""
        self._file.close()
        try:
            copy_raster(self._plain, self.path, driver="COG", compress="deflate", overview_resampling="average")
        finally:
            self._plain.unlink()


class PictureWriter(MosaicWriter):
    """The same as a PNG."""

    limit = MAX_PICTURE

    def _begin(self) -> None:
        self._canvas = Image.new("RGBA", (self._width, self._height))

    def _place(self, pixels: np.ndarray, column: int, row: int) -> None:
        self._canvas.paste(Image.fromarray(pixels), (column, row))

    def finish(self) -> None:
        """See TileWriter."""
        self._canvas.save(self.path, "PNG")


WRITERS: dict[str, type[TileWriter]] = {
    ".mbtiles": MBTilesWriter,
    ".pmtiles": PMTilesWriter,
    ".tif": MosaicWriter,
    ".png": PictureWriter,
}


async def run_export(
    bbox: Bounds, zooms: range, out: Path, url: str, layer: str | None, parallel: int, wait: float
) -> int:
    """Write the file; prints progress and a summary. Returns 0, or 1 if a tile failed, and then leaves no file.

    Raises SettingsError for what is wrong with the arguments or the server.
    """
    check_out(out)
    fresh = out.with_name(f".{out.stem}-{os.getpid()}{out.suffix}")
    try:
        async with connect(url, layer, parallel, wait) as served:
            count = await write(WRITERS[out.suffix](fresh, served, served.clip(bbox, zooms), zooms), served)
        size = put_in_place(fresh, out)
    except TileFailedError as error:
        print(f"{error}; nothing was written")
        return 1
    finally:
        sweep(fresh)
    print(f"{out}: {count} tiles, {size} bytes")
    return 0


async def write(writer: TileWriter, served: ServedLayer) -> int:
    """Fetch and add every tile; returns how many there are. Raises SettingsError if none."""
    order, count = writer.order(), 0
    with tqdm(total=len(order), unit="tile") as bar:
        async for tile, png in served.in_order(order):
            if png is not None:
                writer.add(tile, png)
                count += 1
            bar.update()
    if not count:
        raise SettingsError("there is no imagery in that area")
    writer.finish()
    return count


def check_out(out: Path) -> None:
    """Raises SettingsError for a file that cannot be written or is of no known kind."""
    if out.suffix not in WRITERS:
        raise SettingsError(f"--out ends in one of {', '.join(WRITERS)}, not {out.suffix!r}")
    if not out.parent.is_dir():
        raise SettingsError(f"there is no directory {out.parent}")


def put_in_place(fresh: Path, out: Path) -> int:
    """Give the finished file its name; returns its bytes."""
    os.replace(fresh, out)
    return out.stat().st_size


def sweep(fresh: Path) -> None:
    """Remove what a broken export leaves."""
    for left in (fresh, plain_of(fresh)):
        left.unlink(missing_ok=True)


def plain_of(path: Path) -> Path:
    """Where a GeoTIFF is laid together before it becomes cloud-optimised."""
    return path.with_name(path.name + ".plain")
