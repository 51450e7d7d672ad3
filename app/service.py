"""Everything behind the routes: settings go in; layers with their resolvers, the caches and the engine come out."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tilecascade.app.errors import NotFoundError, NotReadyError, SettingsError, TilecascadeError
from tilecascade.app.jobs.runner import Jobs
from tilecascade.app.scenes.manager import SceneManager
from tilecascade.app.scenes.scene_set import SceneSet
from tilecascade.app.settings import DataDir, LayerSettings, Settings
from tilecascade.app.sources.scene import Scene
from tilecascade.app.storage.caches import Caches
from tilecascade.app.storage.models import ModelShelf
from tilecascade.app.storage.ownership import Ownership
from tilecascade.app.storage.publication import Publication
from tilecascade.app.storage.versions import old_versions, remove
from tilecascade.app.tiles.generator import BlockGenerator
from tilecascade.app.tiles.layer import Layer, layer_with_model
from tilecascade.app.tiles.loaded_model import LoadedModel, load_model
from tilecascade.app.tiles.lookahead import BackgroundTiles
from tilecascade.app.tiles.resolver import TileResolver
from tilecascade.app.tiles.reviews import Reviews
from tilecascade.app.tiles.store import TileStore
from tilecascade.model.engine import GenerationEngine

log = logging.getLogger(__name__)

RETIRE_SECONDS = 2.0
"""How long a model that has been replaced may still be asked."""


def clean_disk(caches: Caches, data_dir: DataDir, settings: Settings) -> None:
    """Look over the tile directory, and remove versions whose time is over."""
    kept, removed = caches.disk.scan()
    log.info("tile directory: %d tiles, %d broken or left-over files removed", kept, removed)
    for old in old_versions(data_dir.tiles):
        if old.age >= settings.old_versions_days:
            remove(old, data_dir)
            log.info("removed an old version: %s", old)


def record_failed_start(service: Service, task: asyncio.Task[None], on_failure: Callable[[], None]) -> None:
    """Record why a start in the background has failed, if it has."""
    if task.cancelled() or (error := task.exception()) is None:
        return
    service.state = "failed"
    if isinstance(error, TilecascadeError):
        service.problem = str(error)
        log.error("%s", error)
    else:
        service.problem = "the server could not start; its log says why"
        log.error("the server could not start", exc_info=error)
    on_failure()


async def retire(model: LoadedModel, resolvers: list[TileResolver]) -> None:
    """Stop a model that nobody uses any more, when what it has begun is finished."""
    try:
        await asyncio.sleep(RETIRE_SECONDS)  # requests that have just come may still ask it
        for resolver in resolvers:
            await resolver.drain()
    finally:
        await asyncio.shield(asyncio.to_thread(model.engine.close, True))


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
        self.model: LoadedModel | None = None
        self.shelf = ModelShelf(settings, self.data_dir)
        self._layer_settings = layers
        self._changing = asyncio.Lock()
        self._tasks: set[asyncio.Future[None]] = set()
        self._loop = asyncio.get_running_loop()
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
                starting.add_done_callback(lambda task: record_failed_start(service, task, on_failure))
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

    def _load(self) -> None:
        """Load the model, open the scenes, check the tile directory. Raises SettingsError or SceneError."""
        choice = self.shelf.choice()
        self.model = model = self._load_model(Path(choice.stem), choice.batch)
        layers = [self._scenes.build(wanted, model.info) for wanted in self._layer_settings]
        for layer in layers:
            self.resolvers[layer.name] = self._resolver_of(layer, model)
        self._publication.inform_workers(layers)
        threading.Thread(target=clean_disk, args=(self.caches, self.data_dir, self.settings), daemon=True).start()

    def _load_model(self, stem: Path, batch: int) -> LoadedModel:
        def too_large() -> None:
            self._loop.call_soon_threadsafe(self._use_smaller_batch)

        return load_model(self.settings, stem, batch, too_large)

    def _resolver_of(self, layer: Layer, model: LoadedModel, before: TileResolver | None = None) -> TileResolver:
        """What serves a layer, once tiles of other scenes are gone; before: what has served it until now. May block."""
        store = TileStore(layer, self.caches, self._executor, before.store.finished if before else None)
        self._scenes.catch_up(store)
        log.info("layer %s: version %s, zooms %d to %d", layer.name, layer.version, layer.ladder.root, layer.max_zoom)
        generator = BlockGenerator(store, self.caches.leases, model.engine)
        return TileResolver(store, generator, before.store if before else None)

    async def use_model(self, stem: Path, batch: int = 0) -> None:
        """Generate with another network, or with batches of another size, from now on: each layer has another version.

        Tiles of the version before are shown until they are generated anew. What is being generated is finished.
        Raises SettingsError, and all stays as it was.
        """
        async with self._changing:
            old = self.model
            assert old is not None
            if stem == old.stem and batch in (0, old.batch):
                return
            model = await asyncio.to_thread(self._load_model, stem, batch)
            try:
                named = zip(self._layer_settings, self.resolvers.values(), strict=True)
                layers = [layer_with_model(resolver.layer, wanted, model.info) for wanted, resolver in named]
                await asyncio.to_thread(self.shelf.choose, stem, batch)
            except TilecascadeError:
                await asyncio.to_thread(model.engine.close)
                raise
            before = dict(self.resolvers)
            after = {
                layer.name: await asyncio.to_thread(self._resolver_of, layer, model, before[layer.name])
                for layer in layers
            }
            self.model = model
            self.resolvers |= after
            self._publication.inform_workers(layers)
            self._scenes.go_on(lambda: self.layers)
        for name, resolver in after.items():
            before[name].replace_by(resolver)
            self.background.warm(resolver, self.settings.warm_tiles)
        self._keep(retire(old, list(before.values())))

    def _use_smaller_batch(self) -> None:
        """A batch does not fit into the device's memory: go on with half of it."""
        if self.model is not None:
            self._keep(self.use_model(self.model.stem, self.model.batch // 2))

    def _keep(self, work: Coroutine[None, None, None]) -> None:
        """Do something in the background."""
        self._tasks.add(task := asyncio.ensure_future(work))
        task.add_done_callback(self._tasks.discard)

    @property
    def engine(self) -> GenerationEngine | None:
        """What generates now; None while the server starts."""
        return self.model.engine if self.model else None

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
        async with self._changing:
            resolver = self.resolver(layer)
            resolver.previous = None  # it would go on showing what is removed
            changed = await self._scenes.change(resolver.store, lambda: self.layers, change)
        self.background.warm(resolver, self.settings.warm_tiles)
        return changed

    async def review(self, layer: str | None, change: Callable[[Reviews], Reviews]) -> Layer:
        """Change the reviews of a layer. See `SceneManager.review`."""
        async with self._changing:
            resolver = self.resolver(layer)
            resolver.previous = None
            return await self._scenes.review(resolver.store, lambda: self.layers, change)

    def forget_scene(self, scene: Scene) -> None:
        """Delete a scene's file unless a layer still has it. May block."""
        self._scenes.forget(scene)

    async def _close(self) -> None:
        self._scenes.close()
        self.background.close()
        await self.jobs.close()
        for task in list(self._tasks):
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task
        if self.engine is not None:
            await asyncio.to_thread(self.engine.close, True)
        for resolver in self.resolvers.values():
            await resolver.drain()
        await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        self._executor.shutdown(wait=True)
        self.caches.close()
        self._ownership.release()
