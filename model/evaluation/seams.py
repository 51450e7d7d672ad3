"""Seams of a mosaic: does anything happen at tile, block and window borders that does not happen elsewhere?

On true maps the ratio of the step at tile borders to that between other pixels has a standard deviation of 0.07 from
one mosaic to the next, so a bare threshold would be noise. A border is ranked among all phases of the same mosaic.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tilecascade.model.palette import classify, nearest_colour

BAND = (0.05, 0.95)
"""A border whose rank lies inside is like any other place."""

MIN_PIXELS = 256
"""Pixels of a colour that a tile must have to count for the drift."""

Floats = NDArray[np.float64]
Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def phase_steps(mosaic: Pixels, known: Mask, period: int) -> Floats:
    """Mean absolute step from a column (row) to the next, by phase: entry p is of columns and rows with index % period
    == p, so that the step over a border at a multiple of `period` is the last entry.

    mosaic: H x W x 3 uint8 whose origin lies on a border; known: H x W. Steps to or from unknown pixels do not count.
    """
    total, count = np.zeros(period), np.zeros(period)
    for image, mask in ((mosaic, known), (mosaic.transpose(1, 0, 2), known.T)):
        step = np.abs(np.diff(image.astype(np.int16), axis=1)).mean(axis=2)
        both = mask[:, 1:] & mask[:, :-1]
        phase = np.arange(step.shape[1]) % period
        total += np.bincount(phase, (step * both).sum(axis=0), period)
        count += np.bincount(phase, both.sum(axis=0), period)
    return np.asarray(total / np.maximum(count, 1))


def rank(steps: Floats, phase: int) -> float:
    """Share of the other phases whose step is smaller, ties half: 0.5 is the median, 1 above all."""
    mine, others = steps[phase], np.delete(steps, phase)
    return float(((others < mine) + 0.5 * (others == mine)).mean())


def border_ranks(mosaic: Pixels, known: Mask, tile: int, block: int, halos: tuple[int, ...]) -> dict[str, float]:
    """Ranks of tile borders, block borders, and of the lines where windows that reach beyond their block end.

    tile, block: edges in pixels. halos: pixels beyond a block; each end is a line on both sides of every border.
    """
    ranks = {"tile": rank(phase_steps(mosaic, known, tile), tile - 1)}
    steps = phase_steps(mosaic, known, block)
    ranks["block"] = rank(steps, block - 1)
    for halo in sorted(set(halos) - {0}):
        ends = ((halo - 1) % block, (block - halo - 1) % block)
        ranks[f"window {halo}"] = float(np.mean([rank(steps, end) for end in ends]))
    return {name: round(value, 3) for name, value in ranks.items()}


def inside_band(ranks: dict[str, float]) -> bool:
    """Whether every border is like any other place."""
    return all(BAND[0] <= value <= BAND[1] for value in ranks.values())


def difference(a: Pixels, b: Pixels, known: Mask) -> dict[str, float]:
    """How two generated maps of the same ground differ: mean and 99th percentile of the largest channel's absolute
    difference in levels, and the share of pixels of another class."""
    levels = np.abs(a.astype(np.int16) - b).max(axis=2)[known]
    other = (classify(a) != classify(b))[known]
    return {
        "mean": round(float(levels.mean()), 4),
        "p99": round(float(np.percentile(levels, 99)), 1),
        "other_class": round(float(other.mean()), 5),
    }


def style_drift(mosaic: Pixels, known: Mask, tile: int) -> float:
    """How much a colour varies from tile to tile: the standard deviation over tiles of the mean RGB of the pixels
    nearest to one palette colour, averaged over colours and channels, in levels."""
    means: dict[int, list[Floats]] = {}
    for top in range(0, mosaic.shape[0] - tile + 1, tile):
        for left in range(0, mosaic.shape[1] - tile + 1, tile):
            part = mosaic[top : top + tile, left : left + tile]
            colours = np.where(known[top : top + tile, left : left + tile], nearest_colour(part), 255)
            for colour in np.unique(colours):
                chosen = colours == colour
                if colour != 255 and chosen.sum() >= MIN_PIXELS:
                    means.setdefault(int(colour), []).append(part[chosen].mean(axis=0))
    spread = [np.std(values, axis=0).mean() for values in means.values() if len(values) > 1]
    return round(float(np.mean(spread)), 3) if spread else 0.0
