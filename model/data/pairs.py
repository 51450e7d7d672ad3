"""Reading pairs: imagery tile, map tile and the parent map tile, as listed in a manifest.csv.

Columns used: source, split, zoom, x, y, rs, map, parent_map (paths relative to the manifest).
"""

from __future__ import annotations

import csv
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Pair:
    """One imagery/map pair. Images are 256 x 256 x 3 uint8; `parent` is the map tile one zoom up, if known.

    area: (split, x, y) of the pair's ancestor at z14, the unit in which offsets and confidence intervals are taken.
    """

    zoom: int
    x: int
    y: int
    split: str
    imagery: Pixels = field(repr=False)
    map: Pixels = field(repr=False)
    parent: Pixels | None = field(default=None, repr=False)

    @property
    def area(self) -> tuple[str, int, int]:
        """See the class."""
        levels = self.zoom - 14
        return self.split, self.x >> levels, self.y >> levels


def read_image(path: Path) -> Pixels:
    """An RGB image file as H x W x 3 uint8."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def read_pairs(root: Path, source: str, split: str, zooms: range = range(14, 19)) -> list[Pair]:
    """Load every pair of one source and split. Raises ValueError if there is none."""
    manifest = root / "manifest.csv"
    if not manifest.is_file():
        raise ValueError(f"{root} holds no manifest.csv; give the folder of the pairs")
    with manifest.open(newline="") as lines:
        rows = [
            row
            for row in csv.DictReader(lines)
            if row["source"] == source and row["split"] == split and int(row["zoom"]) in zooms
        ]
    if not rows:
        raise ValueError(f"{manifest} lists no pair of source {source!r} and split {split!r}")
    parents = {row["parent_map"] for row in rows if row["parent_map"]}

    def load(row: dict[str, str]) -> Pair:
        return Pair(
            zoom=int(row["zoom"]),
            x=int(row["x"]),
            y=int(row["y"]),
            split=split,
            imagery=read_image(root / row["rs"]),
            map=read_image(root / row["map"]),
            parent=loaded.get(row["parent_map"]),
        )

    with ThreadPoolExecutor(4) as pool:
        names = sorted(name for name in parents if (root / name).is_file())
        loaded = dict(zip(names, pool.map(lambda name: read_image(root / name), names), strict=True))
        return list(pool.map(load, rows))


def quadrant(parent: Pixels, x: int, y: int, levels: int) -> Pixels:
    """The part of an ancestor tile (256 x 256 x 3) that covers tile (x, y), `levels` below it, enlarged to 256."""
    size = 256 >> levels
    left, top = (x % 2**levels) * size, (y % 2**levels) * size
    box = (left, top, left + size, top + size)
    return np.asarray(Image.fromarray(parent).resize((256, 256), Image.Resampling.BICUBIC, box=box))
