"""The scene that is served when the user brings none: the fictional town as a GeoTIFF."""

from __future__ import annotations

import os
from pathlib import Path

import rasterio
from mercantile import Tile
from rasterio.enums import Resampling
from rasterio.transform import from_bounds

from app.imagery import tile_window, window_bounds
from app.settings import SettingsError
from model.world.town import draw_town

PLACE = Tile(8275, 8110, 14)
"""Where the town lies: open sea in the Gulf of Guinea, so that nobody takes it for a real place."""

SIZE = 2048
CAPTURED = "2026:01:01 12:00:00"


def demo_scene(data_dir: Path) -> Path:
    """Path of the scene below the data directory; drawn on first use. Raises SettingsError if it cannot be written."""
    path = data_dir / "demo" / "town-1.tif"
    if path.exists():
        return path
    temporary = path.with_suffix(f".{os.getpid()}.tif")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = draw_town(seed=1, size=SIZE)
        with rasterio.open(
            temporary,
            "w",
            driver="GTiff",
            width=SIZE,
            height=SIZE,
            count=3,
            dtype="uint8",
            crs="EPSG:3857",
            transform=from_bounds(*window_bounds(tile_window(PLACE)), SIZE, SIZE),
            tiled=True,
            compress="deflate",
            photometric="RGB",
        ) as out:
            out.write(pixels.transpose(2, 0, 1))
            out.update_tags(TIFFTAG_DATETIME=CAPTURED)
            out.build_overviews([2, 4, 8], Resampling.average)
        os.replace(temporary, path)
    except OSError as error:
        raise SettingsError(f"the demo scene cannot be written to {path}: {error}") from None
    return path
