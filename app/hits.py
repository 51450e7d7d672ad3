"""How a finished tile is answered: path, validator and headers. Shared by the app and by the workers before it.

The validator is the one that nginx gives a file (`mtime-size`), so a client may be answered by nginx, by a worker or
by the app in turn and still get its 304; and a 304 needs no more than a `stat`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from mercantile import Tile

NOTICE = "generated, not surveyed"
REAL_NOTICE = "from the base map"
FINISHED = "no-cache"
PINNED = "public, max-age=31536000, immutable"
EXPOSED = [
    "ETag",
    "Retry-After",
    "Server-Timing",
    "X-Cache",
    "X-Request-ID",
    "X-Tile-Ancestor",
    "X-Tile-Depth",
    "X-Tile-Imagery",
    "X-Tile-Model",
    "X-Tile-Notice",
    "X-Tile-Reference",
    "X-Tile-Scale",
    "X-Tile-Seed",
    "X-Tile-State",
    "X-Tile-Version",
]
"""Headers that a script on another site may read."""

MEDIA_TYPES = {"png": "image/png", "webp": "image/webp", "jpg": "image/jpeg"}
"""Formats that tiles are served in, by file suffix."""

PATH = re.compile(
    r"/tiles/(?:([a-z][a-z0-9_-]{0,31})/)?([0-9]{1,2})/([0-9]{1,10})/([0-9]{1,10})((?:@2x)?\.(png|webp|jpg))", re.ASCII
)
"""A tile's URL path: layer (or none: the default), z, x, y, the variant's suffix, its format."""


@dataclass(frozen=True)
class Variant:
    """One way to ask for a tile: 256 or (scale 2) 512 pixels along an edge, in one of the formats; or, instead of the
    map, how far it can be trusted."""

    scale: int = 1
    format: str = "png"
    confidence: bool = False

    @property
    def suffix(self) -> str:
        """What follows y in a URL and in a file name: ".png", "@2x.webp"."""
        return (".confidence" if self.confidence else "") + ("@2x" if self.scale == 2 else "") + "." + self.format


PLAIN = Variant()
"""The tile itself; every other variant is made from such ones."""

CONFIDENCE = Variant(confidence=True)

VARIANTS = [*(Variant(scale, form) for scale in (1, 2) for form in MEDIA_TYPES), CONFIDENCE]
"""Every file that there may be of a tile."""


@dataclass(frozen=True)
class LayerFacts:
    """What answers need of a layer, in a form that can be written down for other processes.

    headers: the same for each tile. depths: stages of the cascade by zoom. references: levels between a tile and its
    reference by zoom, 0 for none.
    """

    name: str
    version: str
    revision: str
    max_zoom: int
    headers: dict[str, str]
    depths: list[int]
    references: list[int]

    def scale_note(self, tile: Tile) -> str:
        """What a tile of 512 pixels is made from."""
        return f"zoom {tile.z + 1}" if tile.z < self.max_zoom else "enlarged"

    def describe(self, tile: Tile, variant: Variant, state: str, source: str) -> dict[str, str]:
        """Headers that say what an answer is.

        state: real, cached, generated or placeholder; source: a tier or "miss".
        """
        if state == "real":
            return {"X-Tile-State": state, "X-Tile-Version": self.version, "X-Tile-Notice": REAL_NOTICE}
        headers = {"X-Tile-State": state, "X-Cache": source, "X-Tile-Depth": str(self.depths[tile.z]), **self.headers}
        levels = self.references[tile.z]
        if levels:
            headers["X-Tile-Reference"] = f"{tile.z - levels}/{tile.x >> levels}/{tile.y >> levels}"
        if variant.scale == 2:
            headers["X-Tile-Scale"] = self.scale_note(tile)
        return headers

    def age(self, revision: str | None) -> str:
        """Cache-Control of a finished tile that was asked for with `?v=revision`, or without."""
        return PINNED if revision == self.revision else FINISHED


def write_facts(layers: list[LayerFacts], path: Path) -> None:
    """Write the facts of all layers for other processes, the default layer first, atomically."""
    fresh = path.with_name(f".{path.name}-{os.getpid()}")
    fresh.write_text(json.dumps([asdict(layer) for layer in layers]))
    os.replace(fresh, path)


def read_facts(path: Path) -> list[LayerFacts]:
    """Inverse of `write_facts`."""
    return [LayerFacts(**facts) for facts in json.loads(path.read_text())]


def is_whole(value: bytes) -> bool:
    """Whether these bytes begin and end as a tile's file does: catches empty and cut-off files of every format."""
    if value.startswith(b"\x89PNG\r\n\x1a\n"):
        return value.endswith(b"IEND\xaeB`\x82")
    if value.startswith(b"\xff\xd8\xff"):
        return value.endswith(b"\xff\xd9")
    # RIFF: the length of the rest follows, padded to an even number
    return value[:4] == b"RIFF" and value[8:12] == b"WEBP" and len(value) == int.from_bytes(value[4:8], "little") + 8


def etag_of(stat: os.stat_result | None, png: bytes = b"") -> str:
    """A strong validator: of the file that holds the tile, or where there is none of its bytes."""
    if stat is None:
        return f'"{hashlib.blake2b(png, digest_size=12).hexdigest()}"'
    return f'"{int(stat.st_mtime):x}-{stat.st_size:x}"'


def matches(if_none_match: str, etag: str) -> bool:
    """Whether a client that sends this If-None-Match has the tile already."""
    return if_none_match.strip() == "*" or etag in [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
