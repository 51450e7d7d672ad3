"""Pairs of the country for training: imagery, map and the map tile above, in the layout of the supplied pairs."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from mercantile import Tile
from PIL import Image
from tqdm import tqdm

from tilecascade.model.cascade import Pixels, tile_window
from tilecascade.model.world.features import PLACE
from tilecascade.model.world.imagery_rendering import Look, any_look, render_imagery
from tilecascade.model.world.land import EXTENT
from tilecascade.model.world.lattice import generator
from tilecascade.model.world.map_rendering import render_map
from tilecascade.model.world.places import places

SOURCE = "country"
COLUMNS = ("source", "split", "id", "zoom", "x", "y", "rs", "map", "parent_map")

ZOOMS = {14: 0.1, 15: 0.2, 16: 0.3, 17: 0.3, 18: 0.1}
"""Share of the pairs at each zoom."""

LOOKS = 50


def look_of(seed: int, tile: Tile) -> Look:
    """One look for each z12 tile: neighbours were photographed on the same day. Coarser tiles have one each."""
    levels = max(0, tile.z - 12)
    return any_look(generator(seed, LOOKS, tile.x >> levels, tile.y >> levels))


def choose(seed: int, count: int, shares: Mapping[int, float] = ZOOMS) -> Iterator[Tile]:
    """Tiles in and around settlements, larger ones more often; one in five anywhere. shares: of each zoom."""
    rng = generator(seed, LOOKS, count)
    towns = places(seed)
    weights = np.array([place.radius**1.2 for place in towns])
    weights /= weights.sum()
    seen: set[Tile] = set()
    while len(seen) < count:
        zoom = int(rng.choice(list(shares), p=list(shares.values())))
        place = towns[int(rng.choice(len(towns), p=weights))]
        spot = np.array([place.x, place.y]) + rng.normal(0, 0.55 * place.radius, 2)
        if rng.random() < 0.2:
            spot = rng.uniform(0.1, 0.9, 2) * EXTENT
        size = EXTENT / 2 ** (zoom - PLACE[2])
        x, y = (int((side << (zoom - PLACE[2])) + v // size) for side, v in zip(PLACE[:2], spot, strict=True))
        tile = Tile(x, y, zoom)
        if tile not in seen:
            seen.add(tile)
            yield tile


def write_pairs(out: Path, seed: int, count: int, split: str = "train", shares: Mapping[int, float] = ZOOMS) -> None:
    """Write `count` pairs of country `seed` below `out` and list them in manifest.csv, after what is there."""
    folder = out / SOURCE / split
    folder.mkdir(parents=True, exist_ok=True)
    manifest = out / "manifest.csv"
    fresh = not manifest.exists()
    with manifest.open("a", newline="") as lines:
        writer = csv.writer(lines)
        if fresh:
            writer.writerow(COLUMNS)
        for tile in tqdm(choose(seed, count, shares), total=count, unit="pair", desc=f"country {seed}"):
            above = Tile(tile.x >> 1, tile.y >> 1, tile.z - 1)
            names = {
                "rs": _name(seed, tile, "rs"),
                "map": _name(seed, tile, "map"),
                "parent_map": _name(seed, above, "map"),
            }
            _save(folder / names["rs"], render_imagery(seed, tile_window(tile), look_of(seed, tile)))
            _save(folder / names["map"], render_map(seed, tile_window(tile)))
            if not (folder / names["parent_map"]).exists():
                _save(folder / names["parent_map"], render_map(seed, tile_window(above)))
            paths = {key: f"{SOURCE}/{split}/{name}" for key, name in names.items()}
            row = {"source": SOURCE, "split": split, "id": names["map"], "zoom": tile.z, "x": tile.x, "y": tile.y}
            writer.writerow([(row | paths)[column] for column in COLUMNS])
            lines.flush()


def _name(seed: int, tile: Tile, kind: str) -> str:
    return f"{tile.z}_{tile.x}_{tile.y}_{seed}.{kind}.webp"


def _save(path: Path, image: Pixels) -> None:
    Image.fromarray(image).save(path, lossless=path.name.endswith("map.webp"), quality=90)
