"""A layout: what lies where in a square of ground, as a small picture of kinds of land cover, houses and roads."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tilecascade.model.cascade import Pixels
from tilecascade.model.palette import COLOURS, PALETTE, nearest_colour
from tilecascade.model.text.captions import Caption
from tilecascade.model.text.describe import describe

Layout = NDArray[np.uint8]
"""EDGE x EDGE numbers of KINDS."""

EDGE = 48
"""Cells along a side of a layout."""

CELL = 5
"""Pixels of a map tile that become one cell."""

KINDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("land", ("land",)),
    ("water", ("water",)),
    ("forest", ("forest",)),
    ("scrub", ("scrub",)),
    ("farmland", ("farmland", "allotments")),
    ("grass", ("grass", "park", "pitch", "cemetery")),
    ("wetland", ("wetland",)),
    ("residential", ("residential", "garages", "parking")),
    ("industrial", ("industrial",)),
    ("commercial", ("commercial", "retail")),
    ("building", ("building", "building outline")),
    ("road", ("road", "secondary road", "primary road", "trunk road")),
)
"""Each kind, and the colours of the map style that are of it; the first one is what a layout is shown in."""

NUMBER = {name: number for number, (name, _) in enumerate(KINDS)}

LEAST_ROAD, LEAST_BUILDING = 0.2, 0.45
"""Share of a cell from which on it is a road, or else a building, whatever else is in it."""

_NAMES = [name for name, _, _ in PALETTE]
_SHOWN = np.array([COLOURS[_NAMES.index(colours[0])] for _, colours in KINDS], dtype=np.uint8)
_KIND_OF_COLOUR = np.full(len(PALETTE), len(KINDS))  # lines that are no ground: paths, tracks, railways
for _number, (_, _colours) in enumerate(KINDS):
    _KIND_OF_COLOUR[[_NAMES.index(colour) for colour in _colours]] = _number


def layout_of(tile: Pixels, top: int = 0, left: int = 0) -> Layout:
    """The layout of a part of a map tile in the default style, H x W x 3 uint8, from its pixel (top, left)."""
    size = EDGE * CELL
    kinds = _KIND_OF_COLOUR[nearest_colour(tile[top : top + size, left : left + size])]
    cells = kinds.reshape(EDGE, CELL, EDGE, CELL).transpose(0, 2, 1, 3).reshape(EDGE, EDGE, CELL * CELL)
    shares = np.stack([(cells == number).mean(axis=2) for number in range(len(KINDS))], axis=2)
    ground = shares.copy()
    ground[..., [NUMBER["building"], NUMBER["road"]]] = 0
    made = ground.argmax(axis=2)
    made[shares[..., NUMBER["building"]] >= LEAST_BUILDING] = NUMBER["building"]
    made[shares[..., NUMBER["road"]] >= LEAST_ROAD] = NUMBER["road"]
    return made.astype(np.uint8)


def shown(layout: Layout) -> Pixels:
    """A layout as a picture in the default style, EDGE CELL x EDGE CELL x 3 uint8."""
    return _SHOWN[layout].repeat(CELL, 0).repeat(CELL, 1)


def caption_of(layout: Layout) -> Caption:
    """What a layout shows, computed from it (see `model.text.describe`)."""
    return describe(shown(layout))
