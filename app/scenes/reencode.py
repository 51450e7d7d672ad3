"""A program of its own that opens a raster from a stranger: `python -m tilecascade.app.scenes.reencode '{...}'`.

It checks the file and copies its pixels, its mask and its georeference, and nothing else, into a cloud optimized
GeoTIFF. A GeoTIFF's metadata can name other files and addresses (GDAL follows the OVERVIEWS domain, whatever driver is
asked for), so the original is never opened by the server, and here only by windows at full resolution, which read no
overviews. `tilecascade.app.scenes.ingest` starts it with all other drivers disabled and with limits.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import resource
import sys
import warnings
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.enums import MaskFlags
from rasterio.windows import Window

from tilecascade.app.sources.bands import SENSOR_TAG, NoColoursError, bands_of

DRIVERS = ("GTiff", "COG", "MEM", "PNG", "JPEG")
"""The drivers that this program is started with; the last two decode what a GeoTIFF may contain."""

MAX_SCENE_PIXELS = 16_000_000_000
"""Width x height of a scene: a hundred square kilometres at 8 cm."""

MAX_BANDS = 64
WINDOW_BYTES = 48 << 20
"""What one window of a copy may take."""

BLOCK = 256
REFUSED, LOST = 3, 4
"""Exit codes: the file cannot be used, and stdout says why; this machine cannot do it now."""

FOREIGN_GRID = re.compile(r"grids=(?!@null\b)|PROJ_GRID|PARAMETERFILE\[", re.IGNORECASE)
"""In a coordinate reference system: a file that PROJ would open. Web Mercator's own `+nadgrids=@null` names none."""

NEW_USER, NEW_NET = 0x10000000, 0x40000000


class RefusedError(Exception):
    """The file cannot be used; the message says why."""


def isolate(limits: dict[str, int]) -> None:
    """Limit what this process may use; leave the network where the system allows that to an ordinary user."""
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name.upper()}"), (value, value))
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).unshare(NEW_USER | NEW_NET)
    os.nice(5)


def check(dataset: rasterio.DatasetReader, size: int, sensor: str | None) -> None:
    """Raises RefusedError for what can be told without reading pixels. size: bytes of the file. sensor: as said."""
    if dataset.width * dataset.height > MAX_SCENE_PIXELS:
        raise RefusedError(
            f"{dataset.width} x {dataset.height} pixels are too many; cut it into scenes of at most "
            f"{MAX_SCENE_PIXELS // 10**9} thousand million"
        )
    if dataset.count > MAX_BANDS:
        raise RefusedError(f"it has {dataset.count} bands; imagery needs red, green and blue, of at most {MAX_BANDS}")
    if dataset.crs is None:
        raise RefusedError("it has no coordinate reference system; georeference it first")
    if not dataset.crs.is_projected and not dataset.crs.is_geographic:
        raise RefusedError("its coordinate reference system is local; georeference it first")
    if FOREIGN_GRID.search(dataset.crs.to_wkt()):
        raise RefusedError("its coordinate reference system names a grid file; save it in a standard one (EPSG)")
    if dataset.transform.is_identity:
        raise RefusedError("it has no georeference: pixels have no place on the earth")
    kinds = {dataset.dtypes[i - 1] for i in bands_of(dataset, sensor).indexes}
    if any(kind.startswith("complex") or np.dtype(kind).kind not in "uif" for kind in kinds):
        raise RefusedError(f"it holds {', '.join(kinds)} values; imagery needs whole or real numbers")
    if len(kinds) > 1:
        raise RefusedError("its bands are of different types; convert them to one")
    if dataset.is_tiled or dataset.block_shapes[0][0] < dataset.height:
        check_blocks(dataset, size)


