"""The cartographic finish: what objects a class field gives, and that neighbouring windows agree about them."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import shapely
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from shapely import Polygon
from shapely.affinity import rotate, translate

from tilecascade.model.cartography.areas import areas
from tilecascade.model.cartography.buildings import LARGEST, buildings
from tilecascade.model.cartography.field import CELL, NAMES, ClassField, Floats
from tilecascade.model.cartography.finish import draw, objects
from tilecascade.model.cartography.regularise import main_axis, regularise, straighten
from tilecascade.model.cartography.roads import roads
from tilecascade.model.palette import PALETTE, classify

EDGE, MARGIN = 352, 48
"""Edge of a window, and the part of it beyond the block, as the default network's."""


def field(planes: dict[str, Floats], zoom: int = 17, edge: int = EDGE) -> ClassField:
    """Land, but for the likelihoods given by colour."""
    shares = np.zeros((len(PALETTE), edge, edge), dtype=np.float32)
    for name, plane in planes.items():
        shares[NAMES.index(name)] = plane
    shares[0] = np.maximum(0, 1 - shares[1:].sum(axis=0))
    return told(zoom, shares / shares.sum(axis=0))


def told(zoom: int, shares: Floats) -> ClassField:
    """Shares of pixels, P x H x W -> the field of their cells."""
    colours, height, width = shares.shape
    cells = shares.reshape(colours, height // CELL, CELL, width // CELL, CELL).mean(axis=(2, 4))
    return ClassField(zoom, cells, np.ones((height, width), dtype=np.bool_))


def drawn(polygon: Polygon, value: float = 0.9, edge: int = EDGE) -> Floats:
    """How likely something is that covers a polygon, with soft edges."""
    rows, columns = np.mgrid[0:edge, 0:edge] + 0.5
    inside = shapely.contains_xy(polygon, columns.ravel(), rows.ravel()).reshape(edge, edge)
    return np.asarray(ndimage.gaussian_filter(value * inside.astype(np.float32), 1.0))


def likely_line(points: list[tuple[float, float]], width: float, value: float = 0.9) -> Floats:
    return drawn(shapely.LineString(points).buffer(width / 2, cap_style="flat"), value)


@given(
    st.floats(0, 89), st.floats(16, 40), st.floats(12, 30), st.floats(0, 0.9), st.floats(0, 0.9),
)  # fmt: skip
def test_a_house_gets_straight_walls(angle: float, width: float, height: float, x: float, y: float) -> None:
    house = rotate(shapely.box(150 + x, 150 + y, 150 + x + width, 150 + y + height), angle)
    (found,) = buildings(field({"building": drawn(house)}))
    polygon = found.geometry
    assert polygon.is_valid
    shared = polygon.intersection(house).area
    assert shared / (polygon.area + house.area - shared) > 0.65
    if width / height > 1.3 or height / width > 1.3:
        ring = shapely.get_coordinates(polygon)
        off = math.degrees(main_axis(ring)) - angle
        assert abs((off + 45) % 90 - 45) < 12
        steps = np.diff(ring, axis=0)
        turns = np.degrees(np.arctan2(steps[:, 1], steps[:, 0]) - main_axis(ring))
        assert np.abs((turns + 45) % 90 - 45).max() < 1


@pytest.mark.parametrize("angle", [0, 20, 45, 77])
@pytest.mark.parametrize("straight", [regularise, straighten])
def test_an_l_shape_keeps_its_corner(straight: object, angle: float) -> None:
    shape = Polygon([(0, 0), (40, 0), (40, 14), (14, 14), (14, 40), (0, 40)])
    dense = shapely.get_coordinates(shape.segmentize(3))[:-1]
    ragged = rotate(Polygon(dense + np.random.default_rng(0).normal(0, 0.5, dense.shape)), angle, origin=(0, 0))
    result = straight(ragged)  # type: ignore[operator]
    truth = rotate(shape, angle, origin=(0, 0))
    assert result.is_valid
    assert len(result.exterior.coords) - 1 == 6
    assert result.hausdorff_distance(truth) < 6


def test_two_close_houses_are_two() -> None:
    left, right = shapely.box(100, 100, 120, 130), shapely.box(124, 100, 144, 130)
    likely = np.maximum(drawn(left), drawn(right))
    likely = np.maximum(likely, 0.5 * drawn(shapely.box(100, 100, 144, 130)))
    assert len(buildings(field({"building": likely}))) == 2


def test_a_gap_in_a_road_is_closed_and_a_stub_is_cut() -> None:
    whole = likely_line([(0, 100), (EDGE, 100)], 9)
    whole[:, 150:175] *= 0.15  # trees over the road
    stub = likely_line([(60, 100), (60, 115)], 6)
    found = roads(field({"road": np.maximum(whole, stub)}))
    union = shapely.union_all([each.geometry for each in found])
    assert shapely.line_merge(union).geom_type == "LineString"
    left, top, right, bottom = union.bounds
    assert left < 1
    assert right > EDGE - 1
    assert 98 < top <= bottom < 102
    assert {each.kind for each in found} == {"residential"}


@given(st.integers(40, 90), st.floats(0, 45))
def test_streets_that_meet_have_the_same_point_there(block: int, angle: float) -> None:
    """To the last bit, because files share the nodes of lines that meet, however short the streets between are."""
    middle = EDGE / 2
    streets = [((x, 60), (x, EDGE - 60)) for x in range(61, EDGE - 60, block)]
    streets += [((60, y), (EDGE - 60, y)) for y in range(61, EDGE - 60, block)]
    grid = [rotate(shapely.LineString(street), angle, (middle, middle)).coords for street in streets]
    found = roads(field({"road": np.maximum.reduce([likely_line([*line], 8) for line in grid])}))
    ends = Counter(end for each in found for end in (each.geometry.coords[0], each.geometry.coords[-1]))
    assert sum(count > 1 for count in ends.values()) >= 4
    for end, count in ends.items():
        if count == 1:
            others = [each.geometry for each in found if end not in each.geometry.coords]
            assert shapely.union_all(others).distance(shapely.Point(end)) > 4, "a loose end meets nothing"


def test_roads_of_both_colours_and_widths() -> None:
    wide, narrow = likely_line([(0, 80), (EDGE, 80)], 15), likely_line([(0, 200), (EDGE, 200)], 5)
    found = roads(field({"primary road": wide, "road": narrow}))
    assert sorted(each.kind for each in found) == ["primary", "service"]


def test_areas_leave_no_gap_and_cover_nothing_twice() -> None:
    rows, columns = np.mgrid[0:EDGE, 0:EDGE]
    water = (rows + 20 * np.sin(columns / 30) < 120).astype(np.float32)
    wood = ((rows - 250) ** 2 + (columns - 180) ** 2 < 80**2).astype(np.float32)
    found = areas(field({"water": water, "forest": wood}))
    assert sorted(each.kind for each in found) == ["forest", "land", "water"]
    assert all(each.geometry.is_valid for each in found)
    assert sum(each.geometry.area for each in found) == pytest.approx(EDGE**2)
    assert shapely.union_all([each.geometry for each in found]).area == pytest.approx(EDGE**2)


def smooth_field(seed: int, width: int) -> Floats:
    """Shares of random, smooth likelihoods, P x EDGE x width."""
    noise = np.random.default_rng(seed).standard_normal((len(PALETTE), EDGE, width)).astype(np.float32)
    planes = np.stack([ndimage.gaussian_filter(plane, 6) for plane in noise]) * 80
    shares = np.exp(planes - planes.max(axis=0))
    return np.asarray(shares / shares.sum(axis=0))


def two_windows(shares: Floats) -> tuple[ClassField, ClassField]:
    """Windows of two neighbouring blocks, which share the border's `MARGIN` on both sides."""
    return told(17, shares[:, :, :EDGE]), told(17, shares[:, :, EDGE - 2 * MARGIN :])


def near_border(field: ClassField, border: int, theme: str) -> NDArray[np.uint8]:
    """What is drawn of a theme, 8 px to both sides of a border."""
    shown = draw([each for each in objects(field) if each.theme == theme], field.known.shape, field.zoom)
    return shown[MARGIN:-MARGIN, border - 8 : border + 8]


@pytest.mark.parametrize("seed", range(6))
def test_neighbouring_windows_draw_the_same_at_their_border(seed: int) -> None:
    one, other = two_windows(smooth_field(seed, 2 * EDGE - 2 * MARGIN))
    for theme, most in (("cover", 0.03), ("building", 0.03), ("road", 0.1)):
        mine, theirs = near_border(one, EDGE - MARGIN, theme), near_border(other, MARGIN, theme)
        assert (classify(mine) != classify(theirs)).mean() <= most, theme


@given(st.integers(0, 10_000))
def test_small_buildings_at_a_border_are_the_same_in_both_windows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    width, height = rng.uniform(8, LARGEST / 1.5, 2)
    x = EDGE - MARGIN + rng.uniform(-width / 2, width / 2)
    house = rotate(shapely.box(x, 150, x + width, 150 + height), rng.uniform(0, 90))
    assume(house.bounds[0] > EDGE - 2 * MARGIN + 4 and house.bounds[2] < EDGE - 4)
    shares = np.zeros((len(PALETTE), EDGE, 2 * EDGE - 2 * MARGIN), dtype=np.float32)
    rows, columns = np.mgrid[0:EDGE, 0 : shares.shape[2]] + 0.5
    inside = shapely.contains_xy(house, columns.ravel(), rows.ravel()).reshape(shares.shape[1:])
    shares[NAMES.index("building")] = ndimage.gaussian_filter(0.9 * inside.astype(np.float32), 1.0)
    shares[0] = 1 - shares[1:].sum(axis=0)
    one, other = (buildings(window) for window in two_windows(shares))
    assert len(one) == len(other)
    for mine, theirs in zip(one, other, strict=True):
        moved = translate(theirs.geometry, EDGE - 2 * MARGIN)
        assert mine.geometry.symmetric_difference(moved).area < 1e-6


@pytest.mark.slow
@given(st.integers(0, 10_000), st.sampled_from([14, 15, 17, 20]))
def test_whatever_the_field_the_map_is_whole(seed: int, zoom: int) -> None:
    shares = smooth_field(seed, EDGE)[:, :128, :128]
    found = objects(told(zoom, shares))
    assert all(each.geometry.is_valid for each in found)
    assert all(0 <= each.confidence <= 1 for each in found)
    again = objects(told(zoom, shares))
    assert (draw(again, (128, 128), zoom) == draw(found, (128, 128), zoom)).all()


@pytest.mark.parametrize("name", ["land", "water", "building", "road"])
def test_a_field_of_one_colour(name: str) -> None:
    whole = field({name: np.ones((EDGE, EDGE), dtype=np.float32)})
    image = draw(objects(whole), (EDGE, EDGE), whole.zoom)
    assert image.shape == (EDGE, EDGE, 3)
