"""Everything behind the routes: settings go in; layers with their resolvers, the caches and the engine come out."""

from __future__ import annotations

import asyncio
import logging
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from tilecascade.app.errors import BadRequestError, SceneError, SettingsError, TilecascadeError
from tilecascade.app.jobs.runner import Jobs
from tilecascade.app.scenes.changing import ChangingLayers
from tilecascade.app.scenes.territories import Territories, TerritoryRequest
from tilecascade.app.settings import DataDir, LayerSettings, Settings, first_problem
from tilecascade.app.storage.caches import Caches
from tilecascade.app.storage.ownership import Ownership
from tilecascade.app.storage.revisions import Revisions
from tilecascade.app.storage.versions import old_versions, remove
from tilecascade.app.tiles.layer import names_of
from tilecascade.app.tiles.loaded_model import LoadedModel
from tilecascade.app.tiles.resolver import TileResolver
from tilecascade.app.tiles.served_layers import RETIRE_SECONDS
from tilecascade.app.tiles.store import TileStore
from tilecascade.model.engine.ray import disconnect

if TYPE_CHECKING:
    from tilecascade.cache.object_store import ObjectStore

log = logging.getLogger(__name__)


def clean_disk(caches: Caches, data_dir: DataDir, settings: Settings) -> None:
    """Look over the tile directory, and remove versions whose time is over."""
    kept, removed = caches.disk.scan()
    log.info("tile directory: %d tiles, %d broken or left-over files removed", kept, removed)
    for old in old_versions(data_dir.tiles):
        if old.age >= settings.old_versions_days:
            remove(old, data_dir)
            log.info("removed an old version: %s", old)
    if caches.bucket is not None:
        with suppress(OSError):
            clean_bucket(caches.bucket, caches.revisions, settings.old_versions_days)


def clean_bucket(bucket: ObjectStore, revisions: Revisions, days: float) -> None:
    """Remove revisions to which nobody has added anything for so many days. Raises OSError.

    Nothing else ever lists the bucket. Of a revision that another server still serves, tiles are made again.
    """
    for prefix in bucket.groups(2):
        if prefix not in revisions.in_use() and datetime.now(UTC) - bucket.newest(prefix) >= timedelta(days=days):
            log.info("removed an old revision from the object store: %s, %d objects", prefix, bucket.remove(prefix))


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


