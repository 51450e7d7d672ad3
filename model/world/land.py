"""The natural country: relief and coast, lakes, rivers that run downhill to the sea, woods and fields."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tilecascade.model.world.lattice import Floats, Polyline, fractal, hashed, noise, smooth_line

EXTENT = 156543.03392804097
"""Metres across the country: one tile of z8 at the equator."""

GRID = 400
"""Cells across the grid that rivers and roads are planned on."""

CELL = EXTENT / GRID

NEIGHBOURS = ((-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1))

RELIEF, LAKES, WOODS, BENDS, PARCELS, MEANDER = range(1, 7)


class Cover(IntEnum):
    """What grows or lies on the ground."""

    LAND = 0
    WATER = 1
    FOREST = 2
    SCRUB = 3
    FARMLAND = 4
    GRASS = 5
    WETLAND = 6
    BEACH = 7
    ROCK = 8


@dataclass(frozen=True)
class Ground:
    """The ground at ys x xs: cover (uint8 of Cover), height (about -1 to 1, 0 is the sea), and which field a place
    belongs to (0 to 1, random by field) with the place across it (metres)."""

    cover: NDArray[np.uint8]
    height: Floats
    field: Floats
    across: Floats


def height(seed: int, xs: Floats, ys: Floats) -> Floats:
    """Relief at ys x xs. An island: it falls off towards the edges of the country."""
    x, y = xs / EXTENT * 2 - 1, ys / EXTENT * 2 - 1
    edge = np.maximum(np.abs(x)[None, :], np.abs(y)[:, None])
    bowl = 0.42 - 2.6 * np.clip(edge - 0.42, 0, None) ** 1.5
    return np.asarray(bowl + 0.26 * fractal(seed, RELIEF, xs, ys, 42_000, 11, 0.56))


def ground(seed: int, xs: Floats, ys: Floats) -> Ground:
    """Everything natural at ys x xs (metres, rising axes) but rivers, which are lines."""
    high = height(seed, xs, ys)
    lake = fractal(seed, LAKES, xs, ys, 7_000, 9)
    wood = fractal(seed, WOODS, xs, ys, 5_200, 9, 0.6) + 0.8 * (high - 0.3)
    bend_x, bend_y = (6_000 / 4 * noise(seed, BENDS + 8 * i, xs, ys, 6_000) for i in (1, 2))
    u, v = xs[None, :] + bend_x, ys[:, None] + bend_y
    row = np.floor(v / 150)
    column = np.floor((u + 97 * (row % 5)) / 230)
    low = (int(row.min()), int(column.min()))
    table = hashed(
        seed,
        PARCELS,
        np.arange(low[0], int(row.max()) + 1)[:, None],
        np.arange(low[1], int(column.max()) + 1)[None, :],
    )
    field = table[(row - low[0]).astype(int), (column - low[1]).astype(int)]
    cover = np.full(high.shape, Cover.LAND, dtype=np.uint8)
    cover[field < 0.38] = Cover.FARMLAND
    cover[field > 0.86] = Cover.GRASS
    cover[wood > 0.18] = Cover.SCRUB
    cover[wood > 0.3] = Cover.FOREST
    cover[high > 1.0] = Cover.ROCK
    inland = high < 0.75
    cover[(lake > 1.45) & inland] = Cover.WETLAND
    cover[(high < 0.012) & (high > 0)] = Cover.BEACH
    cover[((lake > 1.6) & inland) | (high <= 0)] = Cover.WATER
    return Ground(cover, high, field, v % 150)


@lru_cache(maxsize=2)
def plan_grid(seed: int) -> tuple[Floats, NDArray[np.bool_]]:
    """Height and "is water" on the planning grid (GRID x GRID), at the cells' centres."""
    axis: Floats = (np.arange(GRID, dtype=np.float64) + 0.5) * CELL
    fine = ground(seed, axis, axis)
    return fine.height, fine.cover == Cover.WATER


@dataclass(frozen=True)
class River(Polyline):
    """points: N x 2 metres, downstream. width: metres."""

    points: Floats
    width: float


@lru_cache(maxsize=2)
def rivers(seed: int) -> tuple[River, ...]:
    """Lines along which water gathers: from each cell to the neighbour that a flood from the sea reached it from
    (priority flood, Barnes et al. 2014), where more than 40 cells drain."""
    high = plan_grid(seed)[0]
    parent = np.full(GRID * GRID, -1, dtype=np.int64)
    level = high.ravel() + 0.05 * hashed(seed, MEANDER, np.arange(GRID * GRID), 2)
    tie = hashed(seed, MEANDER, np.arange(GRID * GRID), 3)
    seen = (high <= 0).ravel()
    order: list[int] = []
    queue = [(level[i], int(i)) for i in np.flatnonzero(seen)]
    heapq.heapify(queue)
    while queue:
        here_level, here = heapq.heappop(queue)
        order.append(here)
        row, column = divmod(here, GRID)
        for dr, dc in NEIGHBOURS:
            r, c = row + dr, column + dc
            if 0 <= r < GRID and 0 <= c < GRID and not seen[r * GRID + c]:
                there = r * GRID + c
                seen[there], parent[there] = True, here
                heapq.heappush(queue, (max(here_level + 1e-4 * tie[there], level[there]), there))
    drained = np.ones(GRID * GRID)
    for here in reversed(order):
        if parent[here] >= 0:
            drained[parent[here]] += drained[here]
    is_river = (drained > 40) & (high.ravel() > 0)
    feeds: dict[int, list[int]] = {}
    for cell in np.flatnonzero(is_river).tolist():
        feeds.setdefault(int(parent[cell]), []).append(cell)
    found = []
    starts = [mouth for mouth in feeds if not is_river[mouth]]
    while starts:
        mouth = starts.pop()
        for here in feeds.get(mouth, []):
            line = [mouth]
            while True:
                line.append(here)
                above = sorted(feeds.get(here, []), key=lambda cell: -drained[cell])
                if not above:
                    break
                if len(above) > 1:
                    feeds[here] = above[1:]
                    starts.append(here)
                here = above[0]
            found.append(_river(seed, line[::-1], float(drained[line[len(line) // 2]])))
        feeds.pop(mouth, None)
    return tuple(found)


def _river(seed: int, cells: list[int], drained: float) -> River:
    index = np.array(cells)
    places = np.stack([index % GRID, index // GRID], axis=1)
    jitter = np.stack([hashed(seed, MEANDER, index, axis) for axis in (0, 1)], axis=1) - 0.5
    return River(smooth_line((places + 0.5 + 0.7 * jitter) * CELL, 4), 3 + 1.4 * drained**0.5)
