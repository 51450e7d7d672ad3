"""The protocol of everything that a layer's imagery can come from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Sequence
from typing import Protocol, TypeVar

from mercantile import Tile

from tilecascade.model.cascade import Mask, Pixels, Window

Item = TypeVar("Item")


class Source(Protocol):
    """Something that gives pixels and a mask for a window. center: longitude and latitude of where to look first."""

    id: str
    bounds: tuple[float, float, float, float]
    center: tuple[float, float]
    native_zoom: int
    attribution: str

    def read(self, window: Window) -> tuple[Pixels, Mask]:
        """H x W x 3 uint8 colours and the H x W mask of where there is imagery."""
        ...

    def covers(self, tile: Tile) -> bool:
        """Whether any pixel of the tile has imagery."""
        ...

    def id_at(self, tile: Tile) -> str:
        """What the tile's pixels come from: stays when something else changes elsewhere."""
        ...


def digest(ids: Sequence[str]) -> str:
    """One id for several."""
    return hashlib.sha256("/".join(ids).encode()).hexdigest()[:12]


def changed(old: Sequence[Item], new: Sequence[Item], key: Callable[[Item], Hashable]) -> list[Item]:
    """The items that came or went, and those whose order has changed. key: names an item."""
    before, after = [key(item) for item in old], [key(item) for item in new]
    earlier, later = set(before), set(after)
    kept = (name for name in before if name in later)
    moved = {a for a, b in zip(kept, (name for name in after if name in earlier), strict=True) if a != b}
    gone = [item for item in old if key(item) not in later or key(item) in moved]
    return gone + [item for item in new if key(item) not in earlier]
