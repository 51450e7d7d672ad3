"""Captions and prompts as data: read, written, and refused with a sentence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilecascade.model.imagery.weather import KINDS
from tilecascade.model.text.captions import (
    RELATIONS,
    VERTICAL,
    Caption,
    CaptionError,
    first_valid,
    from_dict,
    has_relation,
    parse,
    tokens_of,
    vertical_relation,
)
from tilecascade.model.text.prompts import LEVELS, SATELLITES, Prompt, gsd_level, parse_prompt

PARK = Caption("park", ("a road along the river", "trees surrounded by grass"), ("tree", "road", "river"))
WORDS = st.lists(st.text("abcdefgh", min_size=1, max_size=8), min_size=1, max_size=3).map(" ".join)


@given(WORDS, st.lists(WORDS, max_size=3), st.lists(WORDS, min_size=1, max_size=5))
def test_what_is_written_is_read_again(scene: str, relations: list[str], elements: list[str]) -> None:
    caption = Caption(scene, tuple(relations), tuple(elements))
    assert parse(caption.text()) == caption
    assert from_dict(caption.to_dict()) == caption


def test_an_item_of_aaaad_is_read() -> None:
    item = {
        "element": "building, road, tree",
        "relation": "many cars are parked on the side of a road",
        "scene": "park",
    }
    caption = from_dict(item)
    caption.check()
    assert caption.elements == ("building", "road", "tree")
    with pytest.raises(CaptionError, match="has no element"):
        from_dict({"scene": "park", "relation": ""})
    with pytest.raises(CaptionError, match="looks like: scene:"):
        parse("a park")


def test_relations_are_those_that_can_be_seen_from_above() -> None:
    assert not {relation.lower() for relation in RELATIONS} & set(VERTICAL)
    assert has_relation("a square in the middle of a town")
    assert not has_relation("a car under a bridge")
    assert vertical_relation("a plane on top of a building") == "on top of"
    assert vertical_relation("thunder over the understory") is None, "whole words only"
    drawn = ["a car in front of a house", "a large building", "a house next to the road", "trees along a path"]
    assert first_valid(drawn) == "a house next to the road"
    assert first_valid(drawn[:2]) is None
    item = {"scene": "park", "element": "car"}
    assert from_dict({**item, "relation": drawn}).relations == ("a house next to the road",)
    with pytest.raises(CaptionError, match="no relation that can be seen from above"):
        from_dict({**item, "relation": drawn[:2]})


def test_what_a_generator_cannot_be_told_is_refused() -> None:
    PARK.check()
    cases = [
        (Caption("park", ("a car behind a house",), ("car",)), "'behind'"),
        (Caption("park", ("cars and houses",), ("car",)), "no relation that is known"),
        (Caption("park"), "a scene and at least one element"),
        (Caption("", (), ("car",)), "a scene and at least one element"),
        (Caption("park", (), tuple(f"thing{i}" for i in range(60))), "75 fit"),
    ]
    for caption, words in cases:
        with pytest.raises(CaptionError, match=words):
            caption.check()


def test_what_is_too_long_loses_its_last_elements_first() -> None:
    long = Caption("park", PARK.relations, tuple(f"element{i}" for i in range(40)))
    fitted = long.fitted()
    fitted.check()
    assert fitted.relations == long.relations
    assert fitted.elements == long.elements[: len(fitted.elements)]
    assert tokens_of(Caption("park", long.relations, long.elements[: len(fitted.elements) + 1]).text()) > 75
    with pytest.raises(CaptionError, match="not even scene"):
        long.fitted(5)


@pytest.mark.parametrize("weather", ["", *KINDS])
@pytest.mark.parametrize("satellite", ["", *SATELLITES])
def test_prompts_are_read_again(weather: str, satellite: str) -> None:
    prompt = Prompt(LEVELS[1][1], "a satellite image shows a park, a lake and a road", weather, satellite)
    assert parse_prompt(prompt.text()) == prompt


def test_a_prompt_of_the_paper_is_read() -> None:
    text = "High precision resolution, snow, a satellite image shows a park in the city, Google Earth"
    found = parse_prompt(text)
    assert (found.weather, found.satellite, found.content) == (
        "snow", "Google Earth", "a satellite image shows a park in the city",
    )  # fmt: skip
    for wrong, words in (("a park", "begins with its level"), ("High precision resolution, snow", "what is there")):
        with pytest.raises(CaptionError, match=words):
            parse_prompt(wrong)


def test_levels_follow_the_metres() -> None:
    found = [gsd_level(metres) for metres in (0.3, 0.5, 0.6, 2, 10, 100)]
    assert [level.split()[0] for level in found] == ["Ultra-high", "Ultra-high", "High", "Ordinary", "Low", "Ultra-low"]
    with pytest.raises(CaptionError, match="positive"):
        gsd_level(0)


def test_a_list_of_relations_from_the_side_is_told_and_elements_may_be_a_list() -> None:
    given = {
        "scene": "park",
        "element": ["tree", "road"],
        "relation": ["road under the bridge", "tree behind the house"],
    }
    with pytest.raises(CaptionError, match="'road under the bridge'; 'tree behind the house'"):
        from_dict(given)
    assert from_dict(given | {"relation": "a road along the river"}).elements == ("tree", "road")
