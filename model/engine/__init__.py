"""Engines own a device and generate blocks on it: one protocol, one local implementation."""

from tilecascade.model.engine.local import LocalEngine
from tilecascade.model.engine.protocol import (
    BatchTooLargeError,
    Declined,
    EngineClosedError,
    EngineState,
    Generated,
    GenerationEngine,
    OutOfMemoryError,
)
from tilecascade.model.engine.queue import Priority, QueueFullError

__all__ = [
    "BatchTooLargeError",
    "Declined",
    "EngineClosedError",
    "EngineState",
    "Generated",
    "GenerationEngine",
    "LocalEngine",
    "OutOfMemoryError",
    "Priority",
    "QueueFullError",
]
