"""Which tiles a change of imagery affects, and how none that was made from the old imagery survives it.

A block is generated from the imagery under its window and from the reference tiles under the same window. A change
therefore affects the blocks whose window meets it, and the blocks of finer zooms whose reference field contains an
affected tile. Scenes count by their bounding boxes: one tile too many is generated again, to the same bytes.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from mercantile import Tile

from tilecascade.app.sources.mosaic import READ_MARGIN, box_of
from tilecascade.app.sources.scene import Scene, window_bounds
from tilecascade.app.sources.source import changed
from tilecascade.model.cascade import ENLARGE_MARGIN, TILE_SIZE, Block, Ladder, Window, tile_window

Box = tuple[float, float, float, float]
"""Left, bottom, right, top in Web Mercator metres."""


def changed_scenes(old: Sequence[Scene], new: Sequence[Scene]) -> list[Scene]:
    """Scenes that came, went, changed places with another, or are given colours by another stem."""
    return changed(old, new, lambda scene: (scene.id, scene.stem))


class TileRectangle(NamedTuple):
    """Tiles of one zoom. left: 0 to 2^zoom - 1; columns go on at the antimeridian."""

    zoom: int
    left: int
    top: int
    width: int
    height: int

    def __contains__(self, tile: object) -> bool:
        """Whether a tile of this zoom lies in it."""
        assert isinstance(tile, Tile)
        return (tile.x - self.left) % (1 << self.zoom) < self.width and 0 <= tile.y - self.top < self.height

    def within(self, other: TileRectangle) -> bool:
        """Whether the other one, of the same zoom, has all of these tiles."""
        across = (self.left - other.left) % (1 << self.zoom) + self.width <= other.width
        return across and other.top <= self.top and self.top + self.height <= other.top + other.height

    def coarser(self, zoom: int) -> TileRectangle:
        """The tiles of a coarser zoom that contain these."""
        levels = self.zoom - zoom
        left, top = self.left >> levels, self.top >> levels
        right, bottom = (self.left + self.width - 1) >> levels, (self.top + self.height - 1) >> levels
        return TileRectangle(zoom, left, top, min(right - left + 1, 1 << zoom), bottom - top + 1)


class AffectedTiles:
    """The tiles of a ladder that a change of imagery within some boxes affects, as rectangles by zoom."""

    def __init__(self, ladder: Ladder, max_zoom: int, boxes: Sequence[Box]) -> None:
        self._ladder = ladder
        self._by_zoom: dict[int, list[TileRectangle]] = {zoom: [] for zoom in range(max_zoom + 1)}
        for box in boxes:
            affected: dict[int, list[TileRectangle]] = {}
            for zoom in range(ladder.root, max_zoom + 1):
                reference = ladder.reference_zoom(zoom)
                above = [] if reference is None else affected[reference]
                found = [self._with_imagery(zoom, box), *(self._with_reference(zoom, area) for area in above)]
                affected[zoom] = _outermost([area for area in found if area is not None])
                self._by_zoom[zoom] += affected[zoom]
            for zoom in range(min(ladder.root, max_zoom + 1)):
                self._by_zoom[zoom] += [area.coarser(zoom) for area in affected.get(ladder.root, ())]

    def __contains__(self, tile: Tile) -> bool:
        return any(tile in area for area in self._by_zoom.get(tile.z, ()))

    @property
    def by_zoom(self) -> Mapping[int, Sequence[TileRectangle]]:
        """The rectangles."""
        return self._by_zoom

    def around(self, box: Box) -> Box:
        """The smallest box that has all of these tiles from the root zoom on, and another box."""
        left, bottom, right, top = box
        for zoom in range(self._ladder.root, max(self._by_zoom) + 1):
            for area in self._by_zoom[zoom]:
                size = TILE_SIZE
                window = Window(zoom, area.left * size, area.top * size, area.width * size, area.height * size)
                west, south, east, north = window_bounds(window)
                left, bottom, right, top = min(left, west), min(bottom, south), max(right, east), max(top, north)
        return left, bottom, right, top

    def _with_imagery(self, zoom: int, box: Box) -> TileRectangle | None:
        """The blocks of a zoom whose windows see imagery within `box`."""
        left, bottom, right, top = box

        def bounds(block: Block) -> Box:
            return window_bounds(self._ladder.window(block).grown(READ_MARGIN))

        columns = Interval(lambda block: bounds(block)[2] > left, lambda block: bounds(block)[0] < right)
        rows = Interval(lambda block: bounds(block)[1] < top, lambda block: bounds(block)[3] > bottom)
        return self._rectangle(pixels_of(box, zoom).grown(READ_MARGIN), columns, rows, wrap=False)

    def _with_reference(self, zoom: int, above: TileRectangle) -> TileRectangle | None:
        """The blocks of a zoom whose references come from these tiles of the reference zoom, whole blocks."""
        size = TILE_SIZE << (zoom - above.zoom)
        near = Window(zoom, above.left * size, above.top * size, above.width * size, above.height * size)

        def source(block: Block) -> Window:
            window = self._ladder.reference_source(block)
            assert window is not None  # of a zoom with a reference
            return window

        columns = Interval(
            lambda block: source(block).left + source(block).width > above.left * TILE_SIZE,
            lambda block: source(block).left < (above.left + above.width) * TILE_SIZE,
        )
        rows = Interval(
            lambda block: source(block).top + source(block).height > above.top * TILE_SIZE,
            lambda block: source(block).top < (above.top + above.height) * TILE_SIZE,
        )
        return self._rectangle(near.grown(ENLARGE_MARGIN * size // TILE_SIZE), columns, rows, wrap=True)

    def _rectangle(self, near: Window, columns: Interval, rows: Interval, wrap: bool) -> TileRectangle | None:
        """The blocks that see something, of those whose windows may reach the pixels `near`: rows and columns decide
        apart. wrap: columns beyond the antimeridian are asked, too."""
        zoom = near.zoom
        some = self._ladder.block(Tile(0, 0, zoom))
        size, blocks = some.edge * TILE_SIZE, (1 << zoom) // some.edge
        near = near.grown(self._ladder.windows.margin + size)
        first, last = near.left // size, (near.left + near.width) // size
        if not wrap:
            first, last = max(first, 0), min(last, blocks - 1)
        across = columns.of(range(first, last + 1), lambda i: Block(zoom, i, 0, some.levels))
        down = rows.of(
            range(max(near.top // size, 0), min((near.top + near.height) // size, blocks - 1) + 1),
            lambda i: Block(zoom, 0, i, some.levels),
        )
        if not across or not down:
            return None
        width = min(len(across), blocks)
        left = across[0] % blocks if width < blocks else 0
        edge = some.edge
        return TileRectangle(zoom, left * edge, down[0] * edge, width * edge, len(down) * edge)


@dataclass(frozen=True)
class Interval:
    """Which blocks of a row or column see something: those after the first that `reaches` it, up to the last that is
    `before` its end. A scene may span the world, so they are found by bisection."""

    reaches: Callable[[Block], bool]
    before: Callable[[Block], bool]

    def of(self, numbers: range, block: Callable[[int], Block]) -> range:
        """The numbers whose blocks see it."""
        first = bisect_left(numbers, True, key=lambda i: self.reaches(block(i)))
        last = bisect_left(numbers, True, key=lambda i: not self.before(block(i)))
        return numbers[first:last]


def _outermost(areas: Sequence[TileRectangle]) -> list[TileRectangle]:
    """Without those that lie within another."""
    kept: list[TileRectangle] = []
    for area in sorted(areas, key=lambda area: -area.width * area.height):
        if not any(area.within(other) for other in kept):
            kept.append(area)
    return kept


def pixels_of(box: Box, zoom: int) -> Window:
    """The global pixels that a box touches."""
    tile = window_bounds(tile_window(Tile(0, 0, zoom)))
    pixel = (tile[2] - tile[0]) / TILE_SIZE
    left, top = int((box[0] - tile[0]) / pixel), int((tile[3] - box[3]) / pixel)
    right, bottom = int((box[2] - tile[0]) / pixel) + 1, int((tile[3] - box[1]) / pixel) + 1
    return Window(zoom, left, top, right - left, bottom - top)


def affected_by(ladder: Ladder, max_zoom: int, scenes: Sequence[Scene]) -> AffectedTiles:
    """The tiles that a change of these scenes affects."""
    return AffectedTiles(ladder, max_zoom, [box_of(scene.bounds) for scene in scenes])


class RedrawnTiles(AffectedTiles):
    """The tiles of a ladder that are drawn differently within some boxes. What is perceived, and so the references of
    finer tiles, stays."""

    def __init__(self, ladder: Ladder, max_zoom: int, boxes: Sequence[Box], reach: int) -> None:
        """reach: pixels beyond a box as far as which the drawing changes."""
        self._ladder = ladder
        self._by_zoom = {
            zoom: [self._blocks(pixels_of(box, zoom).grown(reach)) for box in boxes] for zoom in range(max_zoom + 1)
        }

    def _blocks(self, window: Window) -> TileRectangle:
        """The tiles that a window touches, with all others of their blocks."""
        levels = self._ladder.block(Tile(0, 0, window.zoom)).levels if window.zoom >= self._ladder.root else 0
        size, world = TILE_SIZE << levels, 1 << window.zoom >> levels
        left, top = window.left // size, max(0, window.top // size)
        width = min(world, (window.left + window.width) // size - left + 1)
        height = min(world - 1, (window.top + window.height) // size) - top + 1
        return TileRectangle(window.zoom, left % world << levels, top << levels, width << levels, height << levels)


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
