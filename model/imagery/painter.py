"""Imagery beyond the resolution of what is there: octave after octave of detail, the same wherever one begins.

MetaEarth's self-cascade, in windows of a global lattice: each block is painted from the imagery above it with a margin,
and from noise that is a function of coordinates. So any order of requests gives the same pixels, and the mean of each
2 x 2 of them is the pixel above.
"""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cachetools import LRUCache
from safetensors.torch import load_file, save_file
from torch import Tensor

from tilecascade.model.cascade import TILE_SIZE, Pixels, Window, metres_per_pixel
from tilecascade.model.imagery.gate import Gate, Image
from tilecascade.model.imagery.network import DEVIATION, OctaveConfig, OctaveNet, sample
from tilecascade.model.imagery.octave import CHANNELS, join
from tilecascade.model.noise import noise_window

MARGIN = 40
"""Pixels of the imagery above that are looked at beyond a block: as far as one step of the network sees."""

BLOCK = 512
"""Pixels of a block along one axis."""

KEPT = 96
"""Blocks that are kept in memory."""

PHASE = 200
"""Tells this noise from that of maps."""

DEGRADED = 0.3
"""How far the imagery above, which is painted itself, is to be trusted: 0 is wholly."""


MOST_ATTEMPTS = 3
"""How often a block is painted at most; it is painted again only while that brings it nearer to the gate's range."""


def save_octaves(net: OctaveNet, stem: Path, gate: Gate) -> None:
    """Write `stem`.safetensors (float16) and `stem`.json."""
    state = {key: value.half().contiguous() for key, value in net.state_dict().items()}
    stem.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, stem.with_suffix(".safetensors"))
    stem.with_suffix(".json").write_text(json.dumps(net.config.to_dict() | {"gate": gate.to_list()}) + "\n")


def load_octaves(stem: Path) -> tuple[OctaveNet, Gate]:
    """Read what `save_octaves` wrote; float32, eval mode."""
    stored: dict[str, Any] = json.loads(stem.with_suffix(".json").read_text())
    gate = Gate.from_list(stored.pop("gate"))
    given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()}
    net = OctaveNet(OctaveConfig(**given))
    net.load_state_dict({key: value.float() for key, value in load_file(stem.with_suffix(".safetensors")).items()})
    return net.eval(), gate


OnRejected = Callable[[Window, Pixels], None]
"""Is told of an attempt that was not kept: its window and its pixels."""


class OctavePainter:
    """Paints one octave of detail. seed: another one gives other detail of the same coarse imagery."""

    def __init__(self, net: OctaveNet, seed: int, dtype: torch.dtype = torch.float32, gate: Gate | None = None) -> None:
        """gate: what `painted` accepts; everything if None."""
        self.net, self.seed, self.dtype, self.gate = net, seed, dtype, gate or Gate()

    def painted(self, window: Window, above: Image, degradation: float, on_rejected: OnRejected) -> Painted:
        """A window, painted again with other noise where the gate rejects it; see `paint`.

        The best of its attempts, the first of equally good ones: a function of the same things as one attempt is.
        """
        best = self.paint(window, above, degradation)
        least, attempts = self.gate.excess(best, _metres(window)), 1
        while least and attempts < MOST_ATTEMPTS:
            image = self.paint(window, above, degradation, attempts)
            excess, attempts = self.gate.excess(image, _metres(window)), attempts + 1
            if excess >= least:
                on_rejected(window, _as_pixels(image))
                break
            on_rejected(window, _as_pixels(best))
            best, least = image, excess
        return Painted(best, attempts, least == 0)

    @torch.inference_mode()
    def paint(self, window: Window, above: Image, degradation: float, attempt: int = 0) -> Image:
        """The pixels of a window, H x W x 3 in [-1, 1]. attempt: each has noise of its own.

        window: its sides are multiples of 8. above: of the zoom above, of the same ground and MARGIN more on every
        side, (H / 2 + 2 MARGIN) x (W / 2 + 2 MARGIN) x 3 in [-1, 1].
        """
        parent = window.above(1).grown(MARGIN)
        # the world is 128 << zoom pixels of the zoom above wide, four times what noise of latents repeats at
        noise = noise_window(
            self.seed, window.zoom + 2, parent.left, parent.top, parent.width, parent.height, CHANNELS, PHASE + attempt
        )
        metres = torch.tensor([_metres(window)])
        image = torch.from_numpy(above).permute(2, 0, 1)[None].contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", self.dtype, enabled=self.dtype != torch.float32):
            detail = sample(
                self.net,
                torch.from_numpy(noise)[None],
                image,
                metres,
                torch.tensor([degradation]),
                self.net.config.steps,
            )
        coarse, detail = (_inner(each.float()) for each in (image, detail))
        return np.asarray(_kept(coarse, DEVIATION * detail)[0].permute(1, 2, 0))


