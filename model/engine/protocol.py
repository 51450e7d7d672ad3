"""What the resolver asks of a generator."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from model.cascade import Pixels
from model.engine.queue import Urgency
from model.pipeline import Conditions, Stage

Prepare = Callable[[], Conditions]
"""Reads the conditions of one window, when its turn is near. May raise: the future then holds the error."""


class EngineClosedError(RuntimeError):
    """The engine no longer takes work."""


@dataclass(frozen=True)
class EngineState:
    """What an engine has done and has before it.

    waiting: windows not yet begun, by urgency. batch_sizes: batches drawn, by the windows in them. dropped: windows
    that nobody waited for any more. lanes: batches in flight at once. draw_seconds: the drawing times of all batches
    together. prepared, prepare_seconds: windows whose conditions were read, and how long that took.
    """

    waiting: dict[str, int]
    batch_sizes: dict[int, int]
    dropped: int
    lanes: int
    draw_seconds: float
    prepared: int
    prepare_seconds: float


class GenerationEngine(Protocol):
    """Turns the conditions of one window into its pixels, some time later."""

    def submit(self, stage: Stage, prepare: Prepare, urgency: Urgency = Urgency.INTERACTIVE) -> Future[Pixels]:
        """Queue one window; the future holds size x size x 3 uint8. Cancelling it before its turn costs nothing.

        Raises EngineClosedError after `close` and QueueFullError when too much of that urgency waits.
        """
        ...

    def promote(self, future: Future[Pixels], urgency: Urgency) -> None:
        """Someone more urgent joined who waits for this future."""
        ...

    def state(self) -> EngineState:
        """Counts since the start, and the queue now."""
        ...

    def close(self) -> None:
        """Finish what is queued, then stop."""
        ...
