"""What coarser zooms show of the objects below them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import shapely
from shapely import LineString

from tilecascade.model.cartography.finish import draw
from tilecascade.model.cartography.generalise import parent_objects
from tilecascade.model.cartography.objects import MapObject
from tilecascade.model.cartography.parts import MARGIN, cut_to, shifted
from tilecascade.model.palette import LAND

WORLD = 512


def children(world: list[MapObject], margin: int = MARGIN) -> dict[tuple[int, int], list[MapObject]]:
    """A world of 2 x 2 tiles as its tiles have it."""
    found = {}
    for column, row in itertools.product(range(2), range(2)):
        left, top = 256 * column, 256 * row
        box = shapely.box(left - margin, top - margin, left + 256 + margin, top + 256 + margin)
        found[column, row] = shifted(cut_to(box, world), -left, -top)
    return found


def ground(kind: str = "forest", confidence: float = 0.9) -> MapObject:
    return MapObject("cover", kind, shapely.box(-MARGIN, -MARGIN, WORLD + MARGIN, WORLD + MARGIN), confidence)


def test_a_road_through_four_tiles_is_one_line_half_as_long() -> None:
    road = MapObject("road", "primary", LineString([(-16, 100), (260, 120), (400, 528)]), 0.8, 10.0)
    found = parent_objects(children([ground(), road]), 13, MARGIN // 2)
    (line,) = [each for each in found if each.theme == "road"]
    assert line.geometry.length == pytest.approx(road.geometry.length / 2, rel=0.01)
    assert line.width == pytest.approx(5.0)
    assert line.confidence == pytest.approx(0.8)


@pytest.mark.parametrize(("zoom", "kinds"), [(13, {"residential", "primary"}), (8, {"primary"})])
def test_a_zoom_shows_the_classes_of_roads_that_its_style_has(zoom: int, kinds: set[str]) -> None:
    roads = [
        MapObject("road", kind, LineString([(0, y), (WORLD, y)]), 0.8, 8.0)
        for kind, y in (("service", 100), ("residential", 200), ("primary", 300))
    ]
    found = parent_objects(children([ground(), *roads]), zoom, 0)
    assert {each.kind for each in found if each.theme == "road"} == kinds


def test_short_dead_ends_go_and_short_links_stay() -> None:
    roads = [
        MapObject("road", "primary", LineString([(20, 100), (200, 100)]), 0.8, 8.0),
        MapObject("road", "primary", LineString([(200, 100), (210, 100)]), 0.8, 8.0),
        MapObject("road", "primary", LineString([(210, 100), (400, 100)]), 0.8, 8.0),
        MapObject("road", "primary", LineString([(200, 100), (200, 110)]), 0.8, 8.0),
        MapObject("road", "primary", LineString([(210, 100), (210, 300)]), 0.8, 8.0),
        MapObject("road", "primary", LineString([(450, 450), (460, 460)]), 0.8, 8.0),
    ]
    found = [each for each in parent_objects(children([ground(), *roads]), 13, 0) if each.theme == "road"]
    total = sum(each.geometry.length for each in found)
    assert total == pytest.approx((180 + 10 + 190 + 200) / 2)


def test_small_and_minor_areas_become_part_of_what_is_around_them() -> None:
    world = [
        ground("residential"),
        MapObject("cover", "parking", shapely.box(100, 100, 180, 180), 0.5),
        MapObject("cover", "water", shapely.box(300, 300, 306, 306), 0.5),
        MapObject("cover", "water", shapely.box(20, 400, 120, 480), 0.7),
        MapObject("building", "building", shapely.box(200, 200, 240, 230), 0.9),
    ]
    found = parent_objects(children(world), 13, MARGIN // 2)
    assert {each.kind for each in found} == {"residential", "water"}
    (lake,) = [each for each in found if each.kind == "water"]
    assert lake.geometry.area == pytest.approx(100 * 80 / 4, rel=0.1)
    assert lake.confidence == pytest.approx(0.7, abs=0.1)
    assert all(each.geometry.is_valid for each in found)


def test_where_a_child_has_no_imagery_the_others_go_on() -> None:
    alone = {(1, 0): children([ground("water")])[1, 0]}
    found = parent_objects(alone, 13, 0)
    pixels = draw(found, (256, 256), 13)
    assert (pixels[:128, 128:] == (170, 211, 223)).all()
    assert not (pixels == np.array(LAND)).all()
    assert parent_objects({}, 13, 0) == []
