"""A territory that does not exist as a layer's imagery: drawn of a sketch, and painted on from there."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any

import mercantile
import numpy as np
from cachetools import LRUCache, cachedmethod
from mercantile import Tile

from tilecascade.app.errors import SceneError
from tilecascade.app.sources.areas import Areas
from tilecascade.app.sources.mosaic import KEPT_TILES
from tilecascade.model.cascade import Mask, Pixels, Window, assemble, tile_window
from tilecascade.model.imagery.weather import MARGIN as WEATHER_MARGIN
from tilecascade.model.style import ORDER
from tilecascade.model.world.areas import weather_at, with_ground, with_weather
from tilecascade.model.world.sketch import HEIGHTS, Territory

VERSION = 4
"""Counts changes of code that change a territory's pixels."""

MARGIN = 8
"""Pixels drawn beyond a tile and cut off: light looks at neighbours."""

LEAST_REACH = 150.0
"""Metres beyond an area that its weather and its roads reach at most."""

WANDERS = 4.0
"""Pixels of a sketch by which borders of ground wander at most: 0.9 times noise that reaches 3.6."""

NATIVE_ZOOM = 16
"""The finest zoom that is drawn: single houses and trees are some pixels large there."""


class TerritorySource:
    """See `Source`. Drawn tile by tile when asked for; nothing is stored but the last tiles.

    plain_id: what `id` is without its areas, which change while it is served. reach: metres beyond an area as far as
    which it may change what is drawn.
    """

    def __init__(self, stem: Path, areas: Areas | None = None) -> None:
        """areas: what is different in some places. Raises SceneError."""
        self._made_of = stem.resolve(), areas
        self._areas = [] if areas is None else [area.ground for area in areas.all]
        try:
            self.territory = with_ground(Territory.read(stem), self._areas)
            files = [stem.with_suffix(suffix) for suffix in (".json", ".png", HEIGHTS)]
            digest = hashlib.sha256(b"".join(file.read_bytes() for file in files if file.is_file()))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SceneError(f"territory {stem} cannot be read: {error}") from None
        self.plain_id = f"territory-{VERSION}-{digest.hexdigest()[:12]}"
        self.id = f"{self.plain_id}-{areas.id}" if areas is not None and areas.all else self.plain_id
        self.reach = WANDERS * self.territory.pixel + LEAST_REACH
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

    def __reduce__(self) -> tuple[Callable[..., TerritorySource], tuple[Path, Areas | None, str]]:
        """On its way to another process, which draws it itself."""
        return _read_again, (*self._made_of, self.plain_id)

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
        """See Source: without the areas, which may be elsewhere."""
        return self.plain_id

    @cachedmethod(attrgetter("_tiles"), lock=attrgetter("_lock"))
    def _tile(self, tile: Tile) -> Pixels:
        window = tile_window(tile)
        weather = weather_at(self._areas, *self.territory.axes(window))
        # only here: what is far from all weather must not depend on whether there is any, to the last bit of a line
        margin = MARGIN + WEATHER_MARGIN * bool(weather)
        around, inner = window.grown(margin), slice(margin, -margin)
        axes = self.territory.axes(around)
        drawn = with_weather(weather_at(weather and self._areas, *axes), self.territory.imagery(around), *axes)
        known = self.territory.inside(*self.territory.axes(window))
        return np.dstack([drawn[inner, inner], known.astype(np.uint8) * 255])


def _read_again(stem: Path, areas: Areas | None, plain_id: str) -> TerritorySource:
    """The same territory in another process. Raises SceneError if another one has been put in its place."""
    source = TerritorySource(stem, areas)
    if source.plain_id != plain_id:
        raise SceneError(f"territory {stem} has been made anew meanwhile")
    return source
