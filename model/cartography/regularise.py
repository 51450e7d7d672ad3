"""Straight walls and right angles for the outline of a building."""

from __future__ import annotations

import math

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import Polygon
from shapely.geometry.base import BaseGeometry

Floats = NDArray[np.float64]

TOLERANCE = 1.0
"""Pixels by which an outline may be moved when it is simplified."""

SHORT = 3.0
"""Pixels of the shortest wall."""

BETTER = 1.02
"""How much more of an outline the rectangle along its smallest rectangle must share than the one along its walls."""

RECTANGULAR = 0.8
"""Share of its smallest rectangle along its axis that an outline fills to be drawn as a rectangle."""

ALIKE = 0.7
"""Intersection over union with what was seen below which an outline is not squared, but left as it was seen."""

EVEN, COARSE, SHORT_OF_LARGE, NEAR = 3.0, 2.0, 6.0, 32.0
"""Of large buildings: pixels of the deepest notch that is filled, pixels by which an outline may be moved when it is
simplified, pixels of the shortest wall, and the distance over which walls agree about their direction."""


def regularise(polygon: Polygon) -> Polygon:
    """The outline of a building -> one with walls at right angles, of about the same area. Holes are closed.

    A compact outline becomes a rectangle along its main axis; others have each wall turned to the nearer of both axes.
    What looks like neither stays as it is, simplified. Depends on the polygon alone.
    """
    outline = Polygon(_ring(Polygon(polygon.exterior).simplify(TOLERANCE)))
    if outline.is_empty or not outline.is_valid:
        return polygon
    ring = _ring(outline)
    # of few pixels, walls say less about the axis than the smallest rectangle around them
    angle = main_axis(ring)
    around = main_axis(_ring(shapely.minimum_rotated_rectangle(outline)))
    squared, other = _rectangle(outline, angle), _rectangle(outline, around)
    if other.intersection(outline).area > BETTER * squared.intersection(outline).area:
        angle, squared = around, other
    left, top, right, bottom = Polygon(ring @ _turn(-angle)).bounds
    if outline.area < RECTANGULAR * (right - left) * (bottom - top):
        squared = _squared(ring, np.full(len(ring) - 1, angle), SHORT) or squared
    shared = squared.intersection(outline).area
    return squared if shared >= ALIKE * (squared.area + outline.area - shared) else outline


def straighten(polygon: Polygon) -> Polygon:
    """The outline of a large building -> one whose walls follow the axis of the walls near them. Holes are closed.

    Each wall depends on what lies near it, so that two windows which see different parts of one building agree about
    what they share.
    """
    filled = Polygon(polygon.exterior)
    even = filled
    for distance in (EVEN, -2 * EVEN, EVEN):
        even = even.buffer(distance, join_style="mitre")
    largest = max(shapely.get_parts(even), key=lambda part: part.area, default=filled)
    ring = _ring(Polygon(_ring(largest)).simplify(COARSE))
    if len(ring) < 4:
        return filled
    steps = np.diff(ring, axis=0)
    middles = (ring[:-1] + ring[1:]) / 2
    apart = ((middles[:, None] - middles[None]) ** 2).sum(axis=2)
    fourfold = (steps**2).sum(axis=1) * np.exp(4j * np.arctan2(steps[:, 1], steps[:, 0]))
    axes = np.unwrap(np.angle(np.exp(-apart / (2 * NEAR**2)) @ fourfold)) / 4
    straight = _squared(ring, axes, SHORT_OF_LARGE) or Polygon(ring)
    return straight if straight.is_valid else filled


def main_axis(ring: Floats) -> float:
    """The direction of most of a closed ring's length, modulo a right angle, in radians.

    Fourfold mean of the directions of its edges, weighted by the squares of their lengths: a long wall says more than
    many short ones.
    """
    steps = np.diff(ring, axis=0)
    fourfold = (steps**2).sum(axis=1) * np.exp(4j * np.arctan2(steps[:, 1], steps[:, 0]))
    return float(np.angle(fourfold.sum())) / 4


def _ring(polygon: BaseGeometry) -> Floats:
    """The corners of a polygon's outline, the first once more at the end."""
    return shapely.get_coordinates(shapely.get_exterior_ring(polygon))


def _turn(angle: float) -> Floats:
    """What rows (x, y) are multiplied by to be turned by an angle in radians."""
    return np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])


def _rectangle(outline: Polygon, angle: float) -> Polygon:
    """The rectangle along an axis that has an outline's centre, spread and area."""
    upright = Polygon(_ring(outline) @ _turn(-angle))
    left, top, right, bottom = upright.bounds
    shrink = math.sqrt(upright.area / max((right - left) * (bottom - top), 1e-9)) / 2
    half_width, half_height = (right - left) * shrink, (bottom - top) * shrink
    # a ragged end moves the bounds, not the centroid
    x, y = upright.centroid.x, upright.centroid.y
    rectangle = shapely.box(x - half_width, y - half_height, x + half_width, y + half_height)
    return Polygon(_ring(rectangle) @ _turn(angle))


def _squared(ring: Floats, axes: Floats, short: float) -> Polygon | None:
    """A closed ring of N edges, every one turned to its axis (N, radians) or the perpendicular, whichever is nearer.

    None if too little is left of it.
    """
    steps = np.diff(ring, axis=0)
    lengths = np.hypot(*steps.T)
    off = np.arctan2(steps[:, 1], steps[:, 0]) - axes
    along = np.abs(np.cos(off)) >= np.abs(np.sin(off))
    runs = _runs(along)
    while len(runs) >= 4:
        spans = [lengths[run].sum() for run in runs]
        shortest = int(np.argmin(spans))
        if spans[shortest] >= short:
            break
        # a short wall is a step in the outline: its neighbours, which have the other direction, become one wall
        runs = _joined(runs, shortest)
    if len(runs) < 4:
        return None
    middles = (ring[:-1] + ring[1:]) / 2
    points, directions = [], []
    for run in runs:
        weight = np.where(along[run] == along[run[0]], lengths[run], 0)
        points.append((middles[run] * weight[:, None]).sum(axis=0) / weight.sum())
        directions.append((axes[run] * weight).sum() / weight.sum() + (0 if along[run[0]] else math.pi / 2))
    ahead = np.stack([np.cos(directions), np.sin(directions)], axis=1)
    corners = []
    for i in range(len(runs)):
        gap = points[i] - points[i - 1]
        cross = ahead[i - 1, 0] * ahead[i, 1] - ahead[i - 1, 1] * ahead[i, 0]
        corners.append(points[i - 1] + (gap[0] * ahead[i, 1] - gap[1] * ahead[i, 0]) / cross * ahead[i - 1])
    squared = Polygon(corners)
    return squared if squared.is_valid and squared.area > 0 else None


def _runs(along: NDArray[np.bool_]) -> list[list[int]]:
    """Successive edges of one direction, around a closed ring."""
    first = int(np.argmax(along != along[-1]))
    runs: list[list[int]] = []
    for i in range(len(along)):
        edge = (first + i) % len(along)
        if runs and along[runs[-1][0]] == along[edge]:
            runs[-1].append(edge)
        else:
            runs.append([edge])
    return runs


def _joined(runs: list[list[int]], short: int) -> list[list[int]]:
    """Runs around a ring without a short one, whose neighbours have become one run."""
    before, middle, after, *others = runs[short - 1 :] + runs[: short - 1] if short else runs[-1:] + runs[:-1]
    return [before + middle + after, *others]
