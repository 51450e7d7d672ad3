"""Images of any size -> 512 x 512 with a stated ground sample distance, by the rules of two papers.

MMM-RS (Luo et al. 2024): sides above 512: all 512 x 512 crops that do not overlap. Otherwise the largest centred square
of edge L (at least 256), enlarged to twice its size by a network and from there to 512 by bicubic interpolation; its
GSD becomes L / 512 of the image's.

Hierarchical captions: with S the shorter side, slices that do not overlap if S is twice the wanted edge or more, the
centred crop if it is more than the edge, and otherwise the image in the middle of a black square.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]

Enlarge = Callable[[Pixels, float], Pixels]
"""Gives an image of so many metres per pixel at twice its resolution."""

EDGE = 512
LEAST = 256


@dataclass(frozen=True)
class Standard:
    """512 x 512 x 3 uint8 and its metres per pixel. part: which crop of the image it is."""

    image: Pixels = field(repr=False)
    gsd: float
    part: str


def _resized(image: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize((EDGE, EDGE), Image.Resampling.BICUBIC))


def _centre(image: Pixels, edge: int) -> Pixels:
    top, left = (image.shape[0] - edge) // 2, (image.shape[1] - edge) // 2
    return image[top : top + edge, left : left + edge]


def standardize(image: Pixels, gsd: float, enlarge: Enlarge | None = None) -> list[Standard]:
    """H x W x 3 uint8 at `gsd` metres per pixel -> its standard images, by the rule of MMM-RS.

    enlarge: what doubles an image first; None for bicubic interpolation alone.
    Raises ValueError for a side below 256 or a GSD that is not positive.
    """
    if not gsd > 0:
        raise ValueError(f"metres per pixel must be positive, not {gsd}")
    height, width = image.shape[:2]
    if min(height, width) > EDGE:
        return [
            Standard(np.ascontiguousarray(image[y : y + EDGE, x : x + EDGE]), gsd, f"{y // EDGE}-{x // EDGE}")
            for y in range(0, height - EDGE + 1, EDGE)
            for x in range(0, width - EDGE + 1, EDGE)
        ]
    edge = min(height, width)
    if edge < LEAST:
        raise ValueError(f"{width} x {height} is too small: both sides need at least {LEAST} pixels")
    square = _centre(image, edge)
    if enlarge is not None and edge < EDGE:
        square = enlarge(square, gsd)
    return [Standard(_resized(square), gsd * edge / EDGE, "centre")]


def sliced(image: Pixels, gsd: float) -> list[Standard]:
    """H x W x 3 uint8 at `gsd` metres per pixel -> 512 x 512 by the rule of the captions paper; nothing is enlarged."""
    height, width = image.shape[:2]
    shorter = min(height, width)
    if shorter >= 2 * EDGE:
        return standardize(image, gsd)
    if shorter > EDGE:
        return [Standard(np.ascontiguousarray(_centre(image, EDGE)), gsd, "crop")]
    square = np.zeros((EDGE, EDGE, 3), dtype=np.uint8)
    part = image[(max(0, height - EDGE)) // 2 :, (max(0, width - EDGE)) // 2 :][:EDGE, :EDGE]
    top, left = (EDGE - part.shape[0]) // 2, (EDGE - part.shape[1]) // 2
    square[top : top + part.shape[0], left : left + part.shape[1]] = part
    return [Standard(square, gsd, "pad")]


def nested(image: Pixels, gsd: float, edges: tuple[int, ...] = (4096, 2048, 1024, 512)) -> list[Standard]:
    """Centred crops of falling size, each resized to 512: the same place at several GSDs (MMM-RS, section 3.3:
    G = L / 512 * G0). Crops larger than the image are left out. Raises ValueError if none fits."""
    fitting = [edge for edge in edges if edge <= min(image.shape[:2])]
    if not fitting:
        raise ValueError(f"no crop of {', '.join(map(str, edges))} pixels fits {image.shape[1]} x {image.shape[0]}")
    return [Standard(_resized(_centre(image, edge)), gsd * edge / EDGE, str(edge)) for edge in fitting]


def images_below(folder: Path) -> Iterator[Path]:
    """Image files of a folder, sorted. Raises ValueError if there is none."""
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp", ".tif"))
    if not found:
        raise ValueError(f"{folder} holds no png, jpg, webp or tif image")
    yield from found
