"""Work that no request waits for: unfinished tiles, the neighbourhood of viewed ones, and a layer's coarsest tiles."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from mercantile import Tile

from tilecascade.app.errors import TilecascadeError
from tilecascade.app.tiles.resolver import TileResolver
from tilecascade.model.engine import Priority, QueueFullError

LINGER_SECONDS = 30.0
"""How long a tile is still generated after its last request was answered with a placeholder."""


class BackgroundTiles:
    """Keeps tiles going that no request waits for at the moment. Belongs to one event loop."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._warming: dict[str, asyncio.Task[None]] = {}

    def keep_going(self, task: asyncio.Task[Any]) -> None:
        """Let a tile be generated for LINGER_SECONDS more: its client will ask again."""
        timer = asyncio.get_running_loop().call_later(LINGER_SECONDS, task.cancel)
        self._tasks.add(task)

        def done(finished: asyncio.Task[Any]) -> None:
            timer.cancel()
            self._tasks.discard(finished)
            if not finished.cancelled():
                finished.exception()  # otherwise asyncio would report that nobody has looked at it

        task.add_done_callback(done)

    def generate_around(self, resolver: TileResolver, tile: Tile) -> None:
        """Begin with the blocks around a tile, because a viewer is likely to look there next."""
        edge, world = 1 << resolver.layer.ladder.span, 1 << tile.z
        for across, down in ((a, d) for d in (-edge, 0, edge) for a in (-edge, 0, edge) if a or d):
            if 0 <= tile.y + down < world:
                near = Tile((tile.x + across) % world, tile.y + down, tile.z)
                self.keep_going(asyncio.ensure_future(resolver.find(near, priority=Priority.NEIGHBOUR)))

    def warm(self, resolver: TileResolver, count: int) -> None:
        """Begin with up to `count` tiles of the layer's root zoom, one after the other and behind all other work."""
        name = resolver.layer.name
        if name in self._warming:
            self._warming[name].cancel()
        self._warming[name] = asyncio.create_task(_warm(resolver, count))

    def close(self) -> None:
        """Stop warming."""
        for task in self._warming.values():
            task.cancel()


async def _warm(resolver: TileResolver, count: int) -> None:
    """Whatever fails here fails again, and is told, when a client asks for it."""
    for tile in resolver.layer.root_tiles_from_center(count):
        with suppress(TilecascadeError, QueueFullError):
            await resolver.find(tile, priority=Priority.PREFETCH)
