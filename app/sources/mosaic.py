"""Overlapping scenes as one field of pixels that any window can be read from.

rio-tiler reads the files: any CRS, overviews, nodata values, internal masks and alpha bands. A window is assembled from
whole tiles, because warping and decimation depend on the extent that is read: two windows of one scene differed by up
to 22 levels where they overlap, and the pixels under a tile must not depend on who reads them.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import mercantile
import numpy as np
import rasterio
from cachetools import LRUCache
from mercantile import Tile
from rio_tiler.errors import NoOverviewWarning, RioTilerError
from rio_tiler.io import Reader
from scipy import ndimage

from tilecascade.app.errors import ImageryUnavailableError, SceneError
from tilecascade.app.sources.scene import Scene, open_raster, stamp_of, window_bounds
from tilecascade.app.sources.sensors import colours_of
from tilecascade.app.sources.source import Source, digest
from tilecascade.model.cascade import TILE_SIZE, Mask, Pixels, Window, assemble, tile_window
from tilecascade.model.sensors.stem import REACH

READ_MARGIN = 8
"""Pixels read beyond a tile and cut off: enlarging and warping look at neighbours."""


BLACK = 2
"""Level up to which a pixel counts as pure black: JPEG does not keep zeros exactly."""


KEPT_TILES = 512
"""Tiles of imagery kept in memory (a quarter of a MiB each)."""


def nodata_collar(colours: Pixels, known: Mask) -> Mask:
    """Where areas of pure black stand for missing imagery, with the fringe that JPEG leaves around them: H x W bool.

    Single dark pixels stay imagery. Looks at most READ_MARGIN pixels far.
    """
    black = (colours <= BLACK).all(axis=2) & known
    areas = ndimage.binary_opening(black, np.ones((7, 7), dtype=bool))
    return np.asarray(ndimage.binary_dilation(areas, iterations=2))


def newest_first(scenes: Sequence[Scene]) -> list[Scene]:
    """By capture time, then by content."""
    return sorted(scenes, key=lambda scene: (scene.acquired, scene.id), reverse=True)


@dataclass
class SceneMosaic:
    """Overlapping scenes as one source of imagery, the first on top. Thread-safe. See Source for its attributes.

    below: what is shown where no scene is, and how far it goes: a country that does not exist, with real mosaics in it.
    """

    scenes: Sequence[Scene]
    below: Source | None = None
    id: str = field(init=False)
    bounds: tuple[float, float, float, float] = field(init=False)
    native_zoom: int = field(init=False)
    attribution: str = field(init=False)

    def __post_init__(self) -> None:
        named = [source for source in (*self.scenes, self.below) if source is not None]
        if not named:
            raise SceneError("imagery needs at least one scene")
        self.id = digest([source.id for source in named] + self._stems(scene.id for scene in self.scenes))
        edges = np.array([source.bounds for source in ([self.below] if self.below else self.scenes)])
        self.bounds = (
            float(edges[:, 0].min()),
            float(edges[:, 1].min()),
            float(edges[:, 2].max()),
            float(edges[:, 3].max()),
        )
        west, south, east, north = self.bounds
        self.center = self.below.center if self.below else ((west + east) / 2, (south + north) / 2)
        self.native_zoom = self.below.native_zoom if self.below else max(scene.native_zoom for scene in self.scenes)
        self.attribution = ", ".join(dict.fromkeys(source.attribution for source in named if source.attribution))
        self._sources: LRUCache[Tile, tuple[str, ...]] = LRUCache(maxsize=100_000)
        self._tiles: LRUCache[Tile, tuple[Pixels, tuple[str, ...]]] = LRUCache(maxsize=KEPT_TILES)
        self._lock = threading.Lock()
        self._readers: dict[Path, list[Reader]] = {scene.path: [] for scene in self.scenes}
        self._stamps = {scene.id: scene.stamp for scene in self.scenes}
        self._refused: dict[str, tuple[tuple[int, ...], str]] = {}
        self._turns = threading.BoundedSemaphore(os.cpu_count() or 1)

    def __reduce__(self) -> tuple[type, tuple[Sequence[Scene], Source | None]]:
        """On its way to another process: what has been read of the files stays here."""
        return type(self), (self.scenes, self.below)

    def read(self, window: Window) -> tuple[Pixels, Mask]:
        """See Source. Unknown pixels are 0. Overlapping windows agree to the bit."""
        if self.below is not None and not self.scenes:
            return self.below.read(window)
        colours, known = self.shown(window)
        if self.below is None or known.all():
            return colours, known
        return self._over(colours, known, *self.below.read(window))

    def over(self, window: Window, colours: Pixels, known: Mask) -> tuple[Pixels, Mask]:
        """The scenes over other imagery of a window than `below` has: such as painted tiles of it."""
        if not self.scenes:
            return colours, known
        return self._over(*self.shown(window), colours, known)

    def hides(self, window: Window) -> bool:
        """Whether nothing of what is below shows in a window: then it need not be painted."""
        return bool(self.scenes) and bool(self.shown(window)[1].all())

    def shown(self, window: Window) -> tuple[Pixels, Mask]:
        """The scenes alone; see Source."""
        return assemble(window, {tile: self._tile(tile)[0] for tile in window.tiles()})

    @staticmethod
    def _over(colours: Pixels, known: Mask, below: Pixels, below_known: Mask) -> tuple[Pixels, Mask]:
        return np.where(known[..., None], colours, below), known | below_known

    def covers(self, tile: Tile) -> bool:
        """See Source."""
        return (self.below is not None and self.below.covers(tile)) or bool(self.sources(tile))

    def id_at(self, tile: Tile) -> str:
        """See Source."""
        here = self.sources(tile)
        return digest([*here, *self._stems(here), *([self.below.id_at(tile)] if self.below else [])])

    def _stems(self, ids: Iterable[str]) -> list[str]:
        """What names the stems of some scenes that no camera has taken."""
        some = set(ids)
        return sorted({scene.stem for scene in self.scenes if scene.stem and scene.id in some})

    def sources(self, tile: Tile) -> tuple[str, ...]:
        """The ids of the scenes that the tile's pixels come from, topmost first."""
        with self._lock:
            known = self._sources.get(tile)
        return self._tile(tile)[1] if known is None else known

    def problems(self) -> list[str]:
        """A sentence for every scene whose file is not, or not surely, what was added."""
        found = []
        for scene in self.scenes:
            try:
                stamp = stamp_of(scene.path)
            except OSError:
                found.append(f"the file of scene {scene.id} is gone or cannot be read")
                continue
            if scene.id in self._refused and self._refused[scene.id][0] == stamp:
                found.append(self._refused[scene.id][1])
            elif stamp != self._stamps[scene.id]:
                found.append(f"the file of scene {scene.id} has changed and is checked when it is read next")
        return found

    def _check(self, scene: Scene) -> None:
        """Raises ImageryUnavailableError unless the scene's file is the one that was added.

        Costs a `stat`, and reading the whole file once after it has changed.
        """
        try:
            stamp = stamp_of(scene.path)
        except OSError:
            raise ImageryUnavailableError(
                f"the file of scene {scene.id} is gone or cannot be read; put it back, or remove the scene"
            ) from None
        with self._lock:
            refused = self._refused.get(scene.id)
            if refused is not None and refused[0] == stamp:
                raise ImageryUnavailableError(refused[1])
            if stamp == self._stamps[scene.id]:
                return
        try:
            verified = scene.verified()
        except ImageryUnavailableError as error:
            self._refuse(scene, stamp, str(error))
            raise
        with self._lock:
            self._stamps[scene.id] = verified.stamp
            self._refused.pop(scene.id, None)
            self._readers[scene.path].clear()

    def _refuse(self, scene: Scene, stamp: tuple[int, ...], why: str) -> None:
        """Remember that a scene's file cannot be used as long as it has this stamp."""
        with self._lock:
            self._refused[scene.id] = stamp, why
            self._readers[scene.path].clear()

    @contextmanager
    def _reader(self, scene: Scene) -> Iterator[Reader]:
        """A reader of a scene for one thread at a time: opening costs as much as reading a tile.

        There are at most as many as cores, and the one used last is used first, because each decodes the file's blocks
        for itself. Raises ImageryUnavailableError if the file is not the one that was added, before or after reading.
        """
        with self._turns:
            self._check(scene)
            with self._lock:
                idle = self._readers[scene.path]
                reader = idle.pop() if idle else None
            if reader is None:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", NoOverviewWarning)
                    reader = open_raster(scene.path)
            yield reader
            self._check(scene)
            with self._lock:
                idle.append(reader)

    def _tile(self, tile: Tile) -> tuple[Pixels, tuple[str, ...]]:
        """The scenes over one tile, 256 x 256 x 4 RGBA, and their ids; kept for the windows that share it."""
        with self._lock:
            kept = self._tiles.get(tile)
        if kept is not None:
            return kept
        pixels = np.zeros((TILE_SIZE, TILE_SIZE, 4), dtype=np.uint8)
        sources = []
        for scene in self.scenes:
            margin = READ_MARGIN if scene.sensor == "rgb" else READ_MARGIN + REACH
            window, inner = tile_window(tile).grown(margin), (slice(margin, -margin),) * 2
            box = window_bounds(window)
            if not _meets(scene.bounds, box):
                continue
            try:
                with self._reader(scene) as reader:
                    colours, mask = (whole[inner] for whole in _read_scene(reader, scene, window, box))
            except (rasterio.errors.RasterioError, RioTilerError, SceneError) as error:
                self._check(scene)
                why = f"scene {scene.id} cannot be read at {tile.z}/{tile.x}/{tile.y}: its file is damaged"
                self._refuse(scene, self._stamps[scene.id], why)
                raise ImageryUnavailableError(why) from error
            uncovered = mask & (pixels[..., 3] == 0)
            if uncovered.any():
                sources.append(scene.id)
            np.copyto(pixels[..., :3], colours, where=uncovered[..., None])
            np.copyto(pixels[..., 3], np.uint8(255), where=uncovered)
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
    data = scene.levels(image.array.data)
    mask = np.asarray(image.mask > 127)
    if scene.stretch is not None:
        mask &= np.isfinite(data).all(axis=0)
    if scene.sensor == "sar" and not scene.decibels:
        mask &= image.array.data[0] > 0  # borders of amplitudes are filled with zeros
    if scene.sensor != "rgb":
        return colours_of(scene.sensor, np.where(mask, data, 0)), mask
    colours = np.ascontiguousarray(data.transpose(1, 2, 0)).astype(np.uint8)
    return colours, mask & ~nodata_collar(colours, mask) if scene.black_is_nodata else mask
