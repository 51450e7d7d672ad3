"""Imagery beyond the resolution of what is there: octave after octave of detail, the same wherever one begins.

MetaEarth's self-cascade, in blocks of a global lattice: each is painted from the imagery above it with a margin, and
from noise that is a function of coordinates. So any order of requests gives the same pixels, and the mean of each 2 x 2
of them is the pixel above.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cachetools import LRUCache
from safetensors.torch import load_file, save_file
from torch import Tensor

from tilecascade.model.cascade import TILE_SIZE, Block, Ladder, Mask, Pixels, Window, metres_per_pixel
from tilecascade.model.conditions import Stage
from tilecascade.model.imagery.gate import Gate
from tilecascade.model.imagery.network import DEVIATION, OctaveConfig, OctaveNet, sample
from tilecascade.model.imagery.octave import CHANNELS, join
from tilecascade.model.noise import noise_of

MARGIN = 40
"""Pixels of the imagery above that are looked at beyond a block: as far as one step of the network sees."""

BLOCK = 512
"""Pixels of a block along one axis."""

KEPT = 96
"""Blocks that an `ImageryCascade` keeps in memory."""

PHASE = 200
"""Tells this noise from that of maps."""

DEGRADED = 0.3
"""How far the imagery above, where it is painted itself, is to be trusted: 0 is wholly."""

RAMP = 24
"""Pixels over which the noise of another attempt replaces the first one's."""

MOST_ATTEMPTS = 3
"""How often a block is painted at most; it is painted again only while that brings it nearer to the gate's range."""


class ImageryLadder(Ladder):
    """The cascade of imagery: its root zoom is what the source shows; a block needs all that it sees of the zoom above.

    Where the map's windows have a ring of their own (see `Ladder`), this has the neighbours: a block may be painted
    again, and what is around it is then not what its neighbours are.
    """

    def window(self, block: Block) -> Window:
        """The block itself."""
        return block.footprint()

    def field(self, block: Block) -> Window:
        """The block itself."""
        return block.footprint()

    def reference_window(self, window: Window) -> Window | None:
        """The pixels that a window is painted from; None at the root."""
        reference = self.reference_zoom(window.zoom)
        return None if reference is None else window.above(1).grown(MARGIN)

    def reference_source(self, block: Block) -> Window | None:
        """All that a block sees."""
        return self.reference_window(self.window(block))


@dataclass(frozen=True)
class Above:
    """What a block is painted from.

    window: the block. pixels: the zoom above and MARGIN more on every side, (H / 2 + 2 MARGIN) x (W / 2 + 2 MARGIN) x 3
    uint8, and known, the mask of where there are any. degradation: 0 for imagery as it is, DEGRADED for painted.
    """

    window: Window
    pixels: Pixels
    known: Mask
    degradation: float

    @property
    def metres(self) -> float:
        """Metres per pixel in the middle of the block, true at its latitude."""
        return metres_per_pixel(self.window.zoom, (self.window.top + self.window.height / 2) / TILE_SIZE - 0.5)

    @property
    def mask(self) -> Mask:
        """H x W: where the block has imagery."""
        return self.known[MARGIN:-MARGIN, MARGIN:-MARGIN].repeat(2, 0).repeat(2, 1)

    def filled(self) -> Pixels:
        """The pixels, of their mean colour where nothing is known."""
        if self.known.all():
            return self.pixels
        mean = self.pixels[self.known].mean(axis=0).round().astype(np.uint8) if self.known.any() else np.uint8(128)
        return np.where(self.known[..., None], self.pixels, mean).astype(np.uint8)


@dataclass(frozen=True)
class PaintedBlock:
    """A painted block.

    pixels: H x W x 3 uint8. mask: where the imagery above has any. attempts: how often it was painted. accepted:
    whether the gate takes the one kept. rejected: the others.
    """

    pixels: Pixels
    mask: Mask
    attempts: int
    accepted: bool
    rejected: tuple[Pixels, ...] = ()


