"""Areas of a territory that look as somebody has said: other ground by a caption's layout, and other weather."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy import ndimage
from shapely.geometry.base import BaseGeometry

from tilecascade.model.cartography.roads import centrelines
from tilecascade.model.cascade import EQUATOR, Mask, Pixels
from tilecascade.model.imagery.weather import Weather, weathered
from tilecascade.model.layout.layout import EDGE, NUMBER, Layout
from tilecascade.model.world.lattice import Floats
from tilecascade.model.world.sketch import COVERS, Line, Territory
from tilecascade.model.world.sketch import NUMBER as COVER

ROWS = 256
"""Rows of a sketch that are looked at once."""

MOST_PIXELS = 4096
"""Longest side of a sketch, and of what it is divided into."""

FINEST = 4
"""Parts along each side that a pixel of a sketch is divided into where a caption changes the ground."""

SOFT_SHARE, SOFTEST = 0.08, 300.0
"""Width of the edge within which weather begins: a share of the area's size, and metres at most."""

AROUND = 1.4
"""How much larger the square of a layout is than its area, so that rivers, woods and roads around are seen to go on."""

RASTER = 192
"""Cells along the longer side of an area by which the distance to its edge is told."""

SHORTEST_ROAD = 5
"""Cells of the shortest road of a layout that is a road."""

COVER_OF_KIND = {
    "water": "water", "forest": "forest", "scrub": "scrub", "farmland": "farmland", "grass": "grass",
    "wetland": "wetland", "residential": "town", "industrial": "town", "commercial": "town", "building": "town",
}  # fmt: skip
"""The ground of a territory for a layout's kinds. Land is what there is most of in the area, roads are lines."""

KIND_OF_COVER = {value: key for key, value in list(COVER_OF_KIND.items())[:7]}
LAND = ("grass", "sand", "rock", "snow", "farmland", "scrub")
"""What land without a name may be: the one of these that there is most of."""


@dataclass(frozen=True)
class GroundArea:
    """One area. outline: polygon in metres of Web Mercator. layout: what its bounding square is to be, if its ground is
    another. weather: if it has any."""

    outline: BaseGeometry
    layout: Layout | None = None
    weather: Weather | None = None

    @cached_property
    def square(self) -> tuple[float, float, float]:
        """Left, top and side of the square that its layout lies on, with something of what is around."""
        left, bottom, right, top = self.outline.bounds
        side = AROUND * max(right - left, top - bottom)
        return (left + right - side) / 2, (top + bottom + side) / 2, side

    def inside(self) -> Mask:
        """Which cells of its layout lie in the area, EDGE x EDGE."""
        left, top, side = self.square
        at = (np.arange(EDGE) + 0.5) * side / EDGE
        return np.asarray(shapely.contains_xy(self.outline, *np.meshgrid(left + at, top - at)))

    def weight(self, xs: Floats, ys: Floats) -> NDArray[np.float64]:
        """How far its weather counts at ys x xs (as `Territory.axes` gives them): 0 a raster's cell outside, 1 within.

        Told from a raster of the area's own, so that it is the same in every window.
        """
        left, _, _, top = self.outline.bounds
        cell, soft = self._cell, self._soft
        columns, rows = (xs - EQUATOR / 2 - left) / cell + 1.5, (top - (EQUATOR / 2 - ys)) / cell + 1.5
        there = np.meshgrid(rows, columns, indexing="ij")
        share = ndimage.map_coordinates(self._inside, there, order=1, mode="constant", cval=0.0)
        share = np.clip(share * cell / soft, 0, 1)
        return np.asarray(share * share * (3 - 2 * share))

    def is_near(self, xs: Floats, ys: Floats) -> bool:
        """Whether its bounds, with a raster's cell around, touch ys x xs."""
        left, bottom, right, top = self.outline.bounds
        x, y, more = xs - EQUATOR / 2, EQUATOR / 2 - ys, self._cell
        return bool(x[-1] > left - more and x[0] < right + more and y[-1] < top + more and y[0] > bottom - more)

    @property
    def _cell(self) -> float:
        left, bottom, right, top = self.outline.bounds
        return max(right - left, top - bottom) / RASTER

    @property
    def _soft(self) -> float:
        return min(SOFTEST, SOFT_SHARE * float(np.sqrt(self.outline.area)) + 1e-6)

    @cached_property
    def _inside(self) -> NDArray[np.float64]:
        """Cells from the edge, with two cells of outside around."""
        left, bottom, right, top = self.outline.bounds
        cell = self._cell
        columns, rows = (int(np.ceil(size / cell)) + 4 for size in (right - left, top - bottom))
        xs, ys = left + (np.arange(columns) - 1.5) * cell, top - (np.arange(rows) - 1.5) * cell
        inside = shapely.contains_xy(self.outline, *np.meshgrid(xs, ys))
        return np.asarray(ndimage.distance_transform_edt(inside))


