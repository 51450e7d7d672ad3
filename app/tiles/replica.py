"""What runs on a machine of the cluster: a network and its engine, for batches of blocks that servers ask for.

A server sends where a block is, which layer it belongs to, and the small image files of its references; the replica
reads the imagery itself, and sends image files back. What a layer is made of is sent once for each of its revisions.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from cachetools import LRUCache

from tilecascade.app.settings import Settings
from tilecascade.app.tiles.finished import EncodedBlock
from tilecascade.app.tiles.layer import Layer, ModelInfo
from tilecascade.app.tiles.loaded_model import load_model
from tilecascade.app.tiles.orders import Kind, MapOrder, Order, PaintingOrder
from tilecascade.app.tiles.references import References
from tilecascade.model.cascade import Block
from tilecascade.model.conditions import Conditions, Stage
from tilecascade.model.engine import Declined, Generated, Priority

log = logging.getLogger(__name__)

KEPT_LAYERS = 16
"""Layers, each of one revision, that a replica remembers."""


@dataclass(frozen=True)
class Description:
    """What a server has to know of a network that replicas have. name: of its configuration. at_once: blocks that a
    replica generates side by side, in batches of `batch`."""

    info: ModelInfo
    name: str
    device: str
    batch: int
    at_once: int


@dataclass(frozen=True)
class Brief:
    """An order on its way to a replica: without its layer. layer: see `layer_key`."""

    layer: str
    block: Block
    references: References


class LayersUnknown(list[str]):
    """A replica's answer: it wants the layers with these keys first."""


def layer_key(layer: Layer) -> str:
    """Names a layer and what it is made of now. The network is in its version, imagery and reviews in its revision."""
    return f"{layer.folder}/{layer.revision}"


def for_replicas(layer: Layer) -> Layer:
    """A layer as replicas need it: without the base map, whose tiles come with each order."""
    sent = object.__new__(Layer)
    sent.__dict__.update(layer.__dict__ | {"base": None})  # its version and revision stay as they are
    return sent


class BlockReplica:
    """One replica."""

    def __init__(self, settings: str, stem: str, batch: int) -> None:
        """settings: as JSON. stem: of the network's files, which this machine must have, too. batch: see
        `load_model`."""
        logging.basicConfig(level=logging.INFO)
        self._model = load_model(Settings.model_validate_json(settings), Path(stem), batch)
        self._layers: LRUCache[str, Layer] = LRUCache(KEPT_LAYERS)
        self._drawing = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="draw")

    async def describe(self) -> Description:
        """What this is."""
        model, state = self._model, self._model.engine.state()
        return Description(model.info, model.name, model.device, model.batch, model.batch * state.concurrency)

    async def generate(
        self, kind: Kind, stage: Stage, briefs: Sequence[Brief], layers: Mapping[str, Layer]
    ) -> list[EncodedBlock | Generated[Any, Any] | Exception] | LayersUnknown:
        """Generate blocks: their files or, of uncertainty, the values. An error belongs to its own block.

        layers: what earlier answers have wanted, by their keys.
        """
        for key, layer in layers.items():
            if layer.model.runtime != self._model.info.runtime and layer.kind == "map":
                log.warning("this machine is not like the first replica's: its tiles may differ in their last bits")
            self._layers[key] = layer
        unknown = LayersUnknown(sorted({brief.layer for brief in briefs} - self._layers.keys()))
        if unknown:
            return unknown
        order = MapOrder if kind != "imagery" else PaintingOrder
        orders = [order(self._layers[brief.layer], brief.block, brief.references) for brief in briefs]
        made = await asyncio.gather(*(self._make(kind, stage, each) for each in orders), return_exceptions=True)
        return [each if not isinstance(each, BaseException) else _sendable(each) for each in made]

    async def _make(self, kind: Kind, stage: Stage, order: Order) -> EncodedBlock | Generated[Any, Any]:
        engine = self._model.engine
        submit: Any = {"map": engine.submit, "uncertainty": engine.submit_uncertainty, "imagery": engine.submit_imagery}
        queued: Future[Generated[Any, Any] | Declined] = submit[kind](stage, order.read, Priority.INTERACTIVE)
        result = await asyncio.wrap_future(queued)
        assert isinstance(result, Generated)  # `read` never declines
        if kind == "uncertainty":
            return Generated(result.output, _mask_only(result.conditions, order.block))
        encode = partial(self._encode, order, result)
        return await asyncio.get_running_loop().run_in_executor(self._drawing, encode)

    def _encode(self, order: Any, result: Generated[Any, Any]) -> EncodedBlock:
        if isinstance(order, PaintingOrder):
            return order.encode(result.output)
        field = order.field(result.output, result.conditions)
        encoded: EncodedBlock = order.encode(result.output, result.conditions, field)
        return encoded


def _mask_only(conditions: Conditions, block: Block) -> Conditions:
    """Where a block has imagery, without its pixels."""
    inside = conditions.cut(block.footprint())
    nothing = np.broadcast_to(np.zeros(1, np.uint8), inside.imagery.shape)
    return replace(inside, imagery=nothing, reference=None, reference_known=None, from_base_map=None, caption_at=None)


def _sendable(error: BaseException) -> Exception:
    """An error that another process can read."""
    if not isinstance(error, Exception):
        raise error
    log.warning("a block failed: %s", error)
    try:
        return type(error)(str(error))
    except TypeError:  # it is made of more than a text
        return RuntimeError(f"{type(error).__name__}: {error}")
