"""Which tiles a change of imagery affects, and how none that was made from the old imagery survives it.

A block is generated from the imagery under its window and from the reference tiles under the same window. A change
therefore affects the blocks whose window meets it, and the blocks of finer zooms whose reference field contains an
affected tile. Scenes count by their bounding boxes: one tile too many is generated again, to the same bytes.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from mercantile import Tile

from tilecascade.app.sources.mosaic import READ_MARGIN, box_of
from tilecascade.app.sources.scene import Scene, window_bounds
from tilecascade.model.cascade import TILE_SIZE, Block, Ladder, Window, tile_window

Box = tuple[float, float, float, float]
"""Left, bottom, right, top in Web Mercator metres."""


def changed_scenes(old: Sequence[Scene], new: Sequence[Scene]) -> list[Scene]:
    """Scenes that came, went, or changed places with another."""
    old_ids, new_ids = [scene.id for scene in old], [scene.id for scene in new]
    before = [scene for scene in old if scene.id in new_ids]
    after = [scene for scene in new if scene.id in old_ids]
    moved = [scene for scene, other in zip(before, after, strict=True) if scene.id != other.id]
    return [s for s in old if s.id not in new_ids] + [s for s in new if s.id not in old_ids] + moved


class AffectedTiles:
    """The tiles of a ladder that a change of imagery within some boxes affects."""

    def __init__(self, ladder: Ladder, max_zoom: int, boxes: Sequence[Box]) -> None:
        self._ladder = ladder
        self._blocks: dict[int, set[Block]] = {zoom: set() for zoom in range(ladder.root, max_zoom + 1)}
        for box in boxes:
            affected: dict[int, set[Block]] = {}
            for zoom in self._blocks:
                reference = ladder.reference_zoom(zoom)
                above = {
                    tile for block in affected.get(-1 if reference is None else reference, ()) for tile in block.tiles()
                }
                affected[zoom] = set(self._affected(zoom, box, above))
                self._blocks[zoom] |= affected[zoom]
        self._below = {
            zoom: {
                Tile(tile.x >> ladder.root - zoom, tile.y >> ladder.root - zoom, zoom)
                for block in self._blocks.get(ladder.root, ())
                for tile in block.tiles()
            }
            for zoom in range(ladder.root)
        }

    def _affected(self, zoom: int, box: Box, above: set[Tile]) -> Iterator[Block]:
        """Blocks of a zoom that are affected by imagery changed within `box`, or by affected reference tiles
        `above`."""
        pixels = pixels_of(box, zoom)
        if above:
            levels = zoom - next(iter(above)).z
            size = TILE_SIZE << levels
            left, top = min(tile.x for tile in above) * size, min(tile.y for tile in above) * size
            right, bottom = (max(tile.x for tile in above) + 1) * size, (max(tile.y for tile in above) + 1) * size
            pixels = enclose(pixels, Window(zoom, left, top, right - left, bottom - top))
        for block in self._blocks_near(pixels):
            window = self._ladder.window(block)
            left, bottom, right, top = window_bounds(window.grown(READ_MARGIN))
            if left < box[2] and right > box[0] and bottom < box[3] and top > box[1]:
                yield block
                continue
            reference = self._ladder.reference_window(window)
            if above and reference is not None and any(tile in above for tile in reference.tiles()):
                yield block

    def _blocks_near(self, pixels: Window) -> Iterator[Block]:
        """The blocks whose windows may see some of these pixels."""
        some = self._ladder.block(Tile(0, 0, pixels.zoom))
        size = some.edge * TILE_SIZE
        near = pixels.grown(self._ladder.margin(some) + size)
        columns = (1 << pixels.zoom) // some.edge
        for row in range(max(0, near.top // size), min(columns - 1, (near.top + near.height) // size) + 1):
            for column in range(
                near.left // size, min((near.left + near.width) // size, near.left // size + columns - 1) + 1
            ):
                yield Block(pixels.zoom, column % columns, row, some.levels)

    def __contains__(self, tile: Tile) -> bool:
        if tile.z < self._ladder.root:
            return tile in self._below[tile.z]
        return tile.z in self._blocks and self._ladder.block(tile) in self._blocks[tile.z]

    def tiles(self) -> Iterator[Tile]:
        """All of them, those coarser than the root zoom as well."""
        for below in self._below.values():
            yield from below
        for blocks in self._blocks.values():
            for block in blocks:
                yield from block.tiles()


def pixels_of(box: Box, zoom: int) -> Window:
    """The global pixels that a box touches."""
    tile = window_bounds(tile_window(Tile(0, 0, zoom)))
    pixel = (tile[2] - tile[0]) / TILE_SIZE
    left, top = int((box[0] - tile[0]) / pixel), int((tile[3] - box[3]) / pixel)
    right, bottom = int((box[2] - tile[0]) / pixel) + 1, int((tile[3] - box[1]) / pixel) + 1
    return Window(zoom, left, top, right - left, bottom - top)


def enclose(a: Window, b: Window) -> Window:
    """The smallest window around two of one zoom."""
    left, top = min(a.left, b.left), min(a.top, b.top)
    right, bottom = max(a.left + a.width, b.left + b.width), max(a.top + a.height, b.top + b.height)
    return Window(a.zoom, left, top, right - left, bottom - top)


def affected_by(ladder: Ladder, max_zoom: int, scenes: Sequence[Scene]) -> AffectedTiles:
    """The tiles that a change of these scenes affects."""
    return AffectedTiles(ladder, max_zoom, [box_of(scene.bounds) for scene in scenes])


REMEMBERED_CHANGES = 64
"""Changes of imagery that work may span; work that began before more of them counts as outdated."""


class InvalidationClock:
    """Counts changes of imagery, so that work can tell whether a change has overtaken it. Thread-safe.

    Whatever reads or writes the caches does so within `using`, and asks there whether a tile is outdated; a change
    waits until nobody is inside. now: changes so far.
    """

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._users = 0
        self._waiting = 0
        self._changes: deque[tuple[int, AffectedTiles]] = deque(maxlen=REMEMBERED_CHANGES)
        self._purging: list[AffectedTiles] = []
        self.now = 0

    @contextmanager
    def using(self) -> Iterator[None]:
        """No change of imagery happens inside."""
        with self._change:
            self._change.wait_for(lambda: not self._waiting)
            self._users += 1
        try:
            yield
        finally:
            with self._change:
                self._users -= 1
                self._change.notify_all()

    def change(self, affected: AffectedTiles, swap: Callable[[], None]) -> None:
        """Count a change: `swap` the imagery while nobody uses the caches.

        The affected tiles count as not stored until `purged`.
        """
        with self._change:
            self._waiting += 1
            try:
                self._change.wait_for(lambda: not self._users)
                swap()
                self.now += 1
                self._changes.append((self.now, affected))
                self._purging = [*self._purging, affected]
            finally:
                self._waiting -= 1
                self._change.notify_all()

    def purged(self, affected: AffectedTiles) -> None:
        """No cache holds an outdated tile of this change any more."""
        with self._change:
            self._purging = [other for other in self._purging if other is not affected]

    @property
    def removing(self) -> bool:
        """Whether outdated tiles may be left of any change."""
        return bool(self._purging)

    def purging(self, tile: Tile) -> bool:
        """Whether the stored files of a tile may be outdated."""
        return any(tile in affected for affected in self._purging)

    def stale(self, tile: Tile, began: int) -> bool:
        """Whether a change has overtaken work on a tile that began when `now` was `began`."""
        if self.now == began:
            return False
        return self.now - began > REMEMBERED_CHANGES or any(
            tile in affected for moment, affected in self._changes if moment > began
        )
