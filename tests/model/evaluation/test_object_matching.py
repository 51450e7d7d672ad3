"""Map objects against a true map that is drawn here, so that every answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from shapely import LineString

from tilecascade.model.cartography.finish import draw
from tilecascade.model.cartography.objects import MapObject
from tilecascade.model.evaluation.object_matching import ObjectMatches

STREET = MapObject("road", "residential", LineString([(0, 128), (256, 128)]), 0.9, 8.0)
HOUSES = [MapObject("building", "building", shapely.box(x, 40, x + 24, 70), 0.8) for x in (40, 100, 160)]


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    return draw([STREET, *HOUSES], (256, 256), 17)


def summary(found: list[MapObject], truth: np.ndarray) -> dict:
    matches = ObjectMatches()
    matches.add(found, truth, 0.66)
    return matches.summary()


def test_the_true_objects_are_all_right_and_all_found(truth: np.ndarray) -> None:
    told = summary([STREET, *HOUSES], truth)
    for name, count in (("buildings", 3), ("roads", 232)):
        assert told[name]["generated"] == count
        assert told[name]["precision"] == told[name]["recall"] == 1.0
        assert all(tenth["right"] == 1.0 for tenth in told[name]["tenths"])


def test_what_is_wrong_missing_or_doubtful_counts(truth: np.ndarray) -> None:
    invented = [MapObject("building", "building", shapely.box(40, 200, 64, 230), 0.3)]
    shifted = [MapObject("building", "building", shapely.box(115, 40, 139, 70), 0.5)]  # overlaps by less than a half
    away = MapObject("road", "residential", LineString([(128, 20), (128, 236)]), 0.4, 8.0)
    told = summary([away, *HOUSES[:1], *invented, *shifted], truth)
    assert told["buildings"]["precision"] == round(1 / 3, 3)
    assert told["buildings"]["recall"] == round(1 / 3, 3)
    assert [tenth["right"] for tenth in told["buildings"]["tenths"]] == [0.0, 0.0, 1.0]
    assert told["roads"]["precision"] < 0.1, "but where it crosses the street"
    assert told["roads"]["recall"] < 0.1


def test_nothing_at_all_has_no_precision(truth: np.ndarray) -> None:
    told = summary([], truth)
    assert told["buildings"] | {"true": 3} == told["buildings"]
    assert told["buildings"]["precision"] is None
    assert told["roads"]["recall"] == 0.0
    assert summary([], np.full_like(truth, 240))["roads"]["recall"] is None
