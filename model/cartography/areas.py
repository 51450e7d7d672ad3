"""Land cover: a class field without its buildings and lines, as areas with smooth outlines that leave no gaps."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.features import shapes, sieve
from scipy import ndimage
from shapely import Polygon
from shapely.affinity import scale
from skimage.measure import label

from tilecascade.model.cartography.field import CELL, NAMES, ClassField
from tilecascade.model.cartography.objects import MapObject

COVER = [name for name in NAMES if name not in (
    "building", "building outline", "road", "secondary road", "primary road", "trunk road", "path", "track", "railway"
)]  # fmt: skip
"""Colours that cover ground."""

SMOOTH = 2.0
"""Cells over which the likelihood of a cover is smoothed."""

FAINT = 0.1
"""A cover that is nowhere as likely is not looked at further."""

SMALLEST = 40
"""Cells of the smallest area; a smaller one is part of what surrounds it."""

SIMPLIFY = 2.0
"""Cells by which an outline may be moved when it is simplified."""


def areas(field: ClassField) -> list[MapObject]:
    """The areas of a field, in its pixels, that cover it wholly."""
    shares = field.shares[[NAMES.index(name) for name in COVER]]
    smooth = np.stack(
        [ndimage.gaussian_filter(plane, SMOOTH, truncate=3) if plane.max() >= FAINT else plane for plane in shares]
    )
    cover = sieve(smooth.argmax(axis=0).astype(np.uint8), SMALLEST)
    confidence = np.take_along_axis(smooth, cover[None].astype(np.int64), axis=0)[0] / smooth.sum(0).clip(1e-6)
    return outlined(cover, confidence, CELL, SIMPLIFY)


def outlined(cover: NDArray[np.uint8], confidence: NDArray[np.float32], cell: int, tolerance: float) -> list[MapObject]:
    """Numbers of COVER by position, and how sure each is, -> polygons in pixels, whose common borders stay common.

    cell: pixels of a position. tolerance: positions by which an outline may be moved when it is simplified.
    """
    polygons, kinds, means = [], [], []
    regions = label(cover, background=-1, connectivity=1).astype(np.int32)
    sums = np.bincount(regions.ravel(), weights=confidence.ravel()) / np.bincount(regions.ravel()).clip(1)
    first = np.unique(regions, return_index=True)[1]
    kind_of = dict(zip(regions.ravel()[first].tolist(), cover.ravel()[first].tolist(), strict=True))
    for geometry, region in shapes(regions, connectivity=4):
        rings = geometry["coordinates"]
        polygons.append(Polygon(rings[0], rings[1:]))
        kinds.append(kind_of[int(region)])
        means.append(float(sums[int(region)]))
    simple = shapely.coverage_simplify(polygons, tolerance, simplify_boundary=False)
    parts, owner = shapely.get_parts(simple, return_index=True)
    return [
        MapObject("cover", COVER[kinds[i]], scale(part, cell, cell, origin=(0, 0)), means[i])
        for part, i in zip(parts, owner, strict=True)
        if isinstance(part, Polygon) and not part.is_empty
    ]
