"""Map objects against a true map, one by one: which are right, by how sure of them the network is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.features import rasterize
from scipy import ndimage
from skimage.morphology import skeletonize

from tilecascade.model.cartography.objects import MapObject
from tilecascade.model.cascade import Pixels
from tilecascade.model.evaluation.likeness import building_instances, road_components

OVERLAP = 0.5
"""Intersection over union from which on a building is the true one."""

BESIDE = 5.0
"""Metres from a true centreline within which a stretch of road is right."""

MARGIN = 12
"""Pixels along a tile's edge that are left out: the true map of what lies there is not known as a whole."""

TENTHS = 10

Mask = NDArray[np.bool_]


@dataclass
class ObjectMatches:
    """Counts over tiles.

    buildings, roads: confidence and whether it is right, of each generated building and of each pixel's length of road.
    true_buildings, found_buildings: how many true ones there are, and of how many a generated one is right; true_road,
    found_road: pixels of true centrelines, and those with a generated one beside them.
    """

    buildings: list[tuple[float, bool]] = field(default_factory=list)
    roads: list[tuple[float, bool]] = field(default_factory=list)
    true_buildings: int = 0
    found_buildings: int = 0
    true_road: int = 0
    found_road: int = 0

    def add(self, found: Iterable[MapObject], truth: Pixels, metres: float) -> None:
        """Compare the objects of one tile, in its pixels, with its true map, H x W x 3 uint8 of the default style.

        metres: size of a pixel on the ground.
        """
        objects = list(found)
        inner = np.zeros(truth.shape[:2], dtype=np.bool_)
        inner[MARGIN:-MARGIN, MARGIN:-MARGIN] = True
        self._add_buildings([each for each in objects if each.theme == "building"], truth, inner)
        self._add_roads([each for each in objects if each.theme == "road"], truth, inner, BESIDE / metres)

    def _add_buildings(self, objects: list[MapObject], truth: Pixels, inner: Mask) -> None:
        instances, count = building_instances(truth)
        sizes = np.bincount(instances.ravel(), minlength=count + 1)
        hit = set()
        for each in objects:
            if not _inside(each.geometry.centroid, inner):
                continue
            mask = rasterize([each.geometry], instances.shape, dtype="uint8").astype(np.bool_)
            shared = np.bincount(instances[mask], minlength=count + 1)
            shared[0] = 0
            best = int(shared.argmax())
            right = bool(shared[best] > OVERLAP * (mask.sum() + sizes[best] - shared[best]))
            self.buildings.append((each.confidence, right))
            if right:
                hit.add(best)
        centres = ndimage.center_of_mass(instances > 0, instances, range(1, count + 1)) if count else []
        complete = {i for i, (y, x) in enumerate(centres, start=1) if _inside(shapely.Point(x, y), inner)}
        self.true_buildings += len(complete)
        self.found_buildings += len(complete & hit)

    def _add_roads(self, objects: list[MapObject], truth: Pixels, inner: Mask, beside: float) -> None:
        line = skeletonize(road_components(truth)[0] > 0)
        far, generated = _distance(line), np.zeros_like(line)
        for each in objects:
            steps = np.arange(0, each.geometry.length)
            along = np.full(len(steps), each.geometry, dtype=object)
            for x, y in shapely.get_coordinates(shapely.line_interpolate_point(along, steps)):
                if _inside(shapely.Point(x, y), inner):
                    self.roads.append((each.confidence, bool(far[int(y), int(x)] <= beside)))
                    generated[int(y), int(x)] = True
        self.true_road += int((line & inner).sum())
        self.found_road += int((line & inner & (_distance(generated) <= beside)).sum())

    def summary(self) -> dict[str, Any]:
        """Precision, recall and precision by tenth of the confidence, of buildings and of roads."""
        told = {}
        for name, rows, true, found in (
            ("buildings", self.buildings, self.true_buildings, self.found_buildings),
            ("roads", self.roads, self.true_road, self.found_road),
        ):
            values = np.array(rows, dtype=np.float64).reshape(-1, 2)
            values = values[np.argsort(values[:, 0], kind="stable")]
            tenths = [part for part in np.array_split(values, TENTHS) if len(part)]
            told[name] = {
                "generated": len(rows),
                "true": true,
                "precision": round(float(values[:, 1].mean()), 3) if rows else None,
                "recall": round(found / true, 3) if true else None,
                "tenths": [
                    {"from_confidence": round(float(part[0, 0]), 3), "right": round(float(part[:, 1].mean()), 3)}
                    for part in tenths
                ],
            }
        return told


def _inside(point: shapely.Point, inner: Mask) -> bool:
    x, y = int(point.x), int(point.y)
    return 0 <= y < inner.shape[0] and 0 <= x < inner.shape[1] and bool(inner[y, x])


def _distance(line: Mask) -> NDArray[np.float64]:
    """Pixels from each place to a line."""
    if not line.any():
        return np.full(line.shape, np.inf)
    return np.asarray(ndimage.distance_transform_edt(~line), dtype=np.float64)