class OctavePainter:
    """Paints one octave of detail, many blocks at once. Deterministic like `CascadePipeline`: on one core of a CPU."""

    def __init__(
        self, load: Callable[[], tuple[OctaveNet, Gate]], device: str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        """load: gives the network, and the gate that what it paints has to pass; called when first needed."""
        self._load, self.device, self.dtype = load, torch.device(device), dtype

    @cached_property
    def _loaded(self) -> tuple[OctaveNet, Gate]:
        net, gate = self._load()
        return net.to(self.device).to(memory_format=torch.channels_last), gate

    def __call__(self, stage: Stage, batch: Sequence[Above]) -> list[PaintedBlock]:
        """Paint blocks, those again with other noise that the gate rejects.

        The best of a block's attempts, the first of equally good ones: a function of the same things as one attempt is.
        Raises ValueError if a block's sides are not multiples of 8.
        """
        gate = self._loaded[1]
        best = self.paint(stage, batch)
        least = [gate.excess(image, item.metres) for image, item in zip(best, batch, strict=True)]
        attempts, rejected = [1] * len(batch), [list[Pixels]() for _ in batch]
        again = [place for place, excess in enumerate(least) if excess]
        for attempt in range(1, MOST_ATTEMPTS):
            if not again:
                break
            images, better = self.paint(stage, batch, attempt), []
            for place in again:
                attempts[place] += 1
                excess = gate.excess(images[place], batch[place].metres)
                if excess >= least[place]:
                    rejected[place].append(images[place])
                    continue
                rejected[place].append(best[place])
                best[place], least[place] = images[place], excess
                if excess:
                    better.append(place)
            again = better
        return [
            PaintedBlock(best[place], item.mask, attempts[place], least[place] == 0, tuple(rejected[place]))
            for place, item in enumerate(batch)
        ]

    @torch.inference_mode()
    def paint(self, stage: Stage, batch: Sequence[Above], attempt: int = 0) -> list[Pixels]:
        """The pixels of blocks of one size, H x W x 3 uint8 each.

        attempt: each has noise of its own, but for what a block's edge sees: there all attempts are the first one, so
        that neighbours join whichever of theirs is kept.
        """
        if self.device.type == "cpu" and torch.get_num_threads() != 1:
            torch.set_num_threads(1)
        if any(side % 8 for item in batch for side in (item.window.width, item.window.height)):
            raise ValueError("the sides of a block must be multiples of 8")
        parents = [item.window.above(1).grown(MARGIN) for item in batch]
        corners = [(parent.left, parent.top) for parent in parents]
        # the world is 128 << zoom pixels of the zoom above wide, four times what noise of latents repeats at
        size = parents[0].width, parents[0].height
        key = (stage.seed, stage.zoom + 2, corners, *size, CHANNELS, self.device)
        noise = noise_of(*key, PHASE)
        if attempt:
            angle = _inwards(*size).to(self.device) * math.pi / 2  # of two noises, so that their strength stays
            noise = angle.cos() * noise + angle.sin() * noise_of(*key, PHASE + attempt)
        above = torch.from_numpy(np.stack([item.filled() for item in batch])).to(self.device).permute(0, 3, 1, 2)
        above = (above.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        metres, trust = (
            torch.tensor(values, dtype=torch.float32, device=self.device)
            for values in ([item.metres for item in batch], [item.degradation for item in batch])
        )
        net = self._loaded[0]
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            detail = sample(net, noise, above, metres, trust, net.config.steps)
        coarse, detail = (each.float()[..., MARGIN:-MARGIN, MARGIN:-MARGIN] for each in (above, detail))
        return [_as_pixels(image) for image in _kept(coarse, DEVIATION * detail).permute(0, 2, 3, 1).cpu()]


def _inwards(width: int, height: int) -> Tensor:
    """height x width of a window with its margin: 0 as far as the edge of its block sees, 1 well inside."""
    across, down = (
        ((torch.minimum(place, side - 1 - place) - 2 * MARGIN) / RAMP).clamp(0, 1)
        for side in (width, height)
        for place in [torch.arange(side)]
    )
    return torch.minimum(across[None], down[:, None])


def _kept(coarse: Tensor, detail: Tensor) -> Tensor:
    """Image of coarse pixels and detail, the detail of a pixel shrunk where it would leave [-1, 1]: cut off, the mean
    would no longer be the pixel above."""
    swing = join(torch.zeros_like(coarse), detail)
    blocks = swing.unflatten(-2, (-1, 2)).unflatten(-1, (-1, 2))
    highest, lowest = blocks.amax((-3, -1)).clamp(min=1e-6), blocks.amin((-3, -1)).clamp(max=-1e-6)
    share = torch.minimum((1 - coarse) / highest, (-1 - coarse) / lowest).clamp(0, 1)
    return join(coarse, detail * share.repeat(1, CHANNELS // 3, 1, 1))


def _as_pixels(image: Tensor) -> Pixels:
    return np.asarray(((image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8))


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


class ImageryCascade:
    """Imagery of every zoom below `zoom`, painted from `top`, which gives a window of that zoom and where it has
    imagery. For programs without a server, one block after the other; a server's tiles have the same pixels."""

    def __init__(
        self, top: Callable[[Window], tuple[Pixels, Mask]], zoom: int, painter: OctavePainter, seed: int = 0
    ) -> None:
        self.top, self.painter, self.seed = top, painter, seed
        self.ladder = ImageryLadder(zoom)
        self._blocks: LRUCache[Block, PaintedBlock] = LRUCache(maxsize=KEPT)

    def read(self, window: Window) -> tuple[Pixels, Mask]:
        """H x W x 3 uint8 and the H x W mask of where there is imagery."""
        if window.zoom <= self.ladder.root:
            return self.top(window)
        pixels = np.empty((window.height, window.width, 3), dtype=np.uint8)
        known = np.empty((window.height, window.width), dtype=np.bool_)
        for block in _blocks_of(window):
            painted, place = self.block(block), block.footprint()
            y, x = place.top - window.top, place.left - window.left
            y0, x0 = max(0, y), max(0, x)
            y1, x1 = min(window.height, y + BLOCK), min(window.width, x + BLOCK)
            pixels[y0:y1, x0:x1] = painted.pixels[y0 - y : y1 - y, x0 - x : x1 - x]
            known[y0:y1, x0:x1] = painted.mask[y0 - y : y1 - y, x0 - x : x1 - x]
        return pixels, known

    def block(self, block: Block) -> PaintedBlock:
        """A block and what it needs above it, painted unless it is kept."""
        painted = self._blocks.get(block)
        if painted is None:
            window = block.footprint()
            reference = self.ladder.reference_source(block)
            assert reference is not None
            above = Above(window, *self.read(reference), trusted(block.zoom, self.ladder.root))
            stage = Stage(block.zoom, reference.zoom, BLOCK, self.seed)
            (painted,) = self.painter(stage, [above])
            self._blocks[block] = painted
        return painted


def trusted(zoom: int, root: int) -> float:
    """How far the imagery above is degraded: not at all if it is the source's own."""
    return 0.0 if zoom == root + 1 else DEGRADED


def _blocks_of(window: Window) -> Iterator[Block]:
    """The blocks that a window meets."""
    for row in range(window.top // BLOCK, (window.top + window.height - 1) // BLOCK + 1):
        for column in range(window.left // BLOCK, (window.left + window.width - 1) // BLOCK + 1):
            yield Block(window.zoom, column, row, 1)
