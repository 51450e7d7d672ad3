"""How much a generated map looks like a drawn one: whole buildings, straight walls, roads that join, sharp edges."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.features import shapes
from scipy import ndimage
from shapely import Polygon
from skimage.morphology import skeletonize

from tilecascade.model.cartography.regularise import main_axis
from tilecascade.model.data.labels import buildings
from tilecascade.model.data.pairs import Pixels
from tilecascade.model.palette import CLASSES, classify

_CONNECTED = np.ones((3, 3), dtype=np.bool_)

LEAST_AREA = 12
"""Pixels of the smallest component that counts as a building."""

LEAST_OUTLINE = 60
"""Pixels of the smallest building whose outline is judged: of smaller ones a raster says too little."""

TRACED = 1.0
"""Pixels by which a traced outline may be moved when it is simplified, so that a raster's steps do not count."""

LEAST_ROAD = 40
"""Pixels of the smallest component that counts as a piece of a road: where lines cross in a true map, smoothed pixels
between them have a road's colour."""

STEP, SHARP = 3, 24
"""Levels (of the channel that differs most) from which two neighbouring pixels differ, and differ sharply."""

PROBES, NEAR = 80, 4
"""Points of true roads of a tile that are looked for, and the pixels by which a road may be off."""

Instances = NDArray[np.int32]

COMPARED = ("building_precision", "building_recall", "building_f", "building_count", "connectivity", "pieces", "sharp",
            "rectangularity", "deviation")  # fmt: skip
"""What a report shows of `Likeness.summary`."""


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


def outlines(instances: Instances) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each building that does not touch the edge: the share of its smallest rotated rectangle that it fills, and how
    far its walls deviate from its own main axis and the perpendicular, in degrees, weighted by length."""
    height, width = instances.shape
    fills, deviations = [], []
    for geometry, _ in shapes(instances, mask=instances > 0, connectivity=4):
        polygon = Polygon(geometry["coordinates"][0])
        left, top, right, bottom = polygon.bounds
        if polygon.area < LEAST_OUTLINE or left <= 0 or top <= 0 or right >= width or bottom >= height:
            continue
        fills.append(polygon.area / shapely.minimum_rotated_rectangle(polygon).area)
        ring = shapely.get_coordinates(shapely.get_exterior_ring(polygon.simplify(TRACED)))
        steps = np.diff(ring, axis=0)
        lengths = np.hypot(*steps.T)
        off = np.degrees(np.arctan2(steps[:, 1], steps[:, 0]) - main_axis(ring))
        deviations.append(float((np.abs((off + 45) % 90 - 45) * lengths).sum() / lengths.sum()))
    return np.array(fills), np.array(deviations)


def road_components(image: Pixels) -> tuple[NDArray[np.int32], int]:
    """The number of each pixel's piece of road (0: none), and how many there are."""
    road = ndimage.binary_closing(classify(image) == CLASSES.index("road"), _CONNECTED)
    numbers, count = ndimage.label(road, _CONNECTED)
    large = np.bincount(numbers.ravel(), minlength=count + 1) >= LEAST_ROAD
    large[0] = False
    renumbered = np.cumsum(large) * large
    return renumbered[numbers].astype(np.int32), int(large.sum())


def road_pieces(image: Pixels) -> tuple[int, int]:
    """Pieces of road of a map, and the pixels of their centrelines."""
    line = skeletonize(road_components(image)[0] > 0)
    return int(ndimage.label(line, _CONNECTED)[1]), int(line.sum())


def joined(image: Pixels, truth: Pixels) -> tuple[int, int]:
    """Of pairs of points that a true map's roads join, how many the image's roads join, and how many there are."""
    true = road_components(truth)[0]
    rows, columns = np.nonzero(skeletonize(true > 0))
    if len(rows) < 2:
        return 0, 0
    chosen = np.linspace(0, len(rows) - 1, PROBES).astype(int)
    rows, columns = rows[chosen], columns[chosen]
    mine = road_components(image)[0]
    if mine.any():
        away, (y, x) = ndimage.distance_transform_edt(mine == 0, return_indices=True)
        number = np.where(away[rows, columns] <= NEAR, mine[y[rows, columns], x[rows, columns]], 0)
    else:
        number = np.zeros(len(rows), dtype=np.int32)
    upper = np.triu(np.ones((len(rows), len(rows)), dtype=np.bool_), 1)
    together = (true[rows, columns][:, None] == true[rows, columns][None]) & upper
    return int((together & (number[:, None] == number[None]) & (number[:, None] > 0)).sum()), int(together.sum())


