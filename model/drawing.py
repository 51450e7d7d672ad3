"""Maps that are drawn of objects: perceive -> make objects -> draw.

The objects are made of what is perceived, without the diffusion, which has not made better ones of it yet
(docs/training-log.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import shapely
import torch
from rasterio.features import rasterize
from torch import Tensor
from torch.nn import functional as F

from tilecascade.model.cartography.field import CELL, ClassField, Floats
from tilecascade.model.cartography.finish import draw, objects
from tilecascade.model.cartography.objects import MapObject
from tilecascade.model.cartography.parts import MARGIN, cut_to, shifted
from tilecascade.model.cartography.reviews import reviewed
from tilecascade.model.cascade import Pixels, WindowConfig, cut_pixels
from tilecascade.model.conditions import Conditions, Stage, as_images
from tilecascade.model.generated import Drawing, GeneratedMap, Uncertainty, pixels_of, uncertainties
from tilecascade.model.palette import CLASSES, classify
from tilecascade.model.sgdm.autoencoder import by_class
from tilecascade.model.sgdm.layers import cut
from tilecascade.model.sgdm.network import Perception


class MapDrawer:
    """A network's perception on a device, for `CascadePipeline`, which checks the conditions."""

    def __init__(self, perception: Perception, windows: WindowConfig, device: torch.device, dtype: torch.dtype) -> None:
        self.perception, self.windows = perception, windows
        self.device, self.dtype = device, dtype
        self._texts: dict[tuple[int, int | None], Tensor] = {}

    def __call__(self, stage: Stage, batch: Sequence[Conditions]) -> list[GeneratedMap]:
        """What is perceived of blocks; maps are drawn of it when they are asked for."""
        logits, beyond = self._logits(stage, batch), self._beyond
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
        beyond = self._beyond
        found, image = self._drawn(stage, shares, conditions)
        pixels = cut_pixels(image, beyond)
        around = shapely.box(-MARGIN, -MARGIN, stage.size + MARGIN, stage.size + MARGIN)
        return Drawing(pixels, cut_to(around, shifted(found, -beyond, -beyond)))

    @property
    def _beyond(self) -> int:
        """Pixels beyond a block that objects are made of."""
        return self.windows.denoise - self.windows.decode

    def _drawn(self, stage: Stage, shares: Floats, conditions: Conditions) -> tuple[list[MapObject], Pixels]:
        """The objects of a block and of what is around it, and the map of both."""
        edge = self.windows.encode - self._beyond
        known = cut_pixels(conditions.imagery_known, edge)
        reviews = [review.shifted(-edge, -edge) for review in conditions.reviews]
        found = reviewed(objects(ClassField(stage.zoom, shares, known)), reviews, stage.zoom)
        return found, draw(found, known.shape, stage.zoom)

    def uncertainty(self, stage: Stage, batch: Sequence[Conditions]) -> list[Uncertainty]:
        """How unlikely the class that is drawn at each pixel is by what is perceived there; what a person has reviewed
        is certain."""
        shares = self.perception.prior.shares(self._logits(stage, batch))
        doubts, kinds = [], []
        for plane, mean, item in zip(shares.cpu().numpy(), by_class(shares), batch, strict=True):
            found, image = self._drawn(stage, plane, item)
            drawn = torch.from_numpy(classify(image)).long()
            shown = F.avg_pool2d(F.one_hot(drawn, len(CLASSES)).permute(2, 0, 1).float(), CELL)
            certain = F.avg_pool2d(torch.from_numpy(self._reviewed(found, item, drawn.shape))[None], CELL)[0]
            doubts.append((1 - (shown * mean.cpu()).sum(0)) * (1 - certain))
            kinds.append(shown)
        return uncertainties(torch.stack(doubts), torch.stack(kinds), self._beyond, CELL)

    def _reviewed(self, found: Sequence[MapObject], conditions: Conditions, shape: Sequence[int]) -> Floats:
        """1 where a person has said what is there, H x W; a road as wide as it is drawn."""
        edge = self._beyond - self.windows.encode
        seen = [each.geometry.buffer(each.width / 2) for each in found if each.reviewed]
        gone = [review.shifted(edge, edge).seen for review in conditions.reviews if review.there is None]
        outlines = [each for each in (*seen, *gone) if each is not None and each.area > 0]
        if not outlines:
            return np.zeros(tuple(shape), dtype=np.float32)
        return np.asarray(rasterize(outlines, tuple(shape), dtype="uint8"), dtype=np.float32)

    def _logits(self, stage: Stage, batch: Sequence[Conditions]) -> Tensor:
        """Palette logits as far as objects are made of them, N x P x h/2 x w/2."""
        key = stage.zoom, stage.reference_zoom
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            if key not in self._texts:
                self._texts[key] = self.perception.text([self.perception.text.of_scale(*key)])
            crop = self.windows.encode - self.windows.denoise
            logits = self.perception(*as_images(batch, self.device), self._texts[key].expand(len(batch), -1, -1), crop)
        less = self.windows.decode // CELL
        return cut(logits, less) if less else logits
