"""Roads: ridges of likelihood in a class field, as lines that join and go on through gaps."""

from __future__ import annotations

import itertools

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy import ndimage
from shapely import LineString, MultiLineString, Point, STRtree
from shapely.affinity import translate
from shapely.geometry.base import BaseGeometry
from skimage.morphology import remove_small_holes, skeletonize

from tilecascade.model.cartography.field import ClassField, Floats
from tilecascade.model.cartography.objects import MapObject
from tilecascade.model.style import ORDER, ROAD_COLOUR, road_filling

Point2 = tuple[float, ...]

LIKELY = 0.15
"""Where a road is as likely, there may be one."""

SMOOTH = 1.5
"""Pixels over which the likelihood is smoothed."""

ISLAND = 500
"""Pixels of the largest hole that is no ground between roads, but a fault."""

SPUR = 24.0
"""Pixels of the longest side branch that is cut off."""

SHORTEST = 48.0
"""Pixels of the shortest road that joins no other."""

GAP = 40.0
"""Pixels of the longest gap that is closed."""

EVIDENCE = 0.08
"""Mean likelihood along a gap that is closed."""

BEND, STRAIGHT = 6.0, 0.8
"""Pixels over which a centreline is smoothed, and by which it may then be moved to be straight."""

ACROSS = 14
"""Pixels to each side of a line that its width is looked for in."""

STEP = 2.0
"""Pixels between the points of a line where a field is looked at."""

BEYOND = 64
"""Pixels that what crosses the window's edge goes on for: its length is not known, so it does not count as short."""

LOCAL = 25
"""Points of a line over which likelihood, width and class are decided: what is farther away, and may not be seen from a
neighbouring window, does not matter."""

STEADY = 60
"""Points of the shortest stretch of a line that has a class of its own."""

SURE = 0.2
"""Mean likelihood along the centreline of a road that is shown."""

WHITE = ORDER[:3]
"""The classes that have the same colour, and are told by their width."""


def roads(field: ClassField) -> list[MapObject]:
    """The centrelines of a field's roads, in its pixels, with widths as the field shows them."""
    plain = field.of_class("road")
    likely = ndimage.gaussian_filter(plain, SMOOTH)
    mask = np.pad(likely >= LIKELY, BEYOND, mode="edge")
    lines = [translate(line, -BEYOND, -BEYOND) for line in centrelines(remove_small_holes(mask, max_size=ISLAND))]
    planes = [field.of_colours(colour) for colour in ("road", *ROAD_COLOUR.values())]
    found = []
    # twice: the stem of a fork is a spur when its tines are gone
    for line in _closed(_without_spurs(_without_spurs(lines)), likely):
        found += _parts(line, field.zoom, planes, plain, likely)
    return found


def _parts(line: LineString, zoom: int, planes: list[Floats], plain: Floats, likely: Floats) -> list[MapObject]:
    """The parts of a line that are shown, of one class each. What is decided about a point depends on what is near."""
    points = _smoothed(line)
    there = _at(likely, points)
    sure = ndimage.uniform_filter1d(there, LOCAL, mode="nearest") >= SURE
    # as far as the certainty was looked for: a closed gap stays closed
    shown = ndimage.maximum_filter1d(sure, LOCAL, mode="nearest")
    widths = _widths(points, plain)
    kinds = _steady(_kinds(zoom, planes, points, widths))
    edges = np.flatnonzero((np.diff(kinds) != 0) | (np.diff(shown.astype(int)) != 0)) + 1
    parts = []
    for first, last in itertools.pairwise([0, *edges.tolist(), len(points)]):
        piece = points[first : last + 1]
        if shown[first] and len(piece) > 1:
            geometry = LineString(piece).simplify(STRAIGHT)
            if not geometry.is_valid:  # all of its points are one
                continue
            width = float(np.median(widths[first:last]))
            parts.append(MapObject("road", ORDER[kinds[first]], geometry, float(there[first:last].mean()), width))
    return parts


