"""Who is drawn next: jobs by urgency, each urgency with its share of the device, so that nothing starves.

Stride scheduling (Waldspurger 1995): every urgency has a clock that runs at device seconds over weight; the one whose
clock is furthest behind is served. One that had nothing to do starts at the others' time: it cannot claim the past.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from enum import IntEnum
from typing import Generic, TypeVar

Job = TypeVar("Job", bound=Hashable)


class Urgency(IntEnum):
    """Who waits for a tile: someone looking at it; someone who will, next to what they look at; nobody yet."""

    INTERACTIVE = 0
    NEIGHBOUR = 1
    PREFETCH = 2


WEIGHT = {Urgency.INTERACTIVE: 16.0, Urgency.NEIGHBOUR: 3.0, Urgency.PREFETCH: 1.0}
"""Shares of the device when all have work: the least gets a twentieth."""

LIMIT = {Urgency.INTERACTIVE: 512, Urgency.NEIGHBOUR: 128, Urgency.PREFETCH: 512}
"""Jobs that may wait."""


class QueueFullError(RuntimeError):
    """No more work is taken for now."""


class FairQueue(Generic[Job]):
    """Waiting jobs. Not thread-safe: its owner locks."""

    def __init__(self, limits: dict[Urgency, int] = LIMIT) -> None:
        self._limits = limits
        self._waiting: dict[Urgency, OrderedDict[Job, None]] = {urgency: OrderedDict() for urgency in Urgency}
        self._clock = dict.fromkeys(Urgency, 0.0)
        self._now = 0.0

    def __len__(self) -> int:
        return sum(len(jobs) for jobs in self._waiting.values())

    def counts(self) -> dict[str, int]:
        """Waiting jobs by urgency."""
        return {urgency.name.lower(): len(jobs) for urgency, jobs in self._waiting.items()}

    def count(self, urgency: Urgency) -> int:
        """Waiting jobs of one urgency."""
        return len(self._waiting[urgency])

    def take(self, urgency: Urgency) -> Job:
        """The oldest job of one urgency, whosever turn it is. Raises KeyError if there is none."""
        return self._waiting[urgency].popitem(last=False)[0]

    def push(self, job: Job, urgency: Urgency) -> None:
        """Add a job at the end of its urgency. Raises QueueFullError."""
        jobs = self._waiting[urgency]
        if len(jobs) >= self._limits[urgency]:
            raise QueueFullError(f"{len(jobs)} tiles are waiting to be drawn already; try again in a moment")
        self._wake(urgency)
        jobs[job] = None

    def _wake(self, urgency: Urgency) -> None:
        if not self._waiting[urgency]:
            self._clock[urgency] = max(self._clock[urgency], self._now)

    def urgency_of(self, job: Job) -> Urgency | None:
        """Where a job waits, if it does."""
        return next((urgency for urgency, jobs in self._waiting.items() if job in jobs), None)

    def promote(self, job: Job, urgency: Urgency) -> None:
        """Move a waiting job to a higher urgency; whatever its limit, as the job is taken already."""
        now = self.urgency_of(job)
        if now is not None and urgency < now:
            del self._waiting[now][job]
            self._wake(urgency)
            self._waiting[urgency][job] = None

    def discard(self, job: Job) -> None:
        """Forget a job."""
        for jobs in self._waiting.values():
            jobs.pop(job, None)

    def pop(self, alike: Callable[[Job], Hashable], most: int) -> tuple[Urgency, list[Job]]:
        """The oldest job of the urgency whose turn it is, and up to `most` - 1 others alike, more urgent ones first.

        Raises IndexError if nothing waits.
        """
        ready = [urgency for urgency in Urgency if self._waiting[urgency]]
        if not ready:
            raise IndexError("nothing waits")
        turn = min(ready, key=lambda urgency: (self._clock[urgency], urgency))
        self._now = self._clock[turn]
        first = next(iter(self._waiting[turn]))
        kind, chosen = alike(first), [first]
        for urgency in Urgency:
            if len(chosen) == most:
                break
            for job in self._waiting[urgency]:
                if job != first and alike(job) == kind:
                    chosen.append(job)
                    if len(chosen) == most:
                        break
        for job in chosen:
            self.discard(job)
        return turn, chosen

    def charge(self, urgency: Urgency, seconds: float) -> None:
        """Say how long the device was busy for the turn of an urgency."""
        self._clock[urgency] += seconds / WEIGHT[urgency]
