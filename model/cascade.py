"""Geometry of the cascade: ladder, blocks, windows, and the fields that conditions are read from.

Integers and arrays only. Terms: a *block* is the group of sibling tiles that one generation makes; its *window* is
the block plus context on every side, in global pixel coordinates of its zoom. Windows lie on a global lattice (one per
block), so the same tile always comes out of the same window, whatever was requested.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from mercantile import Tile
from numpy.typing import NDArray
from PIL import Image

from tilecascade.model.palette import LAND

TILE_SIZE = 256
"""Edge of a map tile in pixels."""

EQUATOR = 40_075_016.686
"""Length of the equator in metres, as Web Mercator has it."""

ENLARGE_MARGIN = 4
"""Reference pixels read beyond the window, so that the enlarging filter sees its whole support."""

MERGE_REACH = 48
"""Pixels from which merging imagery and reference takes what it needs: two or three convolutions at each of the strides
2, 4 and 8 (42)."""

BLENDED_MARGIN = 224
"""How far windows of 256 px that meet a block reach beyond it, at most (208), as a multiple of 32."""

RING = 32
"""Pixels around a block that are kept for references: of twice as many, at 2X, a finer block sees enough to join its
neighbour, whose reference has the same ground from another window."""

Scalar = TypeVar("Scalar", bound=np.generic)
Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def metres_per_pixel(zoom: int, row: float) -> float:
    """Size on the ground of a pixel in the middle of a row of tiles, true at its latitude."""
    middle = math.pi * (1 - 2 * (row + 0.5) / 2**zoom)
    return EQUATOR / (TILE_SIZE * 2**zoom * math.cosh(middle))


def cut_pixels(image: NDArray[Scalar], margin: int) -> NDArray[Scalar]:
    """H x W x ... without `margin` pixels on every side."""
    return image[margin : image.shape[0] - margin, margin : image.shape[1] - margin]


@dataclass(frozen=True)
class WindowConfig:
    """How far a window reaches beyond its block, in pixels: what a network must see so that no seam shows.

    encode: conditions are read and encoded so far (a multiple of 32). denoise: latents are denoised so far (a
    multiple of
        32, at most encode). decode: latents are decoded so far and the rest cut off (a multiple of 8, at most denoise).
    blend: instead of all that, windows of 256 px are generated on a lattice of their own and blended (see
        `model.blending`), for networks that look at the whole window (self-attention, GroupNorm) whatever the halo.
    """

    encode: int = 64
    denoise: int = 64
    decode: int = 64
    blend: bool = True

    @property
    def margin(self) -> int:
        """Pixels beyond a block that its conditions are read for."""
        return BLENDED_MARGIN if self.blend else self.encode

    @property
    def ring(self) -> int:
        """Pixels that are generated around a block, for the references of finer blocks at its edge.

        As many as are denoised anyway. A network whose windows are blended sees so far that neighbouring blocks are its
        references instead.
        """
        return 0 if self.blend else min(RING, self.denoise)

    @property
    def without_reference(self) -> int:
        """Pixels at a window's edge where nothing depends on the reference: only the imagery is seen so far."""
        return 0 if self.blend else max(0, self.encode - self.denoise - MERGE_REACH)


