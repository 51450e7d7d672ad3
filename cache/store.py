"""The protocol of every tier. Keys are relative paths such as `map/1a2b3c/16/43816/20388.png`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Store(Protocol):
    """Bytes by key. A tier may lose what it holds at any time; it never answers with other bytes."""

    name: str

    def get(self, key: str) -> bytes | None:
        """The bytes, or None. Raises OSError or redis errors when the tier itself does not work."""
        ...

    def put(self, key: str, value: bytes) -> bytes | None:
        """Keep the bytes, or return those that another server has kept before. Raises like `get`."""
        ...

    def purge(self, folder: str, outdated: Callable[[str], bool]) -> None:
        """Forget the keys below a folder such as `map/1a2b3c` that are outdated. Costs what is stored, not what could
        be. Raises like `get`."""
        ...

    def check(self) -> None:
        """Raises like `get` if the tier cannot keep anything now."""
        ...
