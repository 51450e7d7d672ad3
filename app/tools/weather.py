"""`tilecascade dataset weather`: a GeoTIFF with fog, low light or snow on it, and its metadata saying so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
from rasterio.enums import MaskFlags, Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window
from tqdm import tqdm

from tilecascade.app.errors import SceneError, SettingsError
from tilecascade.app.sources.scene import Scene, open_scene
from tilecascade.model.imagery.weather import MARGIN, Weather, weathered

PART = 1024
"""Pixels along the edge of what is read at once."""

DEGREE = 111_320.0
"""Metres of a degree of latitude."""


def add_weather(scene: Path, weather: Weather, out: Path, heights: Path | None = None) -> None:
    """Write OUT, 8 bits of red, green and blue, where the scene is. heights: raster of metres, in which fog lies low.

    Raises SceneError or SettingsError.
    """
    if out.exists():
        raise SettingsError(f"{out} exists already and is left as it is")
    found = open_scene(scene)
    if found.sensor != "rgb":
        raise SettingsError(f"{scene} is imagery of {found.sensor}; weather is for what a camera sees")
    try:
        with rasterio.open(scene, driver="GTiff") as source:
            profile = {
                "driver": "GTiff", "width": source.width, "height": source.height, "count": 3, "dtype": "uint8",
                "crs": source.crs, "transform": source.transform, "compress": "deflate", "tiled": True,
                "photometric": "RGB", "BIGTIFF": "IF_SAFER",
            }  # fmt: skip
            masked = MaskFlags.all_valid not in source.mask_flag_enums[found.indexes[0] - 1]
            low = 0.0 if heights is None else _lowest(heights)
            with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(out, "w", **profile) as written:
                parts = [
                    (row, column) for row in range(0, source.height, PART) for column in range(0, source.width, PART)
                ]
                for row, column in tqdm(parts, unit="part", disable=len(parts) < 4):
                    inner = Window(column, row, min(PART, source.width - column), min(PART, source.height - row))
                    written.write(_part(source, found, weather, inner, heights, low), window=inner)
                    if masked:
                        written.write_mask(source.dataset_mask(window=inner), window=inner)
                written.update_tags(**_tags(source, weather))
    except RasterioError as error:
        out.unlink(missing_ok=True)
        raise SceneError(f"{scene} cannot be read: {error}") from None
    except SettingsError:
        out.unlink(missing_ok=True)
        raise
    except OSError as error:
        raise SettingsError(f"{out} cannot be written: {error.strerror}") from None


def _tags(source: rasterio.DatasetReader, weather: Weather) -> dict[str, str]:
    taken = source.tags().get("TIFFTAG_DATETIME")
    return {
        "TILECASCADE_WEATHER": weather.kind,
        "TILECASCADE_WEATHER_STRENGTH": str(weather.strength),
        "TILECASCADE_WEATHER_SEED": str(weather.seed),
        "TIFFTAG_IMAGEDESCRIPTION": f"{weather.kind} of strength {weather.strength} added by tilecascade; not as taken",
    } | ({} if taken is None else {"TIFFTAG_DATETIME": taken})


def _part(
    source: rasterio.DatasetReader, scene: Scene, weather: Weather, inner: Window, heights: Path | None, low: float
) -> np.ndarray:
    """3 x H x W of a part, whose surroundings are looked at, too."""
    left, top = max(0, inner.col_off - MARGIN), max(0, inner.row_off - MARGIN)
    right = min(source.width, inner.col_off + inner.width + MARGIN)
    bottom = min(source.height, inner.row_off + inner.height + MARGIN)
    seen = Window(left, top, right - left, bottom - top)
    data = scene.levels(source.read(list(scene.indexes), window=seen))
    pixel, (west, north) = _pixel(source), _corner(source)
    xs, ys = (west + (np.arange(left, right) + 0.5) * pixel, north + (np.arange(top, bottom) + 0.5) * pixel)
    above = None if heights is None else _heights(source, heights, seen) - low
    made = weathered(data.transpose(1, 2, 0).astype(np.uint8), xs, ys, weather, above)
    y, x = inner.row_off - top, inner.col_off - left
    return made[y : y + inner.height, x : x + inner.width].transpose(2, 0, 1)


def _pixel(source: rasterio.DatasetReader) -> float:
    """Metres of a pixel, about."""
    size = abs(source.transform.a) or abs(source.transform.b)
    return float(size * DEGREE if source.crs is not None and source.crs.is_geographic else size)


def _corner(source: rasterio.DatasetReader) -> tuple[float, float]:
    """Metres east and south of the origin of the first pixel's corner."""
    unit = DEGREE if source.crs is not None and source.crs.is_geographic else 1.0
    return source.transform.c * unit, -source.transform.f * unit


def _lowest(heights: Path) -> float:
    """The lowest ground of a raster of heights, but for a hundredth. Raises SettingsError."""
    try:
        with rasterio.open(heights) as raster:
            if raster.count != 1 or raster.crs is None:
                raise SettingsError(f"{heights} is no height raster: it needs one band of metres and a place")
            found = raster.read(1, out_shape=(min(512, raster.height), min(512, raster.width)), masked=True)
    except RasterioError as error:
        raise SettingsError(f"{heights} is no height raster: {error}") from None
    if found.mask.all():
        raise SettingsError(f"{heights} has no heights")
    return float(np.percentile(found.compressed(), 1))


def _heights(source: rasterio.DatasetReader, heights: Path, window: Window) -> np.ndarray:
    """Metres over a window of another raster; 0 above the lowest where nothing is known."""
    place = {"crs": source.crs, "transform": source.window_transform(window)}
    with (
        rasterio.open(heights) as raster,
        WarpedVRT(raster, resampling=Resampling.bilinear, width=window.width, height=window.height, **place) as warped,
    ):
        found = warped.read(1, masked=True).astype(np.float64)
    return np.asarray(found.filled(found.min() if found.count() else 0.0))
