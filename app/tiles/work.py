"""Blocks on their way to the device, so that a request of higher priority hurries all that its block waits for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Protocol

from mercantile import Tile

from tilecascade.model.cascade import Block, Window
from tilecascade.model.engine import AnyFuture, GenerationEngine, Priority


@dataclass
class Work:
    """The work on one block: its priority, the blocks it waits for, of its layer and of its imagery's, and its place in
    the engine's queue.

    field_file: the block's field, once there is one: finer blocks need not wait until the map is drawn. It is of
    the imagery as it was when the clock was `began`. perceived: whether there is one, or there will be none.
    """

    priority: Priority
    needs: set[tuple[WorkInProgress, Block]] = field(default_factory=set)
    queued: AnyFuture | None = None
    field_file: bytes | None = None
    began: int = 0
    perceived: asyncio.Event = field(default_factory=asyncio.Event)


class PaintedTiles(Protocol):
    """What has the tiles of a layer of imagery."""

    async def tiles_of(self, window: Window, work: Work) -> dict[Tile, bytes] | None:
        """The files of the tiles that a window meets, painted if need be, for work on what needs them.

        None at zooms that the source has itself: it is to be read there.
        """
        ...


BUSY = 3
"""Blocks on their way from which on a server counts as busy: then how many it finishes says what it can do."""


class WorkInProgress:
    """The blocks of one layer that are on their way. Belongs to one event loop."""

    def __init__(self, engine: GenerationEngine) -> None:
        self.engine = engine
        self._works: dict[Block, Work] = {}
        self._busy_since: float | None = None
        self._busy_seconds, self._busy_blocks = 0.0, 0

    @property
    def seconds_per_block(self) -> float | None:
        """How long a block has taken so far while there were many, with reading and drawing; None if there were not."""
        return self._busy_seconds / self._busy_blocks if self._busy_blocks > BUSY else None

    def join(self, key: Block, priority: Priority, under_way: bool) -> Work:
        """The work on `key` with at least this priority; a new one unless it is `under_way`."""
        self.promote(key, priority)
        # a flight that has just landed can still be joined, though its work has ended
        work = self._works.get(key) or Work(priority)
        if not under_way:
            work = self._works[key] = Work(priority)
        return work

    def promote(self, key: Block, priority: Priority) -> None:
        """Raise the priority of work on its way, and of what it waits for."""
        work = self._works.get(key)
        if work is None or priority >= work.priority:
            return
        work.priority = priority
        if work.queued is not None:
            self.engine.promote(work.queued, priority)
        for works, need in work.needs:
            works.promote(need, priority)

    def begun_or_cancel(self, key: Hashable) -> bool:
        """Whether the device works on it: then it is finished and kept even if nobody waits any more.

        What is only queued is taken off the queue.
        """
        work = self._works.get(key)  # type: ignore[call-overload]
        return work is not None and work.queued is not None and not work.queued.cancel()

    def end(self, key: Block, work: Work) -> None:
        """This work is done, unless other work on the same has begun meanwhile."""
        now = time.perf_counter()
        if self._busy_since is not None:
            self._busy_seconds += now - self._busy_since
            self._busy_blocks += 1
        self._busy_since = now if len(self._works) > BUSY else None
        if self._works.get(key) is work:
            del self._works[key]
