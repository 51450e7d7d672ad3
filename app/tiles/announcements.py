"""Telling pages which tiles have just been finished, so that they need not ask again and again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from mercantile import Tile

WAITING = 10_000
"""Tiles that are kept for a listener that does not keep up; it misses further ones."""


class Announcements:
    """The finished tiles of one layer, told to whoever listens at that moment. `announce` is thread-safe."""

    def __init__(self) -> None:
        self._listeners: set[tuple[asyncio.AbstractEventLoop, asyncio.Queue[Tile]]] = set()

    def announce(self, tile: Tile) -> None:
        """Tell all listeners that a tile is finished."""
        for loop, queue in tuple(self._listeners):
            loop.call_soon_threadsafe(_put, queue, tile)

    async def listen(self) -> AsyncIterator[Tile]:
        """The tiles finished from now on, without end."""
        with self._listening() as queue:
            while True:
                yield await queue.get()

    @contextmanager
    def _listening(self) -> Iterator[asyncio.Queue[Tile]]:
        queue: asyncio.Queue[Tile] = asyncio.Queue(WAITING)
        entry = (asyncio.get_running_loop(), queue)
        self._listeners.add(entry)
        try:
            yield queue
        finally:
            self._listeners.discard(entry)


def _put(queue: asyncio.Queue[Tile], tile: Tile) -> None:
    if not queue.full():
        queue.put_nowait(tile)
