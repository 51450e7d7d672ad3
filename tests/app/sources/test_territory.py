"""A territory as a layer's imagery: a function of the place, whatever is said of other places."""

from __future__ import annotations

from pathlib import Path

import mercantile
import numpy as np

from tilecascade.app.sources.areas import Areas, area_of
from tilecascade.app.sources.territory import TerritorySource
from tilecascade.model.cascade import tile_window
from tilecascade.model.world.sketch import NUMBER, Line, Territory

AT = mercantile.tile(20.05, 45.05, 12)


def test_weather_elsewhere_changes_no_pixel_of_a_road(tmp_path: Path) -> None:
    left, bottom, right, top = mercantile.xy_bounds(AT)
    rng = np.random.default_rng(0)
    along = np.linspace(0, 1, 40)
    roads = [
        Line(
            "primary", np.stack([left + along * (right - left), bottom + (k + rng.random(40)) / 6 * (top - bottom)], 1)
        )
        for k in range(6)
    ]
    Territory(np.full((8, 8), NUMBER["grass"], np.uint8), (left, bottom, right, top), 7, roads).write(tmp_path / "map")
    west, south, east, north = mercantile.bounds(AT)
    x, y, size = west + 0.02 * (east - west), south + 0.02 * (north - south), 0.05 * (east - west)
    ring = [[x, y], [x + size, y], [x + size, y + size], [x, y + size], [x, y]]
    geometry = {"type": "Polygon", "coordinates": [ring]}
    snow = area_of({"type": "Feature", "properties": {"weather": "snow"}, "geometry": geometry})
    plain, snowy = TerritorySource(tmp_path / "map"), TerritorySource(tmp_path / "map", Areas((snow,)))
    changed = set()
    for tile in mercantile.children(AT, zoom=15):
        before, after = (source.read(tile_window(tile))[0] for source in (plain, snowy))
        if not np.array_equal(before, after):
            changed.add(tile)
    assert changed == {mercantile.tile(x + size / 2, y + size / 2, 15)}