@dataclass(frozen=True)
class Painted:
    """A painted window.

    image: H x W x 3 in [-1, 1]. attempts: how often it was painted. accepted: whether the gate takes the one kept.
    """

    image: Image
    attempts: int
    accepted: bool


def _metres(window: Window) -> float:
    """Metres per pixel in the middle of a window, true at its latitude."""
    return metres_per_pixel(window.zoom, (window.top + window.height / 2) / TILE_SIZE - 0.5)


def _inner(image: Tensor) -> Tensor:
    return image[..., MARGIN:-MARGIN, MARGIN:-MARGIN]


def _kept(coarse: Tensor, detail: Tensor) -> Tensor:
    """Image of coarse pixels and detail, the detail of a pixel shrunk where it would leave [-1, 1]: cut off, the mean
    would no longer be the pixel above."""
    swing = join(torch.zeros_like(coarse), detail)
    blocks = swing.unflatten(-2, (-1, 2)).unflatten(-1, (-1, 2))
    highest, lowest = blocks.amax((-3, -1)).clamp(min=1e-6), blocks.amin((-3, -1)).clamp(max=-1e-6)
    share = torch.minimum((1 - coarse) / highest, (-1 - coarse) / lowest).clamp(0, 1)
    return join(coarse, detail * share.repeat(1, CHANNELS // 3, 1, 1))


class ImageryCascade:
    """Imagery of every zoom below `zoom`, painted from `top`, which gives a window of that zoom as H x W x 3 uint8.

    on_rejected: told of every attempt that was not kept: its window and pixels. attempts: blocks by how often they were
    painted. unaccepted: blocks that no attempt brought into the gate's range.
    """

    def __init__(
        self, top: Callable[[Window], Pixels], zoom: int, painter: OctavePainter,
        on_rejected: OnRejected = lambda window, image: None,
    ) -> None:  # fmt: skip
        self.top, self.zoom, self.painter, self._on_rejected = top, zoom, painter, on_rejected
        self.attempts: Counter[int] = Counter()
        self.unaccepted = 0
        self._blocks: LRUCache[tuple[int, int, int], Painted] = LRUCache(maxsize=KEPT)
        self._lock = threading.RLock()
        # one thread for each core, and one core for each block: sums that are split among cores round differently
        self._cores = ThreadPoolExecutor(os.cpu_count(), "paint", partial(torch.set_num_threads, 1))

    def read(self, window: Window) -> Pixels:
        """H x W x 3 uint8. Blocks that are not kept are painted, and what they need above them."""
        if window.zoom <= self.zoom:
            return self.top(window)
        return _as_pixels(self._read(window))

    def attempts_at(self, window: Window) -> int:
        """How often what a window shows was painted, at most; 0 if nothing of it is painted, or kept any more."""
        with self._lock:
            found = [self._blocks.get((window.zoom, *place)) for place in _blocks_of(window)]
        return max((block.attempts for block in found if block is not None), default=0)

    def _read(self, window: Window) -> Image:
        if window.zoom == self.zoom:
            return self.top(window).astype(np.float32) / 127.5 - 1
        out = np.empty((window.height, window.width, 3), dtype=np.float32)
        for (column, row), painted in self._painted(window).items():
            block = painted.image
            y, x = row * BLOCK - window.top, column * BLOCK - window.left
            y0, x0 = max(0, y), max(0, x)
            y1, x1 = min(window.height, y + BLOCK), min(window.width, x + BLOCK)
            out[y0:y1, x0:x1] = block[y0 - y : y1 - y, x0 - x : x1 - x]
        return out

    def _painted(self, window: Window) -> dict[tuple[int, int], Painted]:
        """The blocks that a window meets, by column and row. Those that are not kept are painted side by side."""
        zoom, places = window.zoom, list(_blocks_of(window))
        with self._lock:
            found = {place: kept for place in places if (kept := self._blocks.get((zoom, *place))) is not None}
            missing = [place for place in places if place not in found]
            windows = [Window(zoom, column * BLOCK, row * BLOCK, BLOCK, BLOCK) for column, row in missing]
            above = [self._read(each.above(1).grown(MARGIN)) for each in windows]
            for place, painted in zip(missing, self._cores.map(self._paint, windows, above), strict=True):
                self._blocks[zoom, *place] = found[place] = painted
                self.attempts[painted.attempts] += 1
                self.unaccepted += not painted.accepted
        return found

    def _paint(self, window: Window, above: Image) -> Painted:
        return self.painter.painted(window, above, 0.0 if window.zoom == self.zoom + 1 else DEGRADED, self._on_rejected)


def _blocks_of(window: Window) -> Iterator[tuple[int, int]]:
    """Columns and rows of the blocks that a window meets."""
    for row in range(window.top // BLOCK, (window.top + window.height - 1) // BLOCK + 1):
        for column in range(window.left // BLOCK, (window.left + window.width - 1) // BLOCK + 1):
            yield column, row


def _as_pixels(image: Image) -> Pixels:
    return np.asarray(((image + 1) * 127.5).round().clip(0, 255), dtype=np.uint8)
