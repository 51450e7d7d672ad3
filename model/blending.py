"""Windows blended on a global lattice, one phase (InfiniteDiffusion): seamless whatever the network looks at.

Each cell of the lattice is generated in a window that reaches `overlap` beyond it; in the strips that two windows
share, their latents are mixed with weights that rise linearly from 0 at one window's outer edge to 1 at `overlap`
inside the cell. The weights of all windows add up to 1 everywhere and the sum runs in lattice order, so a latent
depends on where it lies and not on the order of requests.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from threading import Lock

import torch
from torch import Tensor


def ramp(cell: int, overlap: int) -> Tensor:
    """Weights along one axis of a window of cell + 2 * overlap positions: trapezoid, float32, of positions' centres."""
    position = torch.arange(cell + 2 * overlap, dtype=torch.float32) + 0.5
    from_edge = torch.minimum(position, cell + 2 * overlap - position)
    return (from_edge / (2 * overlap)).clamp(max=1)


def blend(windows: dict[tuple[int, int], Tensor], cell: int, overlap: int) -> Tensor:
    """Blend nine windows into the middle cell grown by `overlap`.

    windows: (column, row) in {-1, 0, 1}^2 -> C x (cell + 2 * overlap)^2, the windows of the lattice around a cell; all
    lengths in latent positions, overlap at most cell / 2. Returns C x (cell + 2 * overlap)^2.
    """
    size = cell + 2 * overlap
    axis = ramp(cell, overlap)
    some = windows[0, 0]
    weight = (axis[:, None] * axis[None, :]).to(device=some.device, dtype=some.dtype)
    total = torch.zeros_like(some)
    for row in (-1, 0, 1):
        for column in (-1, 0, 1):
            here, there = _shared(row * cell, size), _shared(column * cell, size)
            part = (slice(None), here[0], there[0])
            source = (slice(None), here[1], there[1])
            total[part] += weight[source[1:]] * windows[column, row][source]
    return total


def _shared(offset: int, size: int) -> tuple[slice, slice]:
    """Where a window `offset` away overlaps the middle one: positions in the middle one, and in that window."""
    low, high = max(0, offset), min(size, size + offset)
    return slice(low, high), slice(low - offset, high - offset)


class WindowCache:
    """Latents of windows generated lately, so that neighbours need not generate them again. Thread-safe."""

    def __init__(self, limit: int = 256) -> None:
        self.limit = limit
        self._kept: OrderedDict[Hashable, Tensor] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable) -> Tensor | None:
        """The latent kept under `key`, if any."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: Hashable, latent: Tensor) -> None:
        """Keep a latent; the least recently used ones go."""
        with self._lock:
            self._kept[key] = latent
            self._kept.move_to_end(key)
            while len(self._kept) > self.limit:
                self._kept.popitem(last=False)
