"""A map style as data: the colours that its maps are made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.cluster.vq import kmeans2

from tilecascade.model.data.pairs import Pixels
from tilecascade.model.palette import PALETTE

SAMPLED = 40_000
"""Pixels that colours are learned from."""

RARE = 4
"""Each colour of 5 bits a channel counts as the RARE-th root of its pixels, so that lines weigh beside areas."""


def learn_palette(maps: Sequence[Pixels], seed: int = 0) -> tuple[tuple[int, int, int], ...]:
    """The colours of some maps, as many as the default palette has; the most frequent first.

    By k-means of RGB, over pixels that are drawn more evenly than they occur. Raises ValueError for maps of fewer
    colours than three.
    """
    pixels = np.concatenate([image.reshape(-1, 3)[::7] for image in maps])
    bins = (pixels >> 3).astype(np.int32) @ (1024, 32, 1)
    cells, place, counts = np.unique(bins, return_inverse=True, return_counts=True)
    if len(cells) < 3:
        raise ValueError("the maps have fewer than three colours: are they maps?")
    weights = (counts ** (1 / RARE) / counts)[place]
    rng = np.random.default_rng(seed)
    chosen = pixels[rng.choice(len(pixels), SAMPLED, p=weights / weights.sum())].astype(np.float64)
    # a little apart, so that as many centres as there are colours find a place in maps of few colours
    centres, _ = kmeans2(chosen + rng.normal(0, 0.5, chosen.shape), len(PALETTE), minit="++", seed=rng)
    nearest = ((pixels[::11, None].astype(np.float64) - centres) ** 2).sum(axis=2).argmin(axis=1)
    order = np.argsort(-np.bincount(nearest, minlength=len(centres)), kind="stable")
    return tuple((int(r), int(g), int(b)) for r, g, b in centres[order].round().clip(0, 255))
