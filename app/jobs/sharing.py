"""What each server of a group does for the jobs of all: it takes part after part, and shows how far each job is."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, replace

import redis

from tilecascade.app.jobs.job import ENDED, Job, job_of
from tilecascade.app.jobs.parts import COUNTED, Part, Parts

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
"""Time between two looks at how far a job is, or whether there is a part to take."""

AWAY_SECONDS = 2.0
"""Time between two tries when Redis does not answer."""

STILL_SECONDS = 15.0
"""Time between two times that a server says that it still works on a part."""

AWAY = "the Redis of the group does not answer; the job goes on when it does"


class SharedJobs:
    """The group's jobs, as one server sees them. Belongs to one event loop.

    jobs: of this server and, as far as they are known, of the others, by id. work: goes over an order's tiles once,
    counting. changed: tells whoever watches jobs.
    """

    def __init__(
        self,
        parts: Parts,
        jobs: dict[str, Job],
        work: Callable[[Job], Awaitable[None]],
        changed: Callable[[], Awaitable[None]],
    ) -> None:
        self._parts, self._jobs, self._work, self._changed = parts, jobs, work, changed
        self._others: set[str] = set()
        self._said: dict[str, str] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to take parts, and to show the jobs of others."""
        self._tasks = [asyncio.create_task(self._take_parts()), asyncio.create_task(self._show_others())]

    async def close(self) -> None:
        """Stop: a part that was begun is taken over by another server, or by this one at its next start."""
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def is_another_servers(self, job: Job) -> bool:
        """Whether a job is only shown here."""
        return job.id in self._others

    async def cancel(self, job: Job) -> None:
        """Ask the server that has a job to end it."""
        with suppress(redis.RedisError):
            await asyncio.to_thread(self._parts.cancel, job.id)
            job.state = "cancelled"
            await self._changed()

    async def finish(self, job: Job) -> None:
        """Have all servers go over a job's area once; counts what they do. Returns early if the job ends."""
        while job.state == "running":
            try:
                await asyncio.to_thread(self._parts.begin, job.id, job.order)
                now = await asyncio.to_thread(self._parts.progress, job.id)
                job.finished, job.without_imagery, job.failed = (
                    now[name] for name in ("finished", "without_imagery", "failed")
                )
                job.generated = now["generated"]
                job.problems = [f"{job.failed} tiles have failed; the servers' logs say why"] if job.failed else []
                if await asyncio.to_thread(self._parts.cancelled, job.id):
                    job.state = "cancelled"
                elif job.failed > job.order.max_failures:
                    job.state = "failed"
                over = now["parts"] > 0 and now["done"] >= now["parts"]
                if over or job.state in ENDED:
                    await asyncio.to_thread(self._parts.forget, job.id)
                await asyncio.to_thread(self._publish, job)
                await self._changed()
                if over:
                    return
                await asyncio.sleep(LOOK_SECONDS)
            except redis.RedisError:
                job.problems = [AWAY]
                await self._changed()
                await asyncio.sleep(AWAY_SECONDS)

    def _publish(self, job: Job) -> None:
        said = json.dumps(asdict(job))
        if self._said.get(job.id) != said:
            self._parts.publish(job.id, said)
            self._said[job.id] = said

    async def _show_others(self) -> None:
        while True:
            with suppress(redis.RedisError):
                for mine in [job for job in self._jobs.values() if job.id not in self._others]:
                    await asyncio.to_thread(self._publish, mine)
                for id, said in (await asyncio.to_thread(self._parts.published)).items():
                    if id not in self._jobs or id in self._others:
                        self._others.add(id)
                        self._show(id, said)
                await self._changed()
            await asyncio.sleep(AWAY_SECONDS)

    def _show(self, id: str, said: str) -> None:
        """Show a job as another server has it."""
        try:
            now = job_of(said)
        except (ValueError, KeyError, TypeError) as error:
            log.debug("job %s of another server cannot be read: %s", id, error)
            return
        self._jobs.setdefault(id, now).__dict__.update(now.__dict__)

    async def _take_parts(self) -> None:
        while True:
            try:
                part = await asyncio.to_thread(self._parts.take)
                if part is None:
                    await asyncio.sleep(LOOK_SECONDS)
                elif not await asyncio.to_thread(self._parts.wanted, part):
                    await asyncio.to_thread(self._parts.drop, part)
                else:
                    await self._finish_part(part)
            except redis.RedisError:
                await asyncio.sleep(AWAY_SECONDS)
            except Exception:
                log.exception("a part of a job")
                await asyncio.sleep(AWAY_SECONDS)

    async def _finish_part(self, part: Part) -> None:
        """Work on a part, and tick it off."""
        # failures are counted by the job's owner: a part is ticked off with whatever it has
        order = replace(part.order, max_failures=part.order.area.count(part.order.zooms[1]) * 2)
        job = Job(part.job, order, 0, state="running")
        still = asyncio.create_task(self._say_still(part, job))
        try:
            await self._work(job)
        finally:
            still.cancel()
        for problem in job.problems:
            log.warning("job %s: %s", job.id, problem)
        while job.state == "running":
            try:
                counts = {name: getattr(job, name) for name in COUNTED}
                return await asyncio.to_thread(self._parts.done, part, counts)
            except redis.RedisError:
                await asyncio.sleep(AWAY_SECONDS)

    async def _say_still(self, part: Part, job: Job) -> None:
        while True:
            await asyncio.sleep(STILL_SECONDS)
            with suppress(redis.RedisError):
                await asyncio.to_thread(self._parts.still, part)
                if not await asyncio.to_thread(self._parts.wanted, part):
                    job.state = "cancelled"
