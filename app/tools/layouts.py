"""`tilecascade dataset layouts`: small pictures of what lies where, and their captions, from map tiles.

Of the maps of pairs, and of fictional countries, mostly near their rivers, which real pairs seldom show.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import mercantile
import numpy as np
from mercantile import Tile
from tqdm import tqdm

from tilecascade.app.errors import SettingsError
from tilecascade.app.tools.captions import STYLES
from tilecascade.app.tools.dataset import split_of
from tilecascade.model.cascade import Pixels, tile_window
from tilecascade.model.data.pairs import read_image
from tilecascade.model.training.layouts import Layouts, layouts_of
from tilecascade.model.world.map_rendering import render_map
from tilecascade.model.world.pairs import choose

ZOOMS = {13: 0.15, 14: 0.35, 15: 0.3, 16: 0.2}
"""Share of the countries' tiles at each zoom: an area that a caption is given for is some kilometres large."""

HELD_OUT = 0.1
"""Share of a country that is for validation."""

DRY = 3
"""Of tiles without a river or a lake, of which there are most, so many times fewer parts are taken."""


def write_layouts(pairs: list[Path], countries: list[int], count: int, variants: int, out: Path) -> Counter[str]:
    """Write OUT/layouts.npz; returns how many there are of each scene.

    count: tiles of each country. variants: parts of each tile, turned and mirrored. Raises SettingsError.
    """
    layouts, captions, held_out = [], [], []
    rng = np.random.default_rng(len(pairs))
    for tile, held in _tiles(pairs, countries, count):
        found = list(layouts_of(tile, rng, variants))
        wet = any("river" in text or "lake" in text for _, caption in found for text in caption.relations)
        for layout, caption in found if wet else found[: -(-variants // DRY)]:
            layouts.append(layout)
            captions.append(caption)
            held_out.append(held)
    if not layouts:
        raise SettingsError("no map of these pairs is in the default style; give other --pairs or a --country")
    Layouts(np.stack(layouts), captions, np.array(held_out)).write(out)
    return Counter(caption.scene for caption in captions)


def _tiles(pairs: list[Path], countries: list[int], count: int) -> Iterator[tuple[Pixels, bool]]:
    """Map tiles, and whether they are for validation."""
    for folder in pairs:
        try:
            rows = list(csv.DictReader((folder / "manifest.csv").open(newline="")))
        except OSError:
            raise SettingsError(f"{folder} holds no manifest.csv; give the folder of some pairs") from None
        for row in tqdm([row for row in rows if row.get("style", "") in STYLES], unit="tile", mininterval=1):
            yield read_image(folder / row["map"]), row["split"] != "train"
    for seed in countries:
        for tile in tqdm(choose(seed, count, ZOOMS), total=count, unit="tile", desc=f"country {seed}", mininterval=1):
            yield render_map(seed, tile_window(tile)), held_out_place(tile)


def held_out_place(tile: Tile) -> bool:
    """Whether a tile lies in an area for validation; areas are tiles of zoom 13."""
    return split_of(mercantile.parent(tile, zoom=13) if tile.z > 13 else tile, HELD_OUT) == "val"
