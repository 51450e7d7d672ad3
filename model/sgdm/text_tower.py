"""The open_clip text tower that reads the scale text."""

from __future__ import annotations

from functools import lru_cache

import open_clip
import torch
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

from tilecascade.model.sgdm.config import TextConfig
from tilecascade.model.sgdm.scale_text import PROFILES, ZOOM_TABLE, scale_text


@lru_cache(maxsize=1)
def compact_vocabulary() -> dict[int, int]:
    """open_clip token id -> compact id, over every scale text of spans 1 and 2; 0 stays padding.

    The start and end tokens keep the lowest and highest places, because the tower pools nothing here but open_clip's
    tokenizer relies on their presence.
    """
    texts = [
        scale_text(z, reference)
        for z in ZOOM_TABLE
        for reference in (None, z - 1, z - 2)
        if reference is None or reference >= 0
    ]
    ids = sorted(set(open_clip.tokenize(texts).flatten().tolist()) - {0})
    return {0: 0, **{token: place for place, token in enumerate(ids, start=1)}}


class ScaleTextEncoder(nn.Module):
    """Text tower: penultimate layer and the final LayerNorm, as the published network uses ViT-H-14's."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        vocabulary = len(compact_vocabulary()) if config.compact_vocabulary else 49408
        self.tower = TextTransformer(
            context_length=config.context_length,
            vocab_size=vocabulary,
            width=config.width,
            heads=config.heads,
            layers=config.layers,
            output_dim=config.width,
        )
        # only the layers that are read are kept
        del self.tower.transformer.resblocks[-1]
        self.tower.text_projection = None

    def tokens(self, texts: list[str]) -> Tensor:
        """Tokenise: N texts -> N x context_length integers. Unknown words of a compact vocabulary become padding."""
        if self.config.constant:
            texts = [""] * len(texts)
        ids = open_clip.tokenize(texts, context_length=self.config.context_length)
        if not self.config.compact_vocabulary:
            return ids
        table = compact_vocabulary()
        return torch.tensor([[table.get(token, 0) for token in row] for row in ids.tolist()])

    def forward(self, texts: list[str]) -> Tensor:
        """Encode: N texts -> N x context_length x width."""
        tower = self.tower
        ids = self.tokens(texts).to(tower.positional_embedding.device)
        x = tower.token_embedding(ids) + tower.positional_embedding
        mask = tower.attn_mask
        x = tower.transformer(x, attn_mask=mask.to(x.dtype) if mask is not None else None)
        return tower.ln_final(x)

    def of_scale(self, zoom: int, reference_zoom: int | None) -> str:
        """The scale text of a tile as this tower was trained with it. Raises ValueError outside z0 to z22."""
        return PROFILES[self.config.profile](zoom, reference_zoom)
