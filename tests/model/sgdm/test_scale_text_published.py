"""The scale text as published: word for word, and as open_clip's tokens."""

from __future__ import annotations

import open_clip
import pytest

from tilecascade.model.sgdm.config import default, sd21, tiny
from tilecascade.model.sgdm.scale_text import ZOOM_TABLE, published_text
from tilecascade.model.sgdm.text_tower import ScaleTextEncoder

TEXT = (
    "geographical map tile, tile zoom level 17, reference zoom level 15, reference zoom scale 4X, "
    "map resolution 1.194m/pixel, map scale 1:4000, examples of areas to represent: block, park, addresses"
)
TOKENS = [
    49406, 39380, 3923, 8227, 267, 8227, 13909, 2931, 272, 278, 267, 10214, 13909, 2931, 272, 276, 267, 10214,
    13909, 5879, 275, 343, 267, 3923, 9977, 272, 269, 272, 280, 275, 332, 270, 13241, 267, 3923, 5879, 272, 281,
    275, 271, 271, 271, 267, 14790, 539, 5429, 531, 8406, 281, 4593, 267, 1452, 267, 12702, 49407,
]  # fmt: skip


def test_the_words_are_the_published_ones() -> None:
    assert published_text(17, 15) == TEXT
    assert published_text(14, None) == (
        "geographical map tile, tile zoom level 14, map resolution 9.555m/pixel, map scale 1:35000, "
        "examples of areas to represent: village, or suburb"
    )
    with pytest.raises(ValueError, match="zoom 23"):
        published_text(23, None)


def test_the_tokens_are_pinned() -> None:
    tokens = [token for token in open_clip.tokenize([TEXT])[0].tolist() if token]
    assert tokens == TOKENS
    longest = max(
        sum(1 for token in open_clip.tokenize([published_text(z, z - span)])[0].tolist() if token)
        for z in ZOOM_TABLE
        for span in (1, 2)
        if z >= span
    )
    assert longest <= 77


def test_the_wording_is_kept_with_the_weights() -> None:
    assert sd21().text.profile == "published"
    assert default().text.profile == "short"
    assert ScaleTextEncoder(tiny().text).of_scale(17, 16).startswith("a map tile, zoom level 17")
