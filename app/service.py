"""Everything behind the routes: settings go in; layers with their resolvers, the caches and the engine come out."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from tilecascade.app.errors import SettingsError, TilecascadeError
from tilecascade.app.jobs.job import ENDED
from tilecascade.app.jobs.runner import Jobs
from tilecascade.app.scenes.territory_layers import TerritoryLayers
from tilecascade.app.settings import DataDir, LayerSettings, Settings
from tilecascade.app.storage.caches import Caches
from tilecascade.app.storage.ownership import Ownership
from tilecascade.app.storage.revisions import Revisions
from tilecascade.app.storage.versions import old_versions, remove
from tilecascade.app.tiles.layer import names_of

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


class Service(TerritoryLayers):
    """The state of one running program. Use `Service.running`.

    state: "starting", "ready" or "failed", and then `problem` says why. resolvers: by layer, the default layer first.
    """

    def __init__(self, settings: Settings, layers: list[LayerSettings], workers_dir: Path | None = None) -> None:
        self.state = "starting"
        self.problem: str | None = None
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
        if settings.group is None:  # or another server may be making one
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
        self.join([one.name for one in self._layer_settings] + self.territories.names())
        choice = self.shelf.choice()
        self.model = model = self._load_model(Path(choice.stem), choice.batch)
        built = [(wanted, self._scenes.build(wanted, model.info)) for wanted in self._layer_settings]
        for wanted, layer in built:
            self.resolvers |= self._serve(wanted, layer, model)
        self.load_territories(model)
        self._publication.inform_workers(self.layers)
        threading.Thread(target=clean_disk, args=(self.caches, self.data_dir, self.settings), daemon=True).start()

    async def _remove_layer(self, name: str) -> None:
        for job in list(self.jobs.all.values()):
            if job.order.layer in names_of(name) and job.state not in ENDED:
                await self.jobs.cancel(job)
        await super()._remove_layer(name)

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
        self.caches.close()
        self._ownership.release()
