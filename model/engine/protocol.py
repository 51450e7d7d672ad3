"""What the resolver asks of a generator."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol

from model.cascade import Pixels
from model.engine.queue import Urgency
from model.pipeline import Conditions, Stage

Prepare = Callable[[], Conditions]
"""Reads the conditions of one window, when its turn is near. May raise: the future then holds the error."""


class EngineClosedError(RuntimeError):
    """The engine no longer takes work."""


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

    def close(self) -> None:
        """Finish what is queued, then stop."""
        ...
