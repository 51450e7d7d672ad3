"""One run of a piece of work however many want its result."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

Result = TypeVar("Result")


class SingleFlight(Generic[Result]):
    """Coalesces concurrent calls with the same key in one event loop.

    The work runs in a task of its own: a caller that goes away does not stop it for the others. An error reaches the
    callers that waited and is then forgotten, so the next call tries again.
    """

    def __init__(self) -> None:
        self._tasks: dict[Hashable, asyncio.Task[Result]] = {}

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
            task.add_done_callback(lambda done: self._finish(key, done))
        return await asyncio.shield(task)

    def _finish(self, key: Hashable, task: asyncio.Task[Result]) -> None:
        self._tasks.pop(key, None)
        if not task.cancelled():
            task.exception()  # mark as seen: every waiter may have left

    async def drain(self) -> None:
        """Wait until nothing runs."""
        while self._tasks:
            await asyncio.wait(list(self._tasks.values()))
