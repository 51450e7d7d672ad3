"""Running prefetch jobs: every tile of an area, coarse zooms first, one job after the other.

A job is a file below `<data-dir>/jobs`; one that had not ended goes on at the next start. Tiles that are stored already
are skipped, so going on costs little. If the imagery changes during a job, it goes over its area once more: when a job
is done, every tile of the area that can exist is stored.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from mercantile import Tile

from tilecascade.app.errors import BaseMapError, ImageryUnavailableError, NoTileError, StorageError
from tilecascade.app.jobs.job import ENDED, Job, Order, read_job
from tilecascade.app.jobs.parts import Parts
from tilecascade.app.jobs.sharing import SharedJobs
from tilecascade.app.storage.atomic import write_atomically
from tilecascade.app.tiles.resolver import TileResolver
from tilecascade.app.tiles.store import GENERATED
from tilecascade.model.engine import BatchTooLargeError, EngineClosedError, Priority, QueueFullError

log = logging.getLogger(__name__)


MAX_PARALLEL = 16
"""Tiles of a job on their way at once: enough to keep the device busy, few enough not to fill its queue."""

SAVE_SECONDS = 2.0
"""Time between two times that a job's progress is written down."""

DISK_SECONDS = 2.0
"""Time between two tries to write to a disk that is full or read-only."""

NO_DISK = "the disk is full or cannot be written; the job goes on as soon as it can"

MAX_PROBLEMS = 20
"""Problems of a job that are kept for its owner to read."""


