"""Map objects as bytes and as GeoJSON, and back."""

from __future__ import annotations

import mercantile
import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from mercantile import Tile
from shapely import LineString

from tilecascade.app.tiles.formats import is_whole
from tilecascade.app.tiles.geojson import box_of, degrees_of, feature, object_of, pixels_of, tile_at
from tilecascade.app.tiles.objects import decode_objects, encode_objects
from tilecascade.model.cartography.objects import MapObject
from tilecascade.model.cartography.parts import GRID

FOUND = [
    MapObject("cover", "forest", shapely.box(0, 0, 90, 90).difference(shapely.box(10, 10, 20, 20.0625)), 0.25),
    MapObject("building", "building", shapely.box(-3.5, 4, 20, 30), 0.875, whole=False),
    MapObject("building", "building", shapely.box(505, 4, 520, 30), 0.5, own=False),
    MapObject("road", "primary", LineString([(0, 3), (17.25, 99)]), 1.0, 9.5),
]


def test_objects_come_back_from_bytes() -> None:
    data = encode_objects(FOUND)
    assert decode_objects(data) == FOUND
    assert encode_objects(FOUND) == data
    assert encode_objects([]) != data
    assert decode_objects(encode_objects([])) == []


def test_a_damaged_file_of_objects_is_noticed() -> None:
    data = encode_objects(FOUND)
    assert is_whole(data)
    for place in (0, len(data) // 2, len(data) - 1):
        assert not is_whole(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]) or place == 0
    assert not is_whole(data[:-1])


@given(
    zoom=st.integers(8, 22),
    x=st.floats(-179, 179),
    y=st.floats(-80, 80),
    size=st.integers(1, 4000),
)
def test_degrees_lead_back_to_the_same_pixels(zoom: int, x: float, y: float, size: int) -> None:
    window = box_of(mercantile.tile(x, y, zoom)).bounds
    left, top = window[0] + 3 * GRID, window[1] + GRID
    box = shapely.box(left, top, left + size * GRID, top + 2 * size * GRID)
    assert pixels_of(degrees_of(box, zoom), zoom).normalize() == box.normalize()
    west, south, east, north = mercantile.bounds(mercantile.tile(x, y, zoom))
    assert box_of(mercantile.tile(x, y, zoom)).bounds == pytest.approx(
        pixels_of(shapely.box(west, south, east, north), zoom).bounds, abs=2 * GRID
    )


def test_a_feature_says_what_it_is_and_leads_back() -> None:
    tile = Tile(35000, 22500, 16)
    left, top = box_of(tile).bounds[:2]
    for each in FOUND:
        place = shapely.transform(each.geometry, lambda points: points + np.array([left, top]))
        there = MapObject(each.theme, each.kind, place, each.confidence, each.width, each.whole)
        made = feature(there, 16, {"zoom": 16, "generated": True})
        assert made["properties"]["class"] == each.kind
        back = object_of(made)
        assert back.geometry.normalize() == place.normalize()
        assert (back.theme, back.kind, back.whole) == (each.theme, each.kind, each.whole)
        assert back.width == pytest.approx(each.width, abs=0.02)
    assert tile_at(MapObject("building", "building", shapely.box(left, top, left + 9, top + 9), 1), 16) == tile
