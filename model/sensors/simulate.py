"""What other sensors would have seen where a colour camera has: for training, because real pairs are not to be had.

Stated physics, no more. Near infrared: chlorophyll reflects half of it and water next to nothing, all else a little
less than of visible light (the red edge). Radar: the mean backscatter of each kind of ground at C band, bright corners
where walls face the sensor, and speckle of some looks; no layover and no shadow. Panchromatic: a weighted sum.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tilecascade.model.cascade import Mask, Pixels
from tilecascade.model.palette import CLASSES
from tilecascade.model.sensors.modality import Bands, Sensor, of_decibels

LOOKS = 4.0
"""Looks of a radar picture: its intensity varies by a gamma distribution of this shape."""

BACKSCATTER = {"water": -21.0, "road": -16.0, "land": -12.5, "building": -7.0}
WOOD, LOW_GREEN = -8.5, -12.0
"""Mean decibels of ground, of trees, and of grass and crops."""

CORNER = 10.0
"""Decibels that a wall which faces the sensor adds."""

SMOOTH = 2.0
"""Pixels over which the colour of plants is smoothed."""

TEXTURE = 12.0
"""Decibels by which ground varies for a difference in brightness of 1 from what is around."""


def greenness(image: NDArray[np.floating]) -> NDArray[np.floating]:
    """How far pixels are living plants, 0 to 1, by their colour: H x W x 3 in [0, 1] -> H x W."""
    image = ndimage.gaussian_filter(image, (SMOOTH, SMOOTH, 0))  # compression leaves blocks of colour in shadows
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    excess = (2 * green - red - blue) / np.maximum(image.sum(axis=2), 0.15)
    return np.clip(6 * excess + 0.1, 0, 1)


def simulate(sensor: Sensor, imagery: Pixels, classes: NDArray[np.uint8], rng: np.random.Generator) -> Bands:
    """What a sensor would have seen, B x H x W in [0, 1].

    imagery: H x W x 3 uint8. classes: H x W, indices into `palette.CLASSES`, as a map has them.
    """
    image = imagery.astype(np.float64) / 255
    if sensor == "rgb":
        return image.transpose(2, 0, 1).astype(np.float32)
    if sensor == "pan":
        return (image @ (0.32, 0.38, 0.30))[None].astype(np.float32)
    green, water = greenness(image), classes == CLASSES.index("water")
    if sensor == "nir":
        bright = image.mean(axis=2)
        infrared = bright * 0.85 * (1 - green) + (0.5 + 0.35 * bright) * green
        infrared = np.where(water, 0.2 * bright, infrared) + 0.01 * rng.standard_normal(bright.shape)
        bands = np.concatenate([image.transpose(2, 0, 1), infrared[None]])
        return np.clip(bands, 0, 1).astype(np.float32)
    return _radar(image, green, classes, rng)[None]


def _radar(
    image: NDArray[np.floating], green: NDArray[np.floating], classes: NDArray[np.uint8], rng: np.random.Generator
) -> NDArray[np.float32]:
    bright = image.mean(axis=2)
    around = ndimage.gaussian_filter(bright, 6.0)
    rough = np.sqrt(ndimage.gaussian_filter((bright - around) ** 2, 3.0))
    tall = np.clip((0.42 - around) / 0.2, 0, 1) * np.clip(rough / 0.05, 0, 1)
    plants = LOW_GREEN + (WOOD - LOW_GREEN) * tall
    level = BACKSCATTER["land"] + green * (plants - BACKSCATTER["land"])
    for name in ("water", "road", "building"):
        level = np.where(classes == CLASSES.index(name), BACKSCATTER[name], level)
    dry = classes != CLASSES.index("water")
    level = level + dry * TEXTURE * np.clip(bright - around, -0.25, 0.25)
    level = level + CORNER * _corners(classes == CLASSES.index("building"), rng)
    intensity = 10 ** (level / 10) * rng.gamma(LOOKS, 1 / LOOKS, level.shape)
    intensity = ndimage.gaussian_filter(intensity, 0.5)
    return of_decibels(np.asarray(10 * np.log10(np.maximum(intensity, 1e-6))))


def _corners(buildings: Mask, rng: np.random.Generator) -> NDArray[np.floating]:
    """Where a wall faces a sensor that looks from a random side."""
    down, right = [(1, 0), (-1, 0), (0, 1), (0, -1)][int(rng.integers(4))]
    beside = np.roll(buildings, (down, right), (0, 1))
    return ndimage.gaussian_filter((beside & ~buildings).astype(float), 0.7)
