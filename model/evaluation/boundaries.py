"""Boundary F-score: do outlines lie where they should, within a few pixels?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, binary_erosion

Mask = NDArray[np.bool_]

TOLERANCE = 2
"""Pixels (Euclidean) that a boundary may be off."""


def outline(mask: Mask) -> Mask:
    """The pixels of a mask that touch its outside (four neighbours); the image's edge is no outline."""
    return np.asarray(mask & ~binary_erosion(mask, border_value=1))


def _near(boundary: Mask) -> Mask:
    span = np.arange(-TOLERANCE, TOLERANCE + 1)
    disk = span[:, None] ** 2 + span[None, :] ** 2 <= TOLERANCE**2
    return np.asarray(binary_dilation(boundary, disk))


def match(generated: Mask, truth: Mask) -> NDArray[np.int64]:
    """Counts to be summed over tiles: generated outline pixels near a true one, all generated ones, and the other way
    round."""
    a, b = outline(generated), outline(truth)
    return np.array([(a & _near(b)).sum(), a.sum(), (b & _near(a)).sum(), b.sum()], dtype=np.int64)


def f_score(counts: NDArray[np.int64]) -> float:
    """Harmonic mean of precision and recall of summed counts; 0 if nothing matches, 1 if there is nothing at all."""
    hit_generated, generated, hit_true, true = (int(n) for n in counts)
    if generated == 0 and true == 0:
        return 1.0
    precision, recall = hit_generated / max(1, generated), hit_true / max(1, true)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
