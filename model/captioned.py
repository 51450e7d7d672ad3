"""Captions in the context of a network's cross-attention: the scale text, and beside it the segments of a caption."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tilecascade.model.conditions import Conditions
from tilecascade.model.sgdm.network import SGDM
from tilecascade.model.text.captions import Caption
from tilecascade.model.text.segments import Schedule, parts_of

NOTHING = Caption("")
"""Stands beside captions in a batch, and has no weight."""


class CaptionContexts:
    """What a network is told of captions; each is encoded once."""

    def __init__(self, network: SGDM, steps: int, device: torch.device) -> None:
        """steps: of the sampler."""
        self._network, self._steps, self._device = network, steps, device
        self._known: dict[Caption, Tensor] = {}

    def with_captions(self, batch: Sequence[Conditions], context: Tensor) -> tuple[Tensor, Tensor] | None:
        """The scale text (`context`, N x L x width) and the segments of captions as one context, N x 4 L x width, and
        which of a batch have a caption, N x 1.

        None if there is no caption, or the text tower knows the words of scale texts only.
        """
        if self._network.config.text.compact_vocabulary or self._network.config.text.constant:
            return None
        captions = [item.caption for item in batch]
        if not any(captions):
            return None
        texts = torch.stack([self._segments(caption or NOTHING) for caption in captions])
        there = torch.tensor([[float(caption is not None)] for caption in captions], device=self._device)
        return torch.cat([context, texts], dim=1), there

    def weights(self, there: Tensor, index: int) -> Tensor:
        """How much scale text and segments count at a step, N x 4."""
        progress = index / max(1, self._steps - 1)
        share = self._network.config.text.caption_share * there
        segments = torch.tensor([Schedule().weights(progress)], device=self._device)
        return torch.cat([1 - share, share * segments], dim=1)

    def _segments(self, caption: Caption) -> Tensor:
        """The segments of a caption as the text tower reads them, one after the other: 3 L x width."""
        if caption not in self._known:
            self._known[caption] = self._network.text(list(parts_of(caption))).flatten(0, 1)
        return self._known[caption]
