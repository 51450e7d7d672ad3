"""Several processes that train together, one a device: `torchrun --nproc_per_node 4 -m tilecascade.app.cli train FILE`.

Each takes samples of its own and all take the mean of their gradients, so that they have the same weights after each
step. A single process needs nothing of this.
"""

from __future__ import annotations

import os
from typing import Any

from torch import nn


class Processes:
    """rank: the number of this process; count: how many there are. The first one writes."""

    def __init__(self, device: str) -> None:
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        self._accelerator: Any = None
        self.rank = 0
        if self.count > 1:
            from accelerate import Accelerator

            self._accelerator = Accelerator(cpu=device == "cpu")
            self.rank = int(self._accelerator.process_index)

    @property
    def first(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def average_gradients(self, module: nn.Module) -> None:
        """Take the mean of all processes' gradients."""
        if self._accelerator is not None:
            for parameter in module.parameters():
                if parameter.grad is not None:
                    parameter.grad = self._accelerator.reduce(parameter.grad, "mean")

    def wait(self) -> None:
        """Until all have come so far."""
        if self._accelerator is not None:
            self._accelerator.wait_for_everyone()
