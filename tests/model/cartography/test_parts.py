"""Objects across blocks: cut apart as windows see them, and put together again, each once and whole."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import LineString, Polygon

from tilecascade.model.cartography.objects import MapObject
from tilecascade.model.cartography.parts import GRID, assemble, cut_to, shifted

SIZE, BEYOND, LARGEST = 512, 48, 48
BOXES = [
    shapely.box(SIZE * x, SIZE * y, SIZE * (x + 1), SIZE * (y + 1)) for y, x in itertools.product(range(2), range(2))
]

place = st.integers(20 * 16, (2 * SIZE - 20) * 16).map(lambda sixteenths: sixteenths / 16)
houses = st.lists(
    st.tuples(place, place, st.integers(4, 40), st.integers(4, 40), st.floats(0.3, 1)), min_size=1, max_size=12
)
streets = st.lists(st.tuples(st.booleans(), place), min_size=1, max_size=4, unique=True)


def house(x: float, y: float, width: int, height: int, confidence: float) -> MapObject:
    box = shapely.box(x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return MapObject("building", "building", shapely.set_precision(box, GRID), confidence)


def seen(box: Polygon, world: list[MapObject]) -> list[MapObject]:
    """What the window around a block sees of a world: all within it, and parts of what goes on beyond."""
    window = box.buffer(BEYOND, join_style="mitre")
    found = []
    for each in world:
        if not each.geometry.intersects(window):
            continue
        inside = each.geometry.within(window)
        left, top, right, bottom = each.geometry.bounds
        whole = inside and max(right - left, bottom - top) <= LARGEST
        for part in shapely.get_parts(each.geometry.intersection(window)):
            if part.geom_type == each.geometry.geom_type:
                found.append(replace(each, geometry=part, whole=whole if each.theme == "building" else True))
    return found


def put_together(world: list[MapObject], boxes: list[Polygon] = BOXES) -> list[MapObject]:
    return assemble([(box, cut_to(box, seen(box, world))) for box in boxes])


@settings(max_examples=60)
@given(given=houses)
def test_houses_come_back_each_once(given: list[tuple[float, float, int, int, float]]) -> None:
    world = [house(*each) for each in given]
    # houses that overlap are another matter: a map has none
    world = [
        each
        for i, each in enumerate(world)
        if not any(each.geometry.buffer(1).intersects(other.geometry) for other in world[:i])
    ]
    found = put_together(world)
    assert sorted(each.geometry.normalize().wkt for each in found) == sorted(
        each.geometry.normalize().wkt for each in world
    )
    assert sorted(each.confidence for each in found) == pytest.approx(sorted(each.confidence for each in world))


@settings(max_examples=40)
@given(given=streets)
def test_streets_come_back_as_long_as_they_were(given: list[tuple[bool, float]]) -> None:
    end = 2.0 * SIZE
    world = [
        MapObject("road", "residential", LineString([(at, 0), (at, end)] if down else [(0, at), (end, at)]), 0.5, 8.0)
        for down, at in given
    ]
    found = put_together(world)
    # a street along a border belongs to both blocks, and still is one
    wanted = shapely.union_all([each.geometry for each in world])
    assert shapely.union_all([each.geometry for each in found]).symmetric_difference(wanted).length < 1
    assert all(each.width == pytest.approx(8.0) for each in found)


def test_a_road_across_blocks_is_one_line() -> None:
    road = MapObject("road", "tertiary", LineString([(5, 100), (600, 120), (1000, 900)]), 0.7, 6.0)
    (found,) = put_together([road])
    assert found.geometry.length == pytest.approx(road.geometry.length, abs=0.5)
    assert (found.kind, found.confidence, found.width) == ("tertiary", pytest.approx(0.7), pytest.approx(6.0))


def test_roads_that_are_seen_some_pixels_apart_are_joined_at_the_border() -> None:
    left = MapObject("road", "residential", LineString([(100, 200), (SIZE, 200)]), 0.5, 8.0)
    right = MapObject("road", "residential", LineString([(SIZE, 206), (900, 206)]), 0.9, 8.0)
    parts = [(BOXES[0], cut_to(BOXES[0], [left])), (BOXES[1], cut_to(BOXES[1], [right]))]
    (found,) = assemble(parts)
    assert (SIZE, 203) in {tuple(point) for point in found.geometry.coords}
    assert 0.5 < found.confidence < 0.9
    far = replace(right, geometry=shapely.transform(right.geometry, lambda points: points + np.array([0, 30])))
    assert len(assemble([parts[0], (BOXES[1], cut_to(BOXES[1], [far]))])) == 2


def test_a_crossing_stays_a_crossing() -> None:
    world = [
        MapObject("road", "residential", LineString([(100, 256), (300, 256)]), 0.5, 8.0),
        MapObject("road", "residential", LineString([(300, 256), (500, 256)]), 0.5, 8.0),
        MapObject("road", "residential", LineString([(300, 100), (300, 256)]), 0.5, 8.0),
    ]
    assert len(put_together(world, BOXES[:1])) == 3


def test_a_large_building_across_a_border_is_one() -> None:
    hall = MapObject("building", "building", shapely.box(400, 100, 700, 180), 0.8)
    (found,) = put_together([hall])
    assert found.geometry.equals(hall.geometry)
    assert not found.whole


def test_what_one_block_sees_whole_and_another_in_part_is_one() -> None:
    whole = MapObject("building", "building", shapely.box(480, 100, 530, 130), 0.8)
    part = MapObject("building", "building", shapely.box(470, 101, 531, 131), 0.6, whole=False)
    found = assemble([(BOXES[0], cut_to(BOXES[0], [whole])), (BOXES[1], cut_to(BOXES[1], [part]))])
    assert [each.geometry.normalize() for each in found] == [whole.geometry.normalize()]


def test_areas_that_touch_are_one_with_their_holes() -> None:
    wood = shapely.box(100, 100, 900, 900).difference(shapely.box(450, 450, 600, 600))
    other = MapObject("cover", "water", shapely.box(20, 20, 90, 90), 0.9)
    found = put_together([MapObject("cover", "forest", wood, 0.6), other])
    assert len(found) == 2
    (forest,) = [each for each in found if each.kind == "forest"]
    assert forest.geometry.equals(wood)
    assert forest.confidence == pytest.approx(0.6)


def test_shifting_moves_everything() -> None:
    (moved,) = shifted([house(10, 10, 4, 4, 1.0)], 5, -3)
    assert moved.geometry.bounds == (13, 5, 17, 9)
