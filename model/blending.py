"""Windows on a global lattice of their own, blended (InfiniteDiffusion with one phase): seamless whatever a network
looks at.

A network that was trained on tiles of 256 px generates windows of 256 px, which overlap their neighbours by 48 to
64 px. In the strips that windows share, their pixels are mixed with weights that fall linearly from 1 to 0. The weights
of all windows add up to 1 everywhere and the sum runs in lattice order, so a pixel depends on where it lies and not on
the order of requests. The lattice has nothing to do with blocks: a window that several blocks see is generated once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from tilecascade.model.cascade import Pixels, Window

SIDE = 256
"""Edge of a window in pixels."""

PERIOD = 1024
"""Pixels after which the lattice repeats, along both axes: the world is a multiple of it from zoom 2 on."""

STARTS = (-64, 144, 352, 560, 768)
"""Where windows begin within a period. Each multiple of 512 lies in one window only, so that a block of 512 px meets
three or four windows along each axis; 25 windows for 16 tiles are 1.56 times the paper's work."""

WindowKey = tuple[int | None, int, str, Window]
"""What a window's pixels depend on: the reference's zoom, the seed, what conditions are read from, and the window."""


def _starts(first: int, length: int) -> list[int]:
    """Where the windows begin that meet the pixels from `first` on, along one axis."""
    periods = range((first - SIDE) // PERIOD, (first + length) // PERIOD + 2)
    starts = [period * PERIOD + start for period in periods for start in STARTS]
    return [start for start in starts if first - SIDE < start < first + length]


def windows_over(place: Window) -> list[Window]:
    """The windows of the lattice that meet `place`, row by row."""
    lefts, tops = _starts(place.left, place.width), _starts(place.top, place.height)
    return [Window(place.zoom, left, top, SIDE, SIDE) for top in tops for left in lefts]


def ramp(start: int) -> NDArray[np.float32]:
    """The weights along one axis of the window that begins at `start`: float32, of its SIDE pixels' centres."""
    index = STARTS.index((start - STARTS[0]) % PERIOD + STARTS[0])
    before = STARTS[index - 1] - (PERIOD if index == 0 else 0)
    after = STARTS[(index + 1) % len(STARTS)] + (PERIOD if index + 1 == len(STARTS) else 0)
    position = np.arange(SIDE, dtype=np.float32) + 0.5
    up = position / (before + SIDE - STARTS[index])
    down = (SIDE - position) / (STARTS[index] + SIDE - after)
    return np.minimum(np.minimum(up, down), np.float32(1))


def blend(place: Window, images: Mapping[Window, Pixels]) -> Pixels:
    """The pixels of `place`, H x W x 3 uint8, from those of its windows (`windows_over`), SIDE x SIDE x 3 uint8."""
    total = np.zeros((place.height, place.width, 3), dtype=np.float32)
    for window in windows_over(place):
        y, x = window.top - place.top, window.left - place.left
        y0, y1, x0, x1 = max(0, y), min(place.height, y + SIDE), max(0, x), min(place.width, x + SIDE)
        rows, columns = slice(y0 - y, y1 - y), slice(x0 - x, x1 - x)
        weight = ramp(window.top)[rows, None] * ramp(window.left)[None, columns]
        total[y0:y1, x0:x1] += weight[..., None] * images[window][rows, columns]
    return np.rint(total).astype(np.uint8)


class WindowPool:
    """Windows that were generated lately or are being generated, so that nobody generates one again. Thread-safe.

    made: how many windows have been generated.
    """

    def __init__(self, limit: int = 512) -> None:
        self.limit = limit
        self.made = 0
        self._kept: OrderedDict[WindowKey, Future[Pixels]] = OrderedDict()
        self._lock = Lock()

    def get(
        self, keys: Sequence[WindowKey], make: Callable[[Sequence[WindowKey]], Sequence[Pixels]], at_once: int
    ) -> dict[WindowKey, Pixels]:
        """The windows of these keys. make: generates missing ones, at most `at_once` in a call.

        What another thread generates is waited for, after the own ones; if it fails there, it is generated here. An
        error of `make` is raised, and what was missing stays missing.
        """
        found: dict[WindowKey, Pixels] = {}
        while len(found) < len(keys):
            mine, futures = self._claim([key for key in keys if key not in found])
            try:
                for first in range(0, len(mine), at_once):
                    some = mine[first : first + at_once]
                    for key, image in zip(some, make(some), strict=True):
                        futures[key].set_result(image)
                    self.made += len(some)
            finally:
                self._give_up([key for key in mine if not futures[key].done()], futures)
            for key, future in futures.items():
                if future.exception() is None:
                    found[key] = future.result()
        return found

    def _claim(self, keys: list[WindowKey]) -> tuple[list[WindowKey], dict[WindowKey, Future[Pixels]]]:
        """The keys that nobody has or generates, now claimed, and the futures of all."""
        with self._lock:
            mine = [key for key in keys if key not in self._kept]
            for key in mine:
                self._kept[key] = Future()
            futures = {key: self._kept[key] for key in keys}
            for key in keys:
                self._kept.move_to_end(key)
            # the oldest go; whoever waits for one has its future
            while len(self._kept) > max(self.limit, len(keys)):
                self._kept.popitem(last=False)
        return mine, futures

    def _give_up(self, keys: list[WindowKey], futures: dict[WindowKey, Future[Pixels]]) -> None:
        """Let others generate what was claimed and could not be generated."""
        with self._lock:
            for key in keys:
                if self._kept.get(key) is futures[key]:
                    del self._kept[key]
        for key in keys:
            futures[key].set_exception(RuntimeError("another thread could not generate this window"))
