"""What a map says about objects beyond colours: outlines of buildings, gaps between close ones, centrelines of roads.

A network that only learns colours merges two close houses into one blob and breaks a road where it is narrow. Boundary
and contact classes follow RAMP and HiSup (Xu et al. 2023), centrelines and junctions SAM-Road (Hetang et al. 2024).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import skeletonize

from tilecascade.model.data.labels import ALLOWED, FILL, buildings, exact
from tilecascade.model.data.pairs import Pixels
from tilecascade.model.palette import CLASS_OF_COLOUR, CLASSES, nearest_colour

KINDS = ("boundary", "contact", "centreline", "junction")
"""The planes of `object_planes`, in this order."""

Planes = NDArray[np.bool_]

GAP = 7
"""Edge in pixels of the square in which two buildings count as close to each other."""

_CONNECTED = np.ones((3, 3), dtype=np.bool_)


def object_planes(image: Pixels) -> Planes:
    """H x W x 3 uint8, a map of the default style -> len(KINDS) x H x W.

    boundary: the outermost pixels of buildings. contact: ground between two buildings less than GAP / 2 px away from
    either, and the walls that two buildings share. centreline: one pixel wide, of all roads. junction: where
    centrelines meet, 3 x 3 pixels.
    """
    kinds = np.append(CLASS_OF_COLOUR, np.zeros(len(ALLOWED), dtype=np.uint8))[exact(image)]
    building = buildings(image)
    boundary = building & ~ndimage.binary_erosion(building, _CONNECTED, border_value=1)
    instances, _ = ndimage.label(ndimage.binary_opening(nearest_colour(image) == FILL, _CONNECTED) & building)
    most = ndimage.maximum_filter(instances, GAP)
    least = ndimage.minimum_filter(np.where(instances > 0, instances, np.iinfo(instances.dtype).max), GAP)
    contact = (instances == 0) & (most > 0) & (least < most)
    road = ndimage.binary_closing(kinds == CLASSES.index("road"), _CONNECTED)
    centreline = skeletonize(road)
    neighbours = ndimage.convolve(centreline.astype(np.uint8), np.ones((3, 3), dtype=np.uint8), mode="constant")
    junction = ndimage.binary_dilation(centreline & (neighbours >= 4), _CONNECTED)
    return np.stack([boundary, contact, centreline, junction])


def halved(planes: Planes) -> Planes:
    """K x H x W -> K x H/2 x W/2: whether any of the four pixels is set."""
    kinds, height, width = planes.shape
    return np.asarray(planes.reshape(kinds, height // 2, 2, width // 2, 2).any(axis=(2, 4)))
