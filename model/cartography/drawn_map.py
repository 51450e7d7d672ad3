"""A map that was drawn and not perceived: its objects, and the same map as people have corrected it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tilecascade.model.cartography.field import CELL, ClassField
from tilecascade.model.cartography.finish import draw, objects
from tilecascade.model.cartography.objects import MapObject
from tilecascade.model.cascade import Pixels
from tilecascade.model.palette import PALETTE, nearest_colour

SEAM = 2
"""Pixels around a correction that are drawn anew, too: the edges of what was there before are soft."""


def objects_of_map(image: Pixels, known: NDArray[np.bool_], zoom: int) -> list[MapObject]:
    """The objects that a map shows, in its pixels.

    image: H x W x 3 uint8 in the default style, H and W multiples of CELL. known: H x W, where there is ground. Each
    pixel counts for the nearest colour of the palette.
    """
    nearest = nearest_colour(image)
    height, width = nearest.shape
    cells = nearest.reshape(height // CELL, CELL, width // CELL, CELL)
    shares = np.stack([(cells == colour).mean(axis=(1, 3), dtype=np.float32) for colour in range(len(PALETTE))])
    return objects(ClassField(zoom, shares, known))


def corrected(image: Pixels, found: list[MapObject], said: list[MapObject], zoom: int) -> Pixels:
    """A map, H x W x 3 uint8, where only what people have changed is drawn of objects: what it shows, and what they
    have made of that."""
    before, after = (draw(some, image.shape[:2], zoom) for some in (found, said))
    changed = (before != after).any(axis=-1)
    if changed.any():
        changed = ndimage.binary_dilation(changed, iterations=SEAM)
    return np.where(changed[..., None], after, image)
