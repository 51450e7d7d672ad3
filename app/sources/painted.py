"""Imagery that is painted beyond its own resolution: of a sketch of a country, or of a satellite's overview.

A layer of imagery has its own tiles: down to the source's resolution what the source shows (`SourceTiles`), and finer
ones painted block by block. A map layer is generated from them; its imagery is a `PaintedSource`.
"""

from __future__ import annotations

import io

import numpy as np
from mercantile import Tile
from PIL import Image

from tilecascade.app.sources.source import Source, digest
from tilecascade.app.sources.territory import TerritorySource
from tilecascade.model.cascade import ENLARGE_MARGIN, Mask, Pixels, Window, enlarge, tile_window
from tilecascade.model.palette import LAND


class PaintedSource:
    """See `Source`. What the scenes, or another source, show as far as their resolution goes.

    Finer zooms are those of the layer of imagery, whose `tiles` are wanted there; `read` only enlarges.
    """

    def __init__(self, source: Source, zoom: int, painting: str) -> None:
        """zoom: the last one that is painted. painting: names what paints (see `imagery_layer`)."""
        self.source, self.zoom = source, zoom
        self.bounds, self.center = source.bounds, source.center
        self.native_zoom = max(zoom, source.native_zoom)
        self.attribution = f"{source.attribution} (detail painted)".strip()
        self.id = digest((source.id, f"painted {painting} to {zoom}"))
        self.plain_id = digest((plain_id(source), f"painted {painting} to {zoom}"))

    def read(self, window: Window) -> tuple[Pixels, Mask]:
        """H x W x 3 uint8 colours and the H x W mask of where the scenes are; finer than they are, enlarged."""
        levels = window.zoom - self.source.native_zoom
        if levels <= 0:
            return self.source.read(window)
        whole = _aligned(window, levels)
        colours, known = enlarge(*self.source.read(whole.above(levels).grown(ENLARGE_MARGIN)), levels, LAND)
        y, x = window.top - whole.top, window.left - whole.left
        inside = (slice(y, y + window.height), slice(x, x + window.width))
        return colours[inside], known[inside]

    def covers(self, tile: Tile) -> bool:
        """Whether any pixel of the tile has imagery."""
        return self.source.covers(tile)

    def id_at(self, tile: Tile) -> str:
        """See Source: detail depends on all that is around, but not on areas, which may be elsewhere."""
        return self.plain_id


def plain_id(source: Source) -> str:
    """A source's id without the areas of a territory, which may change while it is served."""
    return source.plain_id if isinstance(source, (PaintedSource, TerritorySource)) else source.id


class SourceTiles:
    """A source's own pixels as tiles: what a layer of imagery shows, as a base map, where nothing is painted yet.

    See `app.sources.base_map.BaseMapTiles`; these may be transparent in part.
    """

    def __init__(self, source: Source, first_zoom: int) -> None:
        self.zooms = range(max(0, min(first_zoom, source.native_zoom)), source.native_zoom + 1)
        self.id = f"imagery of {plain_id(source)}"
        self._source = source

    def get(self, tile: Tile) -> bytes | None:
        """A tile as lossless WebP; None where the source has nothing. May block."""
        if tile.z not in self.zooms or not self._source.covers(tile):
            return None
        colours, known = self._source.read(tile_window(tile))
        if not known.any():
            return None
        pixels = colours if known.all() else np.dstack([colours * known[..., None], known.astype(np.uint8) * 255])
        out = io.BytesIO()
        picture = Image.fromarray(np.ascontiguousarray(pixels))
        picture.save(out, "WEBP", lossless=True, exact=True, quality=0, method=0)  # as painted tiles are kept
        return out.getvalue()


def _aligned(window: Window, levels: int) -> Window:
    """The window as large as it takes to begin and end with pixels of so many levels above."""
    step = 1 << levels
    left, top = window.left // step * step, window.top // step * step
    right, bottom = (-(-side // step) * step for side in (window.left + window.width, window.top + window.height))
    return Window(window.zoom, left, top, right - left, bottom - top)
