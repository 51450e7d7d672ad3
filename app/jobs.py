"""Prefetch jobs: every tile of an area, coarse zooms first, one job after the other, whatever happens in between.

A job is a file below `<data-dir>/jobs`; one that had not ended goes on at the next start. What is there already is
skipped, so going on costs little. If the imagery changes under a job, it goes over its area once more: when it says
done, every tile of the area that can be there is.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from mercantile import Tile

from app.areas import Area
from app.basemap import BaseMapError
from app.resolver import NoTileError, TileResolver
from model.engine import EngineClosedError, QueueFullError, Urgency

log = logging.getLogger(__name__)

PARALLEL = 16
"""Tiles of a job on their way at once: enough to keep the device busy, few enough not to fill its queue."""

WRITE_EVERY = 2.0
"""Seconds between two times that a job's progress is written down."""

KEPT_PROBLEMS = 20

State = Literal["queued", "running", "done", "failed", "cancelled"]
ENDED = ("done", "failed", "cancelled")


@dataclass(frozen=True)
class Order:
    """What a job is to do. zooms: first and last. rate: tiles drawn per second at most, 0: as fast as it goes.

    most_failures: with more the job ends as failed.
    """

    layer: str
    area: Area
    zooms: tuple[int, int]
    rate: float = 0.0
    most_failures: int = 20

    def tiles(self) -> Iterator[Tile]:
        """All of them, parents first."""
        for zoom in range(self.zooms[0], self.zooms[1] + 1):
            yield from self.area.tiles(zoom)

    def counts(self) -> dict[int, int]:
        """Tiles by zoom. Raises AreaError for far too many."""
        return {zoom: self.area.count(zoom) for zoom in range(self.zooms[0], self.zooms[1] + 1)}


@dataclass
class Job:
    """One order and how far it is. Counts are of the present pass over the area, `drawn` since the last start."""

    id: str
    order: Order
    total: int
    state: State = "queued"
    drawn: int = 0
    there: int = 0
    without_imagery: int = 0
    failed: int = 0
    zoom: int | None = None
    problems: list[str] = field(default_factory=list)
    created: float = field(default_factory=time.time)

    @property
    def passed(self) -> int:
        """Tiles dealt with."""
        return self.there + self.without_imagery + self.failed

    def told(self) -> dict[str, object]:
        """What clients are told."""
        return {
            "id": self.id,
            "layer": self.order.layer,
            "state": self.state,
            "zooms": list(self.order.zooms),
            "bounds": list(self.order.area.bounds),
            "total": self.total,
            "finished": self.there,
            "drawn": self.drawn,
            "without_imagery": self.without_imagery,
            "failed": self.failed,
            "zoom": self.zoom,
            "problems": self.problems,
        }