class Jobs:
    """The jobs of one service, run in order. Call `start` once the layers are there. Belongs to one event loop.

    all: by id, oldest first.
    """

    def __init__(self, folder: Path, resolver: Callable[[str | None], TileResolver]) -> None:
        self._folder = folder
        self._resolver = resolver
        self.all: dict[str, Job] = {}
        self._changed = asyncio.Condition()
        self._writing = threading.Lock()
        self._runner: asyncio.Task[None] | None = None
        self._shared: SharedJobs | None = None

    def start(self) -> None:
        """Read the jobs of earlier runs, and begin to run those that have not ended."""
        for path in sorted(self._folder.glob("*.json")):
            try:
                job = read_job(path)
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.warning("job %s cannot be read and is left alone: %s", path, error)
                continue
            if job.state not in ENDED:
                job.state = "queued"
            self.all[job.id] = job
        oldest_first = sorted(self.all.items(), key=lambda item: item[1].created)
        self.all.clear()
        self.all.update(oldest_first)
        self._runner = asyncio.create_task(self._run_all())

    def share(self, parts: Parts) -> None:
        """Work on jobs together with the other servers of a group, from now on. Call it before `start`."""
        self._shared = SharedJobs(parts, self.all, self._pass, self._notify)

    async def add(self, order: Order, total: int) -> Job:
        """Queue an order of `total` tiles; it is on disk when this returns."""
        job = Job(uuid.uuid4().hex[:12], order, total)
        await asyncio.to_thread(self._write, job)
        self.all[job.id] = job
        await self._notify()
        return job

    async def cancel(self, job: Job) -> None:
        """End a job; blocks that it has begun are still finished. Does nothing to a job that has ended."""
        if self._shared is not None and self._shared.is_another_servers(job):
            await self._shared.cancel(job)
        elif job.state not in ENDED:
            job.state = "cancelled"
            await asyncio.to_thread(self._try_to_write, job)
            await self._notify()

    async def watch(self, job: Job, pause: float = 0.5) -> AsyncIterator[Job]:
        """The job, now and after every change (at most once in `pause` seconds), and a last time when it has ended."""
        while True:
            seen = (job.state, job.passed)
            yield job
            if job.state in ENDED:
                return
            await asyncio.sleep(pause)
            async with self._changed:
                await self._changed.wait_for(lambda: seen != (job.state, job.passed))  # noqa: B023

    async def close(self) -> None:
        """Stop. Unfinished jobs go on at the next start."""
        if self._shared is not None:
            await self._shared.close()
        if self._runner is not None:
            self._runner.cancel()
            with suppress(asyncio.CancelledError):
                await self._runner

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _run_all(self) -> None:
        if self._shared is not None:
            self._shared.start()
        while True:
            job = self._next()
            if job is None:
                async with self._changed:
                    await self._changed.wait_for(lambda: self._next() is not None)
                continue
            job.state = "running"
            try:
                await self._run(job)
            except Exception as error:
                log.exception("job %s", job.id)
                job.state, job.problems = "failed", [*job.problems, f"a fault of the server: {type(error).__name__}"]
            await asyncio.to_thread(self._try_to_write, job)
            await self._notify()

    async def _run(self, job: Job) -> None:
        """Go over the area until a pass ends with the imagery that it began with."""
        saving = asyncio.create_task(self._save(job))
        try:
            while job.state == "running":
                revision = self._resolver(job.order.layer).layer.revision
                await (self._pass(job) if self._shared is None else self._shared.finish(job))
                if job.state == "running" and self._resolver(job.order.layer).layer.revision == revision:
                    job.state = "done"
        finally:
            saving.cancel()

    async def _pass(self, job: Job) -> None:
        """Go over the area once, parents before children."""
        job.finished = job.without_imagery = job.failed = 0
        job.problems = []
        for zoom in range(job.order.zooms[0], job.order.zooms[1] + 1):
            job.zoom = zoom
            tiles, pace = job.order.area.tiles(zoom), Pace(job.order.rate)
            await asyncio.gather(*(self._work(job, tiles, pace) for _ in range(MAX_PARALLEL)))

    def _next(self) -> Job | None:
        """The next job of this server's."""
        mine = (job for job in self.all.values() if self._shared is None or not self._shared.is_another_servers(job))
        return next((job for job in mine if job.state == "queued"), None)

    async def _work(self, job: Job, tiles: Iterator[Tile], pace: Pace) -> None:
        for tile in tiles:
            if job.state != "running":
                return
            await self._finish_tile(job, tile, pace)
            await self._notify()

    async def _finish_tile(self, job: Job, tile: Tile, pace: Pace) -> None:
        """See to it that one tile is finished, or count why it cannot be."""
        while True:
            # which is another one when another network has been chosen
            resolver = self._resolver(job.order.layer)
            try:
                began = resolver.store.clock.now
                found = await resolver.store.lookup(tile)
                if found is None:
                    await pace.wait()
                    resolver = self._resolver(job.order.layer)
                    began = resolver.store.clock.now
                    found = await resolver.make(tile, priority=Priority.PREFETCH)
                    job.generated += found.source == GENERATED
                if not found.from_base_map:
                    await self._until_on_disk(job, resolver, tile, found.data, began)
                job.finished += 1
                return
            except NoTileError:
                job.without_imagery += 1
                return
            except (QueueFullError, EngineClosedError, BatchTooLargeError):
                if job.state != "running":
                    return
                await asyncio.sleep(1)
            except (BaseMapError, ImageryUnavailableError) as error:
                return self._count_failure(job, tile, str(error))
            except Exception as error:
                log.exception("job %s, tile %s", job.id, tile)
                return self._count_failure(job, tile, type(error).__name__)

    async def _until_on_disk(self, job: Job, resolver: TileResolver, tile: Tile, data: bytes, began: int) -> None:
        """Wait until a tile is on disk: a job that is done has left files. Meanwhile the job says why it stands."""
        store = resolver.store
        while not await store.run(store.make_durable, tile, data, began):
            if job.state != "running":
                return
            if NO_DISK not in job.problems:
                job.problems = [*job.problems, NO_DISK]
                await self._notify()
            await asyncio.sleep(DISK_SECONDS)
        job.problems = [problem for problem in job.problems if problem != NO_DISK]

    def _count_failure(self, job: Job, tile: Tile, reason: str) -> None:
        job.failed += 1
        job.problems = [*job.problems, f"{tile.z}/{tile.x}/{tile.y}: {reason}"][:MAX_PROBLEMS]
        if job.failed > job.order.max_failures and job.state == "running":
            job.state = "failed"

    async def _save(self, job: Job) -> None:
        while True:
            await asyncio.to_thread(self._try_to_write, job)
            await asyncio.sleep(SAVE_SECONDS)

    def _try_to_write(self, job: Job) -> None:
        """A job whose progress cannot be written goes on: after a restart it begins again with what is stored."""
        try:
            self._write(job)
        except StorageError as error:
            log.warning("job %s: %s", job.id, error)

    def _write(self, job: Job) -> None:
        with self._writing:  # so that an older state never replaces a newer one
            write_atomically(self._folder / f"{job.id}.json", json.dumps(asdict(job)).encode())


class Pace:
    """Lets at most `rate` callers through in a second; all of them if 0."""

    def __init__(self, rate: float) -> None:
        self._gap = 1 / rate if rate else 0.0
        self._next = 0.0

    async def wait(self) -> None:
        """Until it is this caller's turn."""
        if self._gap:
            now = time.monotonic()
            self._next = max(self._next + self._gap, now)
            await asyncio.sleep(self._next - now)