def weather_at(areas: Sequence[GroundArea], xs: Floats, ys: Floats) -> list[GroundArea]:
    """The areas whose weather is seen at ys x xs, in their order."""
    return [area for area in areas if area.weather is not None and area.is_near(xs, ys) and area.weight(xs, ys).any()]


def with_weather(areas: Sequence[GroundArea], colours: Pixels, xs: Floats, ys: Floats) -> Pixels:
    """Imagery at ys x xs, H x W x 3 uint8, with the weather of some areas, the last on top."""
    for area in areas:
        if area.weather is None:
            continue
        weight = area.weight(xs, ys)
        if weight.any():
            other = weathered(colours, xs, ys, area.weather).astype(np.float64)
            mixed = colours + weight[..., None] * (other - colours)
            colours = mixed.round().clip(0, 255).astype(np.uint8)
    return colours


def ground_seen(territory: Territory, area: GroundArea) -> tuple[Layout, Mask]:
    """What there is on an area's square as a layout, and the mask of what is to stay: all around the area, and in it
    waters and roads."""
    left, top, side = area.square
    xs = left + (np.arange(EDGE) + 0.5) * side / EDGE
    ys = top - (np.arange(EDGE) + 0.5) * side / EDGE
    cover = territory.cover(xs + EQUATOR / 2, EQUATOR / 2 - ys)
    table = [NUMBER[KIND_OF_COVER.get(each.name, "land")] for each in COVERS]
    layout = np.array(table, dtype=np.uint8)[cover]
    stays = layout == NUMBER["water"]
    for line in territory.lines:
        cells = _cells(line, left, top, side)
        layout[cells] = NUMBER["water" if line.kind == "river" else "road"]
        stays[cells] = True
    return layout, stays | ~area.inside()