@dataclass(frozen=True)
class Window:
    """A rectangle of global pixels at one zoom. `left` may be negative or beyond the antimeridian."""

    zoom: int
    left: int
    top: int
    width: int
    height: int

    def grown(self, margin: int) -> Window:
        """The window with `margin` more pixels on every side."""
        return Window(
            self.zoom, self.left - margin, self.top - margin, self.width + 2 * margin, self.height + 2 * margin
        )

    def above(self, levels: int) -> Window:
        """The same ground `levels` zooms up. Every coordinate must be divisible by 2^levels."""
        sides = (self.left, self.top, self.width, self.height)
        if any(side % (1 << levels) for side in sides):
            raise ValueError(f"{self} does not lie on the pixel grid {levels} levels up")
        left, top, width, height = (side >> levels for side in sides)
        return Window(self.zoom - levels, left, top, width, height)

    def tiles(self) -> Iterator[Tile]:
        """The tiles it touches, inside the world's rows; columns wrap at the antimeridian."""
        world = 1 << self.zoom
        for y in range(max(0, self.top // TILE_SIZE), min(world - 1, (self.top + self.height - 1) // TILE_SIZE) + 1):
            seen = set()
            for column in range(self.left // TILE_SIZE, (self.left + self.width - 1) // TILE_SIZE + 1):
                x = column % world
                if x not in seen:
                    seen.add(x)
                    yield Tile(x, y, self.zoom)


def tile_window(tile: Tile) -> Window:
    """The window of exactly one tile."""
    return Window(tile.z, tile.x * TILE_SIZE, tile.y * TILE_SIZE, TILE_SIZE, TILE_SIZE)


@dataclass(frozen=True)
class Block:
    """Tiles (x, y) with x >> levels == column and y >> levels == row, at `zoom`. levels 0 is a single tile."""

    zoom: int
    column: int
    row: int
    levels: int

    @property
    def edge(self) -> int:
        """Tiles along one side."""
        return 1 << self.levels

    def tiles(self) -> list[Tile]:
        """Its tiles, row by row."""
        left, top = self.column << self.levels, self.row << self.levels
        return [Tile(left + i, top + j, self.zoom) for j in range(self.edge) for i in range(self.edge)]

    def footprint(self) -> Window:
        """The pixels of its tiles."""
        size = self.edge * TILE_SIZE
        return Window(self.zoom, self.column * size, self.row * size, size, size)

    def cut(self, pixels: NDArray[Scalar]) -> dict[Tile, NDArray[Scalar]]:
        """Split an array over the block's footprint (H x W or H x W x C) into its tiles."""
        out = {}
        for index, tile in enumerate(self.tiles()):
            row, column = divmod(index, self.edge)
            top, left = row * TILE_SIZE, column * TILE_SIZE
            out[tile] = pixels[top : top + TILE_SIZE, left : left + TILE_SIZE]
        return out


@dataclass(frozen=True)
class Ladder:
    """The canonical chain of references of a layer: root zoom, span (levels per stage), and its network's windows.

    The root has no reference; above it the reference zoom of z is max(root, z - span). Never "whatever is cached":
    a tile's ancestors, and with them its bytes, are the same for every order of requests. Span 0 is no cascade: every
    zoom is generated from imagery alone.
    """

    root: int
    span: int = 1
    windows: WindowConfig = field(default_factory=WindowConfig)

    def __post_init__(self) -> None:
        if self.span not in (0, 1, 2):
            raise ValueError(f"span must be 0 (no references), 1 (2X) or 2 (4X), not {self.span}")

    def reference_zoom(self, zoom: int) -> int | None:
        """Zoom of the cascade reference of `zoom`; None where there is none. Raises ValueError below the root."""
        if zoom < self.root:
            raise ValueError(f"zoom {zoom} is below the root zoom {self.root}")
        return None if zoom == self.root or not self.span else max(self.root, zoom - self.span)

    def chain(self, zoom: int) -> list[int]:
        """The zooms that lead to `zoom`, the coarsest first."""
        zooms = [zoom]
        while (reference := self.reference_zoom(zooms[0])) is not None:
            zooms.insert(0, reference)
        return zooms

    def block(self, tile: Tile) -> Block:
        """The block that `tile` is made in: the children of one parent; a single tile without one."""
        reference = self.reference_zoom(tile.z)
        levels = 0 if reference is None else tile.z - reference
        return Block(tile.z, tile.x >> levels, tile.y >> levels, levels)

    def window(self, block: Block) -> Window:
        """What conditions are read for to make `block`."""
        return block.footprint().grown(self.windows.margin)

    def field(self, block: Block) -> Window:
        """What is generated of a block: its tiles and the ring around them."""
        return block.footprint().grown(self.windows.ring)

    def reference_source(self, block: Block) -> Window | None:
        """The pixels of the reference zoom whose blocks are a block's reference; None at the root.

        The parent tile; for networks whose windows are blended, all that the reference window meets.
        """
        window = self.reference_window(self.window(block))
        if window is None or self.windows.blend:
            return window
        return tile_window(Tile(block.column, block.row, window.zoom))

    def reference_blocks(self, block: Block) -> list[Block]:
        """The blocks whose fields are a block's reference."""
        source = self.reference_source(block)
        return [] if source is None else list(dict.fromkeys(self.block(tile) for tile in source.tiles()))

    def reference_window(self, window: Window) -> Window | None:
        """What must be known at the reference zoom to generate `window`, margin included; None without a reference."""
        reference = self.reference_zoom(window.zoom)
        if reference is None:
            return None
        return window.grown(-self.windows.without_reference).above(window.zoom - reference).grown(ENLARGE_MARGIN)

    def enlarged_reference(self, window: Window, pieces: Mapping[Window, Pixels]) -> tuple[Pixels, Mask]:
        """The reference of `window`, H x W x 3 and H x W, from pieces of the reference zoom (see `lay`).

        Unknown where they say nothing, and where nothing depends on it. Raises ValueError at the root.
        """
        field = self.reference_window(window)
        if field is None:
            raise ValueError(f"zoom {window.zoom} has no reference")
        colours, known = enlarge(*lay(field, pieces), window.zoom - field.zoom, LAND)
        edge = self.windows.without_reference
        return np.pad(colours, ((edge, edge), (edge, edge), (0, 0))), np.pad(known, edge)


def assemble(window: Window, tiles: Mapping[Tile, Pixels]) -> tuple[Pixels, Mask]:
    """Lay tiles (256 x 256 x 4 RGBA uint8) into a window; see `lay`."""
    return lay(window, {tile_window(tile): pixels for tile, pixels in tiles.items()})


def lay(window: Window, pieces: Mapping[Window, Pixels]) -> tuple[Pixels, Mask]:
    """Lay pieces (h x w x 4 RGBA uint8 each, of the window's zoom) into a window, later ones over earlier ones.

    Returns H x W x 3 colours, 0 where nothing is known, and the H x W mask of what is known (alpha above half).
    """
    colours = np.zeros((window.height, window.width, 3), dtype=np.uint8)
    known = np.zeros((window.height, window.width), dtype=np.bool_)
    world = TILE_SIZE << window.zoom
    for place, pixels in pieces.items():
        y = place.top - window.top
        y0, y1 = max(0, y), min(window.height, y + place.height)
        # a piece may show more than once where the window goes on at the antimeridian
        first = (place.left - window.left + place.width - 1) % world - place.width + 1
        for x in range(first, window.width, world):
            x0, x1 = max(0, x), min(window.width, x + place.width)
            if x0 < x1 and y0 < y1:
                part = pixels[y0 - y : y1 - y, x0 - x : x1 - x]
                mask = part[..., 3] > 127
                known[y0:y1, x0:x1] = mask
                colours[y0:y1, x0:x1] = part[..., :3] * mask[..., None]
    return colours, known


def enlarge(colours: Pixels, known: Mask, levels: int, background: tuple[int, int, int]) -> tuple[Pixels, Mask]:
    """A reference field with its margin -> the field `levels` zooms down, without the margin.

    colours: H x W x 3 uint8; known: H x W bool. Bicubic, as the paper says (its code uses three different filters).
    What is unknown takes `background` first, so that no dark fringe bleeds into the map.
    """
    filled = np.where(known[..., None], colours, np.array(background, dtype=np.uint8))
    return _bicubic(filled, levels), _repeated(known, levels)


def enlarge_part(
    ancestor: NDArray[np.uint8],
    tile: Tile,
    levels: int,
    neighbour: Callable[[int, int], NDArray[np.uint8] | None] = lambda right, down: None,
    background: tuple[int, int, int] = LAND,
) -> NDArray[np.uint8]:
    """The part of an ancestor tile that covers `tile`, `levels` below it, enlarged to a tile, as `enlarge` does it.

    ancestor: 256 x 256 x 3 or RGBA uint8. neighbour: gives the tile that is so many tiles to the right of the ancestor
    and below it, each -1, 0 or 1, or None; without it the ancestor's edge is repeated. Alpha stays sharp.
    """
    size = TILE_SIZE >> levels
    left, top = ((place % (1 << levels)) * TILE_SIZE >> levels for place in (tile.x, tile.y))
    if not size:  # several tiles within one of its pixels
        return np.broadcast_to(ancestor[top, left], ancestor.shape).copy()
    edge = ENLARGE_MARGIN
    padded = np.pad(ancestor, ((edge, edge), (edge, edge), (0, 0)), mode="edge")
    # by -1, 0, 1: where a strip lies in the padded ancestor, and where in the neighbour that it comes from
    here = {-1: slice(0, edge), 0: slice(edge, -edge), 1: slice(-edge, None)}
    there = {-1: slice(-edge, None), 0: slice(None), 1: slice(0, edge)}
    for down, right in itertools.product(here, here):
        beside = neighbour(right, down) if (right, down) != (0, 0) else None
        if beside is not None:
            padded[here[down], here[right]] = beside[there[down], there[right]]
    part = padded[top : top + size + 2 * edge, left : left + size + 2 * edge]
    if ancestor.shape[2] == 3:
        return _bicubic(part, levels)
    # what is transparent has no colour, and would show as a dark fringe
    filled = np.where(part[..., 3:] > 0, part[..., :3], np.array(background, dtype=np.uint8))
    return np.dstack([_bicubic(filled, levels), _repeated(part[..., 3], levels)])


def _bicubic(colours: Pixels, levels: int) -> Pixels:
    """Enlarge by 2^levels and cut the margin off."""
    factor = 1 << levels
    size = (colours.shape[1] * factor, colours.shape[0] * factor)
    large = np.asarray(Image.fromarray(np.ascontiguousarray(colours)).resize(size, Image.Resampling.BICUBIC))
    cut = ENLARGE_MARGIN * factor
    return large[cut:-cut, cut:-cut]


def _repeated(plane: NDArray[Scalar], levels: int) -> NDArray[Scalar]:
    """Repeat every pixel 2^levels times along each axis and cut the margin off."""
    factor = 1 << levels
    cut = ENLARGE_MARGIN * factor
    return plane.repeat(factor, axis=0).repeat(factor, axis=1)[cut:-cut, cut:-cut]
