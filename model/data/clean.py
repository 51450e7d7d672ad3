"""Leave out imagery with holes: too many wholly black or wholly white pixels (the thesis' rule: more than 0.05 %)."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tilecascade.model.data.pairs import read_image

MOST = 0.0005
"""Share of black, and of white pixels, that is still accepted."""


def blank_share(image: NDArray[np.uint8]) -> float:
    """H x W x 3 uint8 -> the larger of the shares of (0, 0, 0) and of (255, 255, 255)."""
    return float(max((image == value).all(axis=-1).mean() for value in (0, 255)))


def clean_manifest(manifest: Path, most: float = MOST) -> tuple[int, int]:
    """Take rows whose imagery has more than `most` blank pixels out of a manifest.csv, into dropped.csv beside it.

    No image is deleted. Returns how many rows were kept and dropped. Raises ValueError if it is not a manifest.
    """
    if not manifest.is_file():
        raise ValueError(f"{manifest} does not exist; give the folder of a dataset with a manifest.csv")
    with manifest.open(newline="") as lines:
        reader = csv.DictReader(lines)
        rows, columns = list(reader), list(reader.fieldnames or [])
    if "rs" not in columns:
        raise ValueError(f"{manifest} has no column rs: the path of the imagery tile")
    blank = [blank_share(read_image(manifest.parent / row["rs"])) > most for row in rows]
    for path, wanted in ((manifest.with_name("dropped.csv"), True), (manifest, False)):
        temporary = path.with_suffix(".tmp")
        with temporary.open("w", newline="") as out:
            writer = csv.DictWriter(out, columns)
            writer.writeheader()
            writer.writerows(row for row, bad in zip(rows, blank, strict=True) if bad == wanted)
        os.replace(temporary, path)
    return blank.count(False), blank.count(True)
