"""Imagery beyond the resolution of what is there: octave after octave of detail, the same wherever one begins.

MetaEarth's self-cascade, in windows of a global lattice: each block is painted from the imagery above it with a margin,
and from noise that is a function of coordinates. So any order of requests gives the same pixels, and the mean of each
2 x 2 of them is the pixel above.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cachetools import LRUCache
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from tilecascade.model.cascade import TILE_SIZE, Pixels, Window, metres_per_pixel
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


def save_octaves(net: OctaveNet, stem: Path) -> None:
    """Write `stem`.safetensors (float16) and `stem`.json."""
    state = {key: value.half().contiguous() for key, value in net.state_dict().items()}
    stem.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, stem.with_suffix(".safetensors"))
    stem.with_suffix(".json").write_text(json.dumps(net.config.to_dict(), indent=2) + "\n")


def load_octaves(stem: Path) -> OctaveNet:
    """Read what `save_octaves` wrote; float32, eval mode."""
    told: dict[str, Any] = json.loads(stem.with_suffix(".json").read_text())
    given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in told.items()}
    net = OctaveNet(OctaveConfig(**given))
    net.load_state_dict({key: value.float() for key, value in load_file(stem.with_suffix(".safetensors")).items()})
    return net.eval()


class OctavePainter:
    """Paints one octave of detail. seed: another one gives other detail of the same coarse imagery."""

    def __init__(self, net: OctaveNet, seed: int, dtype: torch.dtype = torch.float32) -> None:
        self.net, self.seed, self.dtype = net, seed, dtype

    @torch.inference_mode()
    def paint(self, window: Window, above: NDArray[np.float32], degradation: float) -> NDArray[np.float32]:
        """The pixels of a window, H x W x 3 in [-1, 1].

        window: its sides are multiples of 8. above: of the zoom above, of the same ground and MARGIN more on every
        side, (H / 2 + 2 MARGIN) x (W / 2 + 2 MARGIN) x 3 in [-1, 1].
        """
        parent = window.above(1).grown(MARGIN)
        # the world is 128 << zoom pixels of the zoom above wide, four times what noise of latents repeats at
        noise = noise_window(
            self.seed, window.zoom + 2, parent.left, parent.top, parent.width, parent.height, CHANNELS, PHASE
        )
        row = (window.top + window.height / 2) / TILE_SIZE - 0.5
        metres = torch.tensor([metres_per_pixel(window.zoom, row)])
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
    """Imagery of every zoom below `zoom`, painted from `top`, which gives a window of that zoom as H x W x 3 uint8."""

    def __init__(self, top: Callable[[Window], Pixels], zoom: int, painter: OctavePainter) -> None:
        self.top, self.zoom, self.painter = top, zoom, painter
        self._blocks: LRUCache[tuple[int, int, int], NDArray[np.float32]] = LRUCache(maxsize=KEPT)
        self._lock = threading.RLock()

    def read(self, window: Window) -> Pixels:
        """H x W x 3 uint8. Blocks that are not kept are painted, and what they need above them."""
        if window.zoom <= self.zoom:
            return self.top(window)
        return ((self._read(window) + 1) * 127.5).round().clip(0, 255).astype(np.uint8)

    def _read(self, window: Window) -> NDArray[np.float32]:
        if window.zoom == self.zoom:
            return self.top(window).astype(np.float32) / 127.5 - 1
        out = np.empty((window.height, window.width, 3), dtype=np.float32)
        for row in range(window.top // BLOCK, (window.top + window.height - 1) // BLOCK + 1):
            for column in range(window.left // BLOCK, (window.left + window.width - 1) // BLOCK + 1):
                block = self._block(window.zoom, column, row)
                y, x = row * BLOCK - window.top, column * BLOCK - window.left
                y0, x0 = max(0, y), max(0, x)
                y1, x1 = min(window.height, y + BLOCK), min(window.width, x + BLOCK)
                out[y0:y1, x0:x1] = block[y0 - y : y1 - y, x0 - x : x1 - x]
        return out

    def _block(self, zoom: int, column: int, row: int) -> NDArray[np.float32]:
        with self._lock:
            kept = self._blocks.get((zoom, column, row))
            if kept is None:
                window = Window(zoom, column * BLOCK, row * BLOCK, BLOCK, BLOCK)
                above = self._read(window.above(1).grown(MARGIN))
                kept = self.painter.paint(window, above, 0.0 if zoom == self.zoom + 1 else DEGRADED)
                self._blocks[zoom, column, row] = kept
            return kept
