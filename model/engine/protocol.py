"""What the resolver asks of a generator."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Protocol

from model.cascade import Pixels
from model.pipeline import Conditions, Stage


class EngineClosedError(RuntimeError):
    """The engine no longer takes work."""


class GenerationEngine(Protocol):
    """Turns the conditions of one window into its pixels, some time later."""

    def submit(self, stage: Stage, conditions: Conditions) -> Future[Pixels]:
        """Queue one window; the future holds size x size x 3 uint8. Raises EngineClosedError after `close`."""
        ...

    def close(self) -> None:
        """Finish what is queued, then stop."""
        ...
