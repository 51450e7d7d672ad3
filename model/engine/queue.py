"""Which job comes next: jobs wait by priority, and each priority has its share of the device, so that none starves.

Stride scheduling (Waldspurger 1995): every priority has a clock that runs at device seconds over weight; the one whose
clock is furthest behind is served. One that had nothing to do starts at the others' time: it cannot claim the past.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from enum import IntEnum
from typing import Generic, TypeVar

Job = TypeVar("Job", bound=Hashable)


class Priority(IntEnum):
    """How soon a tile is needed: a viewer waits for it, a viewer is likely to look there next, or it is a prefetch."""

    INTERACTIVE = 0
    NEIGHBOUR = 1
    PREFETCH = 2


WEIGHT = {Priority.INTERACTIVE: 16.0, Priority.NEIGHBOUR: 3.0, Priority.PREFETCH: 1.0}
"""Shares of the device when all have work: the least gets a twentieth."""

LIMIT = {Priority.INTERACTIVE: 512, Priority.NEIGHBOUR: 128, Priority.PREFETCH: 512}
"""Jobs that may wait."""


class QueueFullError(RuntimeError):
    """Too much work of this priority waits already."""


class FairQueue(Generic[Job]):
    """Waiting jobs. Not thread-safe: its owner locks."""

    def __init__(self, limits: dict[Priority, int] = LIMIT) -> None:
        self._limits = limits
        self._waiting: dict[Priority, OrderedDict[Job, None]] = {priority: OrderedDict() for priority in Priority}
        self._clock = dict.fromkeys(Priority, 0.0)
        self._now = 0.0

    def __len__(self) -> int:
        return sum(len(jobs) for jobs in self._waiting.values())

    def counts(self) -> dict[str, int]:
        """Waiting jobs by priority."""
        return {priority.name.lower(): len(jobs) for priority, jobs in self._waiting.items()}

    def count(self, priority: Priority) -> int:
        """Waiting jobs of one priority."""
        return len(self._waiting[priority])

    def take(self, priority: Priority) -> Job:
        """The oldest job of one priority, whatever the shares. Raises KeyError if there is none."""
        return self._waiting[priority].popitem(last=False)[0]

    def push(self, job: Job, priority: Priority) -> None:
        """Add a job at the end of its priority. Raises QueueFullError."""
        jobs = self._waiting[priority]
        if len(jobs) >= self._limits[priority]:
            raise QueueFullError(f"{len(jobs)} tiles are waiting already; try again in a moment")
        self._wake(priority)
        jobs[job] = None

    def _wake(self, priority: Priority) -> None:
        if not self._waiting[priority]:
            self._clock[priority] = max(self._clock[priority], self._now)

    def priority_of(self, job: Job) -> Priority | None:
        """Where a job waits, if it does."""
        return next((priority for priority, jobs in self._waiting.items() if job in jobs), None)

    def promote(self, job: Job, priority: Priority) -> None:
        """Move a waiting job to a higher priority; whatever its limit, as the job is taken already."""
        now = self.priority_of(job)
        if now is not None and priority < now:
            del self._waiting[now][job]
            self._wake(priority)
            self._waiting[priority][job] = None

    def take_out(self, job: Job) -> bool:
        """Forget a job; whether it was there."""
        return any([jobs.pop(job, self) is not self for jobs in self._waiting.values()])

    def pop(self, alike: Callable[[Job], Hashable], most: int) -> tuple[Priority, list[Job]]:
        """The oldest job of the priority whose turn it is, and up to `most` - 1 others alike, those of higher priority
        first.

        Raises IndexError if nothing waits.
        """
        ready = [priority for priority in Priority if self._waiting[priority]]
        if not ready:
            raise IndexError("nothing waits")
        turn = min(ready, key=lambda priority: (self._clock[priority], priority))
        self._now = self._clock[turn]
        first = next(iter(self._waiting[turn]))
        kind, chosen = alike(first), [first]
        for priority in Priority:
            if len(chosen) == most:
                break
            for job in self._waiting[priority]:
                if job != first and alike(job) == kind:
                    chosen.append(job)
                    if len(chosen) == most:
                        break
        for job in chosen:
            self.take_out(job)
        return turn, chosen

    def charge(self, priority: Priority, seconds: float) -> None:
        """Charge a priority for the seconds that the device worked on its turn."""
        self._clock[priority] += seconds / WEIGHT[priority]
