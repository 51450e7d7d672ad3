"""The layers of a server: what serves each of them, and the network that generates them all."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import torch

from tilecascade.app.errors import NotFoundError, NotReadyError
from tilecascade.app.scenes.manager import SceneManager
from tilecascade.app.settings import DataDir, LayerSettings, Settings
from tilecascade.app.storage.caches import Caches
from tilecascade.app.storage.models import ModelShelf
from tilecascade.app.storage.publication import Publication
from tilecascade.app.tiles.generator import BlockGenerator
from tilecascade.app.tiles.imagery_generator import ImageryGenerator
from tilecascade.app.tiles.layer import Layer, imagery_layer, layer_with_model, painted_in
from tilecascade.app.tiles.loaded_model import LoadedModel, load_model
from tilecascade.app.tiles.lookahead import BackgroundTiles
from tilecascade.app.tiles.remote_model import load_remote_model
from tilecascade.app.tiles.resolver import TileResolver
from tilecascade.app.tiles.store import TileStore
from tilecascade.app.tiles.territory_generator import TerritoryGenerator
from tilecascade.model.engine import GenerationEngine

log = logging.getLogger(__name__)

RETIRE_SECONDS = 2.0
"""How long a model that has been replaced may still be asked."""


async def retire(model: LoadedModel, resolvers: list[TileResolver]) -> None:
    """Stop a model that nobody uses any more, when what it has begun is finished."""
    try:
        await asyncio.sleep(RETIRE_SECONDS)  # requests that have just come may still ask it
    finally:
        # what is only queued is asked of the successor, and what the device has begun with is stored
        await asyncio.shield(asyncio.to_thread(model.engine.close, True))
        for resolver in resolvers:
            await asyncio.shield(resolver.drain())
        await asyncio.shield(asyncio.to_thread(model.remove))
    del model, resolvers
    gc.collect()
    torch.cuda.empty_cache()


class ServedLayers:
    """The layers, and how another network takes over while they are served.

    resolvers: by layer, the default layer first. shelf: the networks that can be used; receiving: held while one is
    sent. `Service` gives it a beginning and an end.
    """

    caches: Caches
    _publication: Publication
    _scenes: SceneManager

    def __init__(self, settings: Settings, layers: list[LayerSettings]) -> None:
        self.settings = settings
        self.data_dir = DataDir(settings.data_dir, settings.scenes_dir)
        self.resolvers: dict[str, TileResolver] = {}
        self.model: LoadedModel | None = None
        self.shelf = ModelShelf(settings, self.data_dir)
        self.receiving = asyncio.Lock()
        self.background = BackgroundTiles()
        self._layer_settings = list(layers)
        self._changing = asyncio.Lock()
        self._retiring: dict[str, asyncio.Future[None]] = {}
        self._tasks: set[asyncio.Future[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._executor = ThreadPoolExecutor(max(4, os.cpu_count() or 1), thread_name_prefix="worker")

    def open(self, workers_dir: Path | None) -> None:
        """Open the caches. Raises SettingsError."""
        self.caches = Caches(self.settings, self.data_dir)
        self._publication = Publication(self.data_dir.tiles, workers_dir)
        self._scenes = SceneManager(self.data_dir, self._publication)

    def _load_model(self, stem: Path, batch: int, present: LoadedModel | None = None) -> LoadedModel:
        """Load a network, or take the present one with another engine. May block. Raises SettingsError."""
        made: list[LoadedModel] = []

        def too_large() -> None:
            self._loop.call_soon_threadsafe(self._use_smaller_batch, made[0])

        if self.settings.engine == "local":
            made.append(load_model(self.settings, stem, batch, too_large, present))
        else:
            made.append(load_remote_model(self.settings, stem, batch, too_large))
        return made[0]

    def _serve(self, wanted: LayerSettings, layer: Layer, model: LoadedModel) -> dict[str, TileResolver]:
        """What serves a layer from now on and, if its imagery is painted, the layer of that. May block."""
        leases, below = self.caches.leases, painted_in(layer.imagery)
        painted = None if below is None else imagery_layer(wanted, below.source, model.info, layer.areas)
        painter = None
        if painted is not None:
            rejected = self.data_dir.rejected(layer.name) if wanted.keep_rejected else None
            painter = ImageryGenerator(self._store_of(painted), leases, model.engine, rejected)
        store = self._store_of(layer)
        before = self.resolvers.get(layer.name)
        kind = TerritoryGenerator if layer.base_drawn else BlockGenerator
        generator = kind(store, leases, model.engine, painter)
        made = {layer.name: TileResolver(store, generator, before.store if before else None)}
        if painter is not None:
            made[painter.store.layer.name] = TileResolver(painter.store, painter)
        return made

    def _store_of(self, layer: Layer) -> TileStore:
        """The tiles of a layer, once those of other scenes are gone. May block."""
        before = self.resolvers.get(layer.name)
        self.caches.revisions.begin(layer, self.data_dir.revisions(layer.name, layer.version))
        store = TileStore(layer, self.caches, self._executor, before.store.finished if before else None)
        self._scenes.catch_up(store)
        log.info("layer %s: version %s, zooms %d to %d", layer.name, layer.version, layer.ladder.root, layer.max_zoom)
        return store

    async def use_model(self, stem: Path, batch: int = 0, instead_of: LoadedModel | None = None) -> None:
        """Generate with another network, or with batches of another size, from now on: each layer has another version.

        instead_of: only if this is the present one. Tiles of the version before are shown until they are generated
        anew. What is being generated is finished. Raises SettingsError or StorageError, and all stays as it was.
        """
        async with self._changing:
            old = self.model
            assert old is not None
            if (stem == old.stem and batch in (0, old.batch)) or instead_of not in (None, old):
                return
            model = await asyncio.to_thread(self._load_model, stem, batch, old)
            if model.info == old.info:  # the same network from another place
                return await asyncio.to_thread(model.engine.close)
            before = dict(self.resolvers)
            try:
                after = await self._resolvers_with(model)
                await asyncio.to_thread(self.shelf.choose, stem, batch)
            except Exception:
                await asyncio.to_thread(model.engine.close)
                for layer in self.layers:
                    self._publication.publish(layer)
                raise
            self.model = model
            self.resolvers |= after
            self._publication.inform_workers(self.layers)
            self._scenes.go_on(lambda: self.layers)
        retiring = self._keep(retire(old, list(before.values())))
        self._retiring |= {resolver.layer.folder: retiring for resolver in before.values()}
        for name, resolver in after.items():
            before[name].replace_by(resolver)
            self.background.warm(resolver, self.settings.warm_tiles)

    async def _resolvers_with(self, model: LoadedModel) -> dict[str, TileResolver]:
        """What will serve the layers with another network. Raises SettingsError."""
        made: dict[str, TileResolver] = {}
        for wanted in self._layer_settings:
            layer = layer_with_model(self.resolvers[wanted.name].layer, wanted, model.info)
            # a version that is still being stored must not have two owners, of whom one does not know of changed scenes
            if (retiring := self._retiring.pop(layer.folder, None)) is not None:
                await asyncio.wait([retiring])
            made |= await asyncio.to_thread(self._serve, wanted, layer, model)
        return made

    def _use_smaller_batch(self, model: LoadedModel) -> None:
        """A batch of a model does not fit into the device's memory: go on with half of it."""
        self._keep(self._halve(model))

    async def _halve(self, model: LoadedModel) -> None:
        try:
            await self.use_model(model.stem, model.batch // 2, model)
        except Exception:
            log.exception("a smaller batch cannot be used")
            for resolver in self.resolvers.values():
                resolver.give_up()

    def _keep(self, work: Coroutine[None, None, None]) -> asyncio.Future[None]:
        """Do something in the background."""
        self._tasks.add(task := asyncio.ensure_future(work))
        task.add_done_callback(self._tasks.discard)
        return task

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

    async def end_tasks(self) -> None:
        """End what goes on in the background."""
        for task in list(self._tasks):
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task
