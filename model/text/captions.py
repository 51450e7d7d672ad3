"""Hierarchical captions: the scene, relations in it, and its elements; and which relations hold when seen from above.

After "Generating remote sensing images with hierarchical captions" (the AAAAD data set): three segments, each of which
steers a generator at another time. The paper keeps a list of spatial relations that are valid from above and draws
candidates until one has a listed relation; its list is not published, this one is our own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

BUDGET = 75
"""Tokens of a text tower of 77 without its start and its end."""

RELATIONS = (
    "in the middle of", "in the middle", "in the center", "surrounded by", "surrounding", "around", "along", "across",
    "through", "between", "beside", "next to", "near", "adjacent to", "on the side of", "on both sides of",
    "on the edge of", "in the corner", "on the left", "on the right", "at the top", "at the bottom", "north of",
    "south of", "east of", "west of", "in the north", "in the south", "in the east", "in the west", "opposite",
    "from north to south", "from west to east", "connected to", "parallel to", "parked on", "in rows", "within",
    "inside", "outside", "far from", "scattered over", "covered with",
)  # fmt: skip
"""Relations that can be seen from above."""

MOST_NAMED = 3
"""Relations that a message repeats."""

VERTICAL = (
    "under", "underneath", "below", "beneath", "above", "on top of", "over the top of", "behind", "in front of",
    "hanging from", "leaning against", "standing on", "standing in", "flying over", "looking at", "in the background",
    "in the foreground", "in the sky",
)  # fmt: skip
"""Relations that take a view from the side."""


class CaptionError(ValueError):
    """A caption or a prompt that cannot be used. The message says what is wrong and what is allowed."""


def _phrases(words: Iterable[str]) -> re.Pattern[str]:
    longest_first = sorted(words, key=len, reverse=True)
    return re.compile(rf"\b({'|'.join(map(re.escape, longest_first))})\b", re.IGNORECASE)


_VALID, _FROM_THE_SIDE = _phrases(RELATIONS), _phrases(VERTICAL)
_TEXT = re.compile(r"scene:\s*(.*?)\.\s*(?:relations:\s*(.*?)\.\s*)?elements:\s*(.*?)\.?\s*", re.DOTALL)


@dataclass(frozen=True)
class Caption:
    """scene: one class, such as "dense residential". relations: sentences. elements: labels, the largest first."""

    scene: str
    relations: tuple[str, ...] = ()
    elements: tuple[str, ...] = ()

    def text(self) -> str:
        """The caption in one line, which `parse` reads again."""
        relations = f" relations: {'; '.join(self.relations)}." if self.relations else ""
        return f"scene: {self.scene}.{relations} elements: {', '.join(self.elements)}."

    def to_dict(self) -> dict[str, str]:
        """In the layout of AAAAD: scene, relation and element, each a text."""
        return {
            "scene": self.scene,
            "relation": ". ".join(self.relations),
            "element": ", ".join(self.elements),
        }

    def check(self, budget: int = BUDGET) -> None:
        """Raises CaptionError with one sentence for what a generator could not be told."""
        if not self.scene.strip() or not self.elements:
            raise CaptionError("a caption needs a scene and at least one element")
        for sentence in self.relations:
            vertical = vertical_relation(sentence)
            if vertical is not None:
                raise CaptionError(f"{vertical!r} in {sentence!r} cannot be seen from above; say it with one of "
                                   f"{', '.join(RELATIONS[:8])}, ...")  # fmt: skip
            if not has_relation(sentence):
                raise CaptionError(f"{sentence!r} has no relation that is known, such as {', '.join(RELATIONS[:8])}")
        count = tokens_of(self.text())
        if count > budget:
            raise CaptionError(f"the caption has {count} tokens and {budget} fit: leave out some of its elements")

    def fitted(self, budget: int = BUDGET) -> Caption:
        """Without its last elements, and then its last relations, until it fits."""
        caption = self
        while tokens_of(caption.text()) > budget:
            if len(caption.elements) > 1:
                caption = replace(caption, elements=caption.elements[:-1])
            elif caption.relations:
                caption = replace(caption, relations=caption.relations[:-1])
            else:
                raise CaptionError(f"not even scene and one element fit into {budget} tokens")
        return caption


def parse(text: str) -> Caption:
    """Inverse of `Caption.text`. Raises CaptionError."""
    found = _TEXT.fullmatch(text.strip())
    if found is None:
        raise CaptionError(
            "a caption looks like: scene: park. relations: a road along the river. elements: tree, road."
        )
    scene, relations, elements = (part or "" for part in found.groups())
    return Caption(scene.strip(), _parts(relations, ";"), _parts(elements, ","))


def from_dict(given: Mapping[str, Any]) -> Caption:
    """Inverse of `Caption.to_dict`, and a reader of AAAAD's own items. Raises CaptionError.

    A relation that is a list of sentences is what was drawn for one image: the first one that can be seen from above
    counts. Elements may be a list of words.
    """
    if isinstance(given.get("element"), list):
        given = {**given, "element": ", ".join(map(str, given["element"]))}
    if isinstance(given.get("relation"), list):
        chosen = first_valid(str(sentence) for sentence in given["relation"])
        if chosen is None:
            told = "; ".join(map(repr, given["relation"][:MOST_NAMED]))
            raise CaptionError(f"no relation that can be seen from above is among {told}; say others")
        given = {**given, "relation": chosen}
    missing = [key for key in ("scene", "relation", "element") if not isinstance(given.get(key), str)]
    if missing:
        raise CaptionError(f"a caption has the texts scene, relation and element; this one has no {missing[0]}")
    return Caption(given["scene"].strip(), _parts(given["relation"], "."), _parts(given["element"], ","))


def _parts(text: str, mark: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(mark) if part.strip())


def vertical_relation(sentence: str) -> str | None:
    """The first relation of a sentence that takes a view from the side; None if there is none."""
    found = _FROM_THE_SIDE.search(sentence)
    return None if found is None else found.group(0)


def has_relation(sentence: str) -> bool:
    """Whether a sentence has a relation that can be seen from above, and none that cannot."""
    return vertical_relation(sentence) is None and _VALID.search(sentence) is not None


def first_valid(candidates: Iterable[str]) -> str | None:
    """The first of some sentences about one image that says where things are, as seen from above; None if none does."""
    return next((sentence for sentence in candidates if has_relation(sentence)), None)


def tokens_of(text: str) -> int:
    """Tokens of a text as CLIP's tower counts them, without start and end."""
    return len(_tokenizer().encode(text))


@lru_cache(maxsize=1)
def _tokenizer() -> Any:
    from open_clip import get_tokenizer  # takes seconds

    return get_tokenizer("ViT-B-32")
