"""Engines own a device and generate blocks on it: one protocol, one local implementation."""

from tilecascade.model.engine.local import LocalEngine
from tilecascade.model.engine.protocol import (
    AnyFuture,
    BatchTooLargeError,
    Declined,
    EngineClosedError,
    EngineState,
    Generated,
    GenerationEngine,
    ImageryFuture,
    MapFuture,
    OutOfMemoryError,
    UncertaintyFuture,
)
from tilecascade.model.engine.queue import Priority, QueueFullError

__all__ = [
    "AnyFuture",
    "BatchTooLargeError",
    "Declined",
    "EngineClosedError",
    "EngineState",
    "Generated",
    "GenerationEngine",
    "ImageryFuture",
    "LocalEngine",
    "MapFuture",
    "OutOfMemoryError",
    "Priority",
    "QueueFullError",
    "UncertaintyFuture",
]
