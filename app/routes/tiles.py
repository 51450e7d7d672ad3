"""`/tiles/...`: parse and validate, ask the resolver, say with headers what the answer is."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from mercantile import Tile

from app import tile_image
from app.errors import RETRY_AFTER, BadRequestError, ClientLeftError, NotFoundError, NotReadyError
from app.hits import etag_of, matches
from app.layer import Layer
from app.resolver import Found, TileResolver
from app.service import Service
from model.engine import Urgency
from model.sgdm.scale_text import MAX_TABLE_ZOOM

router = APIRouter(tags=["tiles"])

PLACEHOLDER_AGE = 2
LEAST_URGENT = 5

Wait = Annotated[
    float | None,
    Query(ge=0, description="Seconds to wait for the finished tile instead of the server's interactive wait."),
]
Version = Annotated[str | None, Query(alias="v", description="Layer version; a matching one makes the tile cacheable.")]


def parse_number(name: str, text: str) -> int:
    """A non-negative decimal integer of at most ten ASCII digits. Raises BadRequestError."""
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise BadRequestError(f"{name} must be a whole number from 0 up, not {text[:40]!r}")
    return int(text)


def parse_tile(z: str, x: str, y: str) -> Tile:
    """Validate tile coordinates and the format suffix. Raises BadRequestError or NotFoundError with a sentence."""
    row, dot, suffix = y.partition(".")
    if not dot or suffix.lower() != "png":
        raise NotFoundError(f"tiles are served as .png; {suffix[:20] or 'no format'!r} is not available")
    zoom = parse_number("z", z)
    if zoom > MAX_TABLE_ZOOM + 10:
        raise BadRequestError(f"z must be at most {MAX_TABLE_ZOOM}, not {zoom}")
    tile = Tile(parse_number("x", x), parse_number("y", row), zoom)
    limit = (1 << zoom) - 1
    if tile.x > limit or tile.y > limit:
        raise BadRequestError(f"x and y go from 0 to {limit} at zoom {zoom}; got {tile.x}, {tile.y}")
    return tile


def finished(service: Service, layer: Layer, tile: Tile, found: Found, known: str, version: str | None) -> Response:
    """A finished tile: 200, or 304 when the client has it. known: its If-None-Match."""
    state = "generated" if found.source == "generated" else "cached"
    headers = layer.facts.describe(tile, state, "miss" if state == "generated" else found.source)
    headers["ETag"] = etag_of(service.disk.stat(layer.key(tile)), found.png)
    headers["Cache-Control"] = layer.facts.age(version)
    if matches(known, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(found.png, media_type="image/png", headers=headers)


def unchanged(service: Service, layer: Layer, tile: Tile, known: str, version: str | None) -> Response | None:
    """304 for a client that has the tile as it lies on disk, without reading it."""
    stat = service.disk.stat(layer.key(tile)) if known else None
    if stat is None or not matches(known, etag_of(stat)):
        return None
    headers = layer.facts.describe(tile, "cached", "disk")
    return Response(
        status_code=304, headers=headers | {"ETag": etag_of(stat), "Cache-Control": layer.facts.age(version)}
    )


async def placeholder(resolver: TileResolver, tile: Tile) -> Response:
    """The nearest cached ancestor enlarged, never stored; 503 where there is none."""
    nearest = await resolver.nearest_ancestor(tile)
    if nearest is None:
        raise NotReadyError("this tile is being drawn and no coarser one exists yet; try again, or use ?wait=60")
    ancestor, png = nearest
    part = tile_image.enlarge_part(tile_image.decode(png), tile, tile.z - ancestor.z)
    body = tile_image.encode(part[..., :3], part[..., 3] > 127, {"Comment": "placeholder"})
    headers = resolver.layer.facts.describe(tile, "placeholder", "miss")
    headers["X-Tile-Ancestor"] = f"{ancestor.z}/{ancestor.x}/{ancestor.y}"
    headers["Cache-Control"] = f"max-age={PLACEHOLDER_AGE}, must-revalidate"
    return Response(body, media_type="image/png", headers=headers)


def urgency_of(request: Request) -> Urgency:
    """How urgent a request is: `Priority: u=5` to `u=7` (RFC 9218) means that nobody is looking yet."""
    for part in request.headers.get("priority", "").split(","):
        name, _, value = part.strip().partition("=")
        if name == "u" and value.isdigit():
            return Urgency.PREFETCH if int(value) >= LEAST_URGENT else Urgency.INTERACTIVE
    return Urgency.INTERACTIVE


async def client_left(request: Request) -> None:
    """Return when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def draw(request: Request, service: Service, resolver: TileResolver, tile: Tile, patience: float) -> Found | None:
    """Wait for a tile that is not cached. None when patience is over; it is then drawn on for the next request.

    When the client leaves, the work is dropped, unless others wait for it or drawing has begun.
    """
    task = asyncio.ensure_future(resolver.tile(tile, urgency_of(request)))
    gone = asyncio.ensure_future(client_left(request))
    try:
        await asyncio.wait({task, gone}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        task.cancel()
        raise
    finally:
        gone.cancel()
    if task.done():
        return task.result()
    if gone.done():
        task.cancel()
        raise ClientLeftError("the client left before the tile was drawn")
    service.linger(task)
    return None


async def answer(request: Request, layer: str | None, tile: Tile, wait: float | None, version: str | None) -> Response:
    """Find, make, or stand in for one tile, and measure it."""
    service: Service = request.app.state.service
    began, state = time.perf_counter(), "error"
    try:
        response = await find(request, service, service.resolver(layer), tile, wait, version)
        state = response.headers.get("x-tile-state", "later")
    finally:
        seconds = time.perf_counter() - began
        service.metrics.answered(state, seconds)
    response.headers["Server-Timing"] = f"total;dur={seconds * 1000:.1f}"
    return response


async def find(
    request: Request, service: Service, resolver: TileResolver, tile: Tile, wait: float | None, version: str | None
) -> Response:
    """The answer to a request for one tile. HEAD never generates."""
    known = request.headers.get("if-none-match", "")
    response = unchanged(service, resolver.layer, tile, known, version)
    if response is not None:
        return response
    found = await resolver.cached(tile)
    if found is None and request.method == "HEAD":
        resolver.check_zoom(tile)
        raise NotFoundError("this tile has not been drawn; HEAD does not draw it")
    if found is None:
        service.limits.take(request.client.host if request.client else "")
        patience = service.settings.interactive_wait if wait is None else min(wait, service.settings.max_wait)
        later = "respond-async" in request.headers.get("prefer", "").lower()
        found = await draw(request, service, resolver, tile, 0.0 if later else patience)
        if found is None and later:
            headers = {"Retry-After": RETRY_AFTER, "Preference-Applied": "respond-async", "Cache-Control": "no-store"}
            return JSONResponse({"detail": "this tile is being drawn; ask again"}, 202, headers)
        if found is None:
            return await placeholder(resolver, tile)
        if service.settings.look_ahead and found.source == "generated" and urgency_of(request) == Urgency.INTERACTIVE:
            service.look_ahead(resolver, tile)
    return finished(service, resolver.layer, tile, found, known, version)


@router.head("/tiles/{z}/{x}/{y}", include_in_schema=False)
@router.get("/tiles/{z}/{x}/{y}", operation_id="tile", response_class=Response)
async def tile(request: Request, z: str, x: str, y: str, wait: Wait = None, v: Version = None) -> Response:
    """A tile of the default layer: `/tiles/{z}/{x}/{y}.png`."""
    return await answer(request, None, parse_tile(z, x, y), wait, v)


@router.head("/tiles/{layer}/{z}/{x}/{y}", include_in_schema=False)
@router.get("/tiles/{layer}/{z}/{x}/{y}", operation_id="layer_tile", response_class=Response)
async def layer_tile(
    request: Request, layer: str, z: str, x: str, y: str, wait: Wait = None, v: Version = None
) -> Response:
    """A tile of a named layer: `/tiles/{layer}/{z}/{x}/{y}.png`."""
    return await answer(request, layer, parse_tile(z, x, y), wait, v)
