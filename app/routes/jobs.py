"""`/jobs`: have all tiles of an area drawn; watch, cancel. Ordering needs the server's key, looking does not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, Field, model_validator

from app.areas import Area
from app.errors import NeedsConfirmationError, NotFoundError
from app.jobs import ENDED, Job, Jobs, Order
from app.layer import Layer
from app.routes.scenes import need_key
from app.service import Service

router = APIRouter(tags=["jobs"])

FRESH = {"Cache-Control": "no-store"}
TILE_BYTES = 10_000
"""Of a tile, where none is stored yet."""

MOST_LOOKED_AT = 200_000
"""Tiles that an estimate looks for on disk."""


class Wanted(BaseModel, extra="forbid"):
    """What to draw: an area as `bbox` (west, south, east, north) or `area` (GeoJSON polygons), and the zooms."""

    layer: str | None = None
    bbox: tuple[float, float, float, float] | None = None
    area: dict[str, Any] | None = None
    zooms: tuple[int, int]
    rate: float = Field(default=0, ge=0, le=10_000, description="tiles drawn per second at most; 0: no limit")
    most_failures: int = Field(default=20, ge=0)
    dry_run: bool = False
    confirm: bool = Field(default=False, description="for more tiles than the server takes without")

    @model_validator(mode="after")
    def _one_area(self) -> Wanted:
        if (self.bbox is None) == (self.area is None):
            raise ValueError("give bbox or area, and not both")
        if self.zooms[0] > self.zooms[1]:
            raise ValueError("zooms are the first and the last: [14, 17]")
        return self

    def order(self, layer: Layer) -> Order:
        """The order, clipped to the layer's imagery. Raises AreaError or NotFoundError."""
        area = Area.of_box(self.bbox) if self.bbox is not None else Area.of_geojson(self.area or {})
        if self.zooms[0] < layer.min_zoom or self.zooms[1] > layer.max_zoom:
            raise NotFoundError(f"layer {layer.name} has zooms {layer.min_zoom} to {layer.max_zoom}; take these")
        inside = area.clipped(layer.imagery.bounds)
        if inside is None:
            west, south, east, north = layer.imagery.bounds
            raise NotFoundError(f"the area lies outside the layer's imagery, which spans {west},{south},{east},{north}")
        return Order(layer.name, inside, self.zooms, self.rate, self.most_failures)


def jobs_of(request: Request) -> Jobs:
    """The service's jobs. Raises NotReadyError while it starts."""
    service: Service = request.app.state.service
    service.resolver(None)
    return service.jobs


def job_of(request: Request, id: str) -> Job:
    """The job of this id. Raises NotFoundError."""
    jobs = jobs_of(request)
    if id not in jobs.all:
        raise NotFoundError(f"there is no job {id[:40]!r}")
    return jobs.all[id]


def estimate(service: Service, order: Order) -> dict[str, object]:
    """Tiles, and what is still to be drawn, stored and waited for. Raises AreaError for far too many."""
    layer, counts = service.resolver(order.layer).layer, order.counts()
    total = sum(counts.values())
    there = stored = 0
    if total <= MOST_LOOKED_AT:
        for tile in order.tiles():
            stat = service.disk.stat(layer.key(tile))
            if stat is not None:
                there, stored = there + 1, stored + stat.st_size
    mean = stored / there if there else TILE_BYTES
    seconds = service.seconds_per_block()
    per_block = 4**layer.ladder.span
    return {
        "layer": layer.name,
        "tiles": total,
        "by_zoom": {str(zoom): count for zoom, count in counts.items()},
        "there": there,
        "bytes": round((total - there) * mean),
        "seconds": None if seconds is None else round((total - there) / per_block * seconds, 1),
        "fits": total * mean <= service.settings.disk_bytes,
    }


@router.post("/jobs", operation_id="add_job", status_code=202, dependencies=[Depends(need_key)])
async def add(request: Request, wanted: Wanted) -> JSONResponse:
    """Order a job, or with `dry_run` learn what it would take."""
    service: Service = request.app.state.service
    order = wanted.order(service.resolver(wanted.layer).layer)
    told = await asyncio.to_thread(estimate, service, order)
    if wanted.dry_run:
        return JSONResponse(told, 200, FRESH)
    total, most = sum(order.counts().values()), service.settings.job_tiles
    if total > most and not wanted.confirm:
        raise NeedsConfirmationError(
            f'that is {total} tiles, more than {most}; send "confirm": true if you mean it, or take less'
        )
    job = await jobs_of(request).add(order, total)
    return JSONResponse(job.told() | {"estimate": told}, 202, FRESH | {"Location": f"/jobs/{job.id}"})


@router.get("/jobs", operation_id="jobs")
async def jobs(request: Request) -> JSONResponse:
    """All jobs, oldest first."""
    return JSONResponse([job.told() for job in jobs_of(request).all.values()], headers=FRESH)


@router.get("/jobs/{id}", operation_id="job")
async def job(request: Request, id: str) -> JSONResponse:
    """How far a job is."""
    return JSONResponse(job_of(request, id).told(), headers=FRESH)


@router.delete("/jobs/{id}", operation_id="cancel_job", dependencies=[Depends(need_key)])
async def cancel(request: Request, id: str) -> JSONResponse:
    """End a job; tiles that are drawn stay."""
    job = job_of(request, id)
    await jobs_of(request).cancel(job)
    return JSONResponse(job.told(), headers=FRESH)


@router.get("/jobs/{id}/events", operation_id="job_events", response_class=StreamingResponse)
async def events(request: Request, id: str) -> StreamingResponse:
    """A job's progress as server-sent events (`curl -N`): `progress`, at the end `done`, `failed` or `cancelled`."""
    job = job_of(request, id)

    async def lines() -> AsyncIterator[str]:
        async for now in jobs_of(request).watch(job):
            name = now.state if now.state in ENDED else "progress"
            yield f"event: {name}\ndata: {json.dumps(now.told())}\n\n"

    # nginx would hold the lines back otherwise
    return StreamingResponse(lines(), media_type="text/event-stream", headers=FRESH | {"X-Accel-Buffering": "no"})