def centrelines(mask: NDArray[np.bool_]) -> list[LineString]:
    """The skeleton of a mask as lines from one end or crossing to the next; coordinates are of pixels' centres."""
    line = skeletonize(mask)
    rows, columns = np.nonzero(line)
    number = np.full(line.shape, -1)
    number[rows, columns] = np.arange(len(rows))
    padded = np.pad(line, 1)
    pairs = []
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        there = padded[1 + rows + down, 1 + columns + right]
        if down and right:
            # a diagonal beside a corner is the same way once more
            there &= ~padded[1 + rows + down, 1 + columns] & ~padded[1 + rows, 1 + columns + right]
        some = np.flatnonzero(there)
        pairs.append(np.stack([some, number[rows[some] + down, columns[some] + right]], axis=1))
    links = np.concatenate(pairs)
    if not len(links):
        return []
    points = np.stack([columns, rows], axis=1) + 0.5
    return _lines(shapely.line_merge(shapely.multilinestrings(shapely.linestrings(points[links]))))


def _ends(lines: list[LineString]) -> dict[Point2, list[int]]:
    """The lines that begin or end at each point."""
    ends: dict[Point2, list[int]] = {}
    for i, line in enumerate(lines):
        for point in (line.coords[0], line.coords[-1]):
            ends.setdefault(point, []).append(i)
    return ends


def _without_spurs(lines: list[LineString]) -> list[LineString]:
    """Without short side branches, and without short lines that join nothing."""
    ends = _ends(lines)
    kept = []
    for line in lines:
        first, last = (len(ends[point]) for point in (line.coords[0], line.coords[-1]))
        if line.is_ring:
            keep = line.length > 2 * SHORTEST
        elif first == last == 1:
            keep = line.length >= SPUR
        else:
            keep = line.length >= SPUR or min(first, last) > 1
        if keep:
            kept.append(line)
    return _merged(kept)


def _merged(lines: list[LineString]) -> list[LineString]:
    return _lines(shapely.line_merge(MultiLineString(lines))) if lines else []


def _lines(geometry: BaseGeometry) -> list[LineString]:
    """The lines of a geometry that is one or several."""
    return [part for part in shapely.get_parts(geometry) if isinstance(part, LineString)]


def _closed(lines: list[LineString], likely: Floats) -> list[LineString]:
    """With loose ends led on to the nearest line ahead, where there is some evidence between; then without what is
    still short and alone."""
    ends = _ends(lines)
    tree = STRtree(lines)
    added = []
    for i, line in enumerate(lines):
        for at_end in (False, True):
            point = line.coords[-1 if at_end else 0]
            if len(ends[point]) > 1 or line.is_ring:
                continue
            bridge = _bridge(lines, tree, i, at_end, likely)
            if bridge is not None:
                added.append(bridge)
    joined = _merged(_noded(lines, added))
    ends = _ends(joined)
    return [
        line
        for line in joined
        if line.length >= SHORTEST or any(len(ends[p]) > 1 for p in (line.coords[0], line.coords[-1]))
    ]


def _noded(lines: list[LineString], added: list[LineString]) -> list[LineString]:
    """Lines, cut where bridges end on them, and the bridges."""
    return _lines(shapely.union_all([*lines, *added])) if added else lines


def _bridge(lines: list[LineString], tree: STRtree, i: int, at_end: bool, likely: Floats) -> LineString | None:
    """From a loose end to a vertex of the nearest line ahead of it."""
    line = lines[i] if at_end else LineString(lines[i].coords[::-1])
    end = np.array(line.coords[-1])
    back = np.array(line.interpolate(max(0.0, line.length - 10)).coords[0])
    ahead = (end - back) / max(1e-6, float(np.hypot(*(end - back))))
    best: tuple[float, LineString] | None = None
    for j in tree.query(Point(end).buffer(GAP)):
        corners = np.asarray(lines[j].coords)
        if j == i:
            continue
        steps = corners - end
        distances = np.hypot(*steps.T)
        forward = steps @ ahead
        fits = (distances <= GAP) & (forward >= 0.7 * distances) & (distances > 0)
        if not fits.any():
            continue
        # a line's own end is a better partner than a point of it
        weight = distances - 4.0 * np.isin(np.arange(len(corners)), (0, len(corners) - 1))
        k = int(np.argmin(np.where(fits, weight, np.inf)))
        bridge = LineString([tuple(end), tuple(corners[k])])
        evidence = float(_at(likely, _along(bridge)).mean())
        if evidence >= EVIDENCE and (best is None or weight[k] < best[0]):
            best = float(weight[k]), bridge
    return None if best is None else best[1]


