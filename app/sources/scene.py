"""One raster file as a source of imagery: what it covers, which bands are its colours, how it is stretched.

Scenes of 16 bits or real numbers are stretched from their 2nd to their 98th percentile, taken once from a coarse read.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import mercantile
import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import MaskFlags, Resampling
from rio_tiler.errors import RioTilerError
from rio_tiler.io import Reader
from scipy import ndimage

from tilecascade.app.errors import ImageryUnavailableError, SceneError
from tilecascade.app.sources.bands import NoColoursError, bands_of
from tilecascade.app.sources.sensors import stems_id
from tilecascade.model.cascade import TILE_SIZE, Window
from tilecascade.model.sensors.modality import BRIGHTEST, DARKEST, Sensor

# for the whole process: GDAL looks for files beside a raster (.ovr, .msk, .aux.xml) whenever it first needs them
os.environ["GDAL_DISABLE_READDIR_ON_OPEN"] = "EMPTY_DIR"

STRETCH_SAMPLE = 512
"""Edge in pixels of the coarse read that percentiles are taken from."""


LEAST_AMPLITUDE = 1e-6

USUAL = -11.0
"""Decibels of radar backscatter that half of the ground is darker than."""

MIN_COLLAR_SHARE = 0.002
"""Share of a scene that an area of pure black at its edge needs to count as missing imagery (a nodata collar)."""


@dataclass(frozen=True)
class Scene:
    """One raster file.

    path: of the file. id: names its content. bounds: west, south, east, north in degrees. native_zoom: the zoom whose
    pixels are about as large as the scene's. indexes: the bands that are red, green and blue, or those of the sensor.
    stretch: by band, the values that become 0 and 255; None for 8 bits. acquired: capture time in ISO 8601, by which
    scenes are sorted. black_is_nodata: areas of pure black are missing imagery, though the file does not say so.
    sensor: what has taken it; the id names it unless that is a camera. decibels: whether radar values are decibels
    already. stem: names what gives it colours, if that is not a camera. stamp: what `stamp_of` said of the file when
    its content was last checked.
    """

    path: Path
    id: str
    bounds: tuple[float, float, float, float]
    native_zoom: int
    indexes: tuple[int, ...]
    stretch: tuple[tuple[float, float], ...] | None
    acquired: str
    attribution: str = ""
    black_is_nodata: bool = False
    sensor: Sensor = "rgb"
    decibels: bool = True
    stem: str = ""
    stamp: tuple[int, ...] = field(default=(), compare=False)

    def levels(self, data: NDArray[Any]) -> NDArray[Any]:
        """Bands as they are in the file, B x H x W, stretched to 0 to 255 if they are of more than 8 bits."""
        if self.stretch is None:
            return data
        if not self.decibels:
            data = 20 * np.log10(np.maximum(data.astype(np.float64), LEAST_AMPLITUDE))
        low, high = (np.array(ends)[:, None, None] for ends in zip(*self.stretch, strict=True))
        return np.asarray(np.clip((data.astype(np.float64) - low) / (high - low), 0, 1) * 255)

    def stamped(self) -> Scene:
        """With the stamp of the file as it is now, whose content must have been checked."""
        return replace(self, stamp=stamp_of(self.path))

    def verified(self) -> Scene:
        """With a new stamp and of the stems that there are, after all of the file was read.

        Raises ImageryUnavailableError if it is gone or another file.
        """
        try:
            before = stamp_of(self.path)
            if content_id(self.path) == self.id.partition("-")[0] and stamp_of(self.path) == before:
                return replace(self, stamp=before, stem="" if self.sensor == "rgb" else stems_id())
        except OSError:
            raise ImageryUnavailableError(
                f"the file of scene {self.id} is gone or cannot be read; put it back, or remove the scene"
            ) from None
        raise ImageryUnavailableError(
            f"the file of scene {self.id} has changed since it was added; put it back, or remove the scene and add "
            "the file anew"
        )


def stamp_of(path: Path) -> tuple[int, ...]:
    """What tells cheaply whether a file may have changed: size, times of change, number. Raises OSError."""
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


def content_id(path: Path) -> str:
    """The id of a file's content. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def open_raster(path: Path) -> Reader:
    """A reader of a GeoTIFF and of no other file. Raises SceneError, or RasterioError if it cannot be read.

    Metadata of a GeoTIFF may name other files as its overviews, which GDAL would open whatever they are.
    """
    dataset = rasterio.open(path, driver="GTiff")
    if dataset.tags(ns="OVERVIEWS"):
        dataset.close()
        raise SceneError(f"{path} names other files in its metadata (OVERVIEWS); save it anew without them")
    return Reader(str(path), dataset=dataset)


def _acquired(dataset: rasterio.DatasetReader, path: Path) -> str:
    """Capture time as a sortable text: TIFFTAG_DATETIME, else the file's modification time."""
    tag = dataset.tags().get("TIFFTAG_DATETIME", "")
    try:
        return datetime.strptime(tag, "%Y:%m:%d %H:%M:%S").isoformat()
    except ValueError:
        return datetime.fromtimestamp(path.stat().st_mtime).isoformat()


