"""What a settlement is made of: a lattice of streets, blocks between them, and buildings in the blocks.

The lattice is bent and turned by place; each block's content is a function of the seed, the place and the block.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tilecascade.model.world.land import Cover, ground, rivers
from tilecascade.model.world.lattice import Floats, Polyline, distance_to_line, generator, hashed
from tilecascade.model.world.places import Place, links, places

NODES, KINDS, CONTENT = 30, 31, 32

BLOCK = {"detached": (150.0, 84.0), "slabs": (210.0, 160.0), "courtyards": (112.0, 92.0), "compounds": (96.0, 64.0)}
"""Metres between streets, by culture."""

RURAL_BLOCK = (120.0, 84.0)

# how likely what is, from the middle of a place outwards: (share of the radius, {kind: weight})
ZONES: dict[bool, tuple[tuple[float, dict[str, float]], ...]] = {
    True: (
        (0.3, {"commercial": 0.3, "dense": 0.45, "park": 0.12, "retail": 0.08, "parking": 0.05}),
        (
            0.65,
            {"dense": 0.3, "residential": 0.36, "park": 0.08, "school": 0.08, "retail": 0.04, "parking": 0.04}
            | {"garages": 0.04, "grass": 0.06},
        ),
        (
            9.0,
            {"residential": 0.62, "allotments": 0.12, "garages": 0.06, "cemetery": 0.03, "grass": 0.1, "school": 0.07},
        ),
    ),
    False: ((9.0, {"residential": 0.8, "grass": 0.14, "school": 0.06}),),
}


@dataclass(frozen=True)
class Street(Polyline):
    """kind: tertiary, residential, service or path. points: N x 2 metres."""

    kind: str
    points: Floats


@dataclass(frozen=True)
class Area:
    """A piece of land use. corners: N x 2 metres."""

    kind: str
    corners: Floats


@dataclass(frozen=True)
class Building:
    """corners: N x 2 metres, in order; the ridge of a gabled roof runs along the first edge. height: metres."""

    corners: Floats
    height: float
    gabled: bool
    roof: float


@dataclass(frozen=True)
class Block:
    """A block and everything in it."""

    kind: str
    corners: Floats
    areas: tuple[Area, ...]
    streets: tuple[Street, ...]
    buildings: tuple[Building, ...]


@dataclass(frozen=True)
class Town:
    """A settlement's lattice: node [j, i] in metres, and which blocks (j, i) are built on."""

    place: Place
    nodes: Floats
    valid: np.ndarray
    streets: tuple[Street, ...]


@lru_cache(maxsize=512)
def town(seed: int, index: int) -> Town:
    """The lattice of the settlement `places(seed)[index]`."""
    place = places(seed)[index]
    du, dv = BLOCK[place.culture] if place.rank in ("city", "town") else RURAL_BLOCK
    half = int(1.2 * place.radius / min(du, dv)) + 2
    j, i = np.mgrid[-half : half + 1, -half : half + 1]
    wander = 1 - place.order
    phase = hashed(seed, NODES, place.index, np.arange(6)) * 2 * np.pi
    u = i * du + 0.22 * wander * du * (2 * hashed(seed, NODES, place.index, i, j) - 1)
    v = j * dv + 0.22 * wander * dv * (2 * hashed(seed, NODES + 100, place.index, i, j) - 1)
    bend = 0.16 * wander * place.radius
    u, v = (
        u + bend * np.sin(2.2 * v / place.radius + phase[0]),
        v + bend * np.sin(2.2 * u / place.radius + phase[1]),
    )
    cos, sin = np.cos(place.turn), np.sin(place.turn)
    x, y = place.x + cos * u - sin * v, place.y + sin * u + cos * v
    angle = np.arctan2(y - place.y, x - place.x)
    limit = place.radius * (0.82 + 0.14 * np.sin(3 * angle + phase[2]) + 0.08 * np.sin(7 * angle + phase[3]))
    inside = (np.hypot(x - place.x, y - place.y) < limit) & _dry(seed, x, y)
    valid = inside[:-1, :-1] & inside[1:, :-1] & inside[:-1, 1:] & inside[1:, 1:]
    nodes = np.stack([x, y], axis=-1)
    return Town(place, nodes, valid, tuple(_streets(seed, place, nodes, valid, half)))


