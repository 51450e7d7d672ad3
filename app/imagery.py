"""Imagery: GeoTIFF scenes as a field of pixels that any window can be read from.

rio-tiler does the reading: any CRS, overviews, nodata, internal masks and alpha. A scene is read tile by tile and never
loaded whole. Windows are laid together from tiles: warping and decimation look at the extent that is asked for (two
windows of a Swiss scene differed by up to 22 levels where they overlap), and what a map is drawn from must not.
Sixteen-bit and float scenes are stretched from their 2nd to 98th percentile, taken once per scene from a coarse read.
"""

from __future__ import annotations

import hashlib
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

import mercantile
import numpy as np
import rasterio
from cachetools import LRUCache
from mercantile import Tile
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rio_tiler.errors import NoOverviewWarning, RioTilerError
from rio_tiler.io import Reader
from scipy import ndimage

from model.cascade import Mask, Pixels, Window, assemble, tile_window
from model.sgdm.config import TILE_SIZE

EARTH = 2 * np.pi * 6378137.0
"""Circumference of the Web Mercator sphere in metres: the width of the world at every zoom."""

STRETCH_SAMPLE = 512
"""Edge in pixels of the coarse read that percentiles are taken from."""

READ_MARGIN = 8
"""Pixels read beyond a tile and cut off: enlarging and warping look at neighbours."""

BLACK = 2
"""Levels up to which a pixel counts as pure black: JPEG does not keep zeros exactly."""

LEAST_FILLING = 0.002
"""Part of a scene that an area of pure black at its edge has at least to be taken for filling."""

KEPT_TILES = 512
"""Tiles of imagery kept in memory (a quarter of a MiB each)."""


class SceneError(ValueError):
    """A file that cannot serve as imagery; the message says why and what would do."""


class Imagery(Protocol):
    """Something that gives pixels and a mask for a window. center: longitude and latitude of where to look first."""

    id: str
    bounds: tuple[float, float, float, float]
    center: tuple[float, float]
    native_zoom: int
    attribution: str

    def read(self, window: Window) -> tuple[Pixels, Mask]:
        """H x W x 3 uint8 colours and the H x W mask of where there is imagery."""
        ...

    def covers(self, tile: Tile) -> bool:
        """Whether any pixel of the tile has imagery."""
        ...

    def id_at(self, tile: Tile) -> str:
        """What the tile's pixels come from: stays when something else changes elsewhere."""
        ...


@dataclass(frozen=True)
class Scene:
    """One raster file.

    bounds: west, south, east, north in degrees. taken: what 'newest first' sorts by. black_is_missing: areas of pure
    black are filling, though the file does not say so.
    """

    path: Path
    id: str
    bounds: tuple[float, float, float, float]
    native_zoom: int
    indexes: tuple[int, ...]
    stretch: tuple[tuple[float, float], ...] | None
    taken: str
    attribution: str = ""
    black_is_missing: bool = False


def _bands(dataset: rasterio.DatasetReader, path: Path) -> tuple[int, ...]:
    """Which bands are red, green and blue: by their colour interpretation, else the first three."""
    kinds = list(dataset.colorinterp)
    wanted = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
    if all(kind in kinds for kind in wanted):
        return tuple(kinds.index(kind) + 1 for kind in wanted)
    optical = [i + 1 for i, kind in enumerate(kinds) if kind != ColorInterp.alpha]
    if len(optical) >= 3:
        return tuple(optical[:3])
    raise SceneError(f"{path} has {len(optical)} colour band(s); imagery needs red, green and blue")


def _taken(dataset: rasterio.DatasetReader, path: Path) -> str:
    """Capture time as a sortable text: TIFFTAG_DATETIME, else the file's modification time."""
    tag = dataset.tags().get("TIFFTAG_DATETIME", "")
    try:
        return datetime.strptime(tag, "%Y:%m:%d %H:%M:%S").isoformat()
    except ValueError:
        return datetime.fromtimestamp(path.stat().st_mtime).isoformat()


