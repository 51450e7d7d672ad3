"""What a device's memory allows: how many batches at once, and whether a batch fits at all."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

import torch

from tilecascade.model.engine.protocol import BatchTooLargeError, OutOfMemoryError

log = logging.getLogger(__name__)

Result = TypeVar("Result")


def out_of_memory(error: BaseException) -> bool:
    """Whether something failed for lack of memory."""
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    return any(words in str(error).lower() for words in ("out of memory", "can't allocate memory"))


class MemoryLimits:
    """The limits of one engine. running: batches that run now; concurrency: how many may. Both change under `wake`.

    batch_size, on_too_large: see `LocalEngine`.
    """

    def __init__(
        self, wake: threading.Condition, concurrency: int, batch_size: int, on_too_large: Callable[[], None]
    ) -> None:
        self.concurrency, self.running = concurrency, 0
        self._wake, self._batch_size, self._on_too_large = wake, batch_size, on_too_large
        self._too_large = False

    @property
    def full(self) -> bool:
        """Whether no other batch may begin now."""
        return self.running >= self.concurrency

    def allow(self, concurrency: int) -> None:
        """How many batches may be in flight from now on."""
        with self._wake:
            if self.concurrency != concurrency:
                self.concurrency = concurrency
                self._wake.notify_all()

    def run(self, work: Callable[[], Result]) -> Result:
        """Run a batch, which is one of `running`; again with fewer beside it as long as memory runs out.

        Raises BatchTooLargeError when it does not fit by itself either, or another one did not; OutOfMemoryError if it
        is of a single block.
        """
        while not self._too_large:
            concurrency = self.concurrency
            try:
                return work()
            except Exception as error:
                if not out_of_memory(error):
                    raise
                reason = (str(error).strip().splitlines() or ["no memory"])[0]
            alone = concurrency == 1
            self._wait(concurrency)
            if alone:
                try:
                    return work()
                except Exception as error:
                    if not out_of_memory(error):
                        raise
                if self._batch_size == 1:
                    log.error("out of memory with a single block on the device: %s", reason)
                    raise OutOfMemoryError("the device has too little memory for one block; try again later")
                self._give_up_batch(reason)
        raise BatchTooLargeError(f"a batch of {self._batch_size} blocks does not fit into the device's memory")

    def _give_up_batch(self, reason: str) -> None:
        with self._wake:
            first, self._too_large = not self._too_large, True
        if first:
            log.warning("out of memory with %d blocks at once: %s", self._batch_size, reason)
            torch.cuda.empty_cache()
            self._on_too_large()

    def _wait(self, concurrency: int) -> None:
        """Halve the concurrency, unless another batch has done so meanwhile, and wait until this batch may run."""
        with self._wake:
            if self.concurrency == concurrency > 1:
                self.concurrency = concurrency // 2
                log.warning("out of memory: from now on %d batch(es) at once; trying again", self.concurrency)
            self.running -= 1
            self._wake.notify_all()
            self._wake.wait_for(lambda: not self.full)
            self.running += 1
        torch.cuda.empty_cache()
