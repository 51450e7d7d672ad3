"""The map objects of a block as bytes, for the store."""

from __future__ import annotations

import json
import zlib
from typing import Any

import numpy as np
import shapely
from shapely import LineString, Polygon
from shapely.geometry.base import BaseGeometry

from tilecascade.app.tiles.formats import CHECKSUM, with_checksum
from tilecascade.model.cartography.objects import MapObject
from tilecascade.model.cartography.parts import GRID

HEAD = b"tilecascade objects 2 " + CHECKSUM + b"00000000\n"


def encode_objects(found: list[MapObject]) -> bytes:
    """Objects whose coordinates are multiples of GRID -> a checksum and compressed JSON. The same bytes each time."""
    plain = [
        (o.theme, o.kind, round(o.confidence, 3), round(o.width, 2), o.whole, o.own, o.reviewed, _rings(o.geometry))
        for o in found
    ]
    return with_checksum(HEAD + zlib.compress(json.dumps(plain, separators=(",", ":")).encode(), 6))


def decode_objects(data: bytes) -> list[MapObject]:
    """Inverse of `encode_objects`, up to its rounding."""
    plain: list[list[Any]] = json.loads(zlib.decompress(data[len(HEAD) :]))
    return [
        MapObject(theme, kind, _geometry(theme, rings), confidence, width, whole, own, reviewed)
        for theme, kind, confidence, width, whole, own, reviewed, rings in plain
    ]


def _rings(geometry: BaseGeometry) -> list[list[int]]:
    """Each ring, or the line, as x, y, x, y, ... in units of GRID."""
    rings = [geometry.exterior, *geometry.interiors] if isinstance(geometry, Polygon) else [geometry]
    return [np.rint(shapely.get_coordinates(ring) / GRID).astype(int).ravel().tolist() for ring in rings]


def _geometry(theme: str, rings: list[list[int]]) -> BaseGeometry:
    points = [np.array(ring, dtype=float).reshape(-1, 2) * GRID for ring in rings]
    return LineString(points[0]) if theme == "road" else Polygon(points[0], points[1:])
