"""Training samples: a pair, augmented, with a cascade reference; each a pure function of (seed, step, place)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from mercantile import Tile
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tilecascade.model.cascade import enlarge_part
from tilecascade.model.data.alignment import estimate_offsets, offset_of, shift
from tilecascade.model.data.labels import ANYTHING, READERS
from tilecascade.model.data.pairs import Pair, Pixels, read_pairs
from tilecascade.model.palette import DEFAULT, Palette, palette_of
from tilecascade.model.sgdm.scale_text import scale_text
from tilecascade.model.training.augment import (
    cast_shadows,
    degrade_reference,
    imagery_colours,
    outdate_reference,
    scene_edge,
    symmetry,
    to_unit,
)
from tilecascade.model.training.config import StageConfig, TrainConfig
from tilecascade.model.training.objects import Planes, object_planes

STYLE = "style"
"""The reading of maps whose own style is learned: each pixel is its nearest colour of the style's palette."""

ROOT_ZOOM = 14
"""No reference is ever given at this zoom: the default layer's cascade begins here."""


@dataclass(frozen=True)
class Batch:
    """Tensors of one step. Images are N x 3 x S x S in [-1, 1]; conditions are 0 where unknown.

    trusted: N x 1 x S x S, 1 where the reference is a true map as it is, 0 where it was generated or degraded.
    zooms: N.
    labels: N x S x S indices into `labels.ALLOWED`; anything is allowed where the imagery is missing.
    """

    imagery: Tensor
    reference: Tensor
    trusted: Tensor
    map: Tensor
    labels: Tensor
    texts: list[str]
    zooms: Tensor


class SampleSource:
    """All pairs of one split in memory, aligned, with their references by span.

    For training of every source; for validation of the first, whose style is learned.
    """

    def __init__(self, config: TrainConfig, split: str) -> None:
        self.maps: dict[tuple[int, int, int], Pixels] = {}
        self.generated: dict[tuple[int, int, int], Pixels] = {}
        self.pairs: list[Pair] = []
        shares = []
        for data in config.data if split == "train" else config.data[:1]:
            pairs = read_pairs(data.pairs, data.source, split, reading=data.reading)
            offsets = estimate_offsets(pairs)
            if data.reading in ("exact", STYLE):
                self.maps.update({(p.zoom - 1, p.x >> 1, p.y >> 1): p.parent for p in pairs if p.parent is not None})
                self.maps.update({(p.zoom, p.x, p.y): p.map for p in pairs})
            weights = np.array([config.zoom_weights.get(p.zoom, 1.0) for p in pairs])
            weights /= np.array([sum(q.zoom == p.zoom for q in pairs) for p in pairs])
            shares.append(data.share * weights / max(float(weights.sum()), 1e-9))
            self.pairs += [self._aligned(pair, offset_of(pair, offsets)) for pair in pairs]
        self.palette = palette_of(config.palette)
        self._objects: dict[tuple[int, int, int], Planes] = {}
        self.coarser = finer_imagery(self.pairs[: len(shares[0])])
        self.spans = config.spans
        everything = np.concatenate(shares)
        self.first = len(shares[0])
        self.probabilities = everything / everything.sum()

    @staticmethod
    def _aligned(pair: Pair, offset: tuple[int, int]) -> Pair:
        return replace(pair, imagery=shift(pair.imagery, *offset))

    def objects(self, pair: Pair) -> Planes | None:
        """The object planes of a pair's map, kept; None for a map that is not of the default style."""
        if pair.reading != "exact":
            return None
        key = (pair.zoom, pair.x, pair.y)
        if key not in self._objects:
            self._objects[key] = object_planes(pair.map)
        return self._objects[key]

    def reference(self, pair: Pair, span: int, generated: bool = False) -> Pixels | None:
        """The true (or the generated) reference `span` levels up, enlarged; None where that tile is not known.

        As in serving, the enlarging filter sees the neighbouring tiles, where these are known.
        """
        tiles = self.generated if generated else self.maps
        zoom, column, row = pair.zoom - span, pair.x >> span, pair.y >> span
        parent = tiles.get((zoom, column, row))
        if parent is None:
            return None

        def neighbour(right: int, down: int) -> Pixels | None:
            return tiles.get((zoom, column + right, row + down))

        return enlarge_part(parent, Tile(pair.x, pair.y, pair.zoom), span, neighbour)

    def batch(self, stage: StageConfig, rng: np.random.Generator) -> Batch:
        """Sample and augment one batch."""
        count = len(self.pairs) if stage.all_sources else self.first
        weights = self.probabilities[:count] / self.probabilities[:count].sum()
        chosen = rng.choice(count, size=stage.batch, p=weights)
        return collate([self.sample(self.pairs[i], stage, rng) for i in chosen], self.palette)

    def sample(self, pair: Pair, stage: StageConfig, rng: np.random.Generator) -> Sample:
        """Augment one pair."""
        size, turn = stage.crop, int(rng.integers(8))
        top, left = rng.integers(0, 256 - size + 1, 2)

        def crop(image: NDArray[Any]) -> NDArray[Any]:
            return symmetry(image[top : top + size, left : left + size], turn)

        span = int(rng.choice(self.spans)) if self.spans else 0
        span = min(span, pair.zoom - ROOT_ZOOM)
        own = bool(rng.random() < stage.self_reference)
        reference = self.reference(pair, span, own) if span > 0 else None
        if rng.random() < stage.reference_dropout:
            reference = None
        text = scale_text(pair.zoom, pair.zoom - span if reference is not None else None)
        trusted = reference is not None and not own
        if reference is not None and not own:
            other = self.reference(self.pairs[rng.integers(len(self.pairs))], 1)
            other = reference if other is None else other
            if rng.random() < stage.degraded:
                trusted = False
                reference = degrade_reference(reference, other, rng)
            elif rng.random() < stage.outdated:
                reference = outdate_reference(reference, other, rng)
        valid = scene_edge(size, rng) if rng.random() < 0.15 else np.ones((size, size), dtype=np.bool_)
        seen = self.coarser.get((pair.zoom, pair.x, pair.y)) if rng.random() < 0.5 else None
        imagery = imagery_colours(crop(pair.imagery if seen is None else seen), rng)
        if rng.random() < 0.2:
            imagery = cast_shadows(imagery, rng)
        return Sample(
            imagery,
            valid,
            None if reference is None else crop(reference),
            trusted,
            crop(pair.map),
            text,
            pair.zoom,
            pair.reading,
        )

    def plain(self, pair: Pair, with_reference: bool, generated: bool = False) -> Sample:
        """A pair without augmentation, for validation and pictures."""
        span = min(min(self.spans, default=0), pair.zoom - ROOT_ZOOM)
        reference = self.reference(pair, span, generated) if with_reference and span > 0 else None
        text = scale_text(pair.zoom, pair.zoom - span if reference is not None else None)
        return Sample(
            pair.imagery,
            np.ones((256, 256), dtype=np.bool_),
            reference,
            reference is not None and not generated,
            pair.map,
            text,
            pair.zoom,
            pair.reading,
        )

    def relit(self, pair: Pair, rng: np.random.Generator) -> Sample:
        """A pair under another light, with its generated reference.

        The network's mistakes here are like those where it was not trained; on the training imagery itself its
        generated maps are better than they will be.
        """
        sample = self.plain(pair, True, generated=True)
        imagery = cast_shadows(imagery_colours(imagery_colours(pair.imagery, rng), rng), rng)
        return replace(sample, imagery=imagery)


