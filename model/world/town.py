"""A small fictional town as satellite imagery: a lake, woods, fields, streets and houses. Deterministic."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from model.cascade import Pixels

Floats = NDArray[np.float64]


def value_noise(rng: np.random.Generator, size: int, cell: int, octaves: int = 4) -> Floats:
    """Smooth noise in 0..1, size x size; the coarsest features are `cell` pixels wide."""
    total, weight = np.zeros((size, size)), 0.0
    for octave in range(octaves):
        cells = max(2, size * (1 << octave) // cell + 1)
        grid = Image.fromarray((rng.random((cells, cells)) * 255).astype(np.uint8))
        share = 0.5**octave
        total += share * np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC)) / 255
        weight += share
    return np.asarray(total / weight)


@dataclass(frozen=True)
class Plan:
    """What is where: masks (size x size bool) and road lines (points in pixels, width in pixels)."""

    lake: NDArray[np.bool_]
    wood: NDArray[np.bool_]
    roads: list[tuple[list[tuple[float, float]], int]]
    houses: list[tuple[float, float, float, float, float]]


def _street(a: tuple[float, float], b: tuple[float, float], bend: float) -> list[tuple[float, float]]:
    """A gently bent line of 33 points."""
    t = np.linspace(0, 1, 33)
    dx, dy = b[0] - a[0], b[1] - a[1]
    x = a[0] + dx * t - dy * bend * np.sin(np.pi * t)
    y = a[1] + dy * t + dx * bend * np.sin(np.pi * t)
    return list(zip(x.tolist(), y.tolist(), strict=True))


def plan_town(rng: np.random.Generator, size: int) -> Plan:
    """Lay out the place on a size x size canvas (about 1.2 m a pixel)."""
    y, x = np.mgrid[:size, :size] / size
    shore = value_noise(rng, size, size // 3)
    lake = np.hypot((x - 0.16) * 1.1, y - 0.2) + 0.22 * (shore - 0.5) < 0.19
    centre = np.hypot(x - 0.58, y - 0.55)
    wood = (value_noise(rng, size, size // 5) > 0.5) & (centre > 0.33) & ~lake
    s = float(size)
    roads = [
        (_street((0, 0.62 * s), (s, 0.48 * s), 0.05), 13),
        (_street((0.55 * s, 0), (0.62 * s, s), -0.06), 13),
    ]
    houses = []
    for i in range(7):
        offset = (0.30 + 0.085 * i) * s
        roads.append((_street((offset, 0.27 * s), (offset + 0.03 * s, 0.85 * s), 0.01), 7))
        roads.append((_street((0.28 * s, offset), (0.88 * s, offset - 0.02 * s), 0.015), 7))
    for line, width in roads[2:]:
        steps = np.array(line)
        for (x0, y0), (x1, y1) in itertools.pairwise(steps):
            along = np.arctan2(y1 - y0, x1 - x0)
            for side in (-1, 1):
                if rng.random() < 0.72:
                    away = width / 2 + rng.uniform(16, 24)
                    houses.append(
                        (
                            (x0 + x1) / 2 - side * away * np.sin(along),
                            (y0 + y1) / 2 + side * away * np.cos(along),
                            rng.uniform(13, 26),
                            rng.uniform(10, 16),
                            float(along),
                        )
                    )
    return Plan(lake, wood, roads, houses)


def _corners(house: tuple[float, float, float, float, float], shift: float = 0.0) -> list[tuple[float, float]]:
    x, y, length, depth, angle = house
    cos, sin = np.cos(angle), np.sin(angle)
    signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    return [
        (
            float(x + shift + (i * length * cos - j * depth * sin) / 2),
            float(y + shift + (i * length * sin + j * depth * cos) / 2),
        )
        for i, j in signs
    ]


def draw_town(seed: int = 1, size: int = 2048) -> Pixels:
    """Imagery of the place: size x size x 3 uint8, the same for the same seed."""
    rng = np.random.default_rng(seed)
    plan = plan_town(rng, size)
    tone = value_noise(rng, size, size // 4)[..., None]
    ground = np.array([92.0, 96, 66]) + (tone - 0.5) * np.array([70.0, 50, 40])
    ground = ground + rng.normal(0, 7, (size, size, 1))
    crowns = value_noise(rng, size, 14, 2)[..., None]
    ground = np.where(plan.wood[..., None], np.array([30.0, 48, 30]) + (crowns - 0.5) * 60, ground)
    ground = np.where(plan.lake[..., None], np.array([22.0, 42, 56]) + rng.normal(0, 2, (size, size, 1)), ground)
    image = Image.fromarray(np.clip(ground, 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for line, width in plan.roads:
        pen.line(line, fill=(128, 124, 116), width=width, joint="curve")
    built = ~plan.lake
    for house in plan.houses:
        column, row = int(house[0]), int(house[1])
        if not (0 <= column < size and 0 <= row < size and built[row, column]) or plan.wood[row, column]:
            continue
        pen.polygon(_corners(house, 4), fill=(26, 28, 26))
        base = np.array([(150, 92, 76), (138, 138, 142), (176, 170, 160), (96, 104, 112)][rng.integers(4)])
        roof = base + rng.integers(-14, 15)
        pen.polygon(_corners(house), fill=tuple(int(c) for c in np.clip(roof, 0, 255)))
    soft = np.asarray(image.filter(ImageFilter.GaussianBlur(0.8))).astype(np.float64)
    return np.clip(soft + rng.normal(0, 3, soft.shape), 0, 255).astype(np.uint8)
