"""Towns and the roads between them: from above and on the map they are the same, at every zoom."""

from __future__ import annotations

import numpy as np
import pytest

from tilecascade.model.palette import classify
from tilecascade.model.style import COLOUR
from tilecascade.model.world.roads import roads_between
from tilecascade.model.world.town import ROOF_COLOURS, STREET, imagery_of_town, map_of_town, town_at

EQUATOR = 40_075_016.686


def axes(zoom: int, size: int = 160, at: float = 21_000_000.0) -> tuple[np.ndarray, np.ndarray]:
    metres = EQUATOR / (256 << zoom)
    axis = at + metres * (np.arange(size) + 0.5)
    return axis, axis + 12_345.0


def test_what_is_a_street_or_a_house_from_above_is_one_on_the_map() -> None:
    xs, ys = axes(17, 320)
    seen, drawn, town = imagery_of_town(5, xs, ys), map_of_town(5, xs, ys, 17), town_at(5, xs, ys)
    street, house = town.street < -1.5, town.house < -1.5
    assert 0.1 < street.mean() < 0.5
    assert 0.05 < house.mean() < 0.4
    assert (drawn[street] == COLOUR["road"]).all()
    assert (drawn[house] == COLOUR["building"]).all()
    assert np.abs(seen[street] - STREET).max() < 1e-6
    brightest = ROOF_COLOURS.max(axis=0) * 1.15
    assert (seen[house] <= brightest).all()
    assert not (street & house).any()


@pytest.mark.parametrize("zoom", [14, 15])
def test_streets_of_a_zoom_are_those_of_the_next(zoom: int) -> None:
    xs, ys = axes(zoom)
    fine_xs, fine_ys = axes(zoom + 1, 320)
    names = ("land", "building", "road", "water", "vegetation")
    coarse, fine = (
        classify(map_of_town(5, *each)) == names.index("road")
        for each in ((xs, ys, zoom), (fine_xs, fine_ys, zoom + 1))
    )
    share = fine.reshape(160, 2, 160, 2).mean(axis=(1, 3))
    assert share[coarse].mean() > 0.8
    assert share[~coarse].mean() < 0.2


def test_another_seed_is_another_town_and_windows_agree() -> None:
    xs, ys = axes(16)
    assert np.array_equal(map_of_town(5, xs, ys, 16)[40:, 30:], map_of_town(5, xs[30:], ys[40:], 16))
    assert (map_of_town(5, xs, ys, 16) != map_of_town(6, xs, ys, 16)).any(-1).mean() > 0.2


def country() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two towns on this side of a river, one beyond it, one on an island too far away."""
    towns, water = np.zeros((120, 200), bool), np.zeros((120, 200), bool)
    water[60:63] = True
    water[:, 150:] = True
    water[20:40, 180:195] = False
    for row, column in ((20, 20), (30, 110), (100, 60), (28, 186)):
        towns[row - 3 : row + 4, column - 3 : column + 4] = True
    return towns, water, np.ones(towns.shape)


def test_towns_are_joined_as_far_as_bridges_reach() -> None:
    towns, water, cost = country()
    roads = roads_between(towns, water, cost, 7)
    assert len(roads) == 2
    ends = {(round(x), round(y)) for road in roads for x, y in (road.points[0], road.points[-1])}
    assert len(ends) == 3
    assert all(x < 150 for x, _ in ends)  # nobody drives to the island
    for road in roads:
        steps = np.hypot(*np.diff(road.points, axis=0).T)
        assert steps.max() < 8
    wet = [water[int(y), int(x)] for road in roads for x, y in road.points]
    assert 0 < np.mean(wet) < 0.15  # one bridge
    again = roads_between(towns, water, cost, 7)
    assert all(np.array_equal(a.points, b.points) for a, b in zip(roads, again, strict=True))
    other = roads_between(towns, water, cost, 8)
    assert not all(np.array_equal(a.points[:5], b.points[:5]) for a, b in zip(roads, other, strict=True))


def test_dear_ground_is_gone_round_and_one_town_has_no_roads() -> None:
    towns, water, cost = country()
    cost[10:50, 60:70] = 60.0
    roads = roads_between(towns, water, cost, 7)
    assert all(cost[int(y), int(x)] == 1 for road in roads for x, y in road.points)
    towns[:, 40:] = False
    assert roads_between(towns, water, cost, 7) == []
