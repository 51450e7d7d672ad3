"""One owner of the device: windows wait by urgency, are prepared when their turn is near, and drawn in micro-batches.

Windows of one stage that are ready together are drawn together, padded to `batch_size` by repeating the first: the
arithmetic of a batch then never depends on how many happened to wait, and neither do the pixels. A batch is the most
that a more urgent window has to wait for. Conditions take megabytes, so only a few are read ahead.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch

from model.cascade import Pixels
from model.engine.protocol import EngineClosedError, EngineState, Prepare
from model.engine.queue import FairQueue, Urgency
from model.pipeline import Conditions, Stage

log = logging.getLogger(__name__)

Draw = Callable[[Stage, Sequence[Conditions]], list[Pixels]]

PREPARERS = 2
"""Threads that read conditions ahead of the device, at least; one for every four lanes."""


@dataclass(eq=False)
class _Job:
    stage: Stage
    prepare: Prepare
    urgency: Urgency
    future: Future[Pixels] = field(default_factory=Future)
    conditions: Conditions | None = None


def out_of_memory(error: BaseException) -> bool:
    """Whether drawing failed for want of memory."""
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    return any(words in str(error).lower() for words in ("out of memory", "can't allocate memory"))


class LocalEngine:
    """Queues in front of `draw` (usually a CascadePipeline).

    lanes: batches in flight at once, each in a thread of its own; halved when memory runs out.
    """

    def __init__(self, draw: Draw, batch_size: int = 1, lanes: int = 1) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        self._draw = draw
        self._batch_size = batch_size
        self._ahead = batch_size * (lanes + 1)
        self._waiting: FairQueue[_Job] = FairQueue()
        self._ready: FairQueue[_Job] = FairQueue(dict.fromkeys(Urgency, 1 << 30))
        self._jobs: dict[int, _Job] = {}
        self._preparing = dict.fromkeys(Urgency, 0)
        self._drawing = 0
        self._wake = threading.Condition()
        self._closed = False
        self.lanes = lanes
        self.batch_sizes: Counter[int] = Counter()
        self.dropped = self.prepared = 0
        self.seconds = self.prepare_seconds = 0.0
        self._threads = [
            threading.Thread(target=target, name=name, daemon=True)
            for target, name in [(self._prepare_loop, "prepare")] * max(PREPARERS, lanes // 4)
            + [(self._draw_loop, "engine")] * lanes
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> dict[str, int]:
        """Windows not yet begun, by urgency."""
        with self._wake:
            ready = self._ready.counts()
            return {name: count + ready[name] for name, count in self._waiting.counts().items()}

    def state(self) -> EngineState:
        """See GenerationEngine."""
        waiting = self.waiting
        with self._wake:
            return EngineState(
                waiting,
                dict(self.batch_sizes),
                self.dropped,
                self.lanes,
                self.seconds,
                self.prepared,
                self.prepare_seconds,
            )

    def submit(self, stage: Stage, prepare: Prepare, urgency: Urgency = Urgency.INTERACTIVE) -> Future[Pixels]:
        """See GenerationEngine."""
        job = _Job(stage, prepare, urgency)
        with self._wake:
            if self._closed:
                raise EngineClosedError("the generator is shutting down")
            self._waiting.push(job, urgency)
            self._jobs[id(job.future)] = job
            self._wake.notify_all()
        job.future.add_done_callback(self._finished)
        return job.future

    def promote(self, future: Future[Pixels], urgency: Urgency) -> None:
        """See GenerationEngine."""
        with self._wake:
            job = self._jobs.get(id(future))
            if job is not None and urgency < job.urgency:
                job.urgency = urgency
                self._waiting.promote(job, urgency)
                self._ready.promote(job, urgency)
                self._wake.notify_all()

    def _finished(self, future: Future[Pixels]) -> None:
        """A future is done, or was cancelled while it waited."""
        with self._wake:
            job = self._jobs.pop(id(future), None)
            if job is not None and future.cancelled():
                self._waiting.discard(job)
                self._ready.discard(job)
                self.dropped += 1

    def close(self) -> None:
        """See GenerationEngine."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        for thread in self._threads:
            thread.join()

    def _next_to_prepare(self) -> tuple[_Job, Urgency] | None:
        """The oldest job of the most urgent kind that has not enough read ahead; None when closed and empty."""
        with self._wake:
            while True:
                for urgency in Urgency:
                    ahead = self._ready.count(urgency) + self._preparing[urgency]
                    if ahead < self._ahead and self._waiting.count(urgency):
                        self._preparing[urgency] += 1
                        return self._waiting.take(urgency), urgency
                if self._closed and not len(self._waiting):
                    return None
                self._wake.wait()

    def _prepare_loop(self) -> None:
        while (chosen := self._next_to_prepare()) is not None:
            job, urgency = chosen
            began = time.perf_counter()
            try:
                if not job.future.cancelled():
                    job.conditions = job.prepare()
            except Exception as error:
                if job.future.set_running_or_notify_cancel():
                    job.future.set_exception(error)
            with self._wake:
                self._preparing[urgency] -= 1
                self.prepared += 1
                self.prepare_seconds += time.perf_counter() - began
                if job.conditions is not None and not job.future.cancelled():
                    self._ready.push(job, job.urgency)
                self._wake.notify_all()

    def _next_batch(self) -> tuple[Urgency, float, list[_Job]] | None:
        """The next jobs of one stage, and what their urgency was charged for them; None when closed and drained."""
        with self._wake:
            while not len(self._ready) or self._drawing >= self.lanes:
                idle = not len(self._waiting) and not any(self._preparing.values())
                if self._closed and idle and not len(self._ready):
                    return None
                self._wake.wait()
            self._drawing += 1
            turn, batch = self._ready.pop(lambda job: job.stage, self._batch_size)
            # before it is drawn, or all lanes that become free meanwhile would take the same turn
            expected = self.seconds / max(1, self.batch_sizes.total())
            self._ready.charge(turn, expected)
            self._wake.notify_all()
            return turn, expected, batch

    def _draw_loop(self) -> None:
        while (chosen := self._next_batch()) is not None:
            turn, expected, batch = chosen
            batch = [job for job in batch if job.future.set_running_or_notify_cancel()]
            began = time.perf_counter()
            if batch:
                self._draw_batch(batch)
            with self._wake:
                seconds = time.perf_counter() - began
                self._ready.charge(turn, seconds - expected)
                self._drawing -= 1
                self.seconds += seconds
                self._wake.notify_all()

    def _draw_batch(self, batch: list[_Job]) -> None:
        stage, conditions = batch[0].stage, [job.conditions for job in batch if job.conditions is not None]
        padded = conditions + [conditions[0]] * (self._batch_size - len(batch))
        lanes = self.lanes
        try:
            try:
                drawn = self._draw(stage, padded)
            except Exception as error:
                if not out_of_memory(error):
                    raise
                self._wait_for_memory(lanes)
                drawn = self._draw(stage, padded)
        except Exception as error:
            log.exception("drawing %s failed", stage)
            for job in batch:
                job.future.set_exception(error)
            return
        with self._wake:
            self.batch_sizes[len(batch)] += 1
        for job, pixels in zip(batch, drawn, strict=False):
            job.future.set_result(pixels)

    def _wait_for_memory(self, lanes: int) -> None:
        """Halve the lanes, unless another batch has done so since `lanes` were open, and wait for one to be free."""
        with self._wake:
            if self.lanes == lanes:
                self.lanes = max(1, lanes // 2)
                log.warning("out of memory: %d batch(es) at once from now on; once more", self.lanes)
            self._drawing -= 1
            self._wake.notify_all()
            self._wake.wait_for(lambda: self._drawing < self.lanes)
            self._drawing += 1
        torch.cuda.empty_cache()