class Jobs:
    """The jobs of one service, run in order. `start` once the layers are there; use from one event loop."""

    def __init__(self, folder: Path, resolver: Callable[[str | None], TileResolver]) -> None:
        self._folder = folder
        self._resolver = resolver
        self.all: dict[str, Job] = {}
        self._news = asyncio.Condition()
        self._writing = threading.Lock()
        self._runner: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Take up what had not ended, and wait for more."""
        for path in sorted(self._folder.glob("*.json")):
            try:
                job = read_job(path)
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.warning("job %s cannot be read and is left alone: %s", path, error)
                continue
            if job.state not in ENDED:
                job.state = "queued"
            self.all[job.id] = job
        self.all = dict(sorted(self.all.items(), key=lambda item: item[1].created))
        self._runner = asyncio.create_task(self._run_all())

    async def add(self, order: Order, total: int) -> Job:
        """Queue an order; it is on disk when this returns."""
        job = Job(uuid.uuid4().hex[:12], order, total)
        await asyncio.to_thread(self._write, job)
        self.all[job.id] = job
        await self._tell()
        return job

    async def cancel(self, job: Job) -> None:
        """End a job; what it has begun to draw is still finished. Does nothing to one that has ended."""
        if job.state not in ENDED:
            job.state = "cancelled"
            await asyncio.to_thread(self._write, job)
            await self._tell()

    async def watch(self, job: Job, pause: float = 0.5) -> AsyncIterator[Job]:
        """The job, now and after every change (not more often than `pause` seconds), last when it has ended."""
        while True:
            seen = (job.state, job.passed)
            yield job
            if job.state in ENDED:
                return
            await asyncio.sleep(pause)
            async with self._news:
                await self._news.wait_for(lambda: seen != (job.state, job.passed))  # noqa: B023

    async def close(self) -> None:
        """Stop; unfinished jobs go on at the next start."""
        if self._runner is not None:
            self._runner.cancel()
            with suppress(asyncio.CancelledError):
                await self._runner

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()

    async def _run_all(self) -> None:
        while True:
            job = next((job for job in self.all.values() if job.state == "queued"), None)
            if job is None:
                async with self._news:
                    await self._news.wait_for(lambda: any(j.state == "queued" for j in self.all.values()))
                continue
            job.state = "running"
            try:
                await self._run(job)
            except Exception as error:
                log.exception("job %s", job.id)
                job.state, job.problems = "failed", [*job.problems, f"the server's own fault: {type(error).__name__}"]
            await asyncio.to_thread(self._write, job)
            await self._tell()

    async def _run(self, job: Job) -> None:
        """Go over the area until a pass ends with the imagery it began with."""
        resolver = self._resolver(job.order.layer)
        saving = asyncio.create_task(self._save(job))
        try:
            while job.state == "running":
                revision = resolver.layer.revision
                job.there = job.without_imagery = job.failed = 0
                job.problems = []
                for zoom in range(job.order.zooms[0], job.order.zooms[1] + 1):  # parents before children
                    job.zoom = zoom
                    tiles, pace = job.order.area.tiles(zoom), Pace(job.order.rate)
                    await asyncio.gather(*(self._work(job, resolver, tiles, pace) for _ in range(PARALLEL)))
                if job.state == "running" and resolver.layer.revision == revision:
                    job.state = "done"
        finally:
            saving.cancel()

    async def _work(self, job: Job, resolver: TileResolver, tiles: Iterator[Tile], pace: Pace) -> None:
        for tile in tiles:
            if job.state != "running":
                return
            await self._one(job, resolver, tile, pace)
            await self._tell()

    async def _one(self, job: Job, resolver: TileResolver, tile: Tile, pace: Pace) -> None:
        """Have one tile drawn, or count it as what it is."""
        while True:
            try:
                if await resolver.cached(tile) is None:
                    await pace.wait()
                    found = await resolver.tile(tile, Urgency.PREFETCH)
                    job.drawn += found.source == "generated"
                job.there += 1
                return
            except NoTileError:
                job.without_imagery += 1
                return
            except (QueueFullError, EngineClosedError):
                await asyncio.sleep(1)
            except BaseMapError as error:
                return self._failed(job, tile, str(error))
            except Exception as error:
                log.exception("job %s, tile %s", job.id, tile)
                return self._failed(job, tile, type(error).__name__)

    def _failed(self, job: Job, tile: Tile, reason: str) -> None:
        job.failed += 1
        job.problems = [*job.problems, f"{tile.z}/{tile.x}/{tile.y}: {reason}"][:KEPT_PROBLEMS]
        if job.failed > job.order.most_failures and job.state == "running":
            job.state = "failed"

    async def _save(self, job: Job) -> None:
        while True:
            await asyncio.to_thread(self._write, job)
            await asyncio.sleep(WRITE_EVERY)

    def _write(self, job: Job) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        fresh = self._folder / f".{job.id}"
        with self._writing:  # what is read later is written later
            with fresh.open("w") as file:
                json.dump(asdict(job), file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(fresh, self._folder / f"{job.id}.json")


class Pace:
    """Lets no more than `rate` callers through in a second; 0: all of them."""

    def __init__(self, rate: float) -> None:
        self._gap = 1 / rate if rate else 0.0
        self._next = 0.0

    async def wait(self) -> None:
        """Until it is this caller's turn."""
        if self._gap:
            now = time.monotonic()
            self._next = max(self._next + self._gap, now)
            await asyncio.sleep(self._next - now)


def read_job(path: Path) -> Job:
    """Inverse of writing one. Raises ValueError, KeyError or TypeError for a file that is none of ours."""
    data = json.loads(path.read_text())
    order = data.pop("order")
    area = Area(tuple(order["area"]["bounds"]), tuple(order["area"]["polygons"]))
    return Job(order=Order(**order | {"area": area, "zooms": tuple(order["zooms"])}), **data)