class Service(ChangingLayers):
    """The state of one running program. Use `Service.running`.

    state: "starting", "ready" or "failed", and then `problem` says why. resolvers: by layer, the default layer first.
    """

    def __init__(self, settings: Settings, layers: list[LayerSettings], workers_dir: Path | None = None) -> None:
        self.state = "starting"
        self.problem: str | None = None
        self.territories = Territories(DataDir(settings.data_dir).territories)
        self._making = asyncio.Lock()
        super().__init__(settings, layers)
        try:
            self.data_dir.tiles.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(f"data directory {settings.data_dir} cannot be used: {error.strerror}") from None
        self._ownership = Ownership(settings.data_dir)
        for left in self.data_dir.scenes.glob(".incoming-*"):  # of uploads that a killed server was taking in
            with suppress(OSError):
                left.unlink()
        self.shelf.tidy()
        self.territories.tidy()
        self.open(workers_dir)
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
        self.follow_group()
        if self.group is not None:
            self.jobs.share(self.group.parts())
        self.jobs.start()
        self.state = "ready"
        for resolver in self.resolvers.values():
            self.background.warm(resolver, self.settings.warm_tiles)

    def _load(self) -> None:
        """Load the model, open the scenes, check the tile directory. Raises SettingsError or SceneError."""
        self.join()
        choice = self.shelf.choice()
        self.model = model = self._load_model(Path(choice.stem), choice.batch)
        built = [(wanted, self._scenes.build(wanted, model.info)) for wanted in self._layer_settings]
        for wanted, layer in built:
            self.resolvers |= self._serve(wanted, layer, model)
        self._load_territories(model)
        self._publication.inform_workers(self.layers)
        threading.Thread(target=clean_disk, args=(self.caches, self.data_dir, self.settings), daemon=True).start()

    def _load_territories(self, model: LoadedModel) -> None:
        """Serve what was made of sketches before. One that cannot be read keeps nobody from the other layers."""
        for wanted in self.territories.layers():
            try:
                self._check_name(wanted.name)
                layer = self._scenes.build(wanted, model.info)
            except (BadRequestError, SettingsError, SceneError) as error:
                log.warning("territory %s is not served: %s", wanted.name, error)
                continue
            self.resolvers |= self._serve(wanted, layer, model)
            self._layer_settings.append(wanted)

    def _check_name(self, name: str) -> None:
        """Raises BadRequestError if no territory can have this name."""
        try:
            LayerSettings(name=name, scenes=[Path("any.tif")], painted_zoom=14)
        except ValidationError as error:
            raise BadRequestError(first_problem(error)) from None
        taken = set(self.resolvers) - {layer for made in self.territories.names() for layer in names_of(made)}
        if taken & set(names_of(name)):
            raise BadRequestError(f"there is a layer {name} that is no territory; choose another name")

    async def make_territory(self, name: str, picture: bytes, request: TerritoryRequest) -> str:
        """Make a territory of a picture, or replace it, and serve it from now on; returns what to say of it.

        Raises BadRequestError or StorageError, and all stays as it was.
        """
        async with self._making:
            await asyncio.to_thread(self._check_name, name)
            said = await asyncio.to_thread(self.territories.make, name, picture, request)
            try:
                await self.put_layer(self.territories.layer(name))
            except Exception:
                await asyncio.to_thread(self.territories.settle, name, False)
                raise
            await asyncio.to_thread(self.territories.settle, name, True)
        return said

    async def remove_territory(self, name: str) -> None:
        """Serve a territory no more, and delete it and its tiles. Raises NotFoundError."""
        async with self._making:
            for job in list(self.jobs.all.values()):
                if job.order.layer in names_of(name):
                    await self.jobs.cancel(job)
            await self.remove_layer(name)
            await asyncio.to_thread(self.territories.remove, name)

    async def put_layer(self, wanted: LayerSettings) -> None:
        """Serve a layer from now on, or instead of the one of that name. Raises SceneError or SettingsError."""
        async with self._changing:
            model = self.model
            assert model is not None
            layer = await asyncio.to_thread(self._scenes.build, wanted, model.info)
            made = await asyncio.to_thread(self._serve, wanted, layer, model)
            for resolver in made.values():
                resolver.previous = None  # it would show another country
            self._retire_soon([self.resolvers.pop(name) for name in names_of(wanted.name) if name in self.resolvers])
            self.resolvers |= made
            self._layer_settings[:] = [one for one in self._layer_settings if one.name != wanted.name] + [wanted]
            self._publication.inform_workers(self.layers)
        self.background.warm(made[wanted.name], self.settings.warm_tiles)

    async def remove_layer(self, name: str) -> None:
        """Serve a layer no more, and delete its tiles."""
        async with self._changing:
            gone = [self.resolvers.pop(each) for each in names_of(name) if each in self.resolvers]
            self._layer_settings[:] = [one for one in self._layer_settings if one.name != name]
            self._publication.inform_workers(self.layers)
            await asyncio.to_thread(self._scenes.drop, name)
            for each in names_of(name):  # at once: what is made under this name next has other scenes and reviews
                await asyncio.to_thread(shutil.rmtree, self.data_dir.layers / each, True)
        self._retire_soon(gone, delete=True)

    def _retire_soon(self, resolvers: list[TileResolver], delete: bool = False) -> None:
        """Let resolvers finish what they have begun with, when requests that have just come have asked them."""

        async def later() -> None:
            try:
                await asyncio.sleep(RETIRE_SECONDS)
            finally:  # at once if the server stops: nobody would remember
                for resolver in resolvers:
                    await resolver.drain()
                    if delete:
                        await asyncio.to_thread(self._delete, resolver.store)

        self._keep(later())

    def _delete(self, store: TileStore) -> None:
        """Delete the tiles of a layer that is not served any more."""
        store.forget_all()
        if store.layer.name not in self.resolvers:  # or it has been made again meanwhile
            shutil.rmtree(self.data_dir.tiles / store.layer.name, ignore_errors=True)

    async def _close(self) -> None:
        if self.group is not None:
            await asyncio.to_thread(self.group.close)
        self._scenes.close()
        self.background.close()
        await self.jobs.close()
        await self.end_tasks()
        if self.engine is not None:
            await asyncio.to_thread(self.engine.close, True)
        for resolver in self.resolvers.values():
            await resolver.drain()
        await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        self._executor.shutdown(wait=True)
        if self.settings.engine != "local" and self.model is not None:
            disconnect()
        self.caches.close()
        self._ownership.release()