def finer_imagery(pairs: list[Pair]) -> dict[tuple[int, int, int], Pixels]:
    """The imagery of pairs as averaged from that of their four children, where all are known, by (zoom, x, y).

    A user's scene is read so; the provider's pyramid, of which the pairs are, is another picture at every zoom.
    """
    seen = {(p.zoom, p.x, p.y): p.imagery for p in pairs}
    found = {}
    for zoom, x, y in seen:
        below = [[seen.get((zoom + 1, 2 * x + i, 2 * y + j)) for i in (0, 1)] for j in (0, 1)]
        known = [[tile for tile in row if tile is not None] for row in below]
        if all(len(row) == 2 for row in known):
            whole = Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in known]))
            found[zoom, x, y] = np.asarray(whole.reduce(2))
    return found


@dataclass(frozen=True)
class Sample:
    """One augmented pair before it becomes tensors (uint8 images, S x S)."""

    imagery: Pixels
    valid: np.ndarray
    reference: Pixels | None
    trusted: bool
    map: Pixels
    text: str
    zoom: int
    reading: str


def collate(samples: list[Sample], palette: Palette = DEFAULT) -> Batch:
    """Stack samples into a batch. palette: of those whose own style is learned."""
    imagery = np.stack([to_unit(s.imagery) * s.valid for s in samples])
    blank = np.zeros_like(imagery[0])
    reference = np.stack([blank if s.reference is None else to_unit(s.reference) * s.valid for s in samples])
    trusted = np.stack([(s.trusted * s.valid).astype(np.float32)[None] for s in samples])
    labels = np.stack(
        [
            np.where(
                s.valid, palette.nearest(s.map) if s.reading == STYLE else READERS[s.reading](s.map), ANYTHING
            ).astype(np.int64)
            for s in samples
        ]
    )
    return Batch(
        torch.from_numpy(imagery).contiguous(memory_format=torch.channels_last),
        torch.from_numpy(reference).contiguous(memory_format=torch.channels_last),
        torch.from_numpy(trusted).contiguous(memory_format=torch.channels_last),
        torch.from_numpy(np.stack([to_unit(s.map) for s in samples])).contiguous(memory_format=torch.channels_last),
        torch.from_numpy(labels),
        [s.text for s in samples],
        torch.tensor([s.zoom for s in samples]),
    )
