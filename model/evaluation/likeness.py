"""How much a generated map looks like a drawn one: whole buildings, roads in one piece, sharp edges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import skeletonize

from tilecascade.model.data.labels import buildings
from tilecascade.model.data.pairs import Pixels
from tilecascade.model.palette import CLASSES, classify

_CONNECTED = np.ones((3, 3), dtype=np.bool_)

LEAST_AREA = 12
"""Pixels of the smallest component that counts as a building."""

LEAST_ROAD = 40
"""Pixels of the smallest component that counts as a piece of a road: where lines cross in a true map, smoothed pixels
between them have a road's colour."""

Instances = NDArray[np.int32]


def building_instances(image: Pixels) -> tuple[Instances, int]:
    """H x W x 3 uint8 -> the number of each pixel's building (0: none), and how many there are."""
    numbers, count = ndimage.label(buildings(image))
    sizes = np.bincount(numbers.ravel(), minlength=count + 1)
    keep = sizes >= LEAST_AREA
    keep[0] = False
    renumbered = np.cumsum(keep) * keep
    return renumbered[numbers].astype(np.int32), int(keep.sum())


def matched(one: Instances, count: int, other: Instances, other_count: int) -> int:
    """How many buildings of one map have their like in the other: intersection over union above one half."""
    size = count + 1, other_count + 1
    pairs = one.astype(np.int64) * size[1] + other
    both = np.bincount(pairs.ravel(), minlength=size[0] * size[1]).reshape(size)
    mine, theirs = both.sum(1, keepdims=True), both.sum(0, keepdims=True)
    return int((both / (mine + theirs - both).clip(1) > 0.5)[1:, 1:].sum())


def road_pieces(image: Pixels) -> tuple[int, int]:
    """Pieces of road of a map, and the pixels of their centrelines."""
    road = ndimage.binary_closing(classify(image) == CLASSES.index("road"), _CONNECTED)
    numbers, count = ndimage.label(road, _CONNECTED)
    large = np.bincount(numbers.ravel(), minlength=count + 1) >= LEAST_ROAD
    large[0] = False
    line = skeletonize(large[numbers])
    return int(ndimage.label(line, _CONNECTED)[1]), int(line.sum())


@dataclass
class Likeness:
    """Counts over tiles of one kind: buildings and pieces of road, of generated maps and of true ones."""

    buildings: int = 0
    true_buildings: int = 0
    matched: int = 0
    pieces: int = 0
    length: int = 0
    true_pieces: int = 0
    true_length: int = 0

    def add(self, image: Pixels, truth: Pixels) -> None:
        """Compare two H x W x 3 uint8 images."""
        mine, count = building_instances(image)
        theirs, true_count = building_instances(truth)
        self.buildings, self.true_buildings = self.buildings + count, self.true_buildings + true_count
        self.matched += matched(mine, count, theirs, true_count)
        pieces, length = road_pieces(image)
        self.pieces, self.length = self.pieces + pieces, self.length + length
        pieces, length = road_pieces(truth)
        self.true_pieces, self.true_length = self.true_pieces + pieces, self.true_length + length

    def summary(self) -> dict[str, float]:
        """building_f: F of buildings matched; building_count: generated per true one; pieces, true_pieces: of roads,
        per 1,000 px of centreline."""
        return {
            "building_f": round(2 * self.matched / max(1, self.buildings + self.true_buildings), 3),
            "building_count": round(self.buildings / max(1, self.true_buildings), 2),
            "pieces": round(1000 * self.pieces / max(1, self.length), 1),
            "true_pieces": round(1000 * self.true_pieces / max(1, self.true_length), 1),
        }
