"""Examining a raster file before it becomes a scene of a layer."""

from __future__ import annotations

import warnings
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import rasterio

from tilecascade.app.errors import SceneError, SceneRefusedError
from tilecascade.app.settings import Settings
from tilecascade.app.sources.scene import Scene, open_scene

MAX_SCENE_PIXELS = 16_000_000_000
"""Width x height of a scene: a hundred square kilometres at 8 cm."""


DRIVER = "GTiff"
"""What an upload may be. Not VRT and the like, which name other files and addresses."""


def examine(path: Path, acquired: str | None, attribution: str) -> Scene:
    """A file that a user has supplied, as a scene. Raises SceneError with a sentence about the file.

    acquired: ISO date or time; the file's own if None.
    """
    size = path.stat().st_size
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with rasterio.open(path, driver=DRIVER) as dataset:
                if dataset.width * dataset.height > MAX_SCENE_PIXELS:
                    raise SceneError(
                        f"{dataset.width} x {dataset.height} pixels are too many; cut it into scenes of at most "
                        f"{MAX_SCENE_PIXELS // 10**9} thousand million"
                    )
                if dataset.crs is not None and not dataset.crs.is_projected and not dataset.crs.is_geographic:
                    raise SceneError("its coordinate reference system is local; georeference it first")
                if dataset.crs is not None and dataset.transform.is_identity:
                    raise SceneError("it has no georeference: pixels have no place on the earth")
                _check_blocks(dataset, size)
                if not dataset.dataset_mask(out_shape=_small(dataset)).any():
                    raise SceneError("it holds no valid pixel")
    except rasterio.errors.RasterioError:
        raise SceneError("it is no GeoTIFF, or too damaged to be read; give a whole GeoTIFF or COG") from None
    try:
        scene = open_scene(path, attribution)
    except SceneError as error:
        raise SceneError(str(error).replace(str(path), "it").replace(path.name, "it")) from None
    west, south, east, north = scene.bounds
    if not (-180.001 <= west < east <= 180.001 and -90 <= south < north <= 90):
        raise SceneError("its bounds lie outside the world; is the coordinate reference system right?")
    return replace(scene, acquired=parse_time(acquired)) if acquired else scene


def _small(dataset: rasterio.DatasetReader) -> tuple[int, int]:
    scale = max(1.0, max(dataset.width, dataset.height) / 512)
    return max(1, round(dataset.height / scale)), max(1, round(dataset.width / scale))


def _check_blocks(dataset: rasterio.DatasetReader, size: int) -> None:
    """Raises SceneError if a block of the image lies beyond the file's end: the file is incomplete."""
    height, width = dataset.block_shapes[0]
    for row in range(-(-dataset.height // height)):
        for column in range(-(-dataset.width // width)):
            offset = dataset.get_tag_item(f"BLOCK_OFFSET_{column}_{row}", "TIFF", bidx=1)
            length = dataset.get_tag_item(f"BLOCK_SIZE_{column}_{row}", "TIFF", bidx=1)
            if offset and length and int(offset) + int(length) > size:
                raise SceneError("the file is cut off: it names data beyond its end; copy it again")


def parse_time(text: str) -> str:
    """A capture time as scenes are sorted by, in UTC. Raises SceneError."""
    try:
        time = datetime.fromisoformat(text)
        return (time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time).isoformat()
    except ValueError:
        raise SceneError(f"acquired wants a date or time such as 2026-11-22T10:30, not {text[:40]!r}") from None


def allowed_path(path: Path, settings: Settings) -> Path:
    """A file on this machine below one of the folders that the operator has allowed. Raises SceneRefusedError."""
    real = path.resolve()
    if not any(real.is_relative_to(root.resolve()) for root in settings.scene_roots):
        raise SceneRefusedError(
            "scenes are not accepted from this place; upload the file, or have the operator add its folder "
            "to TILECASCADE_SCENE_ROOTS"
        )
    if not real.is_file():
        raise SceneError(f"{path.name} does not exist or is not a file")
    return real
