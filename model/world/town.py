"""The ground of a town that does not exist: streets, lots, houses, parks; from above and on the map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tilecascade.model.style import BUILDINGS, CASING, COLOUR, OUTLINES
from tilecascade.model.world.lattice import Floats, hashed, noise

ROOFS = 66
"""Stream of noise (see `lattice`)."""

LOT = 30.0
"""Metres of a house with its garden."""

BLOCK_ACROSS, BLOCK_DOWN = 5, 3
"""Lots between streets: the first of them lies in part under the street."""

STREET_ACROSS, STREET_DOWN = 0.45, 0.4
"""Widths of the streets, in lots."""

BENDS = ((240.0, 1_800.0), (60.0, 500.0))
"""How far streets bend, in metres, and over which distance."""

HOUSES = 0.86
"""Share of lots with a house."""

PARKS, FLATS, HALLS = 0.05, 0.14, 0.18
"""What a block is, by chance: below these a park, with two long buildings, with one large one; otherwise of houses."""

HALF_WIDTH, HALF_DEPTH = 0.28, 0.24
"""Half the sides of a house, in lots; its middle lies MIDDLE of a lot from the street."""
MIDDLE = (0.5, 0.52)

FRONT = 0.1
"""Lots between a street and the nearest wall."""

ROOF_COLOURS = np.array(
    [(150, 96, 70), (140, 140, 142), (128, 84, 66), (170, 160, 146), (112, 104, 100), (196, 190, 182)], float
)
GARDEN, LAWN, STREET = (98.0, 104.0, 66.0), (84.0, 100.0, 56.0), (116.0, 115.0, 112.0)


@dataclass(frozen=True)
class Town:
    """What lies at ys x xs (metres; see `lattice`), each H x W.

    street: metres to the edge of the nearest street, below 0 on it. house: metres to the nearest wall, below 0 inside
    one. park: whether the block is one. chance: in [0, 1), each lot's own.
    """

    street: Floats
    house: Floats
    park: NDArray[np.bool_]
    chance: Floats
    shade: Floats


def town_at(seed: int, xs: Floats, ys: Floats) -> Town:
    """The town that would be at a place; where towns are is the sketch's matter."""
    bend_x, bend_y = (
        240 * noise(seed, ROOFS + 8 * i, xs, ys, 1_800) + 60 * noise(seed, ROOFS + 8 * i + 4, xs, ys, 500)
        for i in (1, 2)
    )
    east, north = (xs[None, :] + bend_x) / LOT, (ys[:, None] + bend_y) / LOT
    across, down = east % BLOCK_ACROSS, north % BLOCK_DOWN
    street = np.minimum(_beyond(across, STREET_ACROSS, BLOCK_ACROSS), _beyond(down, STREET_DOWN, BLOCK_DOWN))
    block = [np.floor(axis / lots).astype(np.int64) for axis, lots in ((east, BLOCK_ACROSS), (north, BLOCK_DOWN))]
    use = hashed(seed, ROOFS, *block, 7)
    single = use >= HALLS
    lot = [
        np.where(single, np.floor(axis), np.floor(of)).astype(np.int64)
        for axis, of in zip((east, north), block, strict=True)
    ]
    chance = hashed(seed, ROOFS, *lot)
    wall = _wall(east % 1 - MIDDLE[0], north % 1 - MIDDLE[1], HALF_WIDTH, HALF_DEPTH)
    wall = np.where(single & (chance < HOUSES), wall, 1.0)
    middle_x, middle_y = across - (BLOCK_ACROSS + STREET_ACROSS) / 2, down - (BLOCK_DOWN + STREET_DOWN) / 2
    flats, hall = _wall(middle_x, np.abs(middle_y) - 0.75, 1.8, 0.22), _wall(middle_x, middle_y, 1.5, 0.7)
    wall = np.select([use < PARKS, use < FLATS, use < HALLS], [1.0, flats, hall], wall)
    wall = np.maximum(wall, FRONT - street)
    return Town(LOT * street, LOT * wall, use < PARKS, chance, 0.85 + 0.3 * hashed(seed, ROOFS, *lot, 3))


def _beyond(place: Floats, width: float, period: float) -> Floats:
    """How far a place is from a street of a width that begins at each multiple of a period; below 0 on it."""
    return np.where(place < width, -np.minimum(place, width - place), np.minimum(place - width, period - place))


def _wall(x: Floats, y: Floats, half_width: float, half_depth: float) -> Floats:
    """How far a place is from the wall of a building around 0, 0; below 0 inside."""
    return np.maximum(np.abs(x) - half_width, np.abs(y) - half_depth)


def imagery_of_town(seed: int, xs: Floats, ys: Floats) -> Floats:
    """Roofs, gardens and streets from above, H x W x 3; their mean where they are smaller than a pixel."""
    if xs[1] - xs[0] > LOT / 2:
        cells = np.floor(xs / 40).astype(np.int64)[None], np.floor(ys / 40).astype(np.int64)[:, None]
        return np.asarray(ROOF_COLOURS.mean(axis=0) * (0.86 + 0.28 * hashed(seed, ROOFS, *cells))[..., None])
    quarter = float(xs[1] - xs[0]) / 4
    fine_xs, fine_ys = (np.stack([axis - quarter, axis + quarter], axis=1).ravel() for axis in (xs, ys))
    town = town_at(seed, fine_xs, fine_ys)
    roofs = ROOF_COLOURS[(town.chance * 97 % 1 * len(ROOF_COLOURS)).astype(int)] * town.shade[..., None]
    colours = np.where((town.house < 0)[..., None], roofs, np.where(town.park[..., None], LAWN, GARDEN))
    colours[town.street < 0] = STREET
    # of four samples a pixel, or lines and roofs would make patterns with the pixels
    return np.asarray(colours.reshape(len(ys), 2, len(xs), 2, 3).mean(axis=(1, 3)))


def map_of_town(seed: int, xs: Floats, ys: Floats, zoom: int) -> NDArray[np.uint8]:
    """Streets, houses and parks as the map style shows them at a zoom, H x W x 3; coarser ones show the area only."""
    colours = np.empty((len(ys), len(xs), 3), dtype=np.uint8)
    colours[:] = COLOUR["residential"]
    if zoom < BUILDINGS:
        return colours
    pixel = float(xs[1] - xs[0])
    town = town_at(seed, xs, ys)
    colours[town.park] = COLOUR["park"]
    if zoom > BUILDINGS:
        if zoom >= OUTLINES:
            colours[town.house < 0] = COLOUR["building outline"]
            colours[town.house < -pixel] = COLOUR["building"]
        else:
            colours[town.house < 0] = COLOUR["building"]
        colours[town.street < pixel] = CASING
    colours[town.street < 0] = COLOUR["road"]
    return colours