def open_scene(path: Path, attribution: str = "") -> Scene:
    """Examine a raster file. Raises SceneError with a sentence if it cannot be used."""
    if not path.is_file():
        raise SceneError(f"{path} does not exist or is not a file; give a GeoTIFF or COG")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Reader(str(path)) as reader:
                dataset = reader.dataset
                if dataset.crs is None:
                    raise SceneError(f"{path} has no coordinate reference system; georeference it first")
                indexes = _bands(dataset, path)
                kinds = {dataset.dtypes[i - 1] for i in indexes}
                if any(np.dtype(kind).kind not in "uif" for kind in kinds):
                    raise SceneError(f"{path} holds {', '.join(kinds)} values; imagery needs whole or real numbers")
                bounds = reader.get_geographic_bounds("epsg:4326")
                stretch = None
                if any(dataset.dtypes[i - 1] != "uint8" for i in indexes):
                    sample = reader.preview(indexes=indexes, max_size=STRETCH_SAMPLE).array
                    if not sample.count():
                        raise SceneError(f"{path} holds no valid pixel")
                    ends = [np.percentile(band.compressed(), (2, 98)) for band in sample]
                    stretch = tuple((float(low), max(float(high), float(low) + 1e-6)) for low, high in ends)
                filled = stretch is None and _has_black_filling(dataset, indexes)
                with path.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()[:12]
                return Scene(
                    path=path.resolve(),
                    id=digest,
                    bounds=tuple(bounds),
                    native_zoom=int(reader.maxzoom),
                    indexes=indexes,
                    stretch=stretch,
                    taken=_taken(dataset, path),
                    attribution=attribution,
                    black_is_missing=filled,
                )
    except (rasterio.errors.RasterioError, RioTilerError) as error:
        raise SceneError(f"{path} cannot be read as a raster: {error}") from None


def _has_black_filling(dataset: rasterio.DatasetReader, indexes: tuple[int, ...]) -> bool:
    """Whether a file that declares nothing missing has an area of pure black that reaches its edge: what mosaics are
    filled up with by tools that write no mask. (A network takes it for water.)"""
    if any(flag not in (MaskFlags.all_valid,) for flag in dataset.mask_flag_enums[indexes[0] - 1]):
        return False
    scale = min(1.0, STRETCH_SAMPLE / max(dataset.width, dataset.height))
    shape = (len(indexes), max(1, round(dataset.height * scale)), max(1, round(dataset.width * scale)))
    black = (dataset.read(indexes, out_shape=shape, resampling=Resampling.nearest) == 0).all(axis=0)
    areas, _ = ndimage.label(ndimage.binary_opening(black, np.ones((3, 3), dtype=bool)))
    edge = np.unique(np.concatenate([areas[0], areas[-1], areas[:, 0], areas[:, -1]]))
    sizes = np.bincount(areas.ravel())
    return bool(any(sizes[area] >= LEAST_FILLING * areas.size for area in edge if area))


def filling(colours: Pixels, known: Mask) -> Mask:
    """Where pure black fills an area of what is known: not a lone dark pixel, but the fringe that JPEG leaves.

    Looks at most READ_MARGIN pixels far.
    """
    black = (colours <= BLACK).all(axis=2) & known
    areas = ndimage.binary_opening(black, np.ones((7, 7), dtype=bool))
    return np.asarray(ndimage.binary_dilation(areas, iterations=2))


def window_bounds(window: Window) -> tuple[float, float, float, float]:
    """A window's edges in Web Mercator metres: left, bottom, right, top."""
    pixel = EARTH / (TILE_SIZE << window.zoom)
    left = window.left * pixel - EARTH / 2
    top = EARTH / 2 - window.top * pixel
    return left, top - window.height * pixel, left + window.width * pixel, top


def digest(ids: Sequence[str]) -> str:
    """One id for several."""
    return hashlib.sha256("/".join(ids).encode()).hexdigest()[:12]


def newest_first(scenes: Sequence[Scene]) -> list[Scene]:
    """By capture time, then by content."""
    return sorted(scenes, key=lambda scene: (scene.taken, scene.id), reverse=True)


