"""What the application asks of whatever generates blocks."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from tilecascade.model.conditions import Conditions, Stage
from tilecascade.model.engine.queue import Priority
from tilecascade.model.generated import GeneratedMap, Uncertainty
from tilecascade.model.imagery.painter import Above, PaintedBlock

Output = TypeVar("Output", covariant=True)
Input = TypeVar("Input", covariant=True)


class Declined:
    """Base class of what `prepare` returns when its block need not be generated any more.

    The engine hands it back as the result of the future, unchanged.
    """


Prepare = Callable[[], Any]
"""Reads the conditions of one block when its turn is near: `Conditions`, or `Above` of a block of imagery; or declines.
An error that it raises becomes the future's."""


@dataclass(frozen=True)
class Generated(Generic[Output, Input]):
    """What was generated from which conditions."""

    output: Output
    conditions: Input


MapFuture = Future[Generated[GeneratedMap, Conditions] | Declined]
UncertaintyFuture = Future[Generated[Uncertainty, Conditions] | Declined]
ImageryFuture = Future[Generated[PaintedBlock, Above] | Declined]
AnyFuture = MapFuture | UncertaintyFuture | ImageryFuture


class EngineClosedError(RuntimeError):
    """The engine accepts no more work."""


class OutOfMemoryError(RuntimeError):
    """The device has too little memory for what was to be generated."""


class BatchTooLargeError(OutOfMemoryError):
    """A whole batch does not fit into the device's memory: an engine with a smaller one is needed. Its tiles may have
    other bytes, so it is another version of the layer."""


@dataclass(frozen=True)
class EngineState:
    """What an engine has done and what waits for it.

    waiting: blocks not yet begun, by priority. batch_sizes: batches generated, by the blocks in them. dropped: blocks
    whose last waiter left before they were begun. concurrency: batches in flight at once. generate_seconds: the sum of
    the times that all batches took. prepared, prepare_seconds: blocks whose conditions were read, and how long it took.
    replicas: where generation goes on elsewhere, how many replicas there are. retries: batches that one of them did not
    answer, so that another was asked.
    """

    waiting: dict[str, int]
    batch_sizes: dict[int, int]
    dropped: int
    concurrency: int
    generate_seconds: float
    prepared: int
    prepare_seconds: float
    replicas: int | None = None
    retries: int = 0

    @property
    def seconds_per_block(self) -> float | None:
        """How long a block has taken so far when many are generated; None before the first."""
        blocks = sum(size * count for size, count in self.batch_sizes.items())
        return self.generate_seconds / self.concurrency / blocks if blocks else None


class GenerationEngine(Protocol):
    """Turns the conditions of blocks into pixels, some time later, by several networks on one device. Thread-safe.

    remote: whether other machines read the conditions: `prepare` then gives what they read them from, and the output is
    whatever they make of it.
    """

    remote: bool

    def submit(self, stage: Stage, prepare: Prepare, priority: Priority = Priority.INTERACTIVE) -> MapFuture:
        """Queue one block. Cancelling the future before its turn costs nothing.

        Raises EngineClosedError after `close`, and QueueFullError when too many blocks of that priority wait.
        """
        ...

    def submit_uncertainty(
        self, stage: Stage, prepare: Prepare, priority: Priority = Priority.INTERACTIVE
    ) -> UncertaintyFuture:
        """Queue one block whose uncertainty is wanted instead of its map. Raises like `submit`."""
        ...

    def submit_imagery(
        self, stage: Stage, prepare: Prepare, priority: Priority = Priority.INTERACTIVE
    ) -> ImageryFuture:
        """Queue one block of imagery to be painted. Raises like `submit`."""
        ...

    def promote(self, future: AnyFuture, priority: Priority) -> None:
        """Raise the priority of a queued block: someone with a higher one waits for it, too."""
        ...

    def state(self) -> EngineState:
        """Counts since the start, and what waits now."""
        ...

    def close(self, drop_waiting: bool = False) -> None:
        """Take no more blocks; finish what is queued, or cancel those that the device has not begun with; stop."""
        ...
