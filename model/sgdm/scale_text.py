"""The scale text of a cascade stage and the open_clip tower that reads it (C2GM section 3.2.1).

The published per-zoom table states *equatorial* Web-Mercator resolutions; so does this one, because the text is a
label of the zoom level and not a measurement on the ground.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import open_clip
import torch
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

from model.sgdm.config import TextConfig

MAX_TABLE_ZOOM = 20

# zoom: (metres per pixel at the equator, map scale denominator, what such a map shows)
ZOOM_TABLE: dict[int, tuple[str, str, str]] = {
    0: ("156543", "500M", "whole world"),
    1: ("78272", "250M", "whole world"),
    2: ("39136", "150M", "subcontinental area"),
    3: ("19568", "70M", "largest country"),
    4: ("9784", "35M", "whole world"),
    5: ("4892", "15M", "large African country"),
    6: ("2446", "10M", "large European country"),
    7: ("1223", "4M", "small country, US state"),
    8: ("611.496", "2M", "small country, US state"),
    9: ("305.748", "1M", "wide area, large metropolitan area"),
    10: ("152.874", "500k", "metropolitan area"),
    11: ("76.437", "250k", "city"),
    12: ("38.219", "150k", "town, or city district"),
    13: ("19.109", "70k", "village, or suburb"),
    14: ("9.555", "35k", "village, or suburb"),
    15: ("4.777", "15k", "small road"),
    16: ("2.389", "8k", "street"),
    17: ("1.194", "4k", "block, park, addresses"),
    18: ("0.597", "2k", "some buildings, trees"),
    19: ("0.299", "1k", "local highway and crossing details"),
    20: ("0.149", "500", "a mid-sized building"),
}


def scale_text(zoom: int, reference_zoom: int | None) -> str:
    """The text for a tile of `zoom` whose cascade reference is at `reference_zoom` (None at the root).

    Slots, in the published order: what it is, zoom, reference zoom and ratio (omitted without a reference, as in the
    published non-cascade data set), resolution, scale, example areas. Raises ValueError outside z0..z20.
    """
    if zoom not in ZOOM_TABLE:
        raise ValueError(f"zoom {zoom} has no scale text; 0 to {MAX_TABLE_ZOOM} have")
    resolution, scale, example = ZOOM_TABLE[zoom]
    slots = ["a map tile", f"zoom level {zoom}"]
    if reference_zoom is not None:
        slots += [f"reference zoom level {reference_zoom}", f"{2 ** (zoom - reference_zoom)}X reference"]
    slots += [f"{resolution} m/pixel", f"scale 1:{scale}", example]
    return ", ".join(slots)


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

    def load_tower(self, state: Mapping[str, Tensor]) -> None:
        """Take this tower's tensors out of an open_clip state dict (names as open_clip's).

        Raises KeyError naming the first tensor that is missing.
        """
        own = self.tower.state_dict()
        self.tower.load_state_dict({key: own[key] if key == "attn_mask" else state[key] for key in own})

    def load_open_clip(self, path: Path) -> None:
        """Load a local open_clip checkpoint of `config.open_clip_model` (for ViT-H-14: laion2b_s32b_b79k).

        Raises ValueError if the file lacks the tower's weights.
        """
        try:
            self.load_tower(open_clip.factory.load_state_dict(str(path)))
        except KeyError as missing:
            raise ValueError(f"{path} is not a checkpoint of {self.config.open_clip_model}: no {missing}") from None
