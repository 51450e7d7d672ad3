"""Numbers that depend on nothing but a seed and a place: hashes, smooth noise, and smooth lines.

A *stream* tells apart what is rendered from the same seed (relief, woods, ...). Coordinates are metres east and south
of the country's north-west corner (`land.EXTENT` wide); noise is a cubic B-spline through hashed values on a square
lattice, so that a whole window of it is two small matrix products.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tilecascade.model.noise import philox

Floats = NDArray[np.float64]


def hashed(seed: int, stream: int, *coordinates: ArrayLike) -> Floats:
    """Uniform numbers in [0, 1) for up to three integer coordinates (arrays that broadcast), each its own."""
    places = np.broadcast_arrays(*(np.asarray(c, dtype=np.int64) for c in coordinates))
    words = [(place & 0xFFFFFFFF).astype(np.uint64) for place in places]
    zero = np.zeros_like(words[0])
    counter = (*words, *(zero,) * (3 - len(words)), zero + np.uint64(stream))
    return philox((counter[0], counter[1], counter[2], counter[3]), (seed & 0xFFFFFFFF, seed >> 32))[0] / 2.0**32


def generator(seed: int, stream: int, *coordinates: int) -> np.random.Generator:
    """Random numbers for one thing at an integer place."""
    return np.random.default_rng([seed, stream, *(c & 0xFFFFFFFF for c in coordinates)])


def _weights(axis: Floats, wavelength: float) -> tuple[NDArray[np.int64], Floats]:
    """The lattice indices a strictly rising axis needs, and the (axis x indices) matrix of cubic B-spline weights."""
    place = axis / wavelength
    cell = np.floor(place).astype(np.int64)
    t = place - cell
    first = int(cell[0]) - 1
    indices = np.arange(first, int(cell[-1]) + 3)
    matrix = np.zeros((len(axis), len(indices)))
    rows = np.arange(len(axis))
    for offset, weight in enumerate(
        ((1 - t) ** 3 / 6, (3 * t**3 - 6 * t**2 + 4) / 6, (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6, t**3 / 6)
    ):
        matrix[rows, cell - 1 + offset - first] = weight
    return indices, matrix


def noise(seed: int, stream: int, xs: Floats, ys: Floats, wavelength: float) -> Floats:
    """Smooth noise at ys x xs, mean 0, deviation about 1. Axes rise strictly."""
    columns, across = _weights(xs, wavelength)
    rows, down = _weights(ys, wavelength)
    values = hashed(seed, stream, rows[:, None], columns[None, :]) - 0.5
    # the spline through independent uniform values has a deviation of 0.138
    return (down @ values @ across.T) / 0.138


def fractal(
    seed: int, stream: int, xs: Floats, ys: Floats, wavelength: float, octaves: int, gain: float = 0.5
) -> Floats:
    """A sum of octaves of noise, deviation about 1. Octaves finer than two pixels are left out: windows at a coarse
    zoom show the mean of what a finer one shows."""
    pixel = float(xs[1] - xs[0])
    total, energy = np.zeros((len(ys), len(xs))), 0.0
    for octave in range(octaves):
        length, share = wavelength / 2**octave, gain**octave
        energy += share**2
        if length >= 2 * pixel:
            total += share * noise(seed, stream * 64 + octave, xs, ys, length)
    return total / energy**0.5


def smooth_line(points: Floats, rounds: int = 3) -> Floats:
    """Cut corners (Chaikin) of an N x 2 line; its ends stay."""
    for _ in range(rounds if len(points) > 2 else 0):
        a, b = points[:-1], points[1:]
        inner = np.stack([0.75 * a + 0.25 * b, 0.25 * a + 0.75 * b], axis=1).reshape(-1, 2)[1:-1]
        points = np.concatenate([points[:1], inner, points[-1:]])
    return points


class Polyline:
    """What rivers, roads and streets have in common. points: N x 2 metres; low, high: the corners of their box."""

    points: Floats

    @cached_property
    def low(self) -> Floats:
        """The least coordinates, 2 metres."""
        return np.asarray(self.points.min(axis=0))

    @cached_property
    def high(self) -> Floats:
        """The greatest coordinates, 2 metres."""
        return np.asarray(self.points.max(axis=0))

    def meets(self, low: Floats, high: Floats, margin: float) -> bool:
        """Whether the box comes within a margin of another one."""
        return bool((self.low < high + margin).all() and (self.high > low - margin).all())


def distance_to_line(points: Floats, line: Floats) -> Floats:
    """Distance of each of N points from an M x 2 line."""
    a, b = line[:-1], line[1:]
    along = b - a
    t = ((points[:, None] - a) * along).sum(-1) / np.maximum((along**2).sum(-1), 1e-9)
    nearest = a + np.clip(t, 0, 1)[..., None] * along
    return np.asarray(np.hypot(*np.moveaxis(points[:, None] - nearest, -1, 0)).min(axis=1))
