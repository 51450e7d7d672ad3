"""Whether painted imagery is like imagery of its resolution: the histogram gate of the Carana thesis.

The thesis rejects an image whose channel means leave the range of the training images of its resolution. Here the mean
of what is painted *is* the pixel above, so that it cannot be wrong; what can be is how strong the painted detail is. A
block is judged, by channel, by its detail in octaves above or below the detail one zoom up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tilecascade.model.cascade import Pixels
from tilecascade.model.imagery.octave import split

LEAST_DETAIL = 0.004
"""Added to detail: half a step of 8 bits, of values in [-1, 1]; less says nothing."""

TAILS = 0.5
"""Percent of the training images on each side that a range leaves out."""

SLACK = 0.25
"""Octaves that a range is wider than what was seen."""

NEAR = 0.75
"""Octaves of resolution that a range is good for on each side."""

FEWEST = 30
"""Images of a resolution that a range is learned from, at least."""


def strength(image: Pixels) -> NDArray[np.float64]:
    """The detail of each channel relative to that of the zoom above, in octaves.

    image: H x W x 3 uint8, its sides multiples of 4.
    """
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
    above, detail = split(pixels)
    _, coarser = split(above)

    def power(values: torch.Tensor) -> torch.Tensor:
        return values.unflatten(1, (3, 3)).square().mean(dim=(0, 1, 3, 4)).sqrt() + LEAST_DETAIL

    return np.asarray((power(detail) / power(coarser)).log2().double())


@dataclass(frozen=True)
class Gate:
    """What is accepted. ranges: by resolution: metres per pixel, and the lowest and highest strength by channel."""

    ranges: tuple[tuple[float, tuple[float, ...], tuple[float, ...]], ...] = ()

    def excess(self, image: Pixels, metres: float) -> float:
        """Octaves by which a channel leaves the range of the resolution; 0 is accepted, and where none was learned."""
        near = [known for known in self.ranges if abs(np.log2(known[0] / metres)) <= NEAR]
        if not near:
            return 0.0
        _, low, high = min(near, key=lambda known: abs(np.log2(known[0] / metres)))
        found = strength(image)
        return float(max(0.0, (np.array(low) - found).max(), (found - np.array(high)).max()))

    def to_list(self) -> list[list[Any]]:
        """Plain JSON-ready form."""
        return [[metres, list(low), list(high)] for metres, low, high in self.ranges]

    @classmethod
    def from_list(cls, stored: Sequence[Sequence[Any]]) -> Gate:
        """Inverse of `to_list`."""
        return cls(tuple((float(metres), tuple(low), tuple(high)) for metres, low, high in stored))


def learn_gate(images: Sequence[Pixels], metres: Sequence[float]) -> Gate:
    """The ranges of images, H x W x 3 uint8, by octave of resolution."""
    octaves = np.round(np.log2(metres)).astype(int)
    ranges = []
    for octave in sorted(set(octaves.tolist())):
        some = [image for image, own in zip(images, octaves, strict=True) if own == octave]
        if len(some) >= FEWEST:
            found = np.stack([strength(image) for image in some])
            low, high = np.percentile(found, [TAILS, 100 - TAILS], axis=0)
            ranges.append(
                (2.0**octave, tuple((low - SLACK).round(3).tolist()), tuple((high + SLACK).round(3).tolist()))
            )
    return Gate(tuple(ranges))
