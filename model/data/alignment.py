"""The offset between imagery and map, estimated per area and removed when pairs are read.

Satellite imagery is georeferenced to some metres only; the supplied imagery lies up to 8 pixels (z17) from the maps.
Roads and roof edges are lines in both images, so the offset is the peak of the cross-correlation of their gradient
*orientations* (doubled angle: dark-to-bright and bright-to-dark count the same), summed over all z16 and z17 pairs of
an area (a z14 tile). A quadratic penalty pulls areas with little evidence to the median of all areas.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tilecascade.model.data.pairs import Pair, Pixels

RADIUS = 12
"""Largest offset looked for, in z17 pixels."""

Area = tuple[str, int, int]


def _orientation(image: Pixels) -> NDArray[np.complexfloating]:
    """Structure of an image: H x W complex, phase = twice the gradient angle, modulus = gradient strength."""
    total = np.zeros(image.shape[:2], dtype=np.complex64)
    for channel in range(3):
        plane = image[..., channel].astype(np.float32)
        gx = ndimage.gaussian_filter(plane, 1.0, order=(0, 1))
        gy = ndimage.gaussian_filter(plane, 1.0, order=(1, 0))
        total += (gx + 1j * gy) ** 2
    return total / np.sqrt(np.abs(total) + 1e-6)


def correlation(imagery: Pixels, generated: Pixels) -> NDArray[np.float64]:
    """Agreement at every offset: (2 RADIUS + 1)^2, index [dy + RADIUS, dx + RADIUS], imagery lying (dx, dy) off."""
    a = _orientation(imagery)
    a = a / (np.abs(a) + np.median(np.abs(a)) + 1e-6)
    b = _orientation(generated)
    b = np.where(np.abs(b) > 3, b / np.maximum(np.abs(b), 1e-6), 0)
    spectrum = np.fft.fft2(a) * np.conj(np.fft.fft2(b))
    full = np.roll(np.fft.ifft2(spectrum).real, (RADIUS, RADIUS), (0, 1))
    return full[: 2 * RADIUS + 1, : 2 * RADIUS + 1]


def _at_z17(surface: NDArray[np.float64], zoom: int) -> NDArray[np.float64]:
    """A z16 correlation surface stretched to z17 pixels about its centre; a z17 one as it is."""
    if zoom == 17:
        return surface
    axis = RADIUS + (np.arange(2 * RADIUS + 1) - RADIUS) / 2
    return ndimage.map_coordinates(surface, np.meshgrid(axis, axis, indexing="ij"), order=3)


def estimate_offsets(pairs: Iterable[Pair]) -> dict[Area, tuple[int, int]]:
    """(dx, dy) in z17 pixels for every area that has z16 or z17 pairs."""
    surfaces: dict[Area, NDArray[np.float64]] = defaultdict(lambda: np.zeros((2 * RADIUS + 1, 2 * RADIUS + 1)))
    telling = [pair for pair in pairs if pair.zoom in (16, 17)]
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda pair: _at_z17(correlation(pair.imagery, pair.map), pair.zoom), telling)
        for pair, surface in zip(telling, found, strict=True):
            surfaces[pair.area] += surface
    first = {area: _peak(surface) for area, surface in surfaces.items()}
    if not first:
        return {}
    centre = np.median(np.array(list(first.values())), axis=0)
    axis = np.arange(-RADIUS, RADIUS + 1)
    distance = (axis[:, None] - centre[1]) ** 2 + (axis[None, :] - centre[0]) ** 2
    # about one tile's worth of line pixels outweighs the pull at 8 px distance
    return {area: _peak(surface - 5.0 * distance) for area, surface in surfaces.items()}


def _peak(surface: NDArray[np.float64]) -> tuple[int, int]:
    dy, dx = np.unravel_index(int(surface.argmax()), surface.shape)
    return int(dx) - RADIUS, int(dy) - RADIUS


def offset_of(pair: Pair, offsets: dict[Area, tuple[int, int]]) -> tuple[int, int]:
    """The imagery's offset in pixels of this pair's own zoom; the median of all areas for an unknown area."""
    if not offsets:
        return 0, 0
    dx, dy = offsets.get(pair.area) or tuple(np.median(np.array(list(offsets.values())), axis=0))
    factor = 2.0 ** (pair.zoom - 17)
    return round(dx * factor), round(dy * factor)


def shift(image: Pixels, dx: int, dy: int) -> Pixels:
    """Content moved by (-dx, -dy): out[y, x] = image[y + dy, x + dx], edges repeated."""
    rows = np.clip(np.arange(image.shape[0]) + dy, 0, image.shape[0] - 1)
    columns = np.clip(np.arange(image.shape[1]) + dx, 0, image.shape[1] - 1)
    return image[rows[:, None], columns[None, :]]
