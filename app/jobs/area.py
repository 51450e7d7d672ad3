"""Areas whose tiles are wanted: a box in degrees, or GeoJSON polygons."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import mercantile
import numpy as np
from mercantile import Tile
from rasterio.features import bounds as bounds_of
from rasterio.features import is_valid_geom, rasterize
from rasterio.transform import from_origin
from rasterio.warp import transform_geom

from tilecascade.app.errors import AreaError

Bounds = tuple[float, float, float, float]

MAX_CELLS = 1 << 27
"""Largest number of tiles of one zoom in the bounding box of an area."""

EDGE = 1e-9
"""Degrees that an area ends before its eastern and southern edge: tiles that only touch it are not wanted."""


@dataclass(frozen=True)
class Area:
    """bounds: west, south, east, north in degrees. polygons: GeoJSON geometries as text; none: all of the box."""

    bounds: Bounds
    polygons: tuple[str, ...] = ()

    @classmethod
    def of_box(cls, bounds: Bounds) -> Area:
        """Raises AreaError for what is no box."""
        west, south, east, north = bounds
        if not (-180 <= west < east <= 180 and -90 <= south < north <= 90):
            raise AreaError(f"an area needs west < east and south < north, within the world, not {list(bounds)}")
        return cls(bounds)

    @classmethod
    def of_geojson(cls, given: dict[str, Any]) -> Area:
        """Of a Polygon or MultiPolygon, alone or in a Feature or FeatureCollection. Raises AreaError for all else."""
        shapes = list(_polygons(given))
        if not shapes:
            raise AreaError("the GeoJSON holds no polygon")
        edges = [bounds_of(shape) for shape in shapes]
        box = cls.of_box(
            (
                min(edge[0] for edge in edges),
                min(edge[1] for edge in edges),
                max(edge[2] for edge in edges),
                max(edge[3] for edge in edges),
            )
        )
        return cls(box.bounds, tuple(json.dumps(shape) for shape in shapes))

    def clipped(self, bounds: Bounds) -> Area | None:
        """The part within `bounds`; None if there is none."""
        west, south, east, north = (
            max(self.bounds[0], bounds[0]),
            max(self.bounds[1], bounds[1]),
            min(self.bounds[2], bounds[2]),
            min(self.bounds[3], bounds[3]),
        )
        return Area((west, south, east, north), self.polygons) if west < east and south < north else None

    def count(self, zoom: int) -> int:
        """How many tiles of a zoom the area touches. Raises AreaError if they are far too many."""
        grid = _grid_of(self, zoom)
        return grid.width * grid.height if grid.mask is None else int(grid.mask.sum())

    def tiles(self, zoom: int) -> Iterator[Tile]:
        """These tiles, row by row."""
        grid = _grid_of(self, zoom)
        for row in range(grid.height):
            columns = range(grid.width) if grid.mask is None else np.flatnonzero(grid.mask[row])
            for column in columns:
                yield Tile(grid.left + int(column), grid.top + row, zoom)


@dataclass(frozen=True, eq=False)
class _Grid:
    """Tiles of one zoom: a rectangle, and which of them are wanted (None: all)."""

    left: int
    top: int
    width: int
    height: int
    mask: np.ndarray | None


def _polygons(given: object) -> Iterator[dict[str, Any]]:
    kind = given.get("type") if isinstance(given, dict) else None
    if not isinstance(given, dict) or kind not in ("Polygon", "MultiPolygon", "Feature", "FeatureCollection"):
        raise AreaError(f"an area is a GeoJSON Polygon or MultiPolygon, not {str(kind)[:40]!r}")
    if kind in ("Polygon", "MultiPolygon"):
        if not is_valid_geom(given):
            raise AreaError(f"the {kind} has no rings of four or more positions each")
        yield given
    elif kind == "Feature":
        yield from _polygons(given.get("geometry"))
    else:
        for feature in given.get("features") or []:
            yield from _polygons(feature)


@lru_cache(maxsize=64)
def _grid_of(area: Area, zoom: int) -> _Grid:
    west, south, east, north = area.bounds
    first, last = mercantile.tile(west, north, zoom), mercantile.tile(east - EDGE, south + EDGE, zoom)
    width, height = last.x - first.x + 1, last.y - first.y + 1
    if width * height > MAX_CELLS:
        raise AreaError(f"{width * height} tiles at zoom {zoom} are too many for one job; take a smaller area")
    if not area.polygons:
        return _Grid(first.x, first.y, width, height, None)
    size = mercantile.CE / (1 << zoom)
    transform = from_origin(first.x * size - mercantile.CE / 2, mercantile.CE / 2 - first.y * size, size, size)
    shapes = [transform_geom("EPSG:4326", "EPSG:3857", json.loads(text)) for text in area.polygons]
    mask = rasterize(shapes, (height, width), transform=transform, all_touched=True, dtype="uint8")
    return _Grid(first.x, first.y, width, height, mask.astype(np.bool_))
