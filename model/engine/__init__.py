"""Who owns the device: one protocol, one local owner."""

from model.engine.local import LocalEngine
from model.engine.protocol import EngineClosedError, EngineState, GenerationEngine
from model.engine.queue import QueueFullError, Urgency

__all__ = ["EngineClosedError", "EngineState", "GenerationEngine", "LocalEngine", "QueueFullError", "Urgency"]