def _along(line: LineString) -> NDArray[np.float64]:
    """Points of a line, STEP apart."""
    count = max(2, int(line.length / STEP) + 1)
    return np.asarray(shapely.get_coordinates(shapely.line_interpolate_point(line, np.linspace(0, line.length, count))))


def _at(plane: NDArray[np.floating], points: NDArray[np.float64]) -> NDArray[np.floating]:
    rows = points[:, 1].astype(int).clip(0, plane.shape[0] - 1)
    columns = points[:, 0].astype(int).clip(0, plane.shape[1] - 1)
    return plane[rows, columns]


def _smoothed(line: LineString) -> NDArray[np.float64]:
    """A line of pixels -> points of a smooth one with the same ends, to the last bit, N x 2, STEP apart."""
    points = _along(line)
    reach = min(len(points) - 1, int(2 * BEND))
    # mirrored through its ends, which so stay where they are
    before, after = 2 * points[0] - points[reach:0:-1], 2 * points[-1] - points[-2 : -reach - 2 : -1]
    padded = np.concatenate([before, points, after])
    smooth = ndimage.gaussian_filter1d(padded, BEND / STEP, axis=0, mode="nearest")[reach : reach + len(points)]
    smooth[[0, -1]] = line.coords[0], line.coords[-1]  # rounding, and lines shorter than the filter, have moved them
    return np.asarray(smooth)


def _widths(points: NDArray[np.float64], plain: Floats) -> Floats:
    """How wide the road is around each point of a line, in pixels: as far as it is half as likely as in the middle."""
    ahead = np.gradient(points, axis=0)
    normal = np.stack([-ahead[:, 1], ahead[:, 0]], axis=1) / np.hypot(*ahead.T)[:, None].clip(1e-6)
    offsets = np.arange(-ACROSS, ACROSS + 1)
    profile = _at(plain, (points[:, None] + offsets[None, :, None] * normal[:, None]).reshape(-1, 2))
    profile = profile.reshape(len(points), len(offsets))
    peak = profile[:, ACROSS - 2 : ACROSS + 3].max(axis=1).clip(0.1)
    inside = profile >= 0.5 * peak[:, None]
    right = np.cumprod(inside[:, ACROSS:], axis=1).sum(axis=1)
    left = np.cumprod(inside[:, ACROSS::-1], axis=1).sum(axis=1)
    # the median, because a crossing is wider
    return np.asarray(ndimage.median_filter((right + left - 1).clip(1).astype(np.float32), LOCAL, mode="nearest"))


def _kinds(zoom: int, planes: list[Floats], points: NDArray[np.float64], widths: Floats) -> NDArray[np.int64]:
    """The class around each point, as its place in ORDER: the likeliest colour's, or for white ones the width's.

    planes: how likely white is, and then each colour of ROAD_COLOUR, H x W.
    """
    fillings = np.array([road_filling(kind, zoom) for kind in WHITE])
    kinds = np.abs(widths[:, None] - fillings).argmin(axis=1)
    most, *coloured = (_around(plane, points) for plane in planes)
    for kind, likely in zip(ROAD_COLOUR, coloured, strict=True):
        kinds[likely > most] = ORDER.index(kind)
        most = np.maximum(most, likely)
    return kinds


def _steady(kinds: NDArray[np.int64]) -> NDArray[np.int64]:
    """The classes along a line without short changes: the shortest stretch takes that of its longer neighbour."""
    edges = [0, *(np.flatnonzero(np.diff(kinds)) + 1).tolist(), len(kinds)]
    while len(edges) > 2:
        lengths = np.diff(edges)
        shortest = int(np.argmin(lengths))
        if lengths[shortest] >= STEADY:
            break
        before = lengths[shortest - 1] if shortest else 0
        after = lengths[shortest + 1] if shortest + 1 < len(lengths) else 0
        kinds[edges[shortest] : edges[shortest + 1]] = kinds[
            edges[shortest] - 1 if before >= after else edges[shortest + 1]
        ]
        edges = [0, *(np.flatnonzero(np.diff(kinds)) + 1).tolist(), len(kinds)]
    return kinds


def _around(plane: Floats, points: NDArray[np.float64]) -> Floats:
    return np.asarray(ndimage.uniform_filter1d(_at(plane, points), LOCAL, mode="nearest"))
