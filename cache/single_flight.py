"""One run of a piece of work however many want its result."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

Result = TypeVar("Result")


class SingleFlight(Generic[Result]):
    """Coalesces concurrent calls with the same key in one event loop.

    The work runs in a task of its own: a caller that goes away does not stop it for the others. When the last one has
    gone it is cancelled, unless `keep` says that it has come too far. An error reaches the callers that waited and is
    then forgotten, so the next call tries again.
    """

    def __init__(self, keep: Callable[[Hashable], bool] = lambda key: True) -> None:
        self._keep = keep
        self._tasks: dict[Hashable, asyncio.Task[Result]] = {}
        self._callers: dict[asyncio.Task[Result], int] = {}
        self._running: set[asyncio.Task[Result]] = set()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._tasks

    def __len__(self) -> int:
        return len(self._tasks)

    async def run(self, key: Hashable, work: Callable[[], Awaitable[Result]]) -> Result:
        """The result of `work`, shared with whoever asks for `key` while it runs."""
        task = self._tasks.get(key)
        if task is None:

            async def start() -> Result:
                return await work()

            task = asyncio.create_task(start())
            self._tasks[key] = task
            self._callers[task] = 0
            self._running.add(task)
            task.add_done_callback(lambda done: self._finish(key, done))
        self._callers[task] += 1
        try:
            return await asyncio.shield(task)
        finally:
            self._callers[task] -= 1
            if not self._callers[task]:
                self._left(key, task)

    def _left(self, key: Hashable, task: asyncio.Task[Result]) -> None:
        """The last caller has gone."""
        if task.done():
            del self._callers[task]
        elif not self._keep(key):
            # whoever asks from now on starts anew
            self._tasks.pop(key, None)
            del self._callers[task]
            task.cancel()

    def _finish(self, key: Hashable, task: asyncio.Task[Result]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]
        self._running.discard(task)
        if not self._callers.get(task, 1):
            del self._callers[task]  # kept though all had left
        if not task.cancelled():
            task.exception()  # mark as seen: every waiter may have left

    async def drain(self) -> None:
        """Wait until nothing runs."""
        while self._running:
            await asyncio.wait(set(self._running))
