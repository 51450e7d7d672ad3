"""The class field that map objects are made from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from tilecascade.model.palette import CLASS_OF_COLOUR, CLASSES, PALETTE

Floats = NDArray[np.float32]
NAMES = [name for name, _, _ in PALETTE]


CELL = 2
"""Pixels of a place whose colours are told, along one axis."""


@dataclass(frozen=True)
class ClassField:
    """What each cell of CELL x CELL pixels of a window may be.

    zoom: of the pixels. shares: P x H/CELL x W/CELL float32, how likely each colour of the palette is; they add up to
    1. known: H x W bool, where there is imagery.
    """

    zoom: int
    shares: Floats
    known: NDArray[np.bool_]

    def of_class(self, name: str) -> Floats:
        """How likely a class of `palette.CLASSES` is at each pixel, H x W."""
        return _enlarged(self.shares[np.equal(CLASS_OF_COLOUR, CLASSES.index(name))].sum(axis=0))

    def of_colours(self, *names: str) -> Floats:
        """How likely any of these colours is at each pixel, H x W."""
        return _enlarged(self.shares[[NAMES.index(name) for name in names]].sum(axis=0))


def _enlarged(cells: Floats) -> Floats:
    """A plane of cells at every pixel, bilinearly, edges repeated."""
    plane = torch.from_numpy(cells)[None, None]
    return np.asarray(F.interpolate(plane, scale_factor=float(CELL), mode="bilinear")[0, 0])
