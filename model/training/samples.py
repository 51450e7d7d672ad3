"""Training samples: a pair, augmented, with a cascade reference; each a pure function of (seed, step, place)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.data.alignment import estimate_offsets, offset_of, shift
from model.data.pairs import Pair, Pixels, quadrant, read_pairs
from model.palette import nearest_colour
from model.sgdm.scale_text import scale_text
from model.training.augment import (
    degrade_reference,
    imagery_colours,
    scene_edge,
    symmetry,
    to_unit,
)
from model.training.config import StageConfig, TrainConfig

ROOT_ZOOM = 14
"""No reference is ever given at this zoom: the default layer's cascade begins here."""


@dataclass(frozen=True)
class Batch:
    """Tensors of one step. Images are N x 3 x S x S in [-1, 1]; conditions are 0 where unknown.

    palette: N x S x S palette indices of the map, -1 where the imagery is missing.
    """

    imagery: Tensor
    reference: Tensor
    map: Tensor
    palette: Tensor
    texts: list[str]


class SampleSource:
    """All pairs of one split in memory, aligned, with their references by span."""

    def __init__(self, config: TrainConfig, split: str) -> None:
        pairs = read_pairs(config.pairs, config.source, split)
        offsets = estimate_offsets(pairs)
        maps = {(p.zoom, p.x, p.y): p.map for p in pairs}
        maps.update({(p.zoom - 1, p.x >> 1, p.y >> 1): p.parent for p in pairs if p.parent is not None})
        self.maps = maps
        self.generated: dict[tuple[int, int, int], Pixels] = {}
        self.pairs = [self._aligned(pair, offset_of(pair, offsets)) for pair in pairs]
        weights = np.array([config.zoom_weights.get(p.zoom, 1.0) for p in pairs])
        counts = {z: sum(p.zoom == z for p in pairs) for z in {p.zoom for p in pairs}}
        weights = weights / np.array([counts[p.zoom] for p in pairs])
        self.probabilities = weights / weights.sum()

    @staticmethod
    def _aligned(pair: Pair, offset: tuple[int, int]) -> Pair:
        return Pair(pair.zoom, pair.x, pair.y, pair.split, shift(pair.imagery, *offset), pair.map, pair.parent)

    def reference(self, pair: Pair, span: int, generated: bool = False) -> Pixels | None:
        """The true (or the generated) reference `span` levels up, enlarged; None where that tile is not known."""
        tiles = self.generated if generated else self.maps
        parent = tiles.get((pair.zoom - span, pair.x >> span, pair.y >> span))
        return None if parent is None else quadrant(parent, pair.x, pair.y, span)

    def batch(self, stage: StageConfig, rng: np.random.Generator) -> Batch:
        """Draw and augment one batch."""
        chosen = rng.choice(len(self.pairs), size=stage.batch, p=self.probabilities)
        return collate([self.sample(self.pairs[i], stage, rng) for i in chosen])

    def sample(self, pair: Pair, stage: StageConfig, rng: np.random.Generator) -> Sample:
        """Augment one pair."""
        size, turn = stage.crop, int(rng.integers(8))
        top, left = rng.integers(0, 256 - size + 1, 2)

        def crop(image: Pixels) -> Pixels:
            return symmetry(image[top : top + size, left : left + size], turn)

        span = 2 if rng.random() < 0.2 and pair.zoom - 2 >= ROOT_ZOOM else 1
        own = bool(rng.random() < stage.self_reference)
        reference = self.reference(pair, span, own) if pair.zoom > ROOT_ZOOM else None
        if rng.random() < stage.reference_dropout:
            reference = None
        text = scale_text(pair.zoom, pair.zoom - span if reference is not None else None)
        if reference is not None and not own and rng.random() < 0.8:
            other = self.reference(self.pairs[rng.integers(len(self.pairs))], 1)
            reference = degrade_reference(reference, reference if other is None else other, rng)
        valid = scene_edge(size, rng) if rng.random() < 0.15 else np.ones((size, size), dtype=np.bool_)
        imagery = imagery_colours(crop(pair.imagery), rng)
        return Sample(imagery, valid, None if reference is None else crop(reference), crop(pair.map), text)

    def plain(self, pair: Pair, with_reference: bool, generated: bool = False) -> Sample:
        """A pair without augmentation, for validation and pictures."""
        reference = self.reference(pair, 1, generated) if with_reference and pair.zoom > ROOT_ZOOM else None
        text = scale_text(pair.zoom, pair.zoom - 1 if reference is not None else None)
        return Sample(pair.imagery, np.ones((256, 256), dtype=np.bool_), reference, pair.map, text)


@dataclass(frozen=True)
class Sample:
    """One augmented pair before it becomes tensors (uint8 images, S x S)."""

    imagery: Pixels
    valid: np.ndarray
    reference: Pixels | None
    map: Pixels
    text: str


def collate(samples: list[Sample]) -> Batch:
    """Stack samples into a batch."""
    imagery = np.stack([to_unit(s.imagery) * s.valid for s in samples])
    blank = np.zeros_like(imagery[0])
    reference = np.stack([blank if s.reference is None else to_unit(s.reference) * s.valid for s in samples])
    palette = np.stack([np.where(s.valid, nearest_colour(s.map).astype(np.int64), -1) for s in samples])
    return Batch(
        torch.from_numpy(imagery).contiguous(memory_format=torch.channels_last),
        torch.from_numpy(reference).contiguous(memory_format=torch.channels_last),
        torch.from_numpy(np.stack([to_unit(s.map) for s in samples])).contiguous(memory_format=torch.channels_last),
        torch.from_numpy(palette),
        [s.text for s in samples],
    )
