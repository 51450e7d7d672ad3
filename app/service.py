"""Everything behind the routes: settings go in; layers with their resolvers, the caches and the engine come out."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import torch

from tilecascade.app.errors import NotFoundError, NotReadyError, SettingsError, TilecascadeError
from tilecascade.app.jobs.runner import Jobs
from tilecascade.app.scenes.manager import SceneManager
from tilecascade.app.scenes.scene_set import SceneSet
from tilecascade.app.settings import DataDir, LayerSettings, Settings
from tilecascade.app.sources.mosaic import SceneMosaic
from tilecascade.app.sources.scene import Scene
from tilecascade.app.storage.caches import Caches
from tilecascade.app.storage.ownership import Ownership
from tilecascade.app.storage.publication import Publication
from tilecascade.app.storage.versions import old_versions, remove
from tilecascade.app.tiles.generator import BlockGenerator
from tilecascade.app.tiles.layer import Layer, ModelInfo
from tilecascade.app.tiles.lookahead import BackgroundTiles
from tilecascade.app.tiles.resolver import TileResolver
from tilecascade.app.tiles.reviews import Reviews
from tilecascade.app.tiles.store import TileStore
from tilecascade.model.engine import GenerationEngine, LocalEngine
from tilecascade.model.engine.device import choose_device, choose_dtype, runtime_fingerprint
from tilecascade.model.pipeline import CascadePipeline
from tilecascade.model.sgdm.network import load_network, weights_hash

log = logging.getLogger(__name__)

MAX_CONCURRENCY = 8
"""Blocks generated side by side on a CPU unless `threads` says otherwise: each takes up to half a GB."""


class Service:
    """The state of one running program. Use `Service.running`.

    state: "starting", "ready" or "failed", and then `problem` says why. resolvers: by layer, the default layer first.
    """

    def __init__(self, settings: Settings, layers: list[LayerSettings], workers_dir: Path | None = None) -> None:
        self.settings = settings
        self.data_dir = DataDir(settings.data_dir)
        self.state = "starting"
        self.problem: str | None = None
        self.resolvers: dict[str, TileResolver] = {}
        self.engine: GenerationEngine | None = None
        self.device = "cpu"
        self._layer_settings = layers
        self._executor = ThreadPoolExecutor(max(4, os.cpu_count() or 1), thread_name_prefix="worker")
        try:
            self.data_dir.tiles.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(f"data directory {settings.data_dir} cannot be used: {error.strerror}") from None
        self._ownership = Ownership(settings.data_dir)
        for left in self.data_dir.scenes.glob(".incoming-*"):  # of uploads that a killed server was taking in
            with suppress(OSError):
                left.unlink()
        self.caches = Caches(settings, self.data_dir)
        self._publication = Publication(self.data_dir.tiles, workers_dir)
        self._scenes = SceneManager(self.data_dir, self._publication)
        self.background = BackgroundTiles()
        self.jobs = Jobs(self.data_dir.jobs, self.resolver)

    @classmethod
    @asynccontextmanager
    async def running(
        cls,
        settings: Settings,
        layers: list[LayerSettings],
        workers_dir: Path | None = None,
        on_failure: Callable[[], None] | None = None,
    ) -> AsyncIterator[Service]:
        """A service from start to end; what the device has begun is finished at the end.

        workers_dir: where the worker processes in front of this one look for LAYER_INFO_FILE. on_failure: if given,
        this returns at once and the service starts in the background; should that fail, `problem` says why and
        on_failure is called. Otherwise the service is ready when this returns. Raises SettingsError or SceneError.
        """
        service = cls(settings, layers, workers_dir)
        starting = asyncio.create_task(service._start())
        try:
            if on_failure is None:
                await starting
            else:
                starting.add_done_callback(lambda task: service._record_failed_start(task, on_failure))
            yield service
        finally:
            starting.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await starting
            await service._close()

    async def _start(self) -> None:
        await asyncio.to_thread(self._load)
        self._scenes.go_on(lambda: self.layers)
        self.jobs.start()
        self.state = "ready"
        for resolver in self.resolvers.values():
            self.background.warm(resolver, self.settings.warm_tiles)

    def _record_failed_start(self, task: asyncio.Task[None], on_failure: Callable[[], None]) -> None:
        """Record why a start in the background has failed, if it has."""
        if task.cancelled() or (error := task.exception()) is None:
            return
        self.state = "failed"
        if isinstance(error, TilecascadeError):
            self.problem = str(error)
            log.error("%s", error)
        else:
            self.problem = "the server could not start; its log says why"
            log.error("the server could not start", exc_info=error)
        on_failure()

    def _load(self) -> None:
        """Load the model, open the scenes, check the tile directory. Raises SettingsError or SceneError."""
        model = self._load_model()
        layers = [self._scenes.build(wanted, model) for wanted in self._layer_settings]
        assert self.engine is not None
        for layer in layers:
            store = TileStore(layer, self.caches, self._executor)
            self._scenes.catch_up(store)
            self.resolvers[layer.name] = TileResolver(store, BlockGenerator(store, self.caches.leases, self.engine))
            log.info(
                "layer %s: version %s, zooms %d to %d", layer.name, layer.version, layer.ladder.root, layer.max_zoom
            )
        self._publication.inform_workers(layers)
        threading.Thread(target=self._clean_disk, name="clean", daemon=True).start()

    def _load_model(self) -> ModelInfo:
        settings = self.settings
        try:
            self.device = device = choose_device(settings.device)
            network = load_network(settings.weights)
        except (FileNotFoundError, ValueError, RuntimeError) as error:
            raise SettingsError(f"weights or device: {str(error).splitlines()[0]}") from None
        batch = settings.batch_blocks or (8 if device.startswith("cuda") else 1)
        dtype = choose_dtype(settings.dtype, device)
        concurrency = settings.threads or min(MAX_CONCURRENCY, os.cpu_count() or 1)
        if torch.device(device).type != "cpu":
            concurrency = 1
        pipeline = CascadePipeline(network, device, dtype)
        self.engine = LocalEngine(pipeline, batch, concurrency, pipeline.uncertainty)
        fingerprint = runtime_fingerprint(device, dtype, batch)
        return ModelInfo(
            weights_hash(settings.weights),
            fingerprint,
            network.config.windows,
            network.config.calibration,
            pipeline.has_palette,
            network.config.finish,
        )

    def _clean_disk(self) -> None:
        kept, removed = self.caches.disk.scan()
        log.info("tile directory: %d tiles, %d broken or left-over files removed", kept, removed)
        for old in old_versions(self.data_dir.tiles):
            if old.age >= self.settings.old_versions_days:
                remove(old, self.data_dir)
                log.info("removed an old version: %s", old)

    @property
    def layers(self) -> list[Layer]:
        """All layers as they are served now, the default one first."""
        return [resolver.layer for resolver in self.resolvers.values()]

    def resolver(self, layer: str | None) -> TileResolver:
        """The named layer's resolver, or the default layer's. Raises NotReadyError or NotFoundError."""
        if not self.resolvers:
            raise NotReadyError("the server is starting: the model is being loaded")
        name = layer or next(iter(self.resolvers))
        if name not in self.resolvers:
            raise NotFoundError(f"there is no layer {name[:40]!r}; there are: {', '.join(self.resolvers)}")
        return self.resolvers[name]

    async def change_scenes(self, layer: str | None, change: Callable[[SceneSet], SceneSet]) -> Layer:
        """Change the scenes of a layer. See `SceneManager.change`."""
        resolver = self.resolver(layer)
        changed = await self._scenes.change(resolver.store, lambda: self.layers, change)
        self.background.warm(resolver, self.settings.warm_tiles)
        return changed

    async def review(self, layer: str | None, change: Callable[[Reviews], Reviews]) -> Layer:
        """Change the reviews of a layer. See `SceneManager.review`."""
        return await self._scenes.review(self.resolver(layer).store, lambda: self.layers, change)

    def forget_scene(self, scene: Scene) -> None:
        """Delete a scene's file unless a layer still has it. May block."""
        self._scenes.forget(scene)

    def health(self) -> dict[str, object]:
        """State for `/health`: starting, ready, degraded (a cache or a scene's file cannot be used, or is slow) or
        failed. Asks Redis and the disk, so it may block."""
        store = self.caches.store
        store.check()
        unavailable, slow = store.unavailable, dict(store.slow)
        problems = [self.problem] if self.problem else []
        problems += [
            f"the {name} cache is slow: it has not answered for {seconds:.1f} s; finished tiles come from memory"
            for name, seconds in slow.items()
        ]
        for layer in self.layers:
            if isinstance(layer.imagery, SceneMosaic):
                problems += layer.imagery.problems()
        answer: dict[str, object] = {
            "state": "degraded" if self.state == "ready" and (unavailable or problems) else self.state,
            "caches": {
                tier.name: "unavailable" if tier.name in unavailable else "slow" if tier.name in slow else "ok"
                for tier in store.tiers
            },
            "layers": sorted(self.resolvers),
        }
        if problems:
            answer["problem"] = "; ".join(dict.fromkeys(problems))
        return answer

    async def _close(self) -> None:
        self._scenes.close()
        self.background.close()
        await self.jobs.close()
        if self.engine is not None:
            await asyncio.to_thread(self.engine.close, True)
        for resolver in self.resolvers.values():
            await resolver.drain()
        await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        self._executor.shutdown(wait=True)
        self.caches.close()
        self._ownership.release()
