"""What of the country lies in a window: the natural ground, lines, and the blocks of settlements."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tilecascade.model.cascade import TILE_SIZE, Window
from tilecascade.model.world.blocks import Block, Street, block, town
from tilecascade.model.world.land import EXTENT, River, rivers
from tilecascade.model.world.lattice import Floats, Polyline
from tilecascade.model.world.places import Link, links, places

PLACE = (129, 126, 8)
"""The tile (x, y, z) that the country fills: open sea in the Gulf of Guinea, so that it is not taken for a real one."""

REACH = 80.0
"""Metres around a window whose features are gathered too: wide roads, tall buildings' shadows."""


@dataclass(frozen=True)
class Frame:
    """A window as metres of the country: pixel i's west edge is at `west + i * pixel`."""

    west: float
    north: float
    pixel: float
    width: int
    height: int

    @classmethod
    def of(cls, window: Window) -> Frame:
        """Raises ValueError above the country's own zoom."""
        levels = window.zoom - PLACE[2]
        if levels < 0:
            raise ValueError(f"the country is rendered from z{PLACE[2]} on, not at z{window.zoom}")
        pixel = EXTENT / (TILE_SIZE << levels)
        left, top = ((TILE_SIZE * side) << levels for side in PLACE[:2])
        return cls((window.left - left) * pixel, (window.top - top) * pixel, pixel, window.width, window.height)

    def axes(self, finer: int = 1) -> tuple[Floats, Floats]:
        """Metres of the pixels' centres, along x and y, each pixel divided into `finer`."""
        step = self.pixel / finer
        columns, rows = (np.arange(side * finer, dtype=np.float64) + 0.5 for side in (self.width, self.height))
        return np.asarray(self.west + columns * step), np.asarray(self.north + rows * step)

    def to_pixels(self, points: Floats) -> Floats:
        """N x 2 metres -> N x 2 pixels."""
        return np.asarray((points - (self.west, self.north)) / self.pixel)

    def touches(self, low: Floats, high: Floats) -> np.ndarray:
        """Which boxes (... x 2 metres each) come within REACH."""
        east, south = self.west + self.width * self.pixel, self.north + self.height * self.pixel
        return np.asarray(
            (low[..., 0] < east + REACH)
            & (high[..., 0] > self.west - REACH)
            & (low[..., 1] < south + REACH)
            & (high[..., 1] > self.north - REACH)
        )


@dataclass(frozen=True)
class Features:
    """Everything built or flowing in a window."""

    rivers: list[River]
    links: list[Link]
    streets: list[Street]
    blocks: list[Block]


def gather(seed: int, frame: Frame, detail: bool = True) -> Features:
    """The features that touch a frame. detail: blocks too, not only their streets (dear for a whole country)."""

    def near(line: Polyline) -> bool:
        return bool(frame.touches(line.low, line.high))

    streets: list[Street] = []
    blocks: list[Block] = []
    for index, place in enumerate(places(seed)):
        middle, half = np.array([place.x, place.y]), 1.6 * place.radius + 200
        if not frame.touches(middle - half, middle + half):
            continue
        here = town(seed, index)
        nodes = np.stack([here.nodes[:-1, :-1], here.nodes[1:, :-1], here.nodes[:-1, 1:], here.nodes[1:, 1:]])
        if detail:
            seen = here.valid & frame.touches(nodes.min(axis=0), nodes.max(axis=0))
            blocks += [block(seed, index, int(j), int(i)) for j, i in np.argwhere(seen)]
        streets += [street for street in here.streets if near(street)]
    return Features(
        [river for river in rivers(seed) if near(river)],
        [link for link in links(seed) if near(link)],
        streets,
        blocks,
    )
