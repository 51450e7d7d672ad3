"""A network that replicas on other machines have, and the engine that asks them."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tilecascade.app.errors import SettingsError
from tilecascade.app.settings import Settings
from tilecascade.app.tiles.layer import ALGORITHM
from tilecascade.app.tiles.loaded_model import LoadedModel
from tilecascade.app.tiles.orders import Kind, Order
from tilecascade.app.tiles.replica import BlockReplica, Brief, Description, LayersUnknown, for_replicas, layer_key
from tilecascade.cache.lifetime import die_with_parent
from tilecascade.model.conditions import Stage
from tilecascade.model.engine.ray import THIS_MACHINE, ClusterError, RayEngine, ReplicaOptions, Replicas
from tilecascade.model.sgdm.network import weights_hash

START_SECONDS = 300.0
"""How long the first replica may take to load the network."""

REPLICA_SETTINGS = ("device", "dtype", "batch_blocks", "threads")
"""Settings of a server that its replicas have, too."""


def load_remote_model(settings: Settings, stem: Path, batch: int, on_too_large: Callable[[], None]) -> LoadedModel:
    """Have replicas load a network, unless they have it. See `load_model`. May block.

    Raises SettingsError with one sentence.
    """
    most = max(settings.replicas_most, settings.replicas_least)
    options = ReplicaOptions(
        THIS_MACHINE if settings.engine == "ray" else settings.engine.removeprefix("ray://"),
        settings.replicas_least,
        most,
        settings.replica_processors,
        settings.replica_graphics,
    )
    given = settings.model_dump(mode="json", include=set(REPLICA_SETTINGS))
    if not given["threads"]:
        given["threads"] = max(1, int(settings.replica_processors))
    arguments = (
        Settings.model_construct(**given).model_dump_json(include=set(REPLICA_SETTINGS)),
        str(stem.resolve()),
        batch,
    )
    try:
        replicas = Replicas(_name(stem, arguments, options), BlockReplica, arguments, options, _started)
        description: Description = replicas.call("describe", patience=START_SECONDS)
    except (ClusterError, OSError, ValueError) as error:
        raise SettingsError(f"engine {settings.engine}: {error}") from None
    engine = RayEngine(replicas, most, partial(ask, replicas), description.at_once, on_too_large)
    return LoadedModel(
        stem, description.info, engine, description.device, description.batch, description.name, replicas.remove
    )


def _started(command: list[str]) -> subprocess.Popen[bytes]:
    """A program that ends with this process."""
    quiet: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    return subprocess.Popen(command, **quiet, preexec_fn=partial(die_with_parent, os.getpid()))


def ask(replicas: Replicas, kind: Kind, stage: Stage, orders: Sequence[Order]) -> list[Any]:
    """Have a replica generate blocks: coordinates and small files first, and layers if it does not know them."""
    briefs = [Brief(layer_key(order.layer), order.block, order.references) for order in orders]
    layers = {brief.layer: order.layer for brief, order in zip(briefs, orders, strict=True)}
    answer = replicas.call("generate", kind, stage, briefs, {})
    while isinstance(answer, LayersUnknown):  # another replica may answer the second time
        wanted = {key: for_replicas(layer) for key, layer in layers.items()}
        answer = replicas.call("generate", kind, stage, briefs, wanted)
    outputs: list[Any] = answer
    return outputs


def _name(stem: Path, arguments: tuple[object, ...], options: ReplicaOptions) -> str:
    """Of the application: servers whose replicas would be the same share them."""
    program = (version("tilecascade"), ALGORITHM)
    more = repr((program, arguments, options.least, options.most, options.processors, options.graphics))
    return f"{weights_hash(stem)}-{hashlib.sha256(more.encode()).hexdigest()[:8]}"