def _dry(seed: int, x: Floats, y: Floats) -> np.ndarray:
    """Whether scattered points are on dry land, clear of rivers: looked up on a grid of 20 m."""
    step = 20.0
    xs = np.arange(x.min() - step, x.max() + 2 * step, step)
    ys = np.arange(y.min() - step, y.max() + 2 * step, step)
    wet = np.isin(ground(seed, xs, ys).cover, (Cover.WATER, Cover.WETLAND, Cover.BEACH))
    out = ~wet[np.round((y - ys[0]) / step).astype(int), np.round((x - xs[0]) / step).astype(int)]
    flat = np.stack([x.ravel(), y.ravel()], axis=1)
    low, high = np.array([xs[0], ys[0]]), np.array([xs[-1], ys[-1]])
    for river in rivers(seed):
        if not river.meets(low, high, 50):
            continue
        near = _within(river.points, xs[0], ys[0], xs[-1], ys[-1], 50)
        if len(near) > 1:
            out &= (distance_to_line(flat, near) > river.width / 2 + 12).reshape(out.shape)
    return np.asarray(out)


def _within(line: Floats, west: float, north: float, east: float, south: float, margin: float) -> Floats:
    """The part of a line from its first to its last point in a box."""
    inside = (
        (line[:, 0] > west - margin)
        & (line[:, 0] < east + margin)
        & (line[:, 1] > north - margin)
        & (line[:, 1] < south + margin)
    )
    where = np.flatnonzero(inside)
    return line[where[0] : where[-1] + 1] if len(where) else line[:0]


def _streets(seed: int, place: Place, nodes: Floats, valid: np.ndarray, half: int) -> list[Street]:
    """Streets along the sides of built blocks; a few are missing. Every fourth line is a larger one."""
    found = []
    padded = np.pad(valid, 1)
    for axis in (0, 1):
        # a side of the lattice exists if one of the two blocks beside it does
        beside = padded[:-1, 1:-1] | padded[1:, 1:-1] if axis == 0 else padded[1:-1, :-1] | padded[1:-1, 1:]
        for j, i in np.argwhere(beside):
            large = (j if axis == 0 else i) % 4 == half % 4 and place.rank in ("city", "town", "village")
            if not large and hashed(seed, KINDS, place.index, int(i) * 2 + axis, int(j) + 5000) < 0.07:
                continue
            other = nodes[j, i + 1] if axis == 0 else nodes[j + 1, i]
            found.append(Street("tertiary" if large else "residential", np.stack([nodes[j, i], other])))
    return found


def _pick(weights: dict[str, float], value: float) -> str:
    total = sum(weights.values())
    for kind, weight in weights.items():
        value -= weight / total
        if value < 0:
            return kind
    return kind


@lru_cache(maxsize=30_000)
def block(seed: int, index: int, j: int, i: int) -> Block:
    """Block (j, i) of a settlement."""
    here = town(seed, index)
    place = here.place
    corners = here.nodes[[j, j, j + 1, j + 1], [i, i + 1, i + 1, i]]
    middle = corners.mean(axis=0)
    out = float(np.hypot(*(middle - (place.x, place.y)))) / place.radius
    rng = generator(seed, CONTENT, place.index, j, i)
    urban = place.rank in ("city", "town")
    weights = next(kinds for limit, kinds in ZONES[urban] if out < limit)
    sector = float(hashed(seed, KINDS, place.index, 77)) * 2 * np.pi
    bearing = float(np.arctan2(middle[1] - place.y, middle[0] - place.x))
    if urban and out > 0.45 and abs((bearing - sector + np.pi) % (2 * np.pi) - np.pi) < 0.45:
        weights = {"industrial": 0.8, "garages": 0.1, "grass": 0.1}
    kind = _pick(weights, float(rng.random()))
    made = _Plot(corners, rng, place.culture, urban)
    made.fill(kind)
    shown = "residential" if kind in ("dense", "school") else kind
    return Block(shown, corners, tuple(made.areas), tuple(made.streets), tuple(made.clear_of_roads(seed)))


