"""The class field that map objects are made from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tilecascade.model.palette import CLASS_OF_COLOUR, CLASSES, PALETTE

Floats = NDArray[np.float32]
NAMES = [name for name, _, _ in PALETTE]


@dataclass(frozen=True)
class ClassField:
    """What each pixel of a window may be.

    zoom: of the pixels. shares: P x H x W float32, how likely each colour of the palette is; they add up to 1.
    known: H x W bool, where there is imagery.
    """

    zoom: int
    shares: Floats
    known: NDArray[np.bool_]

    def of_class(self, name: str) -> Floats:
        """How likely a class of `palette.CLASSES` is, H x W."""
        return np.asarray(self.shares[np.equal(CLASS_OF_COLOUR, CLASSES.index(name))].sum(axis=0))

    def of_colours(self, *names: str) -> Floats:
        """How likely any of these colours is, H x W."""
        return np.asarray(self.shares[[NAMES.index(name) for name in names]].sum(axis=0))
