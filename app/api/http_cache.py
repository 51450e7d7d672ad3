"""Validators of HTTP answers, shared by the application and the worker processes in front of it.

The validator of a tile is the one that nginx gives its file (`mtime-size`). A client may therefore be answered by
nginx, by a worker or by the application in turn and still get its 304, and a 304 costs no more than a `stat`.
"""

from __future__ import annotations

import hashlib
import os

EXPOSED_HEADERS = [
    "ETag",
    "Retry-After",
    "Server-Timing",
    "X-Cache",
    "X-Imagery-Attempts",
    "X-Request-ID",
    "X-Tile-Ancestor",
    "X-Tile-Depth",
    "X-Tile-Imagery",
    "X-Tile-Model",
    "X-Tile-Notice",
    "X-Tile-Reference",
    "X-Tile-Scale",
    "X-Tile-Seed",
    "X-Tile-Sensor",
    "X-Tile-State",
    "X-Tile-Version",
]
"""Headers that a script on another site may read."""


def etag_of(stat: os.stat_result | None, png: bytes = b"") -> str:
    """A strong validator: of the file that holds the tile, or where there is none of its bytes."""
    if stat is None:
        return f'"{hashlib.blake2b(png, digest_size=12).hexdigest()}"'
    return f'"{int(stat.st_mtime):x}-{stat.st_size:x}"'


def matches(if_none_match: str, etag: str) -> bool:
    """Whether a client that sends this If-None-Match has the tile already."""
    return if_none_match.strip() == "*" or etag in [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
