"""Metrics of drawn maps against true ones.

PSNR_Y: BT.601 limited-range luma of uint8 images, peak 255, one value a tile capped at 60 dB, mean over tiles.
SSIM_Y: the same luma, Gaussian window 11, sigma 1.5, K = (0.01, 0.03), data range 255, edges reflected.
mIoU: nearest palette colour, pooled over tiles, mean over building, road, water, vegetation.
Boundary F: outlines of buildings and of roads within 2 px, counts pooled over tiles.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from model.data.pairs import Pixels
from model.evaluation.boundaries import f_score, match
from model.palette import CLASSES, classify

CAP = 60.0
SCORED = CLASSES[1:]
OUTLINED = ("building", "road")


def luma(image: Pixels) -> NDArray[np.float64]:
    """H x W x 3 uint8 -> H x W, 16..235."""
    weights = np.array([65.481, 128.553, 24.966]) / 255
    return np.asarray(16 + image.astype(np.float64) @ weights)


def psnr(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Peak signal-to-noise ratio in dB, peak 255, at most 60."""
    error = float(((a - b) ** 2).mean())
    return CAP if error == 0 else min(CAP, 10 * np.log10(255**2 / error))


def ssim(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Structural similarity of two planes, mean over positions (Wang et al. 2004)."""
    axis = torch.arange(11, dtype=torch.float64) - 5
    bell = torch.exp(-(axis**2) / (2 * 1.5**2))
    bell = bell / bell.sum()
    kernel = (bell[:, None] * bell[None, :])[None, None]
    planes = [torch.from_numpy(np.ascontiguousarray(p))[None, None] for p in (a, b)]
    x, y = (F.pad(plane, (5, 5, 5, 5), mode="reflect") for plane in planes)

    def blur(plane: torch.Tensor) -> torch.Tensor:
        return F.conv2d(plane, kernel)

    mx, my = blur(x), blur(y)
    vx, vy, cov = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    scores = ((2 * mx * my + c1) * (2 * cov + c2)) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return float(scores.mean())


def agreement(child: Pixels, parent: Pixels, x: int, y: int) -> float:
    """Cross-zoom consistency: the share of pixels of tile (x, y) whose class is that of its parent tile there."""
    half = child.shape[0] // 2
    top, left = (y & 1) * half, (x & 1) * half
    return float((classify(child[::2, ::2]) == classify(parent[top : top + half, left : left + half])).mean())


@dataclass
class Scores:
    """Accumulates tiles of one kind (one zoom, one method)."""

    psnr_y: list[float] = field(default_factory=list)
    psnr_rgb: list[float] = field(default_factory=list)
    ssim_y: list[float] = field(default_factory=list)
    hits: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(CLASSES), dtype=np.int64))
    outlines: dict[str, NDArray[np.int64]] = field(default_factory=lambda: {c: np.zeros(4, np.int64) for c in OUTLINED})
    either: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(CLASSES), dtype=np.int64))

    def add(self, drawn: Pixels, truth: Pixels) -> None:
        """Compare two H x W x 3 uint8 images."""
        a, b = luma(drawn), luma(truth)
        self.psnr_y.append(psnr(a, b))
        self.ssim_y.append(ssim(a, b))
        self.psnr_rgb.append(psnr(drawn.astype(np.float64), truth.astype(np.float64)))
        ca, cb = classify(drawn), classify(truth)
        for index in range(len(CLASSES)):
            self.hits[index] += int(((ca == index) & (cb == index)).sum())
            self.either[index] += int(((ca == index) | (cb == index)).sum())
        for name in OUTLINED:
            index = CLASSES.index(name)
            self.outlines[name] += match(ca == index, cb == index)

    def summary(self) -> dict[str, object]:
        """The figures. A class that neither image shows anywhere does not count."""
        iou = {
            name: round(float(self.hits[i] / self.either[i]), 4)
            for i, name in enumerate(CLASSES)
            if name in SCORED and self.either[i]
        }
        return {
            "n": len(self.psnr_y),
            "psnr_y": round(float(np.mean(self.psnr_y)), 3),
            "ssim_y": round(float(np.mean(self.ssim_y)), 4),
            "psnr_rgb": round(float(np.mean(self.psnr_rgb)), 3),
            "miou": round(sum(iou.values()) / max(1, len(iou)), 4),
            "iou": iou,
            "boundary_f": {name: round(f_score(counts), 4) for name, counts in self.outlines.items()},
        }
