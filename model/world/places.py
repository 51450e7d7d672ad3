"""Settlements by rank, and the roads and railways between them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra

from tilecascade.model.world.land import CELL, EXTENT, GRID, plan_grid
from tilecascade.model.world.lattice import Floats, Polyline, hashed, smooth_line

SITES, CULTURE = 20, 21

SPACING = 2_200.0
"""Metres between candidate sites."""

# rank: how many, radius in metres (least, most), metres to the next of the same or a higher rank
RANKS: dict[str, tuple[int, float, float, float]] = {
    "city": (3, 2_600, 3_600, 38_000),
    "town": (14, 1_000, 1_700, 11_000),
    "village": (90, 320, 620, 4_200),
    "hamlet": (320, 120, 210, 2_100),
}

CULTURES = ("detached", "slabs", "courtyards", "compounds")
"""How people build: houses in gardens; rows of apartment slabs; blocks around courtyards; walled compounds."""


@dataclass(frozen=True)
class Place:
    """A settlement. x, y, radius: metres. turn: direction of its streets in radians. order: 0 for streets that wander,
    1 for a strict grid."""

    index: int
    rank: str
    x: float
    y: float
    radius: float
    turn: float
    order: float
    culture: str


@dataclass(frozen=True)
class Link(Polyline):
    """A road or railway between places. kind: primary, secondary, tertiary or rail. points: N x 2 metres."""

    kind: str
    points: Floats


@lru_cache(maxsize=2)
def places(seed: int) -> tuple[Place, ...]:
    """All settlements, larger ones first."""
    count = int(EXTENT / SPACING)
    row, column = (a.ravel() for a in np.mgrid[:count, :count])
    x = (column + hashed(seed, SITES, row, column, 0)) * SPACING
    y = (row + hashed(seed, SITES, row, column, 1)) * SPACING
    high, water = plan_grid(seed)
    cell = (y / CELL).astype(int).clip(0, GRID - 1), (x / CELL).astype(int).clip(0, GRID - 1)
    steep = np.hypot(*np.gradient(high))[cell]
    score = hashed(seed, SITES, row, column, 2) - 8 * steep - 0.6 * np.abs(high[cell] - 0.25)
    order = [int(i) for i in np.argsort(-score) if not water[cell][i] and 0.02 < high[cell][i] < 0.8]
    found: list[Place] = []
    spots = np.empty((0, 2))
    for rank, (most, least_radius, most_radius, apart) in RANKS.items():
        made = 0
        for i in order:
            if made == most:
                break
            if len(spots) and np.hypot(spots[:, 0] - x[i], spots[:, 1] - y[i]).min() < apart:
                continue
            a, b, c, d = hashed(seed, CULTURE, i, np.arange(4))
            radius = least_radius + (most_radius - least_radius) * a
            # cultures keep to regions, so that neighbours build alike
            region = hashed(seed, CULTURE, int(x[i] // 40_000), int(y[i] // 40_000), 9)
            culture = CULTURES[int((float(region) + 0.3 * (b - 0.5)) % 1 * len(CULTURES))]
            found.append(Place(i, rank, x[i], y[i], radius, c * np.pi / 2, d, culture))
            spots = np.concatenate([spots, [(x[i], y[i])]])
            made += 1
    return tuple(found)


class _Planner:
    """Cheapest ways over the planning grid: climbing and bridges are dear, what is built already is cheap."""

    def __init__(self, seed: int, climb: float) -> None:
        self.seed = seed
        high, water = plan_grid(seed)
        self.cost = 1 + climb * np.hypot(*np.gradient(high)) + 14.0 * water
        self.cost += 0.6 * hashed(seed, SITES, *np.mgrid[:GRID, :GRID])
        self.used = np.zeros((GRID, GRID), dtype=bool)

    def _graph(self) -> coo_matrix:
        cost = np.where(self.used, 0.35 * self.cost, self.cost)
        index = np.arange(GRID * GRID).reshape(GRID, GRID)
        rows, columns, weights = [], [], []
        for dr, dc in ((0, 1), (1, 0), (1, 1), (1, -1)):
            a = (slice(0, GRID - dr), slice(max(0, -dc), GRID - max(0, dc)))
            b = (slice(dr, GRID), slice(max(0, dc), GRID - max(0, -dc)))
            rows.append(index[a].ravel())
            columns.append(index[b].ravel())
            weights.append(((cost[a] + cost[b]) / 2 * np.hypot(dr, dc)).ravel())
        shape = (GRID * GRID, GRID * GRID)
        return coo_matrix((np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns))), shape).tocsr()

    def connect(self, starts: list[Place], goals: list[Place]) -> list[Floats]:
        """A way from each goal to whichever start (or way already built) is cheapest to reach."""
        sources = sorted({_cell(p) for p in starts} | {int(i) for i in np.flatnonzero(self.used)})
        _, before, _ = dijkstra(self._graph(), directed=False, indices=sources, min_only=True, return_predecessors=True)
        lines = []
        for goal in goals:
            here, cells = _cell(goal), []
            while here >= 0:
                cells.append(here)
                here = int(before[here])
            if len(cells) > 1:
                lines.append(self._line(cells, goal, starts))
            self.used.ravel()[cells] = True
        return lines

    def _line(self, cells: list[int], goal: Place, starts: list[Place]) -> Floats:
        index = np.array(cells)
        # the same way off the cell's centre for every line through it
        off = 0.6 * np.stack([hashed(self.seed, SITES, index, axis, 7) for axis in (0, 1)], axis=1) + 0.2
        points = (np.stack([index % GRID, index // GRID], axis=1) + off) * CELL
        points[0] = goal.x, goal.y
        for start in starts:
            if _cell(start) == cells[-1]:
                points[-1] = start.x, start.y
        return smooth_line(points, 4)


def _cell(place: Place) -> int:
    return min(GRID - 1, int(place.y / CELL)) * GRID + min(GRID - 1, int(place.x / CELL))


@lru_cache(maxsize=2)
def links(seed: int) -> tuple[Link, ...]:
    """Roads by rank, then railways. Each rank is joined to what is there already."""
    by = {rank: [p for p in places(seed) if p.rank == rank] for rank in RANKS}
    roads = _Planner(seed, 60)
    found: list[Link] = []
    joined = by["city"][:1]
    for kind, goals in (
        ("primary", by["city"][1:]),
        ("primary", by["town"][:4]),
        ("secondary", by["town"][4:]),
        ("secondary", by["village"][:30]),
        ("tertiary", by["village"][30:]),
        ("tertiary", by["hamlet"]),
    ):
        found += [Link(kind, line) for line in roads.connect(joined, goals)]
        joined = joined + goals
    rails = _Planner(seed, 200)
    found += [Link("rail", line) for line in rails.connect(by["city"][:1], by["city"][1:] + by["town"][:6])]
    return tuple(found)
