"""What generating a block gives: a map, or how uncertain one is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from tilecascade.model.cartography.objects import MapObject
from tilecascade.model.cascade import Pixels
from tilecascade.model.confidence import SMOOTH


@dataclass(frozen=True)
class Drawing:
    """A drawn block.

    pixels: its map, size x size x 3 uint8. objects: what it is drawn of, as far as MARGIN pixels beyond the block (see
    `cartography.parts.cut_to`), in pixels of the block; None without a finish.
    """

    pixels: Pixels
    objects: list[MapObject] | None = None


@dataclass(frozen=True)
class GeneratedMap:
    """One generated block.

    field: what finer blocks have for their reference, with the ring, S x S x 3 uint8 with S = size + 2 ring; without
    the finish, because what is likely but not shown still tells finer zooms something. None where it is not wanted.
    draw: makes the map; called once, when it is wanted, because finer blocks need not wait for it.
    """

    field: Pixels | None
    draw: Callable[[], Drawing]

    @cached_property
    def drawing(self) -> Drawing:
        """The map and its objects. Takes a third of the block's time the first time, with a finish."""
        return self.draw()

    @property
    def pixels(self) -> Pixels:
        """See Drawing."""
        return self.drawing.pixels

    @property
    def objects(self) -> list[MapObject] | None:
        """See Drawing."""
        return self.drawing.objects


@dataclass(frozen=True)
class Uncertainty:
    """How far several generated maps of one block disagree (see `model.confidence`).

    disagreement: size x size uint8, the chance that two of them have different classes at a pixel or, with the finish,
    that the class that is drawn is not there; 255 is certainty that it is so. classes: size x size uint8, the class
    that is most likely around each pixel or drawn most around it (index into `palette.CLASSES`).
    """

    disagreement: NDArray[np.uint8]
    classes: NDArray[np.uint8]


def pixels_of(images: Tensor) -> NDArray[np.uint8]:
    """N x 3 x H x W in [-1, 1] -> N x H x W x 3 uint8."""
    pixels = ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return np.asarray(pixels.permute(0, 2, 3, 1).cpu())


def uncertainties(disagreement: Tensor, shares: Tensor, beyond: int, cell: int) -> list[Uncertainty]:
    """Disagreement, N x h x w, and shares of classes, N x K x h x w, of cells of so many pixels that reach so many
    pixels `beyond` their block -> the uncertainty of its pixels."""
    inner = (slice(beyond // cell, -beyond // cell),) * 2
    results = []
    for level, kinds in zip(disagreement.cpu().numpy(), shares.cpu().numpy(), strict=True):
        around = np.stack([ndimage.gaussian_filter(plane, SMOOTH / cell)[inner] for plane in (level, *kinds)])
        around = around.repeat(cell, axis=1).repeat(cell, axis=2)
        classes = around[1:].argmax(0).astype(np.uint8)
        results.append(Uncertainty((around[0] * 255).round().astype(np.uint8), classes))
    return results
