"""Reading pairs: imagery tile, map tile and the parent map tile, as listed in a manifest.csv.

Columns used: source, split, zoom, x, y, rs, map, parent_map (paths relative to the manifest).
"""

from __future__ import annotations

import csv
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Pair:
    """One imagery/map pair. Images are 256 x 256 x 3 uint8; `parent` is the map tile one zoom up, if known.

    reading: how the map is read (a key of `labels.READERS`).
    area: (split, x, y) of the pair's ancestor at z14, the unit in which offsets and confidence intervals are taken.
    """

    zoom: int
    x: int
    y: int
    split: str
    imagery: Pixels = field(repr=False)
    map: Pixels = field(repr=False)
    parent: Pixels | None = field(default=None, repr=False)
    reading: str = "exact"

    @property
    def area(self) -> tuple[str, int, int]:
        """See the class."""
        levels = self.zoom - 14
        return self.split, self.x >> levels, self.y >> levels


def read_image(path: Path | IO[bytes]) -> Pixels:
    """An RGB image file as H x W x 3 uint8."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def read_pairs(root: Path, source: str, split: str, zooms: range = range(14, 19), reading: str = "exact") -> list[Pair]:
    """Load every pair of one source and split. Raises ValueError if there is none.

    Pairs without a position get places of their own, each 16 tiles from the next, west of the world.
    """
    rows = [row for row in _rows(root, source, split) if int(row["zoom"]) in zooms]
    if not rows:
        raise ValueError(f"{root} lists no pair of source {source!r} and split {split!r}")
    parents = {row["parent_map"] for row in rows if row["parent_map"]}

    def load(numbered: tuple[int, dict[str, str]]) -> Pair:
        number, row = numbered
        return Pair(
            zoom=int(row["zoom"]),
            x=int(row["x"]) if row["x"] else -16 * (number + 1),
            y=int(row["y"]) if row["y"] else 0,
            split=split,
            imagery=read_image(root / row["rs"]),
            map=read_image(root / row["map"]),
            parent=loaded.get(row["parent_map"]),
            reading=reading,
        )

    with ThreadPoolExecutor(4) as pool:
        names = sorted(name for name in parents if (root / name).is_file())
        loaded = dict(zip(names, pool.map(lambda name: read_image(root / name), names), strict=True))
        return list(pool.map(load, enumerate(rows)))


def _rows(root: Path, source: str, split: str) -> list[dict[str, str]]:
    """The manifest's rows, or what a CSCMG folder holds (root/split/rs_256 and map_256, {z}_{x}_{y}.png)."""
    manifest = root / "manifest.csv"
    if manifest.is_file():
        with manifest.open(newline="") as lines:
            return [row for row in csv.DictReader(lines) if row["source"] == source and row["split"] == split]
    seen, maps = ({path.stem: path for path in (root / split / kind).glob("*_*_*.*")} for kind in ("rs_256", "map_256"))
    if not seen:
        raise ValueError(f"{root} holds neither a manifest.csv nor {split}/rs_256; give the folder of the pairs")
    rows = []
    for name in sorted(seen.keys() & maps.keys()):
        zoom, x, y = (int(part) for part in name.split("_"))
        parent = maps.get(f"{zoom - 1}_{x >> 1}_{y >> 1}")
        paths = {"rs": seen[name], "map": maps[name]} | ({"parent_map": parent} if parent else {})
        row = {"zoom": str(zoom), "x": str(x), "y": str(y), "parent_map": ""}
        rows.append(row | {key: str(path.relative_to(root)) for key, path in paths.items()})
    return rows