def open_scene(path: Path, attribution: str = "", sensor: str | None = None) -> Scene:
    """Examine a raster file. sensor: what has taken it, if its metadata do not say.

    Raises SceneError with a sentence if it cannot be used.
    """
    if not path.is_file():
        raise SceneError(f"{path} does not exist or is not a file; give a GeoTIFF or COG")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stamp = stamp_of(path)
            with open_raster(path) as reader:
                dataset = reader.dataset
                if dataset.crs is None:
                    raise SceneError(f"{path} has no coordinate reference system; georeference it first")
                found = bands_of(dataset, sensor)
                indexes = found.indexes
                kinds = {dataset.dtypes[i - 1] for i in indexes}
                if any(np.dtype(kind).kind not in "uif" for kind in kinds):
                    raise SceneError(f"{path} holds {', '.join(kinds)} values; imagery needs whole or real numbers")
                bounds = reader.get_geographic_bounds("epsg:4326")
                stretch, decibels = None, True
                if found.sensor == "sar":
                    stretch, decibels = _of_radar(reader, indexes)
                elif any(dataset.dtypes[i - 1] != "uint8" for i in indexes):
                    sample = reader.preview(indexes=indexes, max_size=STRETCH_SAMPLE).array
                    if not sample.count():
                        raise SceneError(f"{path} holds no valid pixel")
                    finite = np.ma.masked_invalid(sample)
                    if not finite.count(axis=(1, 2)).all():
                        raise SceneError(f"{path} holds no valid pixel")
                    ends = [np.percentile(band.compressed(), (2, 98)) for band in finite]
                    stretch = tuple((float(low), max(float(high), float(low) + 1e-6)) for low, high in ends)
                filled = stretch is None and found.sensor == "rgb" and _has_black_collar(dataset, indexes)
                content = content_id(path)
                return Scene(
                    path=path.resolve(),
                    id=content if found.sensor == "rgb" else f"{content}-{found.sensor}",
                    bounds=tuple(bounds),
                    native_zoom=int(reader.maxzoom),
                    indexes=indexes,
                    stretch=stretch,
                    acquired=_acquired(dataset, path),
                    attribution=attribution,
                    black_is_nodata=filled,
                    sensor=found.sensor,
                    decibels=decibels,
                    stem="" if found.sensor == "rgb" else stems_id(),
                    stamp=stamp,
                )
    except NoColoursError as error:
        raise SceneError(f"{path} {error}") from None
    except (rasterio.errors.RasterioError, RioTilerError) as error:
        raise SceneError(f"{path} is no GeoTIFF, or cannot be read: {error}") from None


def _of_radar(reader: Reader, indexes: tuple[int, ...]) -> tuple[tuple[tuple[float, float], ...], bool]:
    """How a radar band is stretched, in decibels, and whether its values are decibels already: then some are negative.

    Amplitudes without a calibration are moved so that half of the ground is darker than USUAL.
    """
    sample = np.ma.masked_invalid(reader.preview(indexes=indexes, max_size=STRETCH_SAMPLE).array)
    if not sample.count() or not sample.compressed().any():
        raise SceneError(f"{reader.input} holds no valid pixel")
    values = sample.compressed().astype(np.float64)
    if (values < 0).any():
        return ((DARKEST, BRIGHTEST),), True
    middle = float(np.median(20 * np.log10(np.maximum(values[values > 0], LEAST_AMPLITUDE))))
    return ((middle - USUAL + DARKEST, middle - USUAL + BRIGHTEST),), False


def _has_black_collar(dataset: rasterio.DatasetReader, indexes: tuple[int, ...]) -> bool:
    """Whether a file without a mask has an area of pure black that reaches its edge.

    Tools that write no mask fill mosaics up with it, and a network would take it for water.
    """
    if any(flag not in (MaskFlags.all_valid,) for flag in dataset.mask_flag_enums[indexes[0] - 1]):
        return False
    scale = min(1.0, STRETCH_SAMPLE / max(dataset.width, dataset.height))
    shape = (len(indexes), max(1, round(dataset.height * scale)), max(1, round(dataset.width * scale)))
    black = (dataset.read(indexes, out_shape=shape, resampling=Resampling.nearest) == 0).all(axis=0)
    areas, _ = ndimage.label(ndimage.binary_opening(black, np.ones((3, 3), dtype=bool)))
    edge = np.unique(np.concatenate([areas[0], areas[-1], areas[:, 0], areas[:, -1]]))
    sizes = np.bincount(areas.ravel())
    return bool(any(sizes[area] >= MIN_COLLAR_SHARE * areas.size for area in edge if area))


def window_bounds(window: Window) -> tuple[float, float, float, float]:
    """A window's edges in Web Mercator metres: left, bottom, right, top."""
    pixel = mercantile.CE / (TILE_SIZE << window.zoom)
    left = window.left * pixel - mercantile.CE / 2
    top = mercantile.CE / 2 - window.top * pixel
    return left, top - window.height * pixel, left + window.width * pixel, top
