"""Maps that are drawn of objects: perceive -> make objects -> draw.

The objects are made of what is perceived, without the diffusion, which has not made better ones of it yet
(docs/training-log.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import shapely
import torch
from torch import Tensor

from tilecascade.model.cartography.field import CELL, ClassField, Floats
from tilecascade.model.cartography.finish import draw, objects
from tilecascade.model.cartography.parts import MARGIN, cut_to, shifted
from tilecascade.model.cartography.reviews import reviewed
from tilecascade.model.cascade import Pixels, WindowConfig, cut_pixels
from tilecascade.model.conditions import Conditions, Stage, as_images
from tilecascade.model.generated import Drawing, GeneratedMap, Uncertainty, pixels_of, uncertainties
from tilecascade.model.sgdm.autoencoder import by_class
from tilecascade.model.sgdm.layers import cut
from tilecascade.model.sgdm.network import Perception
from tilecascade.model.sgdm.scale_text import scale_text


class MapDrawer:
    """A network's perception on a device, for `CascadePipeline`, which checks the conditions."""

    def __init__(self, perception: Perception, windows: WindowConfig, device: torch.device, dtype: torch.dtype) -> None:
        self.perception, self.windows = perception, windows
        self.device, self.dtype = device, dtype
        self._texts: dict[tuple[int, int | None], Tensor] = {}

    def __call__(self, stage: Stage, batch: Sequence[Conditions]) -> list[GeneratedMap]:
        """What is perceived of blocks; maps are drawn of it when they are asked for."""
        less = self.windows.decode
        beyond = self.windows.denoise - less
        logits = self._logits(stage, batch)
        logits = cut(logits, less // CELL) if less else logits
        shares = self.perception.prior.shares(logits).cpu().numpy()
        fields: Sequence[Pixels | None] = [None] * len(batch)
        if stage.field:
            fields = [
                cut_pixels(image, beyond - stage.ring) for image in pixels_of(self.perception.prior.shown(logits))
            ]
        return [
            GeneratedMap(field, partial(self._draw, stage, plane, item))
            for plane, item, field in zip(shares, batch, fields, strict=True)
        ]

    def _draw(self, stage: Stage, shares: Floats, conditions: Conditions) -> Drawing:
        """The objects of one block, and the map that is drawn of them."""
        if torch.get_num_threads() != 1:  # of this thread; others are drawing, too
            torch.set_num_threads(1)
        beyond = self.windows.denoise - self.windows.decode
        edge = self.windows.encode - beyond
        known = cut_pixels(conditions.imagery_known, edge)
        reviews = [review.shifted(-edge, -edge) for review in conditions.reviews]
        found = reviewed(objects(ClassField(stage.zoom, shares, known)), reviews, stage.zoom)
        pixels = cut_pixels(draw(found, known.shape, stage.zoom), beyond)
        around = shapely.box(-MARGIN, -MARGIN, stage.size + MARGIN, stage.size + MARGIN)
        return Drawing(pixels, cut_to(around, shifted(found, -beyond, -beyond)))

    def uncertainty(self, stage: Stage, batch: Sequence[Conditions]) -> list[Uncertainty]:
        """What is perceived, as the chance that two maps that were drawn by it would disagree."""
        mean = by_class(self.perception.prior.shares(self._logits(stage, batch)))
        return uncertainties(1 - mean.square().sum(1), mean, self.windows.denoise, CELL)

    def _logits(self, stage: Stage, batch: Sequence[Conditions]) -> Tensor:
        """Palette logits, `denoise` around each cell, N x P x h/2 x w/2."""
        key = stage.zoom, stage.reference_zoom
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            if key not in self._texts:
                self._texts[key] = self.perception.text([scale_text(*key)])
            crop = self.windows.encode - self.windows.denoise
            return self.perception(*as_images(batch, self.device), self._texts[key].expand(len(batch), -1, -1), crop)
