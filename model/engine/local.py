"""One thread owns the device and draws windows in micro-batches of one fixed shape.

Windows of the same stage that wait together are drawn together, padded to `batch_size` by repeating the first: the
arithmetic of a batch then never depends on how many happened to wait, and neither do the pixels.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from model.cascade import Pixels
from model.engine.protocol import EngineClosedError
from model.pipeline import Conditions, Stage

log = logging.getLogger(__name__)

Draw = Callable[[Stage, Sequence[Conditions]], list[Pixels]]


@dataclass(eq=False)
class _Job:
    stage: Stage
    conditions: Conditions
    future: Future[Pixels]


class LocalEngine:
    """A queue in front of `draw` (usually a CascadePipeline). `batches` and `windows` count what was drawn."""

    def __init__(self, draw: Draw, batch_size: int = 1) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        self._draw = draw
        self._batch_size = batch_size
        self._jobs: deque[_Job] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self.batches = 0
        self.windows = 0
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Windows queued and not yet begun."""
        return len(self._jobs)

    def submit(self, stage: Stage, conditions: Conditions) -> Future[Pixels]:
        """See GenerationEngine."""
        future: Future[Pixels] = Future()
        with self._wake:
            if self._closed:
                raise EngineClosedError("the generator is shutting down")
            self._jobs.append(_Job(stage, conditions, future))
            self._wake.notify()
        return future

    def close(self) -> None:
        """See GenerationEngine."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()

    def _next_batch(self) -> list[_Job]:
        """The oldest job and up to batch_size - 1 others of its stage; empty when closed and drained."""
        with self._wake:
            while not self._jobs and not self._closed:
                self._wake.wait()
            if not self._jobs:
                return []
            stage = self._jobs[0].stage
            batch = [job for job in self._jobs if job.stage == stage][: self._batch_size]
            for job in batch:
                self._jobs.remove(job)
            return batch

    def _run(self) -> None:
        while batch := self._next_batch():
            batch = [job for job in batch if job.future.set_running_or_notify_cancel()]
            if not batch:
                continue
            padding = [batch[0].conditions] * (self._batch_size - len(batch))
            try:
                drawn = self._draw(batch[0].stage, [job.conditions for job in batch] + padding)
            except Exception as error:
                log.exception("drawing %s failed", batch[0].stage)
                for job in batch:
                    job.future.set_exception(error)
                continue
            self.batches += 1
            self.windows += len(batch)
            for job, pixels in zip(batch, drawn, strict=False):
                job.future.set_result(pixels)