def check_blocks(dataset: rasterio.DatasetReader, size: int) -> None:
    """Raises RefusedError if a block of the image lies beyond the file's end: the file is incomplete."""
    height, width = dataset.block_shapes[0]
    for row in range(-(-dataset.height // height)):
        for column in range(-(-dataset.width // width)):
            offset, length = (block_tag(dataset, name, column, row) for name in ("OFFSET", "SIZE"))
            if offset and length and offset + length > size:
                raise RefusedError("the file is cut off: it names data beyond its end; copy it again")


def block_tag(dataset: rasterio.DatasetReader, name: str, column: int, row: int, band: int = 1) -> int:
    """Offset or size of a block in the file; 0 for one that is not stored."""
    return int(dataset.get_tag_item(f"BLOCK_{name}_{column}_{row}", "TIFF", bidx=band) or 0)


def windows(dataset: rasterio.DatasetReader) -> Iterator[Window]:
    """Windows of whole blocks that cover the image, and each fit WINDOW_BYTES as far as blocks allow."""
    height, width = dataset.block_shapes[0]
    pixel = dataset.count * np.dtype(dataset.dtypes[0]).itemsize
    across = max(1, min(-(-dataset.width // width), WINDOW_BYTES // (height * width * pixel) or 1))
    down = max(1, WINDOW_BYTES // (height * width * across * pixel))
    for top in range(0, dataset.height, height * down):
        for left in range(0, dataset.width, width * across):
            yield Window(left, top, min(width * across, dataset.width - left), min(height * down, dataset.height - top))


def is_stored(dataset: rasterio.DatasetReader, window: Window, chosen: list[int]) -> bool:
    """Whether any block of a window is in the file: sparse files leave out blocks of nothing."""
    height, width = dataset.block_shapes[0]
    rows = range(window.row_off // height, -(-(window.row_off + window.height) // height))
    columns = range(window.col_off // width, -(-(window.col_off + window.width) // width))
    some = [1] if dataset.interleaving is not None and dataset.interleaving.value == "PIXEL" else chosen
    return any(block_tag(dataset, "SIZE", column, row, band) for band in some for row in rows for column in columns)


def copy(dataset: rasterio.DatasetReader, target: Path, sensor: str | None) -> None:
    """Copy pixels, mask and georeference into a COG. Raises RefusedError if no pixel is valid."""
    bands = bands_of(dataset, sensor)
    chosen = list(bands.indexes)
    kind = dataset.dtypes[chosen[0] - 1]
    masked = any(MaskFlags.all_valid not in dataset.mask_flag_enums[i - 1] for i in chosen)
    profile = {
        "driver": "GTiff",
        "width": dataset.width,
        "height": dataset.height,
        "count": len(chosen),
        "dtype": kind,
        "crs": dataset.crs,
        "transform": dataset.transform,
        "tiled": True,
        "blockxsize": BLOCK,
        "blockysize": BLOCK,
        "interleave": "pixel",
        "photometric": "RGB" if len(chosen) == 3 else "MINISBLACK",
        "sparse_ok": True,
        "bigtiff": "IF_SAFER",
        "compress": "ZSTD",
        "zstd_level": 1,
        "predictor": 3 if kind.startswith("float") else 2,
    }
    plain = target.with_suffix(".plain.tif")
    valid = False
    try:
        with rasterio.open(plain, "w", **profile) as out:
            for window in windows(dataset):
                if not is_stored(dataset, window, chosen):
                    valid = valid or not masked
                    continue
                out.write(dataset.read(chosen, window=window), window=window)
                if masked:
                    mask = dataset.dataset_mask(window=window)
                    valid = valid or bool(mask.any())
                    out.write_mask(mask, window=window)
            if not (valid or not masked):
                raise RefusedError("it holds no valid pixel")
            if bands.sensor != "rgb":
                out.update_tags(**{SENSOR_TAG: bands.sensor})
            acquired = dataset.tags().get("TIFFTAG_DATETIME", "")
            with suppress(ValueError):
                out.update_tags(
                    TIFFTAG_DATETIME=datetime.strptime(acquired, "%Y:%m:%d %H:%M:%S").strftime("%Y:%m:%d %H:%M:%S")
                )
        rasterio.shutil.copy(
            plain, target, driver="COG", compress="ZSTD", level=3, predictor="YES", blocksize=BLOCK,
            overview_resampling="AVERAGE", sparse_ok=True, bigtiff="IF_SAFER",
        )  # fmt: skip
    finally:
        plain.unlink(missing_ok=True)


def main(order: str) -> int:
    """Do what the JSON says: `source`, `target` (none: only check), `limits`. Returns the exit code."""
    given = json.loads(order)
    source, target = Path(given["source"]), given["target"] and Path(given["target"])
    isolate(given["limits"])
    sensor = given.get("sensor")
    warnings.simplefilter("ignore")
    try:
        with rasterio.Env(), rasterio.open(source, driver="GTiff") as dataset:
            check(dataset, source.stat().st_size, sensor)
            if target is not None:
                copy(dataset, target, sensor)
            elif dataset.tags(ns="OVERVIEWS"):
                raise RefusedError("its metadata names other files (OVERVIEWS); upload it: that copies pixels only")
    except RefusedError as error:
        print(error)
        return REFUSED
    except NoColoursError as error:
        print(f"it {error}")
        return REFUSED
    except (rasterio.errors.RasterioError, rasterio.errors.CRSError, ValueError, OverflowError):
        print("it is no GeoTIFF, or too damaged to be read; give a whole GeoTIFF or COG")
        return REFUSED
    except MemoryError:
        print("reading it takes too much memory; save it in tiles (gdal_translate -of COG)")
        return REFUSED
    except OSError as error:
        print(f"{error.strerror or error}")
        return LOST
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
