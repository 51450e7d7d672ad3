"""`/jobs`: have all tiles of an area generated; watch, cancel. Ordering needs the server's key, looking does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from sse_starlette import EventSourceResponse, ServerSentEvent

from tilecascade.app.api.access import SCHEMES
from tilecascade.app.api.allowance import key_of
from tilecascade.app.api.dependencies import ServiceDep
from tilecascade.app.api.schemas import JobAnswer, JobEstimate, JobRequest
from tilecascade.app.errors import NeedsConfirmationError, NotFoundError
from tilecascade.app.jobs.area import Area
from tilecascade.app.jobs.job import ENDED, Job, Order
from tilecascade.app.service import Service
from tilecascade.app.tiles.layer import Layer

router = APIRouter(tags=["jobs"])

NO_STORE = {"Cache-Control": "no-store"}

TYPICAL_TILE_BYTES = 10_000
"""Size of a tile for estimates, where none is stored yet."""

MAX_LOOKUPS = 200_000
"""Tiles that an estimate looks for on disk; a larger job counts as if none were stored."""


SAMPLE = 60
"""Tiles of each zoom that are looked at for whether there is imagery."""


def area_of(wanted: JobRequest) -> Area:
    """The area that a request means. Raises AreaError."""
    return Area.of_box(wanted.bbox) if wanted.bbox is not None else Area.of_geojson(wanted.area or {})


def order_of(wanted: JobRequest, layer: Layer) -> Order:
    """The order that a request means, clipped to the layer's imagery. Raises AreaError or NotFoundError."""
    area = area_of(wanted)
    if wanted.zooms[0] < layer.min_zoom or wanted.zooms[1] > layer.max_zoom:
        raise NotFoundError(f"layer {layer.name} has zooms {layer.min_zoom} to {layer.max_zoom}; take these")
    inside = area.clipped(layer.imagery.bounds)
    if inside is None:
        west, south, east, north = layer.imagery.bounds
        raise NotFoundError(f"the area lies outside the layer's imagery, which spans {west},{south},{east},{north}")
    return Order(layer.name, inside, wanted.zooms, wanted.rate, wanted.max_failures)


def job_answer(job: Job, estimate: JobEstimate | None = None) -> JobAnswer:
    """A job as the API shows it."""
    return JobAnswer(**job.to_dict(), estimate=estimate)  # type: ignore[arg-type]


def job_of(service: Service, id: str) -> Job:
    """The job of this id. Raises NotReadyError or NotFoundError."""
    service.resolver(None)  # raises while the server is starting
    if id not in service.jobs.all:
        raise NotFoundError(f"there is no job {id[:40]!r}")
    return service.jobs.all[id]


def estimate_job(service: Service, order: Order) -> JobEstimate:
    """What a job would take. Raises AreaError for far too many tiles. May block."""
    layer, counts = service.resolver(order.layer).layer, order.counts()
    total = sum(counts.values())
    stored = stored_bytes = 0
    if total <= MAX_LOOKUPS:
        for tile in order.tiles():
            stat = service.caches.disk.stat(layer.key(tile))
            if stat is not None:
                stored, stored_bytes = stored + 1, stored_bytes + stat.st_size
    mean = stored_bytes / stored if stored else TYPICAL_TILE_BYTES
    seconds = service.resolver(order.layer).generator.works.seconds_per_block
    if seconds is None and service.engine is not None:
        seconds = service.engine.state().seconds_per_block
    per_block = 4**layer.ladder.span
    return JobEstimate(
        layer=layer.name,
        tiles=total,
        by_zoom=counts,
        stored=stored,
        bytes=round((total - stored) * mean),
        seconds=None if seconds is None else round((total - stored) / per_block * seconds, 1),
        fits=total * mean <= service.settings.disk_bytes,
    )


def empty_shares(layer: Layer, area: Area, zooms: tuple[int, int]) -> dict[int, float]:
    """The share of tiles without imagery at each zoom of an area, of SAMPLE tiles. May block. Raises AreaError."""
    rng, shares = np.random.default_rng(0), {}
    for zoom in range(zooms[0], zooms[1] + 1):
        total = area.count(zoom)
        chosen = set(rng.choice(total, min(SAMPLE, total), replace=False).tolist())
        some = [tile for place, tile in enumerate(area.tiles(zoom)) if place in chosen]
        shares[zoom] = sum(not layer.imagery.covers(tile) for tile in some) / len(some) if some else 0.0
    return shares


@router.post("/jobs", operation_id="add_job", status_code=202, dependencies=SCHEMES)
async def add(request: Request, service: ServiceDep, response: Response, wanted: JobRequest) -> JobAnswer:
    """Order a job. With `dry_run`, answer 200 and a JobEstimate instead."""
    layer = service.resolver(wanted.layer).layer
    order = order_of(wanted, layer)
    estimate = await asyncio.to_thread(estimate_job, service, order)
    if wanted.dry_run:
        shares = await asyncio.to_thread(empty_shares, layer, area_of(wanted), wanted.zooms)
        estimate = estimate.model_copy(update={"empty": shares})
        return JSONResponse(estimate.model_dump(mode="json"), 200, NO_STORE)  # type: ignore[return-value]
    total, limit = sum(order.counts().values()), service.settings.job_tiles
    if total > limit and not wanted.confirm:
        raise NeedsConfirmationError(
            f'that is {total} tiles, more than {limit}; send "confirm": true if you mean it, or take less'
        )
    request.app.state.allowance.take_of_day(key_of(request), total - estimate.stored)
    job = await service.jobs.add(order, total)
    response.headers.update(NO_STORE | {"Location": f"/jobs/{job.id}"})
    return job_answer(job, estimate)


@router.get("/jobs", operation_id="jobs", response_model_exclude_none=True)
async def jobs(service: ServiceDep, response: Response) -> list[JobAnswer]:
    """All jobs, oldest first."""
    service.resolver(None)  # raises while the server is starting
    response.headers.update(NO_STORE)
    return [job_answer(job) for job in service.jobs.all.values()]


@router.get("/jobs/{id}", operation_id="job", response_model_exclude_none=True)
async def job(service: ServiceDep, response: Response, id: str) -> JobAnswer:
    """How far a job is."""
    response.headers.update(NO_STORE)
    return job_answer(job_of(service, id))


@router.delete("/jobs/{id}", operation_id="cancel_job", dependencies=SCHEMES, response_model_exclude_none=True)
async def cancel(service: ServiceDep, response: Response, id: str) -> JobAnswer:
    """End a job; tiles that are finished stay."""
    ended = job_of(service, id)
    await service.jobs.cancel(ended)
    response.headers.update(NO_STORE)
    return job_answer(ended)


@router.get("/jobs/{id}/events", operation_id="job_events", response_class=EventSourceResponse)
async def events(request: Request, service: ServiceDep, id: str) -> EventSourceResponse:
    """A job's progress as server-sent events (`curl -N`): `progress`, at the end `done`, `failed` or `cancelled`."""
    watched = job_of(service, id)

    async def progress() -> AsyncIterator[ServerSentEvent]:
        async for now in service.jobs.watch(watched):
            name = now.state if now.state in ENDED else "progress"
            yield ServerSentEvent(job_answer(now).model_dump_json(exclude_none=True), event=name, sep="\n")

    return EventSourceResponse(progress(), headers=NO_STORE, sep="\n")