def sharp_steps(image: Pixels) -> tuple[int, int]:
    """Pairs of neighbouring pixels that differ sharply, and pairs that differ."""
    levels = image.astype(np.int16)
    sharp = steps = 0
    for axis in (0, 1):
        step = np.abs(np.diff(levels, axis=axis)).max(axis=-1)
        sharp, steps = sharp + int((step >= SHARP).sum()), steps + int((step >= STEP).sum())
    return sharp, steps


COUNTED = ("buildings", "pieces", "length", "sharp", "steps", "filling", "fills", "deviating", "deviations")
"""What is counted of one map: `filling` and `deviating` are sums, of `fills` and `deviations` buildings."""


def counted(image: Pixels, instances: Instances, count: int) -> list[float]:
    """COUNTED of one map."""
    fills, deviations = outlines(instances)
    sums = (fills.sum(), len(fills), deviations.sum(), len(deviations))
    return [count, *road_pieces(image), *sharp_steps(image), *sums]


class Likeness:
    """Counts over tiles of one kind: of generated maps and of true ones."""

    def __init__(self) -> None:
        self._tiles: list[list[float]] = []

    def add(self, image: Pixels, truth: Pixels) -> None:
        """Compare two H x W x 3 uint8 images."""
        mine, count = building_instances(image)
        theirs, true_count = building_instances(truth)
        both = [matched(mine, count, theirs, true_count), *joined(image, truth)]
        self._tiles.append([*both, *counted(image, mine, count), *counted(truth, theirs, true_count)])

    @property
    def counts(self) -> NDArray[np.float64]:
        """What was counted of each tile, N x K; rows of it may be added up for `measures`."""
        return np.array(self._tiles, dtype=np.float64).reshape(len(self._tiles), 3 + 2 * len(COUNTED))

    def summary(self) -> dict[str, float]:
        """`measures` of all tiles together."""
        digits = {"pieces": 2, "deviation": 2, "building_count": 2}
        sums = self.counts.sum(axis=0)
        return {name: round(float(v), digits.get(name.removeprefix("true_"), 3)) for name, v in measures(sums).items()}


def measures(counts: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Sums of `Likeness.counts`, ... x K -> what they mean, each of shape ...

    building_precision, building_recall, building_f: of buildings matched; building_count: generated per true one;
    connectivity: the share of pairs of points on true roads that are joined; pieces: of roads, per 1,000 px of
    centreline; sharp: the share of steps between pixels that are sharp; rectangularity: the share that buildings fill
    of their smallest rectangles; deviation: of their walls from their axes, in degrees. What begins with true_ is the
    ground truth's.
    """
    alike, same, pairs = np.moveaxis(counts[..., :3], -1, 0)
    ours, true = (
        dict(zip(COUNTED, np.moveaxis(part, -1, 0), strict=True))
        for part in (counts[..., 3 : 3 + len(COUNTED)], counts[..., 3 + len(COUNTED) :])
    )
    of_each: dict[str, NDArray[np.float64]] = {}
    for prefix, one in (("", ours), ("true_", true)):
        of_each |= {
            f"{prefix}pieces": 1000 * one["pieces"] / one["length"].clip(1),
            f"{prefix}sharp": one["sharp"] / one["steps"].clip(1),
            f"{prefix}rectangularity": one["filling"] / one["fills"].clip(1),
            f"{prefix}deviation": one["deviating"] / one["deviations"].clip(1),
        }
    return {
        "building_precision": alike / ours["buildings"].clip(1),
        "building_recall": alike / true["buildings"].clip(1),
        "building_f": 2 * alike / (ours["buildings"] + true["buildings"]).clip(1),
        "building_count": ours["buildings"] / true["buildings"].clip(1),
        "connectivity": same / pairs.clip(1),
    } | of_each
