"""Pairs of drawn maps and imagery of the same ground."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support import map_picture

X, Y = 8703, 5612
BUILDING_AND_ROAD = ("building", "building outline", "road")


def imagery_of(generated: np.ndarray, rng: np.random.Generator, offset: tuple[int, int] = (0, 0)) -> np.ndarray:
    """The same ground as a camera might see it: other colours, noise, moved by (dx, dy)."""
    seen = 255 - generated.astype(float) * np.array([0.6, 0.5, 0.7]) + rng.normal(0, 6, generated.shape)
    return np.roll(np.clip(seen, 0, 255).astype(np.uint8), (offset[1], offset[0]), axis=(0, 1))


@pytest.fixture(scope="module")
def pairs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    rows = []
    for split, dx in (("train", 0), ("val", 3)):
        for zoom in (14, 15, 16, 17):
            k = zoom - 14
            for i in range(2 if k else 1):
                x, y = ((X + dx) << k) + i, Y << k
                stem = f"{split}_{zoom}_{x}_{y}"
                generated = map_picture(rng)
                Image.fromarray(generated).save(root / f"{stem}.map.png")
                Image.fromarray(imagery_of(generated, rng)).save(root / f"{stem}.rs.png")
                parent = f"{split}_{zoom - 1}_{x >> 1}_{y >> 1}.map.png" if zoom > 14 else ""
                rows.append(["s", split, zoom, x, y, f"{stem}.rs.png", f"{stem}.map.png", parent])
                if zoom == 17:
                    rows.append(["other", split, zoom, "", "", f"{stem}.rs.png", f"{stem}.map.png", ""])
    with (root / "manifest.csv").open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["source", "split", "zoom", "x", "y", "rs", "map", "parent_map"])
        writer.writerows(rows)
    return root
