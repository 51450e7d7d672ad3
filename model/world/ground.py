"""What grows on the ground of a territory that does not exist, from above: fields, trees and bushes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tilecascade.model.world.lattice import Floats, hashed, noise

FIELDS, CROWNS = 64, 67
"""Streams of noise (see `lattice`)."""

PARCEL, CROWN = 130.0, 9.0
"""Metres of half a field, and of a tree."""

CROPS = np.array([(150, 128, 96), (122, 128, 72), (166, 152, 98), (92, 114, 60), (112, 95, 72), (140, 132, 88)], float)


def fields_at(seed: int, xs: Floats, ys: Floats) -> Floats:
    """Parcels of crops that bend with the land; their mean where a pixel is as large as one."""
    if xs[1] - xs[0] > PARCEL:
        return np.broadcast_to(CROPS.mean(axis=0), (len(ys), len(xs), 3))
    bend_x, bend_y = (900 * noise(seed, FIELDS + 8 * i, xs, ys, 5_000) for i in (1, 2))
    row = np.floor((ys[:, None] + bend_y) / 260)
    column = np.floor((xs[None, :] + bend_x + 97 * (row % 5)) / 390)
    chance = hashed(seed, FIELDS, row.astype(np.int64), column.astype(np.int64))
    shade = 0.9 + 0.2 * hashed(seed, FIELDS, row.astype(np.int64), column.astype(np.int64), 5)
    return np.asarray(CROPS[(chance * len(CROPS)).astype(int)] * shade[..., None])


def crowns_at(seed: int, xs: Floats, ys: Floats, share: Floats, open_land: NDArray[np.bool_]) -> Floats:
    """Light and shade of single trees, where a pixel is small enough to show them: what brightness is multiplied by.

    share: how strong it is where trees stand close, 0 elsewhere. open_land: where only some bushes stand. All H x W.
    """
    if xs[1] - xs[0] > CROWN or not (share.any() or open_land.any()):
        return np.ones(share.shape)
    bumps = 0.75 * noise(seed, CROWNS, xs, ys, 1.6 * CROWN)
    if xs[1] - xs[0] < CROWN / 2:
        bumps = bumps + 0.6 * noise(seed, CROWNS + 50, xs, ys, 0.8 * CROWN)
    # on open land only the highest are bushes, which are dark
    light = np.where(open_land, -0.4 * (bumps > 1.5), share * bumps)
    return np.asarray((1 + light).clip(0.45, 1.5))
