"""A network on the device, and the engine that generates with it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tilecascade.app.errors import SettingsError
from tilecascade.app.settings import Settings
from tilecascade.app.tiles.layer import ModelInfo
from tilecascade.model.cascade import WindowConfig
from tilecascade.model.engine import GenerationEngine, LocalEngine
from tilecascade.model.engine.device import choose_device, choose_dtype, free_memory, runtime_fingerprint
from tilecascade.model.imagery.painter import OctavePainter, load_octaves
from tilecascade.model.pipeline import CascadePipeline
from tilecascade.model.sgdm.config import WEIGHTS_DIR
from tilecascade.model.sgdm.network import load_description, load_network, stored_values, weights_hash

log = logging.getLogger(__name__)

IMAGERY = WEIGHTS_DIR / "imagery"
"""The network that paints imagery. It is loaded when the first block of imagery is wanted."""

MAX_CONCURRENCY = 8
"""Blocks generated side by side on a CPU unless `threads` says otherwise: each takes up to half a GB."""


@dataclass(frozen=True)
class LoadedModel:
    """stem: where its files are. batch: blocks generated at once; it is part of `info.runtime`, because the bytes of a
    tile depend on it. name: of its configuration. remove: ends what goes on elsewhere once nobody here uses it.
    networks: of maps and of imagery, where they are in this process; several engines may have the same, one after the
    other."""

    stem: Path
    info: ModelInfo
    engine: GenerationEngine
    device: str
    batch: int
    name: str
    remove: Callable[[], None] = lambda: None
    networks: tuple[CascadePipeline, OctavePainter] | None = None


def load_model(
    settings: Settings,
    stem: Path,
    batch: int = 0,
    on_too_large: Callable[[], None] = lambda: None,
    present: LoadedModel | None = None,
) -> LoadedModel:
    """Load a network and start an engine. batch: instead of what the settings say. on_too_large: see `LocalEngine`.
    present: if that has the network already, it is not loaded again.

    Raises SettingsError with one sentence, before the weights are read if they do not fit into memory.
    """
    if present is not None and present.networks is not None and stem == present.stem:
        return with_engine(settings, stem, present.networks, batch, on_too_large)
    try:
        device = choose_device(settings.device)
        load_description(stem)
        needed, free = 4 * stored_values(stem), free_memory(device)
        if needed > free:
            raise ValueError(
                f"the weights in {stem} take {needed / 1e9:.1f} GB, and {device} has {free / 1e9:.1f} GB free"
            )
        dtype = choose_dtype(settings.dtype, device)
        pipeline = CascadePipeline(load_network(stem), device, dtype)
        painter = OctavePainter(lambda: load_octaves(IMAGERY), device, dtype)
    except (FileNotFoundError, ValueError, TypeError, KeyError, RuntimeError, MemoryError) as error:
        reason = (str(error).strip().splitlines() or ["they cannot be read"])[0]
        raise SettingsError(f"weights or device: {reason}") from None
    batch = batch or settings.batch_blocks or (8 if device.startswith("cuda") else 1)
    return with_engine(settings, stem, (pipeline, painter), batch, on_too_large)


def with_engine(
    settings: Settings,
    stem: Path,
    networks: tuple[CascadePipeline, OctavePainter],
    batch: int,
    on_too_large: Callable[[], None],
) -> LoadedModel:
    """Networks that are on their device, with an engine of their own."""
    pipeline, painter = networks
    config, device = pipeline.network.config, str(pipeline.device)
    cores = os.cpu_count() or 1
    concurrency = 1 if pipeline.device.type != "cpu" else settings.threads or min(MAX_CONCURRENCY, cores)
    readers = max(2, concurrency // 4) if pipeline.device.type == "cpu" else max(2, cores // 2)
    engine = LocalEngine(pipeline, batch, concurrency, pipeline.uncertainty, on_too_large, readers, painter)
    runtime = runtime_fingerprint(device, pipeline.dtype, batch)
    info = ModelInfo(
        weights_hash(stem),
        runtime,
        config.windows,
        config.calibration,
        pipeline.has_palette,
        config.finish,
        ModelInfo(weights_hash(IMAGERY), runtime, WindowConfig(0, 0, 0, blend=False)),
    )
    log.info("model %s (%s): %d blocks at once on %s, %s", info.hash, config.name, batch, device, pipeline.dtype)
    return LoadedModel(stem, info, engine, device, batch, config.name, networks=networks)
