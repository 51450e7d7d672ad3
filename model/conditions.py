"""What a block is generated from, and the images that the network sees of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tilecascade.model.cartography.reviews import ReviewedObject
from tilecascade.model.cascade import Mask, Pixels, Window
from tilecascade.model.sgdm.config import Finish
from tilecascade.model.text.captions import Caption


@dataclass(frozen=True)
class Stage:
    """What the blocks of one batch have in common.

    zoom, reference_zoom: zoom levels of the tiles and of their cascade reference, as the scale text states them; None
    at the root. size: edge of a block in pixels. seed: seed of the noise field. ring: pixels around the block that are
    wanted as well, at most as many as are denoised.
    field: whether the block's field is wanted, for finer blocks.
    finish: "none" shows each pixel's likely colours; "cartographic" draws objects that are made of them (see
    `model.cartography`).
    fields: a name for what the conditions are read from (a layer's revision): where it is equal, equal windows have
    equal conditions.
    """

    zoom: int
    reference_zoom: int | None
    size: int
    seed: int = 0
    fields: str = ""
    ring: int = 0
    finish: Finish = "none"
    field: bool = True


@dataclass(frozen=True)
class Conditions:
    """The input of one block.

    window: what the arrays cover (see `Ladder.window`). imagery: H x W x 3 uint8, and imagery_known, H x W bool, where
    there is any. reference, reference_known: the enlarged cascade reference alike; None at the root.
    from_base_map: H x W bool, where the reference is a base map's and not generated; None where there is no base map.
    reviews: what people have said about objects here, in pixels of the window; a finish draws by it.
    caption_at: the caption of a window, if somebody has said what is to be there: a function of its place.
    """

    window: Window
    imagery: Pixels
    imagery_known: Mask
    reference: Pixels | None
    reference_known: Mask | None
    from_base_map: Mask | None = None
    reviews: tuple[ReviewedObject, ...] = ()
    caption_at: Callable[[Window], Caption | None] | None = None

    @property
    def caption(self) -> Caption | None:
        """The window's."""
        return None if self.caption_at is None else self.caption_at(self.window)

    def cut(self, window: Window) -> Conditions:
        """The conditions of a smaller window inside this one, without reviews."""
        top, left = window.top - self.window.top, window.left - self.window.left
        box = (slice(top, top + window.height), slice(left, left + window.width))
        reference = None if self.reference is None else self.reference[box]
        known = None if self.reference_known is None else self.reference_known[box]
        from_base_map = None if self.from_base_map is None else self.from_base_map[box]
        imagery, imagery_known = self.imagery[box], self.imagery_known[box]
        return Conditions(window, imagery, imagery_known, reference, known, from_base_map, caption_at=self.caption_at)


def as_images(batch: Sequence[Conditions], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Imagery and reference as N x 3 x H x W in [-1, 1], and where the reference is a base map's, N x 1 x H x W.

    What is unknown is 0.
    """
    imagery = _unit([item.imagery for item in batch], [item.imagery_known for item in batch], device)
    from_base_map = torch.zeros_like(imagery[:, :1])
    if batch[0].reference is None:
        return imagery, torch.zeros_like(imagery), from_base_map
    for place, item in enumerate(batch):
        if item.from_base_map is not None and item.reference_known is not None:
            from_base_map[place, 0] = torch.from_numpy(item.from_base_map & item.reference_known).to(from_base_map)
    images = [item.reference for item in batch if item.reference is not None]
    masks = [item.reference_known for item in batch if item.reference_known is not None]
    return imagery, _unit(images, masks, device), from_base_map


def _unit(images: list[Pixels], masks: list[Mask], device: torch.device) -> Tensor:
    pixels = torch.from_numpy(np.stack(images)).to(device).permute(0, 3, 1, 2)
    known = torch.from_numpy(np.stack(masks)).to(device).unsqueeze(1)
    unit = pixels.float().div_(127.5).sub_(1).mul_(known)
    return unit.contiguous(memory_format=torch.channels_last)
