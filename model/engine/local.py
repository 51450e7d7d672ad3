"""The one owner of the device: blocks wait by priority, are prepared when their turn is near, and run in micro-batches.

Blocks of one stage that are ready together are generated together, padded to `batch_size` by repeating the first. The
arithmetic of a batch therefore never depends on how many blocks happened to wait, and neither do the pixels. One batch
is the longest that a block of higher priority has to wait. Conditions take megabytes, so only a few are read ahead.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tilecascade.model.conditions import Conditions, Stage
from tilecascade.model.engine.memory import MemoryLimits
from tilecascade.model.engine.protocol import (
    AnyFuture,
    Declined,
    EngineClosedError,
    EngineState,
    Generated,
    ImageryFuture,
    MapFuture,
    OutOfMemoryError,
    Prepare,
    UncertaintyFuture,
)
from tilecascade.model.engine.queue import FairQueue, Priority
from tilecascade.model.generated import GeneratedMap, Uncertainty
from tilecascade.model.imagery.painter import Above, PaintedBlock

log = logging.getLogger(__name__)

Generate = Callable[[Stage, Sequence[Conditions]], list[GeneratedMap]]
MeasureUncertainty = Callable[[Stage, Sequence[Conditions]], list[Uncertainty]]
Paint = Callable[[Stage, Sequence[Above]], list[PaintedBlock]]


@dataclass(eq=False)
class _Job:
    """One block on its way. run: what makes the outputs of a batch of such blocks."""

    run: Callable[[Stage, Sequence[Any]], list[Any]]
    stage: Stage
    prepare: Prepare
    priority: Priority
    future: Future[Any] = field(default_factory=Future)
    conditions: Conditions | Above | None = None


def _no_uncertainty(stage: Stage, batch: Sequence[Conditions]) -> list[Uncertainty]:
    raise ValueError("this engine does not measure uncertainty")


def _no_imagery(stage: Stage, batch: Sequence[Above]) -> list[PaintedBlock]:
    raise ValueError("this engine does not paint imagery")


def _hand_out(batch: Sequence[_Job], conditions: Sequence[Any], outputs: Sequence[Any]) -> None:
    """Give each block of a batch its output; one that is an exception is the end of its own block only."""
    for job, item, output in zip(batch, conditions, outputs, strict=False):
        if isinstance(output, Exception):
            job.future.set_exception(output)
        else:
            job.future.set_result(output if isinstance(output, Generated) else Generated(output, item))


class LocalEngine:
    """A GenerationEngine in this process. See `GenerationEngine` for its methods.

    generate: usually a `CascadePipeline`; uncertainty: its `uncertainty`; paint: an `OctavePainter`. concurrency:
    batches in flight at once, each in a thread of its own; halved when memory runs out. readers: threads that read
    conditions. on_too_large: called once, in a thread of the engine, when a batch by itself does not fit and could be
    smaller: then nothing is generated any more, and whatever is asked for raises BatchTooLargeError. A batch of one
    block that does not fit raises OutOfMemoryError each time.
    """

    remote = False

    def __init__(
        self,
        generate: Generate,
        batch_size: int = 1,
        concurrency: int = 1,
        uncertainty: MeasureUncertainty = _no_uncertainty,
        on_too_large: Callable[[], None] = lambda: None,
        readers: int = 2,
        paint: Paint = _no_imagery,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        self._generate, self._uncertainty, self._paint = generate, uncertainty, paint
        self._batch_size = batch_size
        self._waiting: FairQueue[_Job] = FairQueue()
        self._ready: FairQueue[_Job] = FairQueue(dict.fromkeys(Priority, 1 << 30))
        self._jobs: dict[int, _Job] = {}
        self._preparing = dict.fromkeys(Priority, 0)
        self._wake = threading.Condition()
        self._limits = MemoryLimits(self._wake, concurrency, batch_size, on_too_large)
        self._closed = False
        self.batch_sizes: Counter[int] = Counter()
        self.dropped, self.prepared, self.seconds, self.prepare_seconds = 0, 0, 0.0, 0.0
        self._threads = [
            threading.Thread(target=target, name=name, daemon=True)
            for target, name in [(self._prepare_loop, "prepare")] * readers
            + [(self._generate_loop, "engine")] * concurrency
        ]
        for thread in self._threads:
            thread.start()

    def state(self) -> EngineState:
        """See GenerationEngine."""
        with self._wake:
            ready = self._ready.counts()
            waiting = {name: number + ready[name] for name, number in self._waiting.counts().items()}
            times = self.seconds, self.prepared, self.prepare_seconds
            return EngineState(waiting, dict(self.batch_sizes), self.dropped, self.concurrency, *times)

    @property
    def concurrency(self) -> int:
        """Batches that may be in flight at once."""
        return self._limits.concurrency

    def submit(self, stage: Stage, prepare: Prepare, priority: Priority = Priority.INTERACTIVE) -> MapFuture:
        """See GenerationEngine."""
        return self._submit(_Job(self._generate, stage, prepare, priority))

    def submit_uncertainty(
        self, stage: Stage, prepare: Prepare, priority: Priority = Priority.INTERACTIVE
    ) -> UncertaintyFuture:
        """See GenerationEngine."""
        return self._submit(_Job(self._uncertainty, stage, prepare, priority))

    def submit_imagery(
        self, stage: Stage, prepare: Prepare, priority: Priority = Priority.INTERACTIVE
    ) -> ImageryFuture:
        """See GenerationEngine."""
        return self._submit(_Job(self._paint, stage, prepare, priority))

    def _submit(self, job: _Job) -> Future[Any]:
        with self._wake:
            if self._closed:
                raise EngineClosedError("the server is shutting down")
            self._waiting.push(job, job.priority)
            self._jobs[id(job.future)] = job
            self._wake.notify_all()
        job.future.add_done_callback(self._finished)
        return job.future

    def promote(self, future: AnyFuture, priority: Priority) -> None:
        """See GenerationEngine."""
        with self._wake:
            job = self._jobs.get(id(future))
            if job is not None and priority < job.priority:
                job.priority = priority
                self._waiting.promote(job, priority)
                self._ready.promote(job, priority)
                self._wake.notify_all()

    def _finished(self, future: Future[Any]) -> None:
        """A future is done, or it was cancelled while it waited."""
        with self._wake:
            job = self._jobs.pop(id(future), None)
            if job is not None and future.cancelled():
                for queue in (self._waiting, self._ready):
                    queue.take_out(job)
                self.dropped += 1

    def close(self, drop_waiting: bool = False) -> None:
        """See GenerationEngine."""
        with self._wake:
            self._closed = True
            dropped = []
            if drop_waiting:
                # those that are neither being read nor with the device
                dropped = [
                    job for job in self._jobs.values() if self._waiting.take_out(job) or self._ready.take_out(job)
                ]
            self._wake.notify_all()
        for job in dropped:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(EngineClosedError("the server is shutting down"))
        for thread in self._threads:
            thread.join()

    def _next_to_prepare(self) -> tuple[_Job, Priority] | None:
        """The oldest job of the highest priority that has too little read ahead; None when closed and empty."""
        with self._wake:
            while True:
                for priority in Priority:
                    ahead = self._ready.count(priority) + self._preparing[priority]
                    if ahead < self._batch_size * (self.concurrency + 1) and self._waiting.count(priority):
                        self._preparing[priority] += 1
                        return self._waiting.take(priority), priority
                if self._closed and not len(self._waiting):
                    return None
                self._wake.wait()

    def _prepare_loop(self) -> None:
        while (chosen := self._next_to_prepare()) is not None:
            job, priority = chosen
            began = time.perf_counter()
            try:
                if not job.future.cancelled():
                    prepared = job.prepare()
                    if isinstance(prepared, Declined):
                        if job.future.set_running_or_notify_cancel():
                            job.future.set_result(prepared)
                    else:
                        job.conditions = prepared
            except Exception as error:
                if job.future.set_running_or_notify_cancel():
                    job.future.set_exception(error)
            with self._wake:
                self._preparing[priority] -= 1
                self.prepared += 1
                self.prepare_seconds += time.perf_counter() - began
                if job.conditions is not None and not job.future.cancelled():
                    self._ready.push(job, job.priority)
                self._wake.notify_all()

    def _next_batch(self) -> tuple[Priority, float, list[_Job]] | None:
        """The next jobs of one stage, and what their priority was charged for them; None when closed and drained."""
        with self._wake:
            while not len(self._ready) or self._limits.full:
                idle = not len(self._waiting) and not any(self._preparing.values())
                if self._closed and idle and not len(self._ready):
                    return None
                self._wake.wait()
            self._limits.running += 1
            turn, batch = self._ready.pop(lambda job: (job.run, job.stage), self._batch_size)
            # charged before it runs, or all threads that become free meanwhile would serve the same priority
            expected = self.seconds / max(1, self.batch_sizes.total())
            self._ready.charge(turn, expected)
            self._wake.notify_all()
            return turn, expected, batch

    def _generate_loop(self) -> None:
        while (chosen := self._next_batch()) is not None:
            turn, expected, batch = chosen
            batch = [job for job in batch if job.future.set_running_or_notify_cancel()]
            began = time.perf_counter()
            if batch:
                self._run_batch(batch)
            with self._wake:
                seconds = time.perf_counter() - began
                self._ready.charge(turn, seconds - expected)
                self._limits.running -= 1
                self.seconds += seconds
                self._wake.notify_all()

    def _run_batch(self, batch: list[_Job]) -> None:
        run, stage = batch[0].run, batch[0].stage
        conditions: list[Any] = [job.conditions for job in batch if job.conditions is not None]
        try:
            outputs = self._limits.run(partial(run, stage, self._padded(conditions)))
        except Exception as error:
            if not isinstance(error, OutOfMemoryError):
                log.exception("generating %s failed", stage)
            return _hand_out(batch, conditions, [error] * len(batch))
        with self._wake:
            self.batch_sizes[len(batch)] += 1
        _hand_out(batch, conditions, outputs)

    def _padded(self, conditions: list[Any]) -> list[Any]:
        """A whole batch, because its shape decides how sums are rounded."""
        return conditions + [conditions[0]] * (self._batch_size - len(conditions))