def _cells(line: Line, left: float, top: float, side: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The cells of a square that a line passes."""
    steps = np.hypot(*np.diff(line.points, axis=0).T)
    along = np.concatenate([[0.0], np.cumsum(steps)])
    at = np.arange(0, along[-1], side / EDGE / 3) if along[-1] > 0 else np.zeros(1)
    columns = np.floor((np.interp(at, along, line.points[:, 0]) - left) / side * EDGE).astype(np.int64)
    rows = np.floor((top - np.interp(at, along, line.points[:, 1])) / side * EDGE).astype(np.int64)
    within = (columns >= 0) & (columns < EDGE) & (rows >= 0) & (rows < EDGE)
    return rows[within], columns[within]


def with_ground(territory: Territory, areas: Sequence[GroundArea]) -> Territory:
    """A territory with the ground and the roads of the layouts of some areas, the last on top."""
    base = territory
    for area in areas:
        if area.layout is not None:
            territory = _with_ground(territory, base, area, area.layout)
    return territory


def _with_ground(territory: Territory, base: Territory, area: GroundArea, layout: Layout) -> Territory:
    """The territory with ground and roads of one area's layout, which depend on no other area: base has none."""
    scale = max(1, min(FINEST // territory.scale, MOST_PIXELS // max(territory.kinds.shape)))
    kinds = territory.kinds.repeat(scale, 0).repeat(scale, 1)
    west, south, east, north = territory.box
    height, width = kinds.shape
    left, bottom, right, top = area.outline.bounds
    across, down = width / (east - west), height / (north - south)
    columns = slice(*(int(np.clip((x - west) * across, 0, width)) + more for x, more in ((left, 0), (right, 1))))
    rows = slice(*(int(np.clip((north - y) * down, 0, height)) + more for y, more in ((top, 0), (bottom, 1))))
    xs, ys = west + (np.arange(width)[columns] + 0.5) / across, north - (np.arange(height)[rows] + 0.5) / down
    table = _covers(layout, _mostly(base, area))
    for first in range(0, len(ys) if len(xs) else 0, ROWS):
        some = slice(first, first + ROWS)
        part = kinds[rows, columns][some]
        inside = shapely.contains_xy(area.outline, *np.meshgrid(xs, ys[some]))
        made = table[_at(area, xs, ys[some])]
        # a river that is given stays a river, and wide water stays water
        part[:] = np.where(inside & (part != COVER["water"]), made, part)
    roads = [line for line in _roads(layout, area, base.lines) if len(line.points) > 1]
    return replace(territory, kinds=kinds, scale=territory.scale * scale, lines=[*territory.lines, *roads])


def _mostly(territory: Territory, area: GroundArea) -> str:
    """What land without a name is in an area: what there is most of in it."""
    left, bottom, right, top = area.outline.bounds
    xs, ys = np.linspace(left, right, EDGE), np.linspace(top, bottom, EDGE)
    cover = territory.cover(xs + EQUATOR / 2, EQUATOR / 2 - ys)
    counts = np.bincount(cover[shapely.contains_xy(area.outline, *np.meshgrid(xs, ys))], minlength=len(COVERS))
    return max(LAND, key=lambda name: counts[COVER[name]])


def _at(area: GroundArea, xs: Floats, ys: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    left, top, side = area.square
    columns = ((xs - left) / side * EDGE).astype(np.int64).clip(0, EDGE - 1)
    rows = ((top - ys) / side * EDGE).astype(np.int64).clip(0, EDGE - 1)
    return rows[:, None], columns[None, :]


def _covers(layout: Layout, land: str) -> NDArray[np.uint8]:
    """The covers of a layout's cells; a road lies on what is beside it."""
    table = np.full(len(NUMBER), COVER[land], dtype=np.uint8)
    for kind, cover in COVER_OF_KIND.items():
        table[NUMBER[kind]] = COVER[cover]
    road = layout == NUMBER["road"]
    if road.all():
        return np.full_like(layout, COVER[land])
    nearest = ndimage.distance_transform_edt(road, return_distances=False, return_indices=True)
    return table[layout[tuple(nearest)]]


def _roads(layout: Layout, area: GroundArea, known: Sequence[Line]) -> list[Line]:
    """The roads of a layout within the area that are none yet, as lines."""
    left, top, side = area.square
    mask = layout == NUMBER["road"]
    for line in known:
        if line.kind != "river":
            there = np.zeros_like(mask)
            there[_cells(line, left, top, side)] = True
            mask &= ~ndimage.binary_dilation(there)
    found = []
    for centre in centrelines(mask):
        if centre.length < SHORTEST_ROAD:
            continue
        cells = np.array(centre.simplify(0.7).coords)
        place = shapely.LineString((left, top) + (cells + 0.5) * (side / EDGE, -side / EDGE))
        for part in shapely.get_parts(shapely.intersection(place, area.outline)):
            if part.geom_type == "LineString" and part.length > 0:
                found.append(Line("tertiary", np.array(part.coords)))
    return found