@dataclass
class SceneImagery:
    """Overlapping scenes as one field, the first on top."""

    scenes: Sequence[Scene]
    id: str = field(init=False)
    bounds: tuple[float, float, float, float] = field(init=False)
    native_zoom: int = field(init=False)
    attribution: str = field(init=False)

    def __post_init__(self) -> None:
        if not self.scenes:
            raise SceneError("imagery needs at least one scene")
        self.id = digest([scene.id for scene in self.scenes])
        edges = np.array([scene.bounds for scene in self.scenes])
        self.bounds = (
            float(edges[:, 0].min()),
            float(edges[:, 1].min()),
            float(edges[:, 2].max()),
            float(edges[:, 3].max()),
        )
        west, south, east, north = self.bounds
        self.center = ((west + east) / 2, (south + north) / 2)
        self.native_zoom = max(scene.native_zoom for scene in self.scenes)
        self.attribution = ", ".join(dict.fromkeys(s.attribution for s in self.scenes if s.attribution))
        self._sources: LRUCache[Tile, tuple[str, ...]] = LRUCache(maxsize=100_000)
        self._tiles: LRUCache[Tile, tuple[Pixels, tuple[str, ...]]] = LRUCache(maxsize=KEPT_TILES)
        self._lock = threading.Lock()
        self._readers: dict[Path, list[Reader]] = {scene.path: [] for scene in self.scenes}
        self._turns = threading.BoundedSemaphore(os.cpu_count() or 1)

    def read(self, window: Window) -> tuple[Pixels, Mask]:
        """See Imagery. Unknown pixels are 0. Overlapping windows agree to the bit."""
        return assemble(window, {tile: self._tile(tile)[0] for tile in window.tiles()})

    def covers(self, tile: Tile) -> bool:
        """See Imagery."""
        return bool(self.sources(tile))

    def id_at(self, tile: Tile) -> str:
        """See Imagery."""
        return digest(self.sources(tile))

    def sources(self, tile: Tile) -> tuple[str, ...]:
        """The ids of the scenes that the tile's pixels come from, topmost first."""
        with self._lock:
            known = self._sources.get(tile)
        return self._tile(tile)[1] if known is None else known

    @contextmanager
    def _reader(self, scene: Scene) -> Iterator[Reader]:
        """A reader of a scene for one thread at a time: opening costs as much as reading a tile.

        There are no more than cores, and the last one used is taken first: each decodes the file's blocks for itself.
        """
        with self._turns:
            with self._lock:
                idle = self._readers[scene.path]
                reader = idle.pop() if idle else None
            if reader is None:
                with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"), warnings.catch_warnings():
                    warnings.simplefilter("ignore", NoOverviewWarning)
                    reader = Reader(str(scene.path))
            yield reader
            with self._lock:
                idle.append(reader)

    def _tile(self, tile: Tile) -> tuple[Pixels, tuple[str, ...]]:
        """The scenes over one tile, 256 x 256 x 4 RGBA, and their ids; kept for the windows that share it."""
        with self._lock:
            kept = self._tiles.get(tile)
        if kept is not None:
            return kept
        window = tile_window(tile).grown(READ_MARGIN)
        box = window_bounds(window)
        inner = (slice(READ_MARGIN, -READ_MARGIN),) * 2
        pixels = np.zeros((TILE_SIZE, TILE_SIZE, 4), dtype=np.uint8)
        sources = []
        for scene in self.scenes:
            if not _meets(scene.bounds, box):
                continue
            with self._reader(scene) as reader:
                colours, mask = (whole[inner] for whole in _read_scene(reader, scene, window, box))
            fresh = mask & (pixels[..., 3] == 0)
            if fresh.any():
                sources.append(scene.id)
            np.copyto(pixels[..., :3], colours, where=fresh[..., None])
            np.copyto(pixels[..., 3], np.uint8(255), where=fresh)
            if pixels[..., 3].all():
                break
        with self._lock:
            self._tiles[tile] = pixels, tuple(sources)
            self._sources[tile] = tuple(sources)
        return pixels, tuple(sources)


def box_of(bounds: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """Degrees (west, south, east, north) -> Web Mercator metres (left, bottom, right, top)."""
    left, bottom = mercantile.xy(bounds[0], max(bounds[1], -85.06))
    right, top = mercantile.xy(bounds[2], min(bounds[3], 85.06))
    return left, bottom, right, top


def _meets(bounds: tuple[float, float, float, float], box: tuple[float, float, float, float]) -> bool:
    left, bottom, right, top = box_of(bounds)
    return left < box[2] and right > box[0] and bottom < box[3] and top > box[1]


def _read_scene(
    reader: Reader, scene: Scene, window: Window, box: tuple[float, float, float, float]
) -> tuple[Pixels, Mask]:
    image = reader.part(
        box,
        bounds_crs="epsg:3857",
        dst_crs="epsg:3857",
        width=window.width,
        height=window.height,
        indexes=scene.indexes,
        resampling_method="bilinear",
        reproject_method="bilinear",
    )
    data = image.array.data
    if scene.stretch is not None:
        low = np.array([pair[0] for pair in scene.stretch])[:, None, None]
        high = np.array([pair[1] for pair in scene.stretch])[:, None, None]
        data = np.clip((data.astype(np.float64) - low) / (high - low), 0, 1) * 255
    mask = np.asarray(image.mask > 127)
    colours = np.ascontiguousarray(data.transpose(1, 2, 0)).astype(np.uint8)
    return colours, mask & ~filling(colours, mask) if scene.black_is_missing else mask
