"""Which tiles a change of imagery reaches, and how none made from the old imagery survives it.

A block is drawn from imagery over its window and from reference tiles over the same; so a change reaches the blocks
whose window meets it, and the blocks of deeper zooms whose reference field a reached tile is in. Scenes count by their
bounding boxes: a tile too many is drawn again from the same pixels to the same bytes.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from mercantile import Tile

from app.imagery import READ_MARGIN, Scene, box_of, window_bounds
from model.cascade import Block, Ladder, Window, tile_window
from model.sgdm.config import TILE_SIZE

Box = tuple[float, float, float, float]
"""Left, bottom, right, top in Web Mercator metres."""


def changed_scenes(old: Sequence[Scene], new: Sequence[Scene]) -> list[Scene]:
    """Scenes that came, went, or changed places with another."""
    old_ids, new_ids = [scene.id for scene in old], [scene.id for scene in new]
    before = [scene for scene in old if scene.id in new_ids]
    after = [scene for scene in new if scene.id in old_ids]
    moved = [scene for scene, other in zip(before, after, strict=True) if scene.id != other.id]
    return [s for s in old if s.id not in new_ids] + [s for s in new if s.id not in old_ids] + moved


class Reach:
    """The tiles of a ladder that a change within some boxes reaches."""

    def __init__(self, ladder: Ladder, max_zoom: int, boxes: Sequence[Box]) -> None:
        self._ladder = ladder
        self._blocks: dict[int, set[Block]] = {zoom: set() for zoom in range(ladder.root, max_zoom + 1)}
        for box in boxes:
            reached: dict[int, set[Block]] = {}
            for zoom in self._blocks:
                reference = ladder.reference_zoom(zoom)
                above = {tile for block in reached.get(reference, ()) for tile in block.tiles()} if reference else set()
                reached[zoom] = set(self._reached(zoom, box, above))
                self._blocks[zoom] |= reached[zoom]
        self._below = {
            zoom: {
                Tile(tile.x >> ladder.root - zoom, tile.y >> ladder.root - zoom, zoom)
                for block in self._blocks.get(ladder.root, ())
                for tile in block.tiles()
            }
            for zoom in range(ladder.root)
        }

    def _reached(self, zoom: int, box: Box, above: set[Tile]) -> Iterator[Block]:
        """Blocks of a zoom that imagery changed within `box` reaches, or changed reference tiles `above`."""
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
        """All of them, below the root as well."""
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


def reach_of(ladder: Ladder, max_zoom: int, scenes: Sequence[Scene]) -> Reach:
    """What a change of these scenes reaches."""
    return Reach(ladder, max_zoom, [box_of(scene.bounds) for scene in scenes])


REMEMBERED = 64
"""Changes of imagery that work may span; what began before more of them is stale anyway."""


class Epochs:
    """The times between changes of imagery. What reads or writes the store does so within `using`, and asks there
    whether a tile has become stale; a change waits until nobody is inside. Thread-safe."""

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._users = 0
        self._waiting = 0
        self._reaches: deque[tuple[int, Reach]] = deque(maxlen=REMEMBERED)
        self._purging: list[Reach] = []
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

    def change(self, reach: Reach, swap: Callable[[], None]) -> None:
        """Begin a new epoch: `swap` the imagery while nobody uses the store.

        The tiles reached count as not stored until `purged`.
        """
        with self._change:
            self._waiting += 1
            try:
                self._change.wait_for(lambda: not self._users)
                swap()
                self.now += 1
                self._reaches.append((self.now, reach))
                self._purging = [*self._purging, reach]
            finally:
                self._waiting -= 1
                self._change.notify_all()

    def purged(self, reach: Reach) -> None:
        """No tier holds an old tile of this change any more."""
        with self._change:
            self._purging = [other for other in self._purging if other is not reach]

    def purging(self, tile: Tile) -> bool:
        """Whether what is stored of a tile may be old."""
        return any(tile in reach for reach in self._purging)

    def stale(self, tile: Tile, began: int) -> bool:
        """Whether work on a tile that began in epoch `began` has been overtaken by a change."""
        if self.now == began:
            return False
        return self.now - began > REMEMBERED or any(tile in reach for epoch, reach in self._reaches if epoch > began)
