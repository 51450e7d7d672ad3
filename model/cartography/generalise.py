"""Objects for coarser zooms: what a parent tile shows of its children's objects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.features import rasterize, sieve
from scipy import ndimage
from shapely import LineString, Polygon
from shapely.affinity import scale

from tilecascade.model.cartography.areas import COVER, outlined
from tilecascade.model.cartography.objects import MapObject
from tilecascade.model.cartography.parts import GRID, assemble, cut_to, shifted
from tilecascade.model.cascade import TILE_SIZE
from tilecascade.model.style import BUILDINGS, road_width

MINOR = ("garages", "parking", "pitch", "allotments", "cemetery", "retail", "commercial", "park", "grass", "scrub")
"""Covers that are part of what surrounds them where there are no buildings."""

NOTHING = 255
"""Stands for places that no area covers, because there is no imagery."""

SMALLEST = 24
"""Pixels of the smallest area."""

SIMPLIFY = 0.8
"""Pixels by which outlines and lines may be moved when they are simplified."""

STUB = 8.0
"""Pixels of the shortest dead end that is shown."""

ISLAND = 16.0
"""Pixels of the shortest road that joins no other."""

HOUSE = 4.0
"""Pixels of the smallest building that is shown, where there are any."""


def parent_objects(children: Mapping[tuple[int, int], Sequence[MapObject]], zoom: int, margin: int) -> list[MapObject]:
    """The objects of a tile, in its pixels, of those of up to four children, each in its own, by (column, row).

    zoom: the parent's. margin: pixels of the parent around it that its objects are wanted for; the children have twice
    as many.
    """
    parts = []
    for (column, row), found in children.items():
        # beyond the parent's edge, but not into the other children
        left, top = (-2 * margin if place == 0 else 0 for place in (column, row))
        right, bottom = (TILE_SIZE + (2 * margin if place == 1 else 0) for place in (column, row))
        right_by, down_by = column * TILE_SIZE, row * TILE_SIZE
        box = shapely.box(left + right_by, top + down_by, right + right_by, bottom + down_by)
        parts.append((box, cut_to(box, shifted(found, right_by, down_by))))
    half = [
        replace(each, geometry=scale(each.geometry, 0.5, 0.5, origin=(0, 0)), width=each.width / 2)
        for each in assemble(parts)
    ]
    kept = [*_cover(half, zoom, margin), *_buildings(half, zoom), *_roads(half, zoom)]
    around = shapely.box(-margin, -margin, TILE_SIZE + margin, TILE_SIZE + margin)
    return cut_to(around, kept)


def _cover(found: Sequence[MapObject], zoom: int, margin: int) -> list[MapObject]:
    """Land cover without what is too small or minor at a zoom, which becomes part of what is around it."""
    areas = sorted((each for each in found if each.theme == "cover"), key=lambda each: -each.geometry.area)
    edge = TILE_SIZE + 2 * margin
    minor = MINOR if zoom < BUILDINGS else ()
    cover = _painted([(each, COVER.index(each.kind)) for each in areas], edge, margin, NOTHING)
    confidence = _painted([(each, each.confidence) for each in areas], edge, margin, 0)
    dissolved = np.isin(cover, [NOTHING, *(COVER.index(kind) for kind in minor)])
    if dissolved.any() and not dissolved.all():
        nearest = ndimage.distance_transform_edt(dissolved, return_distances=False, return_indices=True)
        cover = cover[tuple(nearest)]
    if (cover == NOTHING).any():
        return []
    cover = sieve(cover.astype(np.uint8), SMALLEST)
    return shifted(outlined(cover, confidence, 1, SIMPLIFY), -margin, -margin)


def _painted(areas: Sequence[tuple[MapObject, float]], edge: int, margin: int, fill: float) -> NDArray[np.float32]:
    """Values over the areas that have them, later ones over earlier ones, and `fill` elsewhere."""
    if not areas:
        return np.full((edge, edge), fill, dtype=np.float32)
    shapes = [(shifted([each], margin, margin)[0].geometry, value) for each, value in areas]
    return np.asarray(rasterize(shapes, (edge, edge), fill=fill, dtype=np.float32))


def _buildings(found: Sequence[MapObject], zoom: int) -> list[MapObject]:
    if zoom < BUILDINGS:
        return []
    large = [each for each in found if each.theme == "building" and each.geometry.area >= HOUSE]
    return [each for each in large if isinstance(each.geometry, Polygon)]


def _roads(found: Sequence[MapObject], zoom: int) -> list[MapObject]:
    """Roads of the classes that a zoom shows, without dead ends too short to see."""
    lines = [each for each in found if each.theme == "road" and road_width(each.kind, zoom) > 0]
    ends = Counter(point for each in lines for point in (each.geometry.coords[0], each.geometry.coords[-1]))
    kept = []
    for each in lines:
        free = sum(ends[point] == 1 for point in (each.geometry.coords[0], each.geometry.coords[-1]))
        if each.geometry.length >= (0.0, STUB, ISLAND)[free] or _leaves(each):
            line = shapely.set_precision(each.geometry.simplify(SIMPLIFY), GRID)
            if isinstance(line, LineString) and not line.is_empty:
                kept.append(replace(each, geometry=line))
    return kept


def _leaves(each: MapObject) -> bool:
    """Whether a line goes on beyond the tile, so that its length is not known."""
    left, top, right, bottom = each.geometry.bounds
    return bool(left <= 0 or top <= 0 or right >= TILE_SIZE or bottom >= TILE_SIZE)
