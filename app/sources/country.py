"""The fictional country as a layer's imagery: what is served when the user brings no scene."""

from __future__ import annotations

import threading
from operator import attrgetter
from typing import Any

import mercantile
import numpy as np
from cachetools import LRUCache, cachedmethod
from mercantile import Tile

from tilecascade.app.sources.mosaic import KEPT_TILES
from tilecascade.model.cascade import Mask, Pixels, Window, assemble, tile_window
from tilecascade.model.world.features import PLACE
from tilecascade.model.world.imagery_rendering import render_imagery
from tilecascade.model.world.places import places

VERSION = 1
"""Counts changes of code that change the country's pixels."""

MARGIN = 24
"""Pixels rendered beyond a tile and cut off: light and shadow look at neighbours."""

NATIVE_ZOOM = 18


class CountrySource:
    """See `Source`. Rendered tile by tile when asked for; nothing is stored but the last tiles."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.id = f"country-{VERSION}-{seed}"
        bounds = mercantile.bounds(*PLACE)
        self.bounds = (bounds.west, bounds.south, bounds.east, bounds.north)
        first = next(place for place in places(seed) if place.rank == "town")
        corner = mercantile.xy_bounds(*PLACE)
        place = mercantile.lnglat(corner.left + first.x, corner.top - first.y)
        self.center = (place.lng, place.lat)
        self.native_zoom = NATIVE_ZOOM
        self.attribution = "fictional country"
        self._tiles: LRUCache[Any, Pixels] = LRUCache(maxsize=KEPT_TILES)
        self._lock = threading.Lock()
        # the first tile plans rivers, roads and towns, which several first requests at once would do several times
        self._tile(mercantile.tile(*self.center, NATIVE_ZOOM))

    def __reduce__(self) -> tuple[type, tuple[int]]:
        """On its way to another process, which draws it itself."""
        return type(self), (self.seed,)

    def read(self, window: Window) -> tuple[Pixels, Mask]:
        """H x W x 3 uint8 colours and the H x W mask of where the country is."""
        return assemble(window, {tile: self._tile(tile) for tile in window.tiles() if self.covers(tile)})

    def covers(self, tile: Tile) -> bool:
        """Whether the tile lies in the country (at or below its own zoom)."""
        levels = tile.z - PLACE[2]
        return levels >= 0 and (tile.x >> levels, tile.y >> levels) == PLACE[:2]

    def id_at(self, tile: Tile) -> str:
        """See Source."""
        return self.id

    @cachedmethod(attrgetter("_tiles"), lock=attrgetter("_lock"))
    def _tile(self, tile: Tile) -> Pixels:
        rendered = render_imagery(self.seed, tile_window(tile).grown(MARGIN))[MARGIN:-MARGIN, MARGIN:-MARGIN]
        return np.dstack([rendered, np.full(rendered.shape[:2], 255, dtype=np.uint8)])