class _Plot:
    """Fills one block. Works in metres along its sides, (0, 0) to `size`, and bends the result to the corners."""

    def __init__(self, corners: Floats, rng: np.random.Generator, culture: str, urban: bool) -> None:
        self.corners, self.rng, self.culture, self.urban = corners, rng, culture, urban
        sides = np.hypot(*(np.roll(corners, -1, axis=0) - corners).T)
        self.size = np.array([(sides[0] + sides[2]) / 2, (sides[1] + sides[3]) / 2])
        self.areas: list[Area] = []
        self.streets: list[Street] = []
        self.buildings: list[Building] = []

    def place(self, points: Floats) -> Floats:
        """Local metres -> the country's."""
        s, t = np.moveaxis(points / self.size, -1, 0)
        a, b, c, d = self.corners
        s, t = s[..., None], t[..., None]
        return np.asarray(a * (1 - s) * (1 - t) + b * s * (1 - t) + c * s * t + d * (1 - s) * t)

    def box(self, x: float, y: float, w: float, h: float) -> Floats:
        """Corners of a local rectangle in the country's metres."""
        return self.place(np.array([(x, y), (x + w, y), (x + w, y + h), (x, y + h)]))

    def build(self, x: float, y: float, w: float, h: float, height: float, gabled: bool = False) -> None:
        """Add a building; the longer side first."""
        corners = self.box(x, y, w, h)
        if h > w:
            corners = np.roll(corners, -1, axis=0)
        self.buildings.append(Building(corners, height, gabled, float(self.rng.random())))

    def fill(self, kind: str) -> None:
        """Everything that a kind of block has."""
        w, h = self.size
        if kind == "residential":
            (self.slabs if self.culture == "slabs" and self.urban and self.rng.random() < 0.6 else self.houses)()
        elif kind == "dense":
            {"slabs": self.slabs, "courtyards": self.courtyard}.get(self.culture, self.row_houses)()
        elif kind in ("commercial", "retail"):
            self.halls(2, 14, 0.55)
            self.areas.append(Area("parking", self.box(0.62 * w, 0.55 * h, 0.3 * w, 0.35 * h)))
        elif kind == "industrial":
            self.halls(int(self.rng.integers(2, 5)), 9, 0.8)
            self.streets.append(Street("service", self.place(np.array([(0, 0.5 * h), (w, 0.5 * h)]))))
        elif kind == "garages":
            for y in np.arange(10, h - 12, 16):
                self.build(8, float(y), w - 16, 6, 3)
                self.streets.append(Street("service", self.place(np.array([(6, y + 10.5), (w - 6, y + 10.5)]))))
        elif kind == "school":
            self.build(0.15 * w, 0.2 * h, 0.35 * w, 14, 10)
            self.build(0.15 * w, 0.2 * h + 14, 14, 0.3 * h, 10)
            self.areas.append(Area("pitch", self.box(0.58 * w, 0.2 * h, 0.3 * w, 0.6 * h)))
        elif kind == "park":
            self.areas.append(Area("forest", self.box(0.1 * w, 0.1 * h, 0.4 * w, 0.5 * h)))
            for line in (((0, 0), (w, h)), ((w, 0), (0, h))):
                self.streets.append(Street("path", self.place(np.array(line, dtype=float))))
        elif kind == "allotments":
            for y in np.arange(8, h - 10, 22):
                for x in np.arange(8, w - 10, 18):
                    if self.rng.random() < 0.6:
                        self.build(float(x), float(y), 4.5, 4, 3, True)

    def houses(self) -> None:
        """Detached houses, one or two to a plot, along the two long sides and the ends."""
        w, h = self.size
        tight = self.culture == "compounds"
        pitch = 13.0 if tight else float(self.rng.uniform(17, 26))
        for far in (False, True):
            for x in np.arange(6, w - pitch + 4, pitch):
                if self.rng.random() < 0.08:
                    continue
                a, b = self.rng.uniform(8, 12.5) + 4 * self.urban * self.rng.random(), self.rng.uniform(7, 10)
                front = self.rng.uniform(4, 9) + 5
                y = h - front - b if far else front
                self.build(x + self.rng.uniform(0, max(0.1, pitch - a - 2)), y, a, b, 6, True)
                if self.rng.random() < 0.5 and h > 60:
                    back = y - 14 if far else y + b + 9
                    self.build(x + self.rng.uniform(0, pitch - 6), back, 5, 4, 3, True)

    def row_houses(self) -> None:
        """Houses wall to wall along the street."""
        w, h = self.size
        for y, depth in ((5.0, 11.0), (h - 16.0, 11.0)):
            x = 6.0
            while x < w - 14:
                width = float(self.rng.uniform(9, 24))
                if self.rng.random() < 0.9:
                    self.build(x, y, min(width, w - 6 - x), depth, 9, True)
                x += width + (3 if self.rng.random() < 0.2 else 0)

    def slabs(self) -> None:
        """Rows of long apartment houses, with concurrency and car parks between them."""
        w, h = self.size
        upright = self.rng.random() < 0.4
        long, short = (h, w) if upright else (w, h)
        height = float(self.rng.choice([15, 15, 27]))
        for across in np.arange(14, short - 20, self.rng.uniform(38, 52)):
            at = 14.0
            while at < long - 40:
                length = min(float(self.rng.uniform(45, 90)), long - 12 - at)
                if self.rng.random() < 0.85:
                    x, y, a, b = (across, at, 13.0, length) if upright else (at, across, length, 13.0)
                    self.build(float(x), float(y), float(a), float(b), height)
                at += length + 14
            lane = np.array([(4.0, across + 20), (long - 4, across + 20)])
            self.streets.append(Street("service", self.place(lane[:, ::-1] if upright else lane)))
        if self.rng.random() < 0.5:
            self.areas.append(Area("parking", self.box(0.4 * w, 0.38 * h, 0.25 * w, 16)))
        if self.rng.random() < 0.4:
            self.areas.append(Area("grass", self.box(0.1 * w, 0.6 * h, 0.3 * w, 0.25 * h)))

    def courtyard(self) -> None:
        """Four wings around a yard."""
        w, h = self.size
        d = 14.0
        for x, y, a, b in ((7, 7, w - 14, d), (7, h - 7 - d, w - 14, d), (7, 7 + d, d, h - 14 - 2 * d)):
            self.build(float(x), float(y), float(a), float(b), 18)
        if self.rng.random() < 0.7:
            self.build(w - 7 - d, 7 + d, d, h - 14 - 2 * d, 18)
        if self.rng.random() < 0.4:
            self.areas.append(Area("grass", self.box(7 + d + 4, 7 + d + 4, w - 22 - 2 * d, h - 22 - 2 * d)))

    def halls(self, count: int, height: float, share: float) -> None:
        """Large flat roofs side by side."""
        w, h = self.size
        for part in range(count):
            x = 8 + part * (w - 16) / count
            self.build(x, 8, (w - 16) / count - 8, share * (h - 16) * float(self.rng.uniform(0.6, 1)), height)

    def clear_of_roads(self, seed: int) -> list[Building]:
        """The buildings that stand on no road or railway between places."""
        if not self.buildings:
            return []
        middles = np.array([b.corners.mean(axis=0) for b in self.buildings])
        low, high = self.corners.min(axis=0), self.corners.max(axis=0)
        clear = np.ones(len(middles), dtype=bool)
        for link in links(seed):
            if not link.meets(low, high, 60):
                continue
            near = _within(link.points, low[0], low[1], high[0], high[1], 60)
            if len(near) > 1:
                clear &= distance_to_line(middles, near) > 20
        return [b for b, good in zip(self.buildings, clear, strict=True) if good]
