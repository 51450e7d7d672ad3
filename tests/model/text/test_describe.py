"""What is said of a map is what is drawn on it."""

from __future__ import annotations

import numpy as np
import pytest

from tilecascade.model.cascade import tile_window
from tilecascade.model.palette import PALETTE
from tilecascade.model.text.captions import has_relation
from tilecascade.model.text.describe import describe
from tilecascade.model.world.map_rendering import render_map
from tilecascade.model.world.pairs import choose

COLOUR = {name: colour for name, colour, _ in PALETTE}


def tile(ground: str = "forest") -> np.ndarray:
    image = np.empty((256, 256, 3), np.uint8)
    image[:] = COLOUR[ground]
    return image


def river(image: np.ndarray) -> np.ndarray:
    image[120:140] = COLOUR["water"]
    return image


def test_elements_are_what_is_there_the_largest_first() -> None:
    image = tile("farmland")
    image[:, :80] = COLOUR["forest"]
    image[100:104] = COLOUR["primary road"]
    found = describe(image)
    assert found.scene == "farmland"
    assert found.elements == ("farmland", "forest", "road")
    assert "a forest in the west" in found.relations


@pytest.mark.parametrize(("quarter_turns", "bank"), [(0, "north"), (1, "west"), (2, "south"), (3, "east")])
def test_a_road_follows_the_bank_that_it_is_on(quarter_turns: int, bank: str) -> None:
    image = river(tile())
    image[106:110] = COLOUR["road"]
    relations = describe(np.ascontiguousarray(np.rot90(image, quarter_turns))).relations
    assert f"a road along the {bank} bank of the river" in relations
    assert ("a river from west to east" in relations) == (quarter_turns % 2 == 0)
    assert not any("across" in each for each in relations)


def test_a_bridge_and_houses_on_one_side() -> None:
    image = river(tile("grass"))
    image[:, 60:64] = COLOUR["road"]
    for left in range(100, 240, 30):
        image[170:190, left : left + 18] = COLOUR["building"]
    found = describe(image)
    assert "a road across the river" in found.relations
    assert "buildings south of the river" in found.relations
    assert found.scene == "sparse residential"


def test_a_lake_in_a_wood() -> None:
    image = tile()
    rows, columns = np.indices((256, 256))
    image[np.hypot(rows - 128, columns - 100) < 30] = COLOUR["water"]
    found = describe(image)
    assert "a lake surrounded by forest" in found.relations
    assert not any("river" in each for each in found.relations)


def test_nothing_is_bare_land() -> None:
    found = describe(tile("land"))
    assert (found.scene, found.relations, found.elements) == ("bare land", (), ("bare land",))


def test_what_is_said_of_real_tiles_holds_from_above() -> None:
    for place in choose(3, 12):
        found = describe(render_map(3, tile_window(place))).fitted()
        found.check()
        assert all(has_relation(each) for each in found.relations)
