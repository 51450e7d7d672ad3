"""`tilecascade export`: tiles of an area of a running server, in one file.

MBTiles and PMTiles files hold the tiles as they are; a GeoTIFF (cloud-optimised, EPSG:3857) or a PNG holds the mosaic
of one zoom: of the map, or of the imagery that it is generated from. A file appears whole or not at all.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path

import mercantile
import numpy as np
import rasterio
import shapely
from mercantile import Tile
from PIL import Image
from rasterio.enums import ColorInterp
from rasterio.features import geometry_mask
from rasterio.shutil import copy as copy_raster
from rasterio.transform import from_bounds, from_origin
from rasterio.windows import Window
from shapely.geometry import shape
from tqdm import tqdm

from tilecascade.app.client.connection import IMAGERY_FORM, Bounds, ServedLayer, connect
from tilecascade.app.client.feature_files import FEATURE_WRITERS
from tilecascade.app.errors import SettingsError, TileFailedError
from tilecascade.app.sources.vector_map import read_features
from tilecascade.app.storage.archives import ExportedLayer, MBTilesWriter, OsmAndWriter, PMTilesWriter, TileWriter
from tilecascade.model.cascade import TILE_SIZE

MAX_PIXELS = 1 << 31
"""Pixels of a GeoTIFF mosaic."""

IMAGERY_NOTICE = "the imagery that a map is generated from"

MAX_PICTURE = 1 << 26
"""Pixels of a PNG, which is held in memory."""


class MosaicWriter(TileWriter):
    """One zoom's tiles side by side as RGBA: a cloud-optimised GeoTIFF."""

    limit = MAX_PIXELS

    def __init__(self, path: Path, layer: ExportedLayer, area: Bounds, zooms: range) -> None:
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
            TIFFTAG_SOFTWARE="tilecascade",
            TIFFTAG_IMAGEDESCRIPTION=self.layer.notice,
            TIFFTAG_COPYRIGHT=self.layer.attribution,
        )

    def add(self, tile: Tile, data: bytes) -> None:
        """See TileWriter."""
        with Image.open(io.BytesIO(data)) as image:
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


@dataclass(frozen=True)
class Export:
    """What is wanted.

    bbox: degrees; that of `clip` if None. imagery: instead of the map. clip: GeoJSON file of areas; what lies outside
    of them is transparent.
    """

    zooms: range
    out: Path
    bbox: Bounds | None = None
    imagery: bool = False
    clip: Path | None = None


class Clip:
    """Areas, in metres of Web Mercator, that an export is cut out with."""

    def __init__(self, path: Path) -> None:
        """Raises SettingsError for a file without areas."""
        try:
            shapes = [shape(each["geometry"]) for each in read_features(path)]
        except OSError as error:
            raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
        except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            raise SettingsError(f"{path} is no GeoJSON: {error}") from None
        areas = [each for each in shapes if each.geom_type in ("Polygon", "MultiPolygon")]
        if not areas:
            raise SettingsError(f"{path} has no area (Polygon or MultiPolygon) to clip with")
        self.area = shapely.union_all(shapely.make_valid(np.array(areas, dtype=object)))
        left, bottom, right, top = self.area.bounds
        self.bounds: Bounds = (*mercantile.lnglat(left, bottom), *mercantile.lnglat(right, top))

    def meets(self, tile: Tile) -> bool:
        """Whether any of a tile lies inside."""
        return bool(self.area.intersects(shapely.box(*mercantile.xy_bounds(tile))))

    def cut(self, tile: Tile, data: bytes, form: str) -> bytes:
        """A tile, PNG or WebP, with what lies outside transparent; as it is if nothing does."""
        place = mercantile.xy_bounds(tile)
        if self.area.contains(shapely.box(*place)):
            return data
        with Image.open(io.BytesIO(data)) as image:
            pixels = np.array(image.convert("RGBA"))
        outside = geometry_mask([self.area], pixels.shape[:2], from_bounds(*place, *pixels.shape[1::-1]))
        pixels[outside] = 0
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, form.upper(), lossless=True)  # which only WebP has to be told
        return out.getvalue()


WRITERS: dict[str, type[TileWriter]] = {
    ".mbtiles": MBTilesWriter,
    ".pmtiles": PMTilesWriter,
    ".tif": MosaicWriter,
    ".png": PictureWriter,
    ".sqlitedb": OsmAndWriter,
}


async def run_export(wanted: Export, url: str, layer: str | None, parallel: int, wait: float) -> int:
    """Write the file; prints progress and a summary. Returns 0, or 1 if a tile failed, and then leaves no file.

    Raises SettingsError for what is wrong with the arguments or the server.
    """
    out = wanted.out
    check_out(out)
    clip = None if wanted.clip is None else Clip(wanted.clip)
    bbox = wanted.bbox or (clip.bounds if clip is not None else None)
    if bbox is None:
        raise SettingsError("give --bbox, or --clip with areas")
    temporary = out.with_name(f".{out.stem}-{os.getpid()}{out.suffix}")
    try:
        async with connect(url, layer, parallel, wait) as served:
            area = served.clip(bbox, wanted.zooms)
            described = served
            if wanted.imagery:
                revision = f"imagery of {described.revision}"
                described = replace(described, notice=IMAGERY_NOTICE, revision=revision, form=IMAGERY_FORM)
            if clip is not None:  # so that `tilecascade import` does not take its tiles for whole ones
                described = replace(described, revision=f"clipped {described.revision}")
            writer = WRITERS[out.suffix](temporary, described, area, wanted.zooms)
            count = await write(writer, served, served.fetch_imagery if wanted.imagery else served.fetch, clip)
        size = put_in_place(temporary, out)
    except TileFailedError as error:
        print(f"{error}; nothing was written")
        return 1
    finally:
        remove_leftovers(temporary)
    print(f"{out}: {count} tiles, {size} bytes")
    return 0


async def write(
    writer: TileWriter,
    served: ServedLayer,
    fetch: Callable[[Tile], Coroutine[None, None, bytes | None]],
    clip: Clip | None,
) -> int:
    """Fetch and add every tile; returns how many there are. Raises SettingsError if none."""
    order, count = [tile for tile in writer.order() if clip is None or clip.meets(tile)], 0
    with tqdm(total=len(order), unit="tile") as bar:
        async for tile, data in served.in_order(order, fetch):
            if data is not None:
                writer.add(tile, data if clip is None else clip.cut(tile, data, writer.layer.form))
                count += 1
            bar.update()
    if not count:
        raise SettingsError("there is no imagery in that area")
    writer.finish()
    return count


def check_out(out: Path) -> None:
    """Raises SettingsError for a file that cannot be written or is of no known kind."""
    if out.suffix not in WRITERS:
        known = ", ".join([*WRITERS, *FEATURE_WRITERS])
        raise SettingsError(f"--out ends in one of {known}, not {out.suffix!r}")
    if not out.parent.is_dir():
        raise SettingsError(f"there is no directory {out.parent}")


def put_in_place(temporary: Path, out: Path) -> int:
    """Give the finished file its name; returns its bytes."""
    os.replace(temporary, out)
    return out.stat().st_size


def remove_leftovers(temporary: Path) -> None:
    """Remove what an interrupted export has left."""
    for left in (temporary, plain_of(temporary)):
        left.unlink(missing_ok=True)


def plain_of(path: Path) -> Path:
    """Where a GeoTIFF is assembled before it becomes cloud-optimised."""
    return path.with_name(path.name + ".plain")
