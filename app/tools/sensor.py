"""`tilecascade dataset sensor`: what radar, near infrared or a panchromatic camera would have seen of a scene.

Simulated of its colours and a map of it (see `model.sensors.simulate`), and the metadata say so.
"""

from __future__ import annotations

from pathlib import Path

import mercantile
import numpy as np
import rasterio
from rasterio.errors import RasterioError
from rasterio.transform import from_bounds

from tilecascade.app.errors import SceneError, SettingsError
from tilecascade.app.sources.bands import SENSOR_TAG
from tilecascade.app.sources.mosaic import SceneMosaic
from tilecascade.app.sources.scene import open_scene
from tilecascade.app.tools.dataset import open_map
from tilecascade.model.cascade import TILE_SIZE, tile_window
from tilecascade.model.palette import classify
from tilecascade.model.sensors.modality import BRIGHTEST, DARKEST, MODALITIES, Sensor
from tilecascade.model.sensors.simulate import simulate

MOST_TILES = 1_024
"""Tiles of a scene, which is simulated in one piece."""

DESCRIPTIONS = {
    "sar": ("VV",),
    "pan": ("PAN",),
    "nir": ("red", "green", "blue", "NIR"),
    "rgb": ("red", "green", "blue"),
}


def write_sensor(scene: Path, sensor: Sensor, map_source: Path, seed: int, out: Path) -> int:
    """Write OUT, in Web Mercator at the scene's own zoom: radar as decibels, other bands in 16 bits.

    Returns the zoom. Raises SceneError or SettingsError.
    """
    if out.exists():
        raise SettingsError(f"{out} exists already and is left as it is")
    found, drawn = open_scene(scene), open_map(map_source)
    imagery, zoom = SceneMosaic([found]), found.native_zoom
    tiles = list(mercantile.tiles(*found.bounds, zooms=[zoom]))
    if len(tiles) > MOST_TILES:
        raise SettingsError(f"{scene} has {len(tiles)} tiles of zoom {zoom}; cut it into scenes of {MOST_TILES}")
    left, top = min(tile.x for tile in tiles), min(tile.y for tile in tiles)
    columns, rows = (1 + max(axis) - min(axis) for axis in zip(*((tile.x, tile.y) for tile in tiles), strict=True))
    colours = np.zeros((rows * TILE_SIZE, columns * TILE_SIZE, 3), dtype=np.uint8)
    known, classes = np.zeros(colours.shape[:2], dtype=bool), np.zeros(colours.shape[:2], dtype=np.uint8)
    mapped = 0
    for tile in tiles:
        y, x = (tile.y - top) * TILE_SIZE, (tile.x - left) * TILE_SIZE
        place = slice(y, y + TILE_SIZE), slice(x, x + TILE_SIZE)
        colours[place], known[place] = imagery.read(tile_window(tile))
        told = drawn.tile(tile)
        if told is not None:
            classes[place] = classify(told[0])
            mapped += 1
    if not mapped:
        raise SettingsError(f"{map_source} has no tile of zoom {zoom} where {scene} lies")
    bands = simulate(sensor, colours, classes, np.random.default_rng(seed))
    corner = mercantile.xy_bounds(left, top, zoom)
    far = mercantile.xy_bounds(left + columns - 1, top + rows - 1, zoom)
    height, width = known.shape
    _write(out, sensor, bands, known, from_bounds(corner.left, far.bottom, far.right, corner.top, width, height))
    return zoom


def _write(out: Path, sensor: Sensor, bands: np.ndarray, known: np.ndarray, place: rasterio.Affine) -> None:
    radar = sensor == "sar"
    values = bands * (BRIGHTEST - DARKEST) + DARKEST if radar else 1 + bands * 65_534
    profile = {
        "driver": "GTiff", "width": known.shape[1], "height": known.shape[0], "count": MODALITIES[sensor].bands,
        "dtype": "float32" if radar else "uint16", "crs": "EPSG:3857", "transform": place, "compress": "deflate",
        "tiled": True, "nodata": -9999 if radar else 0, "predictor": 2 if not radar else 3,
    }  # fmt: skip
    values = np.where(known, values, profile["nodata"]).astype(str(profile["dtype"]))
    try:
        with rasterio.open(out, "w", **profile) as written:
            written.write(values)
            for number, name in enumerate(DESCRIPTIONS[sensor], start=1):
                written.set_band_description(number, name)
            written.update_tags(
                **{SENSOR_TAG: sensor},
                TIFFTAG_IMAGEDESCRIPTION=f"{MODALITIES[sensor].says}, simulated by tilecascade; not as taken",
            )
    except (RasterioError, OSError) as error:
        raise SceneError(f"{out} cannot be written: {error}") from None
