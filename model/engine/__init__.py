"""Who owns the device: one protocol, one local owner."""

from model.engine.local import LocalEngine
from model.engine.protocol import EngineClosedError, GenerationEngine

__all__ = ["EngineClosedError", "GenerationEngine", "LocalEngine"]
