"""The colours of the default map style, and the classes they stand for.

The style is OSM Carto's without labels. Scores group the colours into building, road, water and vegetation; all
else is land.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CLASSES = ("land", "building", "road", "water", "vegetation")

# name, RGB, class
PALETTE: tuple[tuple[str, tuple[int, int, int], str], ...] = (
    ("land", (242, 239, 233), "land"),
    ("residential", (224, 223, 223), "land"),
    ("industrial", (235, 219, 232), "land"),
    ("commercial", (242, 218, 217), "land"),
    ("retail", (255, 214, 209), "land"),
    ("garages", (223, 221, 206), "land"),
    ("parking", (238, 238, 238), "land"),
    ("railway", (112, 112, 112), "land"),
    ("path", (250, 128, 114), "land"),
    ("track", (153, 102, 0), "land"),
    ("forest", (173, 209, 158), "vegetation"),
    ("grass", (205, 235, 176), "vegetation"),
    ("park", (200, 250, 204), "vegetation"),
    ("allotments", (201, 225, 191), "vegetation"),
    ("scrub", (200, 215, 171), "vegetation"),
    ("cemetery", (170, 203, 175), "vegetation"),
    ("wetland", (214, 227, 210), "vegetation"),
    ("farmland", (238, 240, 213), "vegetation"),
    ("pitch", (170, 224, 203), "vegetation"),
    ("water", (170, 211, 223), "water"),
    ("building", (217, 208, 201), "building"),
    ("building outline", (196, 182, 171), "building"),
    ("road", (255, 255, 255), "road"),
    ("secondary road", (247, 250, 191), "road"),
    ("primary road", (252, 214, 164), "road"),
    ("trunk road", (249, 178, 156), "road"),
)

COLOURS = np.array([colour for _, colour, _ in PALETTE], dtype=np.int32)
CLASS_OF_COLOUR = np.array([CLASSES.index(kind) for _, _, kind in PALETTE], dtype=np.uint8)
LAND = PALETTE[0][1]
"""What a map shows where nothing is mapped; also the stated background in formats without transparency."""


def _lookup() -> NDArray[np.uint8]:
    """Nearest palette index for every RGB value at 6 bits a channel (64 x 64 x 64 uint8)."""
    axis = np.arange(64, dtype=np.int32) * 4 + 2
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    best = np.zeros(len(grid), dtype=np.uint8)
    distance = np.full(len(grid), np.iinfo(np.int32).max, dtype=np.int32)
    for index, colour in enumerate(COLOURS):
        here = ((grid - colour) ** 2).sum(axis=1, dtype=np.int32)
        closer = here < distance
        best[closer], distance[closer] = index, here[closer]
    return best.reshape(64, 64, 64)


_NEAREST = _lookup()


def nearest_colour(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Index into PALETTE of the nearest colour: ... x 3 uint8 -> ... uint8 (exact to 6 bits a channel)."""
    six = image >> 2
    return _NEAREST[six[..., 0], six[..., 1], six[..., 2]]


def classify(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Index into CLASSES: ... x 3 uint8 -> ... uint8."""
    return CLASS_OF_COLOUR[nearest_colour(image)]
