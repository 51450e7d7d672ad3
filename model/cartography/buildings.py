"""Buildings: parts of a class field that are likely a building, split at their waists, with straight walls."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from rasterio.features import shapes
from scipy import ndimage
from shapely import Polygon
from skimage.segmentation import watershed

from tilecascade.model.cartography.field import ClassField, Floats
from tilecascade.model.cartography.objects import MapObject
from tilecascade.model.cartography.regularise import regularise, straighten

SURE, LIKELY, SMOOTH = 0.6, 0.4, 1.0
"""Where a building is as likely as SURE, there is one; it goes as far as it is LIKELY; smoothed over pixels."""

COARSE_ZOOM, COARSE_SURE, COARSE_LIKELY, COARSE_SMOOTH = 15, 0.5, 0.35, 0.6
"""The same up to a zoom where a house is a few pixels, and so never as sure."""

DOUBTFUL_ZOOM, DOUBTFUL = 17, 0.55
"""From this zoom on a building that is less likely, on the mean of its pixels, is not made: of such ones 3 in a hundred
are right (z17, validation areas), and what is left of them is the ground they stand on."""

REACH = 24
"""Pixels that a building goes beyond where it is sure, at most."""

SMALLEST = 10
"""Pixels of the smallest building."""

LARGEST = 48
"""Pixels of the longest side of a building that is squared. Two neighbouring windows both see a smaller one whole, if
it crosses the border of their blocks, so they make the same of it; a larger one is straightened wall by wall."""


def buildings(field: ClassField) -> list[MapObject]:
    """The buildings of a field, in its pixels."""
    coarse = field.zoom <= COARSE_ZOOM
    sure, least = (COARSE_SURE, COARSE_LIKELY) if coarse else (SURE, LIKELY)
    likely = ndimage.gaussian_filter(field.of_class("building"), COARSE_SMOOTH if coarse else SMOOTH)
    numbers = separated(likely, sure, least)
    boxes = ndimage.find_objects(numbers)
    found = []
    polygons = _polygons(numbers)
    for number, polygon in polygons.items():
        box = boxes[number - 1]
        inside = numbers[box] == number
        confidence = float(likely[box][inside].mean())
        whole = _is_whole(polygon, numbers.shape)
        outline = regularise(polygon) if whole else straighten(polygon)
        found.append(MapObject("building", "building", outline, confidence, whole=whole))
    lowest = DOUBTFUL if field.zoom >= DOUBTFUL_ZOOM else 0.0
    return [each for each in found if each.geometry.area >= SMALLEST and each.confidence >= lowest]


def separated(likely: Floats, sure: float, least: float) -> NDArray[np.int32]:
    """How likely a building is, H x W -> the number of the building at each pixel; 0 for none.

    Seeds are where a building is sure; two that meet are two where what lies between them is less so. Only what is near
    a seed belongs to it, because a neighbouring window may not see a seed farther away.
    """
    seeds, _ = ndimage.label(likely >= sure)
    near = ndimage.distance_transform_edt(seeds == 0) <= REACH
    return np.asarray(watershed(-likely, seeds, mask=near & (likely >= least), watershed_line=True), dtype=np.int32)


def _is_whole(polygon: Polygon, shape: tuple[int, ...]) -> bool:
    """Whether a building lies within a window of this shape, and is so small that a neighbour sees all of it, too."""
    left, top, right, bottom = polygon.bounds
    inside = left > 0 and top > 0 and right < shape[1] and bottom < shape[0]
    return inside and max(right - left, bottom - top) <= LARGEST


def _polygons(numbers: NDArray[np.int32]) -> dict[int, Polygon]:
    """The outline of each number; of one whose pixels touch by corners only, the largest part."""
    outlines: dict[int, Polygon] = {}
    for geometry, number in shapes(numbers, mask=numbers > 0, connectivity=4):
        polygon = Polygon(geometry["coordinates"][0])
        if int(number) not in outlines or polygon.area > outlines[int(number)].area:
            outlines[int(number)] = polygon
    return outlines
