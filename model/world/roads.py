"""Roads between the towns of a sketch: the cheapest ways over its ground, each town joined to the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.graph import MCP_Geometric

from tilecascade.model.world.lattice import Floats, noise, smooth_line

GRID = 320
"""Cells along the longer side of the sketch that ways are looked for on."""

WINDING = 68
"""Stream of noise (see `lattice`) by which ground is a little better here and worse there."""

BRIDGED = 3
"""Cells of water that a bridge may reach from the bank; wider water is not crossed."""

BRIDGE = 25.0
SHARED = 0.35
"""A cell of road costs this part of the ground under it, so that roads join instead of running side by side."""

DETOUR = 2.5
"""Two towns get a road of their own where the way over the others costs so many times as much."""

SMOOTH = 2.5
"""Cells over which a way is smoothed."""

MOST_TOWNS = 40
"""The largest ones are joined."""


@dataclass(frozen=True)
class Road:
    """kind: its class in the map style. points: N x 2, in cells of the sketch (columns, rows) from its upper left."""

    kind: str
    points: Floats


def roads_between(towns: NDArray[np.bool_], water: NDArray[np.bool_], cost: Floats, seed: int) -> list[Road]:
    """Roads that join the towns of a sketch as far as land and bridges reach.

    towns, water: H x W masks. cost: H x W, of crossing a pixel of ground, at least 1. The same for the same arguments.
    """
    step = max(1, round(max(towns.shape) / GRID))
    ground = _ground(water[::step, ::step], cost[::step, ::step], seed)
    places, sizes = _centres(towns[::step, ::step] & np.isfinite(ground))
    if len(places) < 2:
        return []
    costs = np.array([MCP_Geometric(ground).find_costs([place])[0][tuple(np.array(places).T)] for place in places])
    large = np.array(sizes) >= np.median(sizes)
    roads = []
    for a, b in _joined(costs):
        way = MCP_Geometric(ground)
        way.find_costs([places[a]], [places[b]])
        cells = np.array(way.traceback(places[b]), dtype=np.int64)
        ground[tuple(cells.T)] = np.minimum(ground[tuple(cells.T)], SHARED * cost[::step, ::step][tuple(cells.T)])
        roads.append(Road("primary" if large[a] and large[b] else "secondary", (_curve(cells) + 0.5) * step))
    return roads


def _curve(cells: NDArray[np.int64]) -> Floats:
    """The cells of a way, N x 2 (row, column), as a smooth line of columns and rows between the same ends."""
    line = ndimage.gaussian_filter1d(cells.astype(float), SMOOTH, axis=0, mode="nearest")
    line[[0, -1]] = cells[[0, -1]]
    return smooth_line(np.concatenate([line[:-1:2], line[-1:]]), 2)[:, ::-1]


def _ground(water: NDArray[np.bool_], cost: Floats, seed: int) -> Floats:
    """What each cell costs; infinite where no bridge reaches."""
    height, width = water.shape
    columns, rows = np.arange(width, dtype=float), np.arange(height, dtype=float)
    uneven = noise(seed, WINDING, columns, rows, 7.0) + noise(seed, WINDING + 4, columns, rows, 23.0)
    ground = cost * np.exp(0.5 * uneven)
    # borders wander, so that a bank is no place for a road
    ground[ndimage.binary_dilation(water, iterations=2) & ~water] *= 3
    ground[water] = BRIDGE
    ground[ndimage.distance_transform_edt(water) > BRIDGED] = np.inf
    return np.asarray(ground)


def _centres(towns: NDArray[np.bool_]) -> tuple[list[tuple[int, int]], list[int]]:
    """A cell in each town, nearest to its middle, and its cells; the largest towns first."""
    labels, count = ndimage.label(towns, np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    places, kept = [], []
    for index in np.argsort(-sizes, kind="stable")[:MOST_TOWNS]:
        cells = np.argwhere(labels == index + 1)
        middle = cells[((cells - cells.mean(axis=0)) ** 2).sum(axis=1).argmin()]
        places.append((int(middle[0]), int(middle[1])))
        kept.append(int(sizes[index]))
    return places, kept


def _joined(costs: Floats) -> Sequence[tuple[int, int]]:
    """Which towns get a road: the cheapest first, if there is no way yet or only a long one. costs: N x N."""
    count = len(costs)
    shortest = np.where(np.eye(count, dtype=bool), 0.0, np.inf)
    chosen = []
    pairs = [(a, b) for a in range(count) for b in range(a + 1, count) if np.isfinite(costs[a, b])]
    for a, b in sorted(pairs, key=lambda pair: costs[pair]):
        if shortest[a, b] > DETOUR * costs[a, b]:
            chosen.append((a, b))
            new = shortest[:, [a]] + costs[a, b] + shortest[[b], :]
            shortest = np.minimum(shortest, np.minimum(new, new.T))
    return chosen
