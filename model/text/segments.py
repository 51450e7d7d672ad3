"""How the three segments of a caption steer a generator: each of them most at its own time.

After "Generating remote sensing images with hierarchical captions": the scene first (the frame of all), then the
relations (the layout), then the elements (the detail). The paper gives neither weights nor the form of their schedule;
here each segment has a bell over the progress of denoising, and the weights of all three sum to 1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tilecascade.model.text.captions import Caption, CaptionError

SEGMENTS = ("scene", "relation", "element")

LENGTHS = (6, 42, 27)
"""Words of each segment at most: 75 in all."""

PADDING, BREAK = 0, 1
"""Numbers of no word, and of what is between two relations or elements."""


@dataclass(frozen=True)
class Schedule:
    """When each segment counts. peaks: progress (0: only noise, 1: finished) at which it counts most; width: of the
    bells; floor: weight that a segment has at any time, before all are made to sum to 1."""

    peaks: tuple[float, float, float] = (0.0, 0.35, 0.8)
    width: float = 0.35
    floor: float = 0.1

    def weights(self, progress: float) -> tuple[float, float, float]:
        """The weights of scene, relation and element at a progress in [0, 1]; they sum to 1."""
        raw = [self.floor + math.exp(-0.5 * ((progress - peak) / self.width) ** 2) for peak in self.peaks]
        scene, relation, element = (value / sum(raw) for value in raw)
        return scene, relation, element

    def tensor(self, progress: Tensor) -> Tensor:
        """The same for N progresses: N x 3."""
        return torch.tensor([self.weights(value) for value in progress.tolist()], device=progress.device)


class Vocabulary:
    """The words that a generator has seen in training."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = tuple(words)
        self._number = {word: place for place, word in enumerate(words, start=BREAK + 1)}

    @classmethod
    def of(cls, captions: Iterable[Caption]) -> Vocabulary:
        """Every word of some captions."""
        return cls(sorted({word for caption in captions for part in parts_of(caption) for word in words_of(part)}))

    def __len__(self) -> int:
        return len(self.words) + BREAK + 1

    def unknown(self, caption: Caption) -> list[str]:
        """Words of a caption that are none of these, each once."""
        found = (word for part in parts_of(caption) for word in words_of(part) if word not in self._number)
        return list(dict.fromkeys(found))

    def tokens(self, caption: Caption) -> Tensor:
        """The numbers of a caption's words, SEGMENTS one after the other, each padded to its LENGTHS: 75 integers.

        Raises CaptionError for unknown words and for segments that are too long.
        """
        unknown = self.unknown(caption)
        if unknown:
            raise CaptionError(
                f"{', '.join(map(repr, unknown))} in the caption is no word that the generator has learned; it knows "
                f"{', '.join(self.words)}"
            )
        numbers: list[int] = []
        for name, text, length in zip(SEGMENTS, parts_of(caption), LENGTHS, strict=True):
            found = [BREAK if word == ";" else self._number[word] for word in words_of(text, breaks=True)]
            if len(found) > length:
                raise CaptionError(f"the {name} of the caption has {len(found)} words and {length} fit")
            numbers += found + [PADDING] * (length - len(found))
        return torch.tensor(numbers)


def parts_of(caption: Caption) -> tuple[str, str, str]:
    """The texts of the three segments; parts of each with a semicolon between."""
    return caption.scene, "; ".join(caption.relations), "; ".join(caption.elements)


def words_of(text: str, breaks: bool = False) -> list[str]:
    """The words of a text in small letters; with `breaks` also its semicolons."""
    return re.findall(r"[\w'-]+|;" if breaks else r"[\w'-]+", text.lower())
