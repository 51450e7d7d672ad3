"""A territory that does not exist as a layer's imagery: drawn of a sketch, and painted on from there."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any

import mercantile
import numpy as np
from cachetools import LRUCache, cachedmethod
from mercantile import Tile

from tilecascade.app.errors import SceneError
from tilecascade.app.sources.mosaic import KEPT_TILES
from tilecascade.model.cascade import Mask, Pixels, Window, assemble, tile_window
from tilecascade.model.style import ORDER
from tilecascade.model.world.sketch import HEIGHTS, Territory

VERSION = 3
"""Counts changes of code that change a territory's pixels."""

MARGIN = 8
"""Pixels drawn beyond a tile and cut off: light looks at neighbours."""

NATIVE_ZOOM = 16
"""The finest zoom that is drawn: single houses and trees are some pixels large there."""


class TerritorySource:
    """See `Source`. Drawn tile by tile when asked for; nothing is stored but the last tiles."""

    def __init__(self, stem: Path) -> None:
        """Raises SceneError."""
        try:
            self.territory = Territory.read(stem)
            files = [stem.with_suffix(suffix) for suffix in (".json", ".png", HEIGHTS)]
            digest = hashlib.sha256(b"".join(file.read_bytes() for file in files if file.is_file()))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SceneError(f"territory {stem} cannot be read: {error}") from None
        self.id = f"territory-{VERSION}-{digest.hexdigest()[:12]}"
        left, bottom, right, top = self.territory.box
        west, south = mercantile.lnglat(left, bottom)
        east, north = mercantile.lnglat(right, top)
        self.bounds = (west, south, east, north)
        middle = mercantile.lnglat((left + right) / 2, (bottom + top) / 2)
        self.center = (middle.lng, middle.lat)
        self.native_zoom = NATIVE_ZOOM
        self.attribution = "a territory that does not exist"
        self._tiles: LRUCache[Any, Pixels] = LRUCache(maxsize=KEPT_TILES)
        self._lock = threading.Lock()

    def read(self, window: Window) -> tuple[Pixels, Mask]:
        """H x W x 3 uint8 colours and the H x W mask of where the territory is."""
        return assemble(window, {tile: self._tile(tile) for tile in window.tiles() if self.covers(tile)})

    def covers(self, tile: Tile) -> bool:
        """Whether any of the tile lies in the territory."""
        west, south, east, north = mercantile.xy_bounds(tile)
        left, bottom, right, top = self.territory.box
        return west < right and east > left and south < top and north > bottom

    def roads(self) -> Iterator[tuple[str, list[tuple[float, float]]]]:
        """The roads that the territory has for sure, the greatest last: class, and points as longitude and latitude."""
        for kind in ORDER:
            for line in self.territory.lines:
                if line.kind == kind:
                    yield kind, [mercantile.lnglat(x, y) for x, y in line.points.tolist()]

    def id_at(self, tile: Tile) -> str:
        """See Source."""
        return self.id

    @cachedmethod(attrgetter("_tiles"), lock=attrgetter("_lock"))
    def _tile(self, tile: Tile) -> Pixels:
        window = tile_window(tile)
        drawn = self.territory.imagery(window.grown(MARGIN))[MARGIN:-MARGIN, MARGIN:-MARGIN]
        known = self.territory.inside(*self.territory.axes(window))
        return np.dstack([drawn, known.astype(np.uint8) * 255])
