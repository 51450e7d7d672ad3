"""How far a generated tile can be trusted: its uncertainty, and what that has meant where the true map is known.

The uncertainty of a pixel of a map that is drawn of objects is how unlikely the drawn class is by what is perceived
there, and none where a person has reviewed it. Without the finish it is the probability that two maps, generated with
different noise and sampled from what the decoder holds possible, disagree about the pixel's class. It is averaged over
a neighbourhood, because an edge that lies three pixels off is no reason to distrust the edge alone. What a level of
uncertainty means depends on the class: water is seldom wrong, and woods that are certain to the network are often
missing from the maps that it was trained and evaluated with.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import isotonic_regression

from tilecascade.model.cascade import Pixels
from tilecascade.model.palette import CLASSES

SAMPLES = 3
"""Maps generated with different noise."""

KNOTS = 17
"""Levels of uncertainty, evenly from 0 to 255, at which a calibration says what share of pixels was wrong."""

MIN_PIXELS = 2000
"""Pixels of a class that its own calibration needs; a class with fewer gets the calibration of all."""

Calibration = Sequence[Sequence[float]]
"""By class, the share of wrong pixels at each knot."""

SMOOTH = 6.0
"""Standard deviation in pixels of the neighbourhood. Four times this must fit into what a window denoises beyond its
block."""

COLOURS: tuple[tuple[float, tuple[int, int, int]], ...] = (
    (0.0, (26, 152, 80)),
    (0.15, (166, 217, 106)),
    (0.3, (254, 224, 139)),
    (0.45, (244, 109, 67)),
    (0.6, (165, 0, 38)),
)
"""Expected share of wrong pixels -> colour, linear in between."""

BASE_MAP_COLOUR = (69, 117, 180)
"""Colour of tiles that are the base map's own."""

Floats = NDArray[np.float32]


def calibrate(
    disagreement: NDArray[np.uint8], classes: NDArray[np.uint8], wrong: NDArray[np.bool_]
) -> list[list[float]]:
    """The share of wrong pixels by class and knot, rising with the uncertainty (isotonic regression).

    disagreement, classes: of `pipeline.Uncertainty`; wrong: where the class is not the true one. All of one shape.
    """
    everything = _rising(disagreement, wrong)
    tables = []
    for index in range(len(CLASSES)):
        here = classes == index
        tables.append(_rising(disagreement[here], wrong[here]) if here.sum() >= MIN_PIXELS else everything)
    return tables


def _rising(disagreement: NDArray[np.uint8], wrong: NDArray[np.bool_]) -> list[float]:
    hits = np.bincount(disagreement.ravel(), minlength=256).astype(float)
    bad = np.bincount(disagreement.ravel(), weights=wrong.ravel(), minlength=256)
    here = hits > 0
    rising = isotonic_regression(bad[here] / hits[here], weights=hits[here]).x
    knots = np.linspace(0, 255, KNOTS)
    return [round(float(v), 4) for v in np.interp(knots, np.flatnonzero(here), rising)]


def expected_error(disagreement: NDArray[np.uint8], classes: NDArray[np.uint8], calibration: Calibration) -> Floats:
    """The share of pixels that are wrong, H x W, for a pipeline's Uncertainty (both H x W).

    Raises ValueError without a calibration.
    """
    if not calibration:
        raise ValueError("these weights have no calibration; `tilecascade calibrate --store` makes one")
    knots = np.linspace(0, 255, len(calibration[0]))
    levels = np.stack([np.interp(np.arange(256), knots, table) for table in calibration])
    return levels[classes, disagreement].astype(np.float32)


def colours_of(error: Floats) -> Pixels:
    """H x W expected shares of wrong pixels -> H x W x 3 uint8, green to red."""
    stops = [stop for stop, _ in COLOURS]
    channels = [np.interp(error, stops, [colour[i] for _, colour in COLOURS]) for i in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def edge_strength(image: Pixels) -> Floats:
    """Steps of brightness in a generated map (H x W x 3), averaged over as large a neighbourhood: the signal that the
    uncertainty is compared with."""
    grey = image.astype(np.float32).mean(axis=2)
    steps: Floats = ndimage.gaussian_filter(ndimage.gaussian_gradient_magnitude(grey, 1.0), SMOOTH).astype(np.float32)
    return steps


def ranking(signal: NDArray[np.float32], wrong: NDArray[np.bool_]) -> tuple[float, list[float]]:
    """How well a signal ranks pixels by being wrong: the probability that a wrong one has more of it than a right one
    (area under the ROC curve), and the share of wrong pixels by decile of the signal."""
    order = np.argsort(signal.ravel(), kind="stable")
    bad = wrong.ravel()[order]
    ranks = np.flatnonzero(bad) + 1.0
    count, others = len(ranks), len(bad) - len(ranks)
    area = (ranks.sum() - count * (count + 1) / 2) / max(1, count * others)
    return round(float(area), 4), [round(float(part.mean()), 4) for part in np.array_split(bad, 10)]
