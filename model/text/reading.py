"""Captions out of what people write: "dense residential north of a river" becomes scene, relations and elements."""

from __future__ import annotations

import re

from tilecascade.model.text.captions import Caption, CaptionError
from tilecascade.model.text.describe import SCENES, THINGS

FILLERS = frozenset(
    ("a", "an", "and", "as", "at", "by", "from", "image", "in", "is", "of", "on", "over", "satellite", "seen", "shows",
     "some", "the", "there", "this", "view", "where", "which", "with")
)  # fmt: skip
"""Words that say nothing about the ground."""

SYNONYMS = {
    "houses": "building", "house": "building", "buildings": "building", "roads": "road", "street": "road",
    "streets": "road", "trees": "forest", "woods": "forest", "wood": "forest", "woodland": "forest",
    "fields": "farmland", "field": "farmland", "crops": "farmland", "lake": "water", "river": "water", "sea": "water",
    "grassland": "meadow", "grass": "meadow", "marsh": "wetland", "swamp": "wetland", "bushes": "scrub",
}  # fmt: skip
"""Other words for elements."""

MOST_SHOWN = 80
"""Characters of a text that a message repeats."""

SIDES = "north|south|east|west"
COURSES = {"north": "from west to east", "south": "from west to east"}
"""How a river runs whose bank is said; others run from north to south."""


def caption_of_text(text: str) -> Caption:
    """The caption that a sentence in plain words stands for.

    Relations are put into the words that captions of map tiles have (see `describe`), and what they speak of is among
    the elements. Raises CaptionError naming the words that say nothing a generator knows.
    """
    relations, left = _relations(f" {re.sub(r'[^a-z]+', ' ', text.lower())} ")
    scene = next((name for name in sorted(SCENES, key=len, reverse=True) if f" {name} " in left), None)
    if scene is not None:
        left = left.replace(f" {scene} ", " ", 1)
    elements = [_element(word) for word in (*_words(" ".join(relations)), *_words(left))]
    found = dict.fromkeys(element for element in elements if element is not None)
    for element in _elements_of(scene) if scene is not None else ():
        found.setdefault(element)
    phrases = [name for name in THINGS if f" {name} " in left]
    found |= dict.fromkeys(phrases)
    for phrase in phrases:
        left = left.replace(f" {phrase} ", " ")
    unknown = list(dict.fromkeys(w for w in _words(left) if w not in FILLERS and _element(w) is None))
    if unknown:
        shown = text if len(text) <= MOST_SHOWN else text[:MOST_SHOWN] + "..."
        raise CaptionError(
            f"{', '.join(map(repr, unknown))} in {shown!r} says nothing that the generator knows; it knows the scenes "
            f"{', '.join(SCENES)}, the elements {', '.join(THINGS)}, and relations such as 'north of a river', 'a road "
            "along the north bank of the river', 'a lake surrounded by forest'"
        )
    if scene is None:
        scene = _scene_of(relations, list(found), text)
    return Caption(scene, tuple(relations), tuple(found))


def _relations(text: str) -> tuple[list[str], str]:
    """The relations that a text says, and the text without them."""
    found: list[str] = []
    patterns = (
        (rf"(?:an? |the )?road along the ({SIDES}) bank of (?:an?|the) (river|lake)",
         "a road along the {} bank of the {}"),
        (r"(?:an? |the )?(?:road|bridge) across (?:an?|the) (river|lake)", "a road across the {}"),
        (r"(?:an? |the )?(lake|forest|meadow|scrub|wetland|farmland) surrounded by (forest|meadow|scrub|wetland|"
         r"farmland|residential area|industrial area|commercial area)", "{} {} surrounded by {}"),
        (rf"(?:buildings |houses )?({SIDES}) of (?:an?|the) (river|lake)", "buildings {} of the {}"),
        (r"(?:buildings |houses )along (?:an?|the) road", "buildings along the road"),
        (r"(?:an? |the )?river from (north to south|west to east)", "a river from {}"),
        (rf"(?:an? )?(forest|buildings) in the ({SIDES})", "{1} in the {0}"),
    )  # fmt: skip
    for pattern, form in patterns:
        for match in re.finditer(rf"(?<= ){pattern}(?= )", text):
            parts = match.groups()
            if form.startswith("{} {}"):
                parts = ("an" if parts[0][0] in "aeiou" else "a", *parts)
            if form.startswith("{1}"):
                thing = parts[0] if parts[0] == "buildings" else f"a {parts[0]}"
                parts = (parts[1], thing)
            found.append(form.format(*parts))
        text = re.sub(rf"(?<= ){pattern}(?= )", " ", text)
    bank = next((re.search(rf"({SIDES}) (?:bank )?of the river", relation) for relation in found
                 if re.search(rf"({SIDES}) (?:bank )?of the river", relation)), None)  # fmt: skip
    if bank is not None and not any("river from" in relation for relation in found):
        found.insert(0, f"a river {COURSES.get(bank.group(1), 'from north to south')}")
    return found, text


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text)


def _element(word: str) -> str | None:
    """The element that a word means; None for other words."""
    name = SYNONYMS.get(word, word)
    return name if name in THINGS else None


def _elements_of(scene: str) -> tuple[str, ...]:
    """What there is in a scene that need not be said."""
    if scene.endswith("residential"):
        return "residential area", "building", "road"
    return (f"{scene} area", "building", "road") if scene in ("industrial", "commercial") else (scene,)


def _scene_of(relations: list[str], elements: list[str], text: str) -> str:
    """The scene where none is named."""
    around = [relation.split("surrounded by ")[1] for relation in relations if "surrounded by" in relation]
    if around and around[0] in SCENES:
        return around[0]
    if "building" in elements:
        return "medium residential"
    first = next((element for element in elements if element in SCENES), None)
    if first is None:
        raise CaptionError(f"{text!r} names no scene; there are {', '.join(SCENES)}")
    return first
