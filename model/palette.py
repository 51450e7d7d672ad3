"""The colours of the default map style, and the classes they stand for.

The style is OSM Carto's without labels. Scores group the colours into building, road, water and vegetation; all
else is land.
"""

from __future__ import annotations

from collections.abc import Sequence

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


class Palette:
    """Colours of a map style, each of a class, and which of them is nearest to any other.

    colours: P x 3 int32. classes: P indices into CLASSES.
    """

    def __init__(self, colours: NDArray[np.int32], classes: NDArray[np.uint8]) -> None:
        self.colours, self.classes = colours, classes
        axis = np.arange(64, dtype=np.int32) * 4 + 2
        grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
        best = np.zeros(len(grid), dtype=np.uint8)
        distance = np.full(len(grid), np.iinfo(np.int32).max, dtype=np.int32)
        for index, colour in enumerate(colours):
            here = ((grid - colour) ** 2).sum(axis=1, dtype=np.int32)
            closer = here < distance
            best[closer], distance[closer] = index, here[closer]
        # by RGB at 6 bits a channel
        self._nearest = best.reshape(64, 64, 64)

    def nearest(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Index of the nearest colour: ... x 3 uint8 -> ... uint8 (exact to 6 bits a channel)."""
        six = image >> 2
        return self._nearest[six[..., 0], six[..., 1], six[..., 2]]


DEFAULT = Palette(COLOURS, CLASS_OF_COLOUR)
"""The default style's."""


def palette_of(colours: Sequence[Sequence[int]]) -> Palette:
    """A style's own colours, as many as PALETTE has; the default palette for none.

    The classes are those of the nearest default colours. Raises ValueError for another number of colours.
    """
    if not colours:
        return DEFAULT
    if len(colours) != len(PALETTE):
        raise ValueError(f"a style has {len(PALETTE)} colours, not {len(colours)}")
    values = np.array(colours, dtype=np.int32)
    return Palette(values, CLASS_OF_COLOUR[nearest_colour(values.astype(np.uint8))])


def nearest_colour(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Index into PALETTE of the nearest colour: ... x 3 uint8 -> ... uint8 (exact to 6 bits a channel)."""
    return DEFAULT.nearest(image)


def classify(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Index into CLASSES: ... x 3 uint8 -> ... uint8."""
    return CLASS_OF_COLOUR[nearest_colour(image)]
