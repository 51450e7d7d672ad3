"""Objects across blocks: what a block has of the objects in its window, and whole objects from what blocks have."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import shapely
from scipy.spatial import cKDTree
from shapely import LineString, MultiLineString, Polygon, STRtree
from shapely.affinity import translate
from shapely.geometry.base import BaseGeometry

from tilecascade.model.cartography.objects import MapObject

GRID = 1 / 16
"""Pixels that coordinates are multiples of."""

MARGIN = 16
"""Pixels beyond a block that its objects are kept for, so that drawings of them have no edge at its border."""

NEAR_BORDER = 2.0
"""Pixels beyond a block where the centre of a building may lie that belongs to it: two windows may see the centre on
different sides of their border, and then both have it rather than neither."""

SNAP = 10.0
"""Pixels between the ends of two roads at the common border of their blocks that are joined."""

SAME = 0.5
"""Share of the smaller of two buildings of different blocks that the larger one covers when they are the same."""

Part = tuple[shapely.Polygon, Sequence[MapObject]]
"""A box, and what lies in it."""


def cut_to(box: Polygon, found: Iterable[MapObject]) -> list[MapObject]:
    """What a box has of objects: lines, areas and parts of buildings are cut; of whole buildings, all that reach into
    it, with `own` for those whose centre is (nearly) inside."""
    left, top, right, bottom = box.bounds
    kept = []
    for each in found:
        if each.theme == "building" and each.whole:
            if each.geometry.intersects(box):
                x, y = each.geometry.centroid.x, each.geometry.centroid.y
                inside = left - NEAR_BORDER <= x < right + NEAR_BORDER and top - NEAR_BORDER <= y < bottom + NEAR_BORDER
                kept += _pieces(each, each.geometry, each.own and inside)
        elif each.geometry.intersects(box):
            kept += _pieces(each, each.geometry.intersection(box), each.own)
    return kept


def shifted(found: Iterable[MapObject], right: float, down: float) -> list[MapObject]:
    """The same objects elsewhere."""
    return [replace(each, geometry=translate(each.geometry, right, down)) for each in found]


def _pieces(each: MapObject, geometry: BaseGeometry, own: bool) -> list[MapObject]:
    """An object with another geometry, as as many objects as that has parts of its kind."""
    wanted = LineString if each.theme == "road" else Polygon
    parts = shapely.get_parts(shapely.set_precision(geometry, GRID))
    return [
        replace(each, geometry=part, own=own)
        for part in parts
        if isinstance(part, wanted) and not part.is_empty and part.length > GRID
    ]


def assemble(parts: Sequence[Part]) -> list[MapObject]:
    """What several boxes have, in common coordinates -> each object once and whole.

    Buildings that two boxes have become one; roads that end at a common border are joined there, and parts of one class
    that meet are one line; areas of one kind that touch are one area.
    """
    return [*_areas(parts), *_buildings(parts), *_roads(parts)]


def _areas(parts: Sequence[Part]) -> list[MapObject]:
    by_kind: dict[str, list[MapObject]] = defaultdict(list)
    for _, found in parts:
        for each in found:
            if each.theme == "cover":
                by_kind[each.kind].append(each)
    return [area for some in by_kind.values() for area in _united(some)]


def _united(some: list[MapObject]) -> list[MapObject]:
    """Touching polygons as one, with the mean confidence of its parts by area."""
    geometries = np.array([each.geometry for each in some])
    whole = shapely.get_parts(shapely.union_all(geometries, grid_size=GRID))
    owners = STRtree(whole).query(shapely.point_on_surface(geometries), predicate="intersects")
    weights, sums = np.zeros(len(whole)), np.zeros(len(whole))
    reviewed = np.ones(len(whole), dtype=np.bool_)
    sizes = shapely.area(geometries)
    for part, owner in owners.T:
        weights[owner] += sizes[part]
        sums[owner] += sizes[part] * some[part].confidence
        reviewed[owner] &= some[part].reviewed
    return [
        replace(
            some[0],
            geometry=geometry,
            confidence=float(sums[i] / max(weights[i], 1e-9)),
            reviewed=bool(reviewed[i]),
        )
        for i, geometry in enumerate(whole)
        if isinstance(geometry, Polygon)
    ]


def _buildings(parts: Sequence[Part]) -> list[MapObject]:
    """Without what two boxes have: the one that was seen whole, or the larger, is kept; parts that touch are one."""
    found = [(number, each) for number, (_, some) in enumerate(parts) for each in some if each.theme == "building"]
    found = [(number, each) for number, each in found if each.own]
    if not found:
        return []
    geometries: list[BaseGeometry] = [each.geometry for _, each in found]
    sizes = shapely.area(geometries)
    order = sorted(range(len(found)), key=lambda i: (not found[i][1].whole, -sizes[i], geometries[i].bounds))
    rank = np.empty(len(found), dtype=int)
    rank[order] = np.arange(len(found))
    dropped: set[int] = set()
    pairs = STRtree(geometries).query(geometries, predicate="intersects").T
    ranked = sorted((rank[i], rank[j]) for i, j in pairs if rank[i] < rank[j])
    for i, j in ((order[first], order[second]) for first, second in ranked):
        if i in dropped or j in dropped or found[i][0] == found[j][0]:
            continue
        if geometries[i].intersection(geometries[j]).area > SAME * min(sizes[i], sizes[j]):
            dropped.add(j)
    kept = [each for i, (_, each) in enumerate(found) if i not in dropped]
    partial = [each for each in kept if not each.whole]
    return [each for each in kept if each.whole] + (_united(partial) if partial else [])


def _roads(parts: Sequence[Part]) -> list[MapObject]:
    found = [(box, each) for box, some in parts for each in some if each.theme == "road"]
    if not found:
        return []
    lines = _joined([box for box, _ in found], [each for _, each in found])
    merged = []
    for kind in dict.fromkeys(each.kind for each in lines):
        some = [each for each in lines if each.kind == kind]
        pieces = np.array([each.geometry for each in some])
        middles = shapely.line_interpolate_point(pieces, 0.5, normalized=True)
        wholes = shapely.get_parts(shapely.line_merge(MultiLineString(list(pieces))))
        near = STRtree(wholes).query_nearest(middles, all_matches=False)[1]
        lengths = shapely.length(pieces)
        for i, whole in enumerate(wholes):
            mine = np.flatnonzero(near == i)
            if not len(mine):
                continue
            weight = lengths[mine] / max(lengths[mine].sum(), 1e-9)
            merged.append(
                MapObject(
                    "road",
                    kind,
                    whole,
                    float((weight * [some[k].confidence for k in mine]).sum()),
                    float((weight * [some[k].width for k in mine]).sum()),
                    reviewed=all(some[k].reviewed for k in mine),
                )
            )
    return merged


def _joined(boxes: list[Polygon], roads: list[MapObject]) -> list[MapObject]:
    """With the ends of roads that meet at a common border of their boxes moved to the middle between them."""
    coordinates = [shapely.get_coordinates(each.geometry) for each in roads]
    ends, owners = [], []
    for i, (box, points) in enumerate(zip(boxes, coordinates, strict=True)):
        left, top, right, bottom = box.bounds
        for at in (0, -1):
            x, y = points[at]
            if min(abs(x - left), abs(x - right), abs(y - top), abs(y - bottom)) <= GRID:
                ends.append((x, y))
                owners.append((i, at))
    if ends:
        taken: set[int] = set()
        pairs = cKDTree(ends).query_pairs(SNAP)
        places = np.array(ends)

        def worth(pair: tuple[int, int]) -> tuple[bool, float, list[float]]:
            a, b = pair
            other = roads[owners[a][0]].kind != roads[owners[b][0]].kind
            return other, float(np.hypot(*(places[a] - places[b]))), sorted((*ends[a], *ends[b]))

        for a, b in sorted(pairs, key=worth):
            if a in taken or b in taken or boxes[owners[a][0]].equals(boxes[owners[b][0]]):
                continue
            taken |= {a, b}
            middle = np.round((places[a] + places[b]) / 2 / GRID) * GRID
            for i, at in (owners[a], owners[b]):
                coordinates[i][at] = middle
    return [replace(each, geometry=LineString(points)) for each, points in zip(roads, coordinates, strict=True)]
