"""The files of a tile: image formats, the variants that clients may ask for, and what a whole file looks like."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from typing import Literal

MAX_ZOOM = 32
"""The finest zoom that an address may name; no layer goes so far."""

MEDIA_TYPES = {"png": "image/png", "webp": "image/webp", "jpg": "image/jpeg"}
"""Formats that tiles are served in, by file suffix."""


def media_types(first: str) -> dict[str, str]:
    """The same, beginning with a format that a layer's tiles are kept in."""
    return {first: MEDIA_TYPES[first]} | MEDIA_TYPES


PATH = re.compile(
    r"/tiles/(?:([a-z][a-z0-9_-]{0,31})/)?([0-9]{1,2})/([0-9]{1,10})/([0-9]{1,10})((?:@2x)?\.(png|webp|jpg))", re.ASCII
)
"""A tile's URL path: layer (or none: the default), z, x, y, the variant's suffix, its format."""


Kind = Literal["map", "confidence", "field", "objects"]


@dataclass(frozen=True)
class Variant:
    """One file of a tile: the map, 256 or (scale 2) 512 pixels along an edge, in one of the formats, or another kind.

    kind: "map"; "confidence", how far the tile can be trusted; "field", the whole block that begins with the tile, with
    its ring, for references; "objects", the block's map objects. The last two are kept like tiles and never served as
    they are.
    """

    scale: int = 1
    format: str = "png"
    kind: Kind = "map"

    @property
    def suffix(self) -> str:
        """What follows y in a URL and in a file name: ".png", "@2x.webp"."""
        kind = "" if self.kind == "map" else f".{self.kind}"
        return kind + ("@2x" if self.scale == 2 else "") + "." + self.format


PLAIN = Variant()
"""A map's tile itself; every other variant is made from such ones."""


PAINTED = Variant(format="webp")
"""That of painted imagery: lossless WebP is a tenth smaller than PNG there, and written in a quarter of the time."""


CONFIDENCE = Variant(kind="confidence")
"""How far the tile can be trusted."""


FIELD = Variant(kind="field")
"""The block that begins with the tile, and its ring."""


OBJECTS = Variant(kind="objects", format="bin")
"""The map objects of the block that begins with the tile (see `app.tiles.objects`)."""


CHECKSUM = b"crc32="
"""What stands before the checksum in a file of ours other than a PNG: eight hexadecimal digits, of the file with zeros
there."""


def with_checksum(data: bytes) -> bytes:
    """A file whose metadata holds CHECKSUM and eight zeros, with the checksum in their place."""
    at = data.index(CHECKSUM) + len(CHECKSUM)
    return data[:at] + b"%08x" % zlib.crc32(data) + data[at + 8 :]


def is_whole(value: bytes) -> bool:
    """Whether these bytes are a tile's file, from its first to its last, as it was written (50 us for a tile)."""
    if value.startswith(PNG_START):
        return _chunks_are_whole(value)
    at = value.find(CHECKSUM) + len(CHECKSUM)
    if at < len(CHECKSUM):
        return False
    return value[at : at + 8] == b"%08x" % zlib.crc32(value[at + 8 :], zlib.crc32(b"0" * 8, zlib.crc32(value[:at])))


PNG_START = b"\x89PNG\r\n\x1a\n"


def _chunks_are_whole(png: bytes) -> bool:
    """Whether the checksums of all chunks of a PNG are right, and it ends with its last."""
    at, end = len(PNG_START), len(png)
    while at + 12 <= end:
        length = int.from_bytes(png[at : at + 4], "big")
        after = at + 8 + length
        if after + 4 > end or zlib.crc32(png[at + 4 : after]) != int.from_bytes(png[after : after + 4], "big"):
            return False
        if png[at + 4 : at + 8] == b"IEND":
            return after + 4 == end
        at = after + 4
    return False
