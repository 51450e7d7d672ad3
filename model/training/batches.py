"""Augmented batches of a tile bank, made on the device that trains."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tilecascade.model.data.labels import ANYTHING
from tilecascade.model.palette import LAND
from tilecascade.model.sgdm.scale_text import scale_text
from tilecascade.model.training.config import StageConfig
from tilecascade.model.training.losses import shown_colour
from tilecascade.model.training.objects import KINDS
from tilecascade.model.training.samples import ROOT_ZOOM, SampleSource
from tilecascade.model.training.tensor_augment import Augmenter
from tilecascade.model.training.tile_bank import REACH, SPANS, UNKNOWN, Places, TileBank, rotations, symmetries


@dataclass(frozen=True)
class Drawn:
    """One batch on the device. Images are N x 3 x S x S in [-1, 1], 0 where unknown; labels N x S x S.

    objects: N x len(KINDS) x S/2 x S/2 of `objects.object_planes`, NaN where a map does not tell. shown: N x S x S, the
    palette colour that each pixel shows. exact: how many samples, the first, are of the default style and tell that.
    """

    imagery: Tensor
    reference: Tensor
    trusted: Tensor
    map: Tensor
    labels: Tensor
    shown: Tensor
    objects: Tensor
    exact: int
    texts: list[str]


class Batches:
    """Makes the batches of a stage; each is a pure function of its generator and of the bank's generated maps."""

    def __init__(self, source: SampleSource, stage: StageConfig) -> None:
        self.bank, self.stage = TileBank(source, stage.device), stage
        self.device = torch.device(stage.device)
        self.stream = torch.cuda.Stream() if self.device.type == "cuda" else None
        weights = source.probabilities if stage.all_sources else source.probabilities[: source.first]
        self.weights = torch.from_numpy(weights / weights.sum())
        self.spans = torch.tensor(source.spans)
        self.land = (torch.tensor(LAND, device=self.device).float() / 255).view(1, 3, 1, 1)

    def batch(self, rng: np.random.Generator) -> Drawn:
        """Augmented samples, made beside the step before."""
        if self.stream is None:
            return self.augmented(rng)
        with torch.cuda.stream(self.stream):
            made = self.augmented(rng)
        self.stream.synchronize()
        for value in vars(made).values():
            if isinstance(value, Tensor):
                value.record_stream(torch.cuda.default_stream())  # or its memory would be used again too early
        return made

    def augmented(self, rng: np.random.Generator) -> Drawn:
        """Augmented samples, some of them with a reference."""
        stage, bank, n = self.stage, self.bank, self.stage.batch
        host = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
        change = Augmenter(torch.Generator(self.device).manual_seed(int(rng.integers(1 << 62))))
        chosen, exact = self._chosen(host)
        zooms = bank.zooms[chosen]
        span = torch.minimum(self.spans[torch.randint(0, len(self.spans), (n,), generator=host)], zooms - ROOT_ZOOM)
        own = torch.rand(n, generator=host) < stage.self_reference
        slot = (span - 1).clamp(min=0) + len(SPANS) * own
        given = (torch.rand(n, generator=host) >= stage.reference_dropout) & (span > 0)
        given &= bank.known[chosen, slot]
        texts = [scale_text(int(z), int(z - s) if g else None) for z, s, g in zip(zooms, span, given, strict=True)]
        moves = [2 * torch.randint(-REACH // 2, REACH // 2 + 1, (n,), generator=host) for _ in range(2)]
        turns = symmetries(torch.randint(0, 8, (n,), generator=host))
        turned = torch.rand(n, 1, 1, generator=host) < stage.rotated
        angles, scales = ((torch.rand(n, generator=host) * 2 - 1) * most for most in (math.pi / 4, 0.1))
        turns = torch.where(turned, rotations(angles, scales.exp()) @ turns, turns)
        device = self.device
        chosen, slot, given, own, turns, down, right = (x.to(device) for x in (chosen, slot, given, own, turns, *moves))
        places = bank.places(chosen, turns, down, right, stage.crop)
        imagery = self._imagery(places, change.uniform(n) < 0.5)
        if stage.weather:  # or the random numbers of other stages would be others
            imagery = change.some(imagery, stage.weather, change.weather)
        imagery = change.imagery(imagery)
        valid = change.scene_edge(imagery) | (change.uniform(n, 1, 1, 1) >= 0.15)
        valid &= (places.pixels[0] >= 0).unsqueeze(1)
        reference, known = self._reference(places, slot)
        reference, trusted = self._aged(reference, given & ~own, change)
        seen = known & valid & given.view(-1, 1, 1, 1)
        labels = torch.where(valid[:, 0], bank.labels[places.pixels].long(), ANYTHING)
        bits = bank.objects[places.cells]
        planes = torch.stack([(bits >> bit) & 1 for bit in range(len(KINDS))], 1).float()
        planes = torch.where(((bits == UNKNOWN) | (places.cells[0] < 0)).unsqueeze(1), torch.nan, planes)
        return Drawn(
            ((2 * imagery - 1) * valid).contiguous(memory_format=torch.channels_last),
            ((2 * reference - 1) * seen).contiguous(memory_format=torch.channels_last),
            (seen & trusted.view(-1, 1, 1, 1)).float(),
            unit_images(bank.maps[places.pixels]) * 2 - 1,
            labels,
            shown_colour(labels),
            planes,
            exact,
            texts,
        )

    def _chosen(self, host: torch.Generator) -> tuple[Tensor, int]:
        """The pairs of a batch, and how many, the first, are of the default style: as many in every batch, because a
        GPU chooses its algorithms by shape."""
        count = self.stage.batch
        style = self.bank.exact[: len(self.weights)]
        exact = round(count * float((self.weights * style).sum()))
        parts = [
            torch.multinomial(self.weights * which, number, replacement=True, generator=host)
            for which, number in ((style, exact), (~style, count - exact))
            if number
        ]
        return torch.cat(parts), exact

    def _aged(self, reference: Tensor, trusted: Tensor, change: Augmenter) -> tuple[Tensor, Tensor]:
        """References of which some trusted ones (N bool) are degraded or outdated, and which are trusted still."""
        stage, other, fate = self.stage, reference.roll(1, 0), change.uniform(len(reference))
        degraded = trusted & (fate < stage.degraded)
        outdated = trusted & ~degraded & (fate < stage.degraded + (1 - stage.degraded) * stage.outdated)
        for some, age in ((degraded, change.degraded), (outdated, change.outdated)):
            if some.any():
                reference = reference.index_put((some,), age(reference[some], other[some], self.land))
        return reference, trusted & ~degraded

    def _imagery(self, places: Places, averaged: Tensor) -> Tensor:
        """N x 3 x S x S in [0, 1]; of pairs that are `averaged` (N bool) as averaged from finer ones, where known."""
        bank, (pair, row, column) = self.bank, places.pixels
        finer = averaged.view(-1, 1, 1) & bank.has_coarser[pair]
        plain = bank.imagery[pair, row, column]
        return unit_images(torch.where(finer.unsqueeze(-1), bank.coarser[bank.coarser_of[pair], row, column], plain))

    def _reference(self, places: Places, slot: Tensor) -> tuple[Tensor, Tensor]:
        """N x 3 x S x S in [0, 1], and where there is one, N x 1 x S x S."""
        pair, row, column = places.pixels
        slots = slot.view(-1, 1, 1).expand_as(pair)
        known = self.bank.known.to(self.device)[pair, slots].unsqueeze(1)
        return unit_images(self.bank.references[pair, slots, row, column]), known


def unit_images(images: Tensor) -> Tensor:
    """N x H x W x 3 uint8 -> N x 3 x H x W in [0, 1]."""
    return images.permute(0, 3, 1, 2).float() / 255
