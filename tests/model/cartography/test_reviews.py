"""Reviews of objects: what they take away, what they put there, and that neighbouring windows agree about it."""

from __future__ import annotations

import shapely
from hypothesis import given
from hypothesis import strategies as st
from shapely import LineString

from tilecascade.model.cartography.objects import MapObject
from tilecascade.model.cartography.parts import shifted
from tilecascade.model.cartography.reviews import REACH, ReviewedObject, reviewed

HOUSE = MapObject("building", "building", shapely.box(10, 10, 30, 26), 0.7)
OTHER = MapObject("building", "building", shapely.box(60, 10, 80, 26), 0.7)
HALL = MapObject("building", "building", shapely.box(100, 0, 300, 200), 0.8, whole=False)
STREET = MapObject("road", "residential", LineString([(0, 60), (400, 60)]), 0.9, 8.0)
CROSSING = MapObject("road", "residential", LineString([(50, 0), (50, 400)]), 0.9, 8.0)
WOOD = MapObject("cover", "forest", shapely.box(0, 0, 400, 400), 0.9)
ALL = [WOOD, HOUSE, OTHER, HALL, STREET, CROSSING]


def said(each: MapObject, there: shapely.Geometry | None, seen: bool = True) -> ReviewedObject:
    return ReviewedObject(each.theme, each.kind, each.geometry if seen else None, there)


def test_without_reviews_nothing_changes() -> None:
    assert reviewed(ALL, [], 17) == ALL


def test_a_rejected_house_is_gone_and_its_neighbour_stays() -> None:
    left = reviewed(ALL, [said(HOUSE, None)], 17)
    assert left == [each for each in ALL if each is not HOUSE]
    # at the next zoom the network sees another outline of the same house
    seen = ReviewedObject("building", "building", shapely.box(12, 8, 32, 25), None)
    assert reviewed(ALL, [seen], 17) == left


def test_what_is_accepted_or_drawn_is_certain_and_there_once() -> None:
    drawn = shapely.box(8, 8, 28, 40)
    for there in (HOUSE.geometry, drawn):
        houses = [each for each in reviewed(ALL, [said(HOUSE, there)], 17) if each.reviewed]
        assert [(each.geometry, each.confidence) for each in houses] == [(there, 1.0)]
    missing = reviewed([WOOD], [said(HOUSE, drawn, seen=False)], 17)
    assert [each.geometry for each in missing] == [WOOD.geometry, drawn]
    assert reviewed([WOOD], [said(HOUSE, shapely.box(0, 0, 2, 2), seen=False)], 17) == [WOOD]  # too small for a zoom


def test_of_a_large_building_only_the_rejected_part_goes() -> None:
    part = ReviewedObject("building", "building", shapely.box(100, 0, 150, 200), None)
    (hall,) = (each for each in reviewed(ALL, [part], 17) if not each.whole)
    assert hall.geometry.equals(shapely.box(150, 0, 300, 200))


def test_a_rejected_road_goes_where_it_runs_and_what_crosses_it_stays() -> None:
    part = ReviewedObject("road", "residential", LineString([(100, 61), (200, 59)]), None)
    left = [each for each in reviewed(ALL, [part], 17) if each.theme == "road"]
    assert CROSSING in left
    lengths = sorted(each.geometry.length for each in left if each is not CROSSING)
    assert len(lengths) == 2
    assert sum(lengths) < 310


def test_streets_that_meet_a_redrawn_road_go_on_to_it() -> None:
    """What was between them went with the road that it replaces. They have a point in common then, as files want."""
    bent = MapObject("road", "residential", LineString([(200, 60), (300, 61), (300, 200)]), 0.9, 8.0)
    street = MapObject("road", "residential", LineString([(120, 62), (120, 200)]), 0.9, 8.0)
    through = LineString([(0, 60), (150, 58), (400, 60)])
    found = reviewed([WOOD, bent, street], [ReviewedObject("road", "secondary", None, through)], 17)
    *left, road = (each for each in found if each.theme == "road")
    assert road.reviewed
    assert len(left) == 2
    for each in left:
        met = {*each.geometry.coords} & {*road.geometry.coords}
        assert len(met) == 1
        assert each.geometry.length > 135
    assert {*through.coords} <= {*road.geometry.coords}
    assert road.geometry.hausdorff_distance(through) < 1e-6
    # a road that is a point at this zoom does no harm
    point = LineString([(150, 60), (150, 60)])
    assert len(reviewed([WOOD, street], [ReviewedObject("road", "secondary", None, point)], 17)) == 3
    # nothing is led to a road that is only taken away
    gone = reviewed([bent, street], [ReviewedObject("road", "secondary", through, None)], 17)
    assert all(each.geometry.distance(through) > 1 for each in gone)


def test_rejected_ground_is_unmapped_and_other_ground_takes_the_place_of_redrawn() -> None:
    lake = shapely.box(100, 100, 200, 200)
    wrong = reviewed([WOOD], [ReviewedObject("cover", "forest", lake, None)], 17)
    assert [each.kind for each in wrong] == ["forest", "land"]
    assert wrong[0].geometry.area + wrong[1].geometry.area == WOOD.geometry.area
    water = reviewed([WOOD], [ReviewedObject("cover", "water", None, lake)], 17)
    assert [(each.kind, each.reviewed) for each in water] == [("forest", False), ("water", True)]


def test_the_last_word_counts() -> None:
    first, last = said(HOUSE, None), said(HOUSE, HOUSE.geometry)
    assert any(each.reviewed for each in reviewed(ALL, [first, last], 17))
    assert not any(each.reviewed for each in reviewed(ALL, [last, first], 17))


@given(
    x=st.integers(-60, 400), y=st.integers(-60, 400), width=st.integers(2, 80), height=st.integers(2, 80),
    right=st.integers(-500, 500), down=st.integers(-500, 500),
)  # fmt: skip
def test_a_review_changes_nothing_far_away_and_the_same_from_every_window(
    x: int, y: int, width: int, height: int, right: int, down: int
) -> None:
    outline = shapely.box(x, y, x + width, y + height)
    review = ReviewedObject("building", "building", outline, None)
    changed = reviewed(ALL, [review], 17)
    near = outline.buffer(REACH)
    for each in ALL:
        if not each.geometry.intersects(near):
            assert each in changed
    before, after = (shapely.union_all([o.geometry for o in some if o.theme == "building"]) for some in (ALL, changed))
    assert before.difference(after).difference(near).area == 0
    elsewhere = reviewed(shifted(ALL, right, down), [review.shifted(right, down)], 17)
    assert [each.geometry.normalize() for each in elsewhere] == [
        each.geometry.normalize() for each in shifted(changed, right, down)
    ]
