"""`tilecascade dataset generate`: pairs of imagery, map and classes of a territory that does not exist.

For training other networks: the map is drawn of the same ground as the imagery, so it is true to the pixel, and there
is as much of it as wanted. OUT/territory/SPLIT/NAME.rs.png, .map.png and .classes.png (indices into
`model.palette.CLASSES`), and OUT/manifest.csv, as other pairs have it, with a column for the classes.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mercantile
import numpy as np
from mercantile import Tile
from PIL import Image
from tqdm import tqdm

from tilecascade.app.errors import SettingsError
from tilecascade.app.sources.territory import NATIVE_ZOOM, TerritorySource
from tilecascade.app.tiles.loaded_model import IMAGERY
from tilecascade.app.tools.dataset import COLUMNS, split_of
from tilecascade.model.cascade import Pixels, tile_window
from tilecascade.model.engine.device import choose_dtype
from tilecascade.model.imagery.painter import ImageryCascade, OctavePainter, load_octaves
from tilecascade.model.palette import classify
from tilecascade.model.world.sketch import NUMBER, Territory

SOURCE = "territory"

IN_TOWNS = 0.5
"""Share of the tiles whose middle is in a town, where there is most to learn; the others are anywhere."""

MISSES = 1_000
"""After so many places in a row whose tile is known already or not inside, there are hardly more."""


@dataclass(frozen=True)
class WantedPairs:
    """territory: the folder that `tilecascade territory new` wrote. zooms: each as often. count: of tiles."""

    territory: Path
    zooms: range
    count: int
    out: Path
    seed: int = 0
    val_share: float = 0.15


def generate_pairs(wanted: WantedPairs) -> dict[str, int]:
    """Write the pairs and list them after what is there; returns their number by split.

    Raises SceneError if the folder is no territory, SettingsError if it has fewer tiles than are wanted.
    """
    drawn = TerritorySource(wanted.territory / "map")
    painter = OctavePainter(lambda: load_octaves(IMAGERY), dtype=choose_dtype("auto", "cpu"))
    imagery = ImageryCascade(drawn.read, NATIVE_ZOOM, painter, drawn.territory.seed)
    columns = [*COLUMNS, "classes"]
    manifest = wanted.out / "manifest.csv"
    if manifest.is_file() and next(csv.reader(manifest.open())) != columns:
        raise SettingsError(f"{manifest} lists pairs without classes; choose another folder for --out")
    tiles = list(choose(drawn.territory, wanted))
    if len(tiles) < wanted.count:
        raise SettingsError(f"the territory has {len(tiles)} tiles at these zooms and not {wanted.count}")
    wanted.out.mkdir(parents=True, exist_ok=True)
    fresh = not manifest.is_file()
    counts = {"train": 0, "val": 0}
    with manifest.open("a", newline="") as lines:
        writer = csv.writer(lines)
        if fresh:
            writer.writerow(columns)
        # tiles of one place one after the other: they share what is painted above them
        for tile in tqdm(sorted(tiles, key=lambda tile: mercantile.quadkey(tile)), unit="pair"):
            split = split_of(tile, wanted.val_share)
            writer.writerow([SOURCE, split, *_written(tile, imagery, drawn, wanted.out, f"{SOURCE}/{split}")])
            counts[split] += 1
    return counts


def choose(territory: Territory, wanted: WantedPairs) -> Iterator[Tile]:
    """Different tiles wholly inside a territory, the same for the same seed."""
    rng = np.random.default_rng([wanted.seed, territory.seed, wanted.count])
    left, bottom, right, top = territory.box
    height, width = territory.kinds.shape
    towns = np.argwhere(territory.kinds == NUMBER["town"])
    seen: set[Tile] = set()
    missed = 0
    while len(seen) < wanted.count and missed < MISSES:
        row, column = rng.random(2) * (height, width)
        if len(towns) and rng.random() < IN_TOWNS:
            row, column = towns[rng.integers(len(towns))] + rng.random(2)
        x, y = left + column / width * (right - left), top - row / height * (top - bottom)
        tile = mercantile.tile(*mercantile.lnglat(x, y), int(rng.choice(list(wanted.zooms))))
        place = mercantile.xy_bounds(tile)
        missed += 1
        inside = left <= place.left and place.right <= right and bottom <= place.bottom and place.top <= top
        if inside and tile not in seen:
            seen.add(tile)
            missed = 0
            yield tile


def _written(tile: Tile, imagery: ImageryCascade, source: TerritorySource, out: Path, folder: str) -> list[object]:
    """Write one tile's images; the rest of its row in the manifest."""
    above = mercantile.parent(tile)
    drawn = source.territory.map(tile_window(tile))
    images: dict[str, Pixels] = {
        "rs": imagery.read(tile_window(tile))[0],
        "map": drawn,
        "parent": source.territory.map(tile_window(above)),
        "classes": classify(drawn),
    }
    (out / folder).mkdir(parents=True, exist_ok=True)
    name = f"{tile.z}_{tile.x}_{tile.y}"
    # territories may lie at the same place
    paths = {kind: f"{folder}/{name}_{source.id[-6:]}.{kind}.png" for kind in images}
    for kind, image in images.items():
        Image.fromarray(image).save(out / paths[kind])
    order = ("rs", "map", "parent", "classes")
    return [f"{name}.png", tile.z, tile.x, tile.y, *(paths[kind] for kind in order)]
