"""What people have said about objects of a map: it is there, it is not, or it looks like this.

A review changes what lies within its own outlines, and small buildings that are mostly within them, so blocks beside
each other make the same of it.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import shapely
from shapely import LineString, Point, Polygon
from shapely.affinity import translate
from shapely.geometry.base import BaseGeometry

from tilecascade.model.cartography.buildings import LARGEST, SMALLEST
from tilecascade.model.cartography.objects import MapObject, Theme
from tilecascade.model.cartography.parts import SAME
from tilecascade.model.style import FIRST_ROAD_ZOOM, ORDER, road_width

REACH = 1.5 * LARGEST
"""Pixels beyond its outlines that a review may change the map: a building that is taken away whole is not longer."""

BESIDE = 5.0
"""Pixels from the line of a reviewed road within which another line is the same road, at least."""

SLACK = 1.0
"""Pixels by which the end of what is left of a road may be farther away than that."""

CERTAIN = 1.0
"""Confidence of what a person has accepted or drawn."""


@dataclass(frozen=True)
class ReviewedObject:
    """One review in pixels of a zoom.

    theme, kind: as of a MapObject. seen: the object that was looked at; None for one that was missing. there: what is
    there according to the review; None for nothing.
    """

    theme: Theme
    kind: str
    seen: BaseGeometry | None
    there: BaseGeometry | None

    def shifted(self, right: float, down: float) -> ReviewedObject:
        """The same elsewhere."""
        seen, there = (None if each is None else translate(each, right, down) for each in (self.seen, self.there))
        return replace(self, seen=seen, there=there)


def reviewed(found: Iterable[MapObject], reviews: Sequence[ReviewedObject], zoom: int) -> list[MapObject]:
    """Objects of a zoom as the reviews have them, the last review last."""
    objects = list(found)
    for review in reviews:
        for outline in (review.seen, review.there):
            if outline is not None:
                objects = [part for each in objects for part in _without(each, review, outline, zoom)]
        if review.seen is not None and review.there is None and review.theme == "cover":
            objects.append(MapObject("cover", "land", review.seen, CERTAIN, reviewed=True))
        if review.there is not None and _is_shown(review, review.there, zoom):
            there, width = review.there, road_width(review.kind, zoom) if review.theme == "road" else 0.0
            if isinstance(there, LineString) and there.length:
                objects, there = _joined(objects, there, _beside(review, zoom))
            objects.append(MapObject(review.theme, review.kind, there, CERTAIN, width, reviewed=True))
    return objects


def _beside(review: ReviewedObject, zoom: int) -> float:
    """Pixels from a reviewed road within which another line is the same road."""
    return max(BESIDE, road_width(review.kind, zoom) / 2)


def _joined(found: list[MapObject], line: LineString, reach: float) -> tuple[list[MapObject], LineString]:
    """Objects, of which roads that end beside a reviewed one end on it, and that one, with a point where they do."""
    ends = Counter(end for each in found if each.theme == "road" for end in _ends(each.geometry))
    objects, places = [], dict[float, tuple[float, ...]]()
    for each in found:
        if each.theme != "road" or each.geometry.distance(line) > reach + SLACK:
            objects.append(each)
            continue
        points, near = list(each.geometry.coords), 0
        for end in _ends(each.geometry):
            away = line.distance(Point(end))
            if away > BESIDE and (away > reach + SLACK or ends[end] > 1):
                continue
            place = line.project(Point(end))
            met = places.setdefault(place, line.interpolate(place).coords[0])
            at = 0 if end == points[0] else len(points) - 1
            if away <= BESIDE:
                points[at], near = met, near + 1
            else:  # what was between has been taken away with the road that the reviewed one replaces
                points.insert(at and at + 1, met)
        if near < 2 or each.geometry.length > 4 * BESIDE:  # else it is a bit of the same road
            objects.append(replace(each, geometry=LineString(points)))
    along = np.cumsum([0.0, *(math.dist(*pair) for pair in itertools.pairwise(line.coords))]).tolist()
    places |= dict(zip(along, line.coords, strict=True))
    return objects, LineString([places[place] for place in sorted(places)])


def _ends(line: BaseGeometry) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return line.coords[0], line.coords[-1]


def _without(each: MapObject, review: ReviewedObject, outline: BaseGeometry, zoom: int) -> list[MapObject]:
    """What is left of an object where a review says something else."""
    if each.theme != review.theme or not each.geometry.intersects(outline):
        return [each]
    if each.theme == "building" and each.whole:
        shared = each.geometry.intersection(outline).area
        return [] if shared > SAME * min(each.geometry.area, outline.area) else [each]
    if each.theme == "road":
        beside = outline.buffer(_beside(review, zoom))
        # a road that only crosses the other one stays
        if each.geometry.intersection(beside).length < min(4 * BESIDE, 0.8 * each.geometry.length):
            return [each]
        return _pieces(each, each.geometry.difference(beside))
    return _pieces(each, each.geometry.difference(outline))


def _pieces(each: MapObject, geometry: BaseGeometry) -> list[MapObject]:
    wanted = LineString if each.theme == "road" else Polygon
    parts = shapely.get_parts(geometry)
    return [replace(each, geometry=part) for part in parts if isinstance(part, wanted) and not part.is_empty]


def _is_shown(review: ReviewedObject, there: BaseGeometry, zoom: int) -> bool:
    """Whether a zoom shows an object at all."""
    if review.theme == "building":
        return bool(there.area >= SMALLEST)
    if review.theme == "road":
        return zoom >= FIRST_ROAD_ZOOM and review.kind in ORDER and road_width(review.kind, zoom) > 0
    return True
