"""Metrics of generated maps against true ones.

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

from tilecascade.model.data.pairs import Pixels
from tilecascade.model.evaluation.boundaries import f_score, match
from tilecascade.model.palette import CLASSES, classify

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
    planes = [torch.from_numpy(np.ascontiguousarray(p))[None, None] for p in (a, b)]
    x, y = (F.pad(plane, (5, 5, 5, 5), mode="reflect") for plane in planes)
    # the bell is a product: a column, then a row
    blurred = F.conv2d(torch.cat([x, y, x * x, y * y, x * y]), bell.view(1, 1, -1, 1))
    mx, my, xx, yy, xy = F.conv2d(blurred, bell.view(1, 1, 1, -1))
    vx, vy, cov = xx - mx**2, yy - my**2, xy - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    scores = ((2 * mx * my + c1) * (2 * cov + c2)) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return float(scores.mean())


def agreement(child: Pixels, parent: Pixels, x: int, y: int) -> float:
    """Cross-zoom consistency: the share of pixels of tile (x, y) whose class is that of its parent tile there."""
    half = child.shape[0] // 2
    top, left = (y & 1) * half, (x & 1) * half
    return float((classify(child[::2, ::2]) == classify(parent[top : top + half, left : left + half])).mean())


def class_iou(counts: NDArray[np.int64]) -> dict[str, float]:
    """2 x K pixels in both and in either -> IoU of each scored class that either image shows somewhere."""
    both, either = counts
    return {name: float(both[i] / either[i]) for i, name in enumerate(CLASSES) if name in SCORED and either[i]}


def mean_iou(counts: NDArray[np.int64]) -> float:
    """Mean of `class_iou`; 0 if no class is shown."""
    values = class_iou(counts).values()
    return sum(values) / max(1, len(values))


@dataclass
class Scores:
    """Accumulates tiles of one kind (one zoom, one method)."""

    psnr_y: list[float] = field(default_factory=list)
    psnr_rgb: list[float] = field(default_factory=list)
    ssim_y: list[float] = field(default_factory=list)
    counts: list[NDArray[np.int64]] = field(default_factory=list)
    """2 x K by tile: pixels that both images give a class to, and pixels that either does."""
    outlines: dict[str, NDArray[np.int64]] = field(default_factory=lambda: {c: np.zeros(4, np.int64) for c in OUTLINED})

    def add(self, generated: Pixels, truth: Pixels) -> None:
        """Compare two H x W x 3 uint8 images."""
        a, b = luma(generated), luma(truth)
        self.psnr_y.append(psnr(a, b))
        self.ssim_y.append(ssim(a, b))
        self.psnr_rgb.append(psnr(generated.astype(np.float64), truth.astype(np.float64)))
        ca, cb = classify(generated), classify(truth)
        kinds = [(ca == index, cb == index) for index in range(len(CLASSES))]
        self.counts.append(np.array([[(a & b).sum() for a, b in kinds], [(a | b).sum() for a, b in kinds]]))
        for name in OUTLINED:
            index = CLASSES.index(name)
            self.outlines[name] += match(ca == index, cb == index)

    @classmethod
    def pooled(cls, parts: list[Scores]) -> Scores:
        """All tiles of several."""
        whole = cls()
        for part in parts:
            whole.psnr_y += part.psnr_y
            whole.psnr_rgb += part.psnr_rgb
            whole.ssim_y += part.ssim_y
            whole.counts += part.counts
            for name in OUTLINED:
                whole.outlines[name] = whole.outlines[name] + part.outlines[name]
        return whole

    def summary(self) -> dict[str, object]:
        """The figures. A class that neither image shows anywhere does not count."""
        iou = class_iou(np.sum(self.counts, axis=0))
        return {
            "n": len(self.psnr_y),
            "psnr_y": round(float(np.mean(self.psnr_y)), 3),
            "ssim_y": round(float(np.mean(self.ssim_y)), 4),
            "psnr_rgb": round(float(np.mean(self.psnr_rgb)), 3),
            "miou": round(mean_iou(np.sum(self.counts, axis=0)), 4),
            "iou": {name: round(value, 4) for name, value in iou.items()},
            "boundary_f": {name: round(f_score(counts), 4) for name, counts in self.outlines.items()},
        }
