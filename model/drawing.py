"""Maps that are drawn of objects: perceive -> make objects -> draw.

The objects are made of what is perceived, without the diffusion, which has not made better ones of it yet
(docs/training-log.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import shapely
import torch
from torch import Tensor

from tilecascade.model.cartography.field import CELL, ClassField
from tilecascade.model.cartography.finish import draw, objects
from tilecascade.model.cartography.parts import MARGIN, cut_to, shifted
from tilecascade.model.cascade import Pixels, WindowConfig, cut_pixels
from tilecascade.model.conditions import Conditions, Stage, as_images
from tilecascade.model.generated import GeneratedMap, Uncertainty, pixels_of, uncertainties
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
        """Maps and what they are drawn of."""
        less = self.windows.decode
        beyond = self.windows.denoise - less
        logits = self._logits(stage, batch)
        logits = cut(logits, less // CELL) if less else logits
        shares = self.perception.prior.shares(logits).cpu().numpy()
        known = [cut_pixels(item.imagery_known, self.windows.encode - beyond) for item in batch]
        fields: Sequence[Pixels | None] = [None] * len(batch)
        if stage.field:
            fields = [
                cut_pixels(image, beyond - stage.ring) for image in pixels_of(self.perception.prior.shown(logits))
            ]
        around = shapely.box(-MARGIN, -MARGIN, stage.size + MARGIN, stage.size + MARGIN)
        maps = []
        for plane, mask, field in zip(shares, known, fields, strict=True):
            found = objects(ClassField(stage.zoom, plane, mask))
            pixels = cut_pixels(draw(found, mask.shape, stage.zoom), beyond)
            maps.append(GeneratedMap(pixels, field, cut_to(around, shifted(found, -beyond, -beyond))))
        return maps

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
