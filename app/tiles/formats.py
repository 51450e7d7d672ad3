"""The files of a tile: image formats, the variants that clients may ask for, and what a whole file looks like."""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_ZOOM = 32
"""The finest zoom that an address may name; no layer goes so far."""

MEDIA_TYPES = {"png": "image/png", "webp": "image/webp", "jpg": "image/jpeg"}
"""Formats that tiles are served in, by file suffix."""


PATH = re.compile(
    r"/tiles/(?:([a-z][a-z0-9_-]{0,31})/)?([0-9]{1,2})/([0-9]{1,10})/([0-9]{1,10})((?:@2x)?\.(png|webp|jpg))", re.ASCII
)
"""A tile's URL path: layer (or none: the default), z, x, y, the variant's suffix, its format."""


@dataclass(frozen=True)
class Variant:
    """One way to ask for a tile: 256 or (scale 2) 512 pixels along an edge, in one of the formats; or, instead of the
    map, how far it can be trusted. field: the whole block that begins with the tile, with its ring, for references; it
    is kept like a tile and never served."""

    scale: int = 1
    format: str = "png"
    confidence: bool = False
    field: bool = False

    @property
    def suffix(self) -> str:
        """What follows y in a URL and in a file name: ".png", "@2x.webp"."""
        kind = ".confidence" if self.confidence else ".field" if self.field else ""
        return kind + ("@2x" if self.scale == 2 else "") + "." + self.format


PLAIN = Variant()
"""The tile itself; every other variant is made from such ones."""


CONFIDENCE = Variant(confidence=True)
"""How far the tile can be trusted."""


FIELD = Variant(field=True)
"""The block that begins with the tile, and its ring."""


def is_whole(value: bytes) -> bool:
    """Whether these bytes begin and end as a tile's file does: catches empty and cut-off files of every format."""
    if value.startswith(b"\x89PNG\r\n\x1a\n"):
        return value.endswith(b"IEND\xaeB`\x82")
    if value.startswith(b"\xff\xd8\xff"):
        return value.endswith(b"\xff\xd9")
    # RIFF: the length of the rest follows, padded to an even number
    return value[:4] == b"RIFF" and value[8:12] == b"WEBP" and len(value) == int.from_bytes(value[4:8], "little") + 8
