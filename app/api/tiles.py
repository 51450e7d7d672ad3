"""`/tiles/...`: validate a request, find or make its tile, and say in headers what the answer is."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse
from mercantile import Tile
from pydantic import BaseModel, Field

from tilecascade.app.api.allowance import Allowance
from tilecascade.app.api.errors import RETRY_AFTER
from tilecascade.app.api.http_cache import etag_of, matches
from tilecascade.app.api.metrics import ServiceMetrics
from tilecascade.app.api.waiting import priority_of, wait_for
from tilecascade.app.errors import BadRequestError, NotFoundError, NoTileError, NotReadyError
from tilecascade.app.service import Service
from tilecascade.app.tiles import image
from tilecascade.app.tiles.formats import CONFIDENCE, MAX_ZOOM, MEDIA_TYPES, PLAIN, Variant
from tilecascade.app.tiles.resolver import TileResolver
from tilecascade.app.tiles.store import GENERATED, FoundTile
from tilecascade.model.cascade import enlarge_part, tile_window
from tilecascade.model.engine import BatchTooLargeError, EngineClosedError, Priority, QueueFullError

router = APIRouter(tags=["tiles"])

PLACEHOLDER_AGE = 2
"""Seconds for which a placeholder may be cached."""


class TileQuery(BaseModel):
    """The query parameters of a tile."""

    wait: float | None = Field(
        default=None,
        ge=0,
        description="Seconds to wait for the finished tile; the server's interactive wait unless given.",
    )
    v: str | None = Field(default=None, description="Layer revision; the present one makes the tile cacheable.")
    synthetic: int = Field(
        default=1, ge=0, le=1, description="0: only tiles of the base map, and 404 where it has none."
    )
    missing: Literal["204", "404"] = Field(
        default="404", description="Status where there is no imagery; browsers report 404 as an error of the page."
    )
    prompt: str | None = Field(
        default=None, description="Refused: a tile is the same for everyone. `PUT /areas/LAYER` says what is where."
    )
    mark: int = Field(default=0, ge=0, le=1, description="1: with a visible mark that the tile is generated.")


class TileContext(NamedTuple):
    """One HTTP request with the parts of the application that answer it."""

    request: Request
    service: Service
    metrics: ServiceMetrics
    allowance: Allowance


async def get_context(request: Request) -> TileContext:
    """Collect the parts in one dependency instead of three, because each slows a finished tile down."""
    state = request.app.state
    return TileContext(request, state.service, state.metrics, state.allowance)


ContextDep = Annotated[TileContext, Depends(get_context)]
QueryDep = Annotated[TileQuery, Query()]


@dataclass(slots=True)
class TileRequest:
    """One validated request for a tile."""

    context: TileContext
    resolver: TileResolver
    tile: Tile
    variant: Variant
    query: TileQuery

    @property
    def etags(self) -> str:
        """The client's If-None-Match, or nothing."""
        return self.context.request.headers.get("if-none-match", "")

    @property
    def priority(self) -> Priority:
        """PREFETCH for `Priority: u=5` to `u=7` (RFC 9218), INTERACTIVE otherwise."""
        return priority_of(self.context.request)

    @property
    def cache_control(self) -> str:
        """Cache-Control of the finished tile."""
        return self.resolver.layer.info.cache_control(self.query.v)

    def stat(self) -> os.stat_result | None:
        """Of the tile's file on disk; None if there is none."""
        return self.context.service.caches.disk.stat(self.resolver.layer.key(self.tile, self.variant))

    def describe(self, state: str, source: str) -> dict[str, str]:
        """Headers that say what an answer is."""
        return self.resolver.layer.info.describe(self.tile, self.variant, state, source)


def parse_number(name: str, text: str) -> int:
    """A non-negative decimal integer of at most ten ASCII digits. Raises BadRequestError."""
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise BadRequestError(f"{name} must be a whole number from 0 up, not {text[:40]!r}")
    return int(text)


def parse_tile(z: str, x: str, y: str) -> tuple[Tile, Variant]:
    """Validate tile coordinates and the suffix of `y`. Raises BadRequestError or NotFoundError."""
    row, dot, form = y.partition(".")
    form = {"jpeg": "jpg"}.get(form.lower(), form.lower())
    if not dot or form not in MEDIA_TYPES:
        known = ", ".join(f".{name}" for name in MEDIA_TYPES)
        raise NotFoundError(f"tiles are served as {known}; {form[:20] or 'no format'!r} is not available")
    row, at, scale = row.partition("@")
    if at and scale != "2x":
        raise NotFoundError(f"tiles are served at their own size and @2x; {at + scale[:20]!r} is not available")
    tile = tile_of(parse_number("z", z), parse_number("x", x), parse_number("y", row))
    return tile, Variant(2 if at else 1, form)


def tile_of(zoom: int, x: int, y: int) -> Tile:
    """A tile within the world. Raises BadRequestError."""
    if zoom > MAX_ZOOM:
        raise BadRequestError(f"z must be at most {MAX_ZOOM}, not {zoom}")
    limit = (1 << zoom) - 1
    if x > limit or y > limit:
        raise BadRequestError(f"x and y go from 0 to {limit} at zoom {zoom}; got {x}, {y}")
    return Tile(x, y, zoom)


def parse_confidence_tile(z: str, x: str, y: str) -> tuple[Tile, Variant]:
    """Like `parse_tile`, for confidence tiles: there are only .png files of 256 pixels."""
    tile, variant = parse_tile(z, x, y)
    if variant != PLAIN:
        raise NotFoundError("confidence comes as .png in 256 pixels")
    return tile, CONFIDENCE


@router.head("/tiles/{z}/{x}/{y}", include_in_schema=False)
@router.get("/tiles/{z}/{x}/{y}", operation_id="tile", response_class=Response)
async def tile(context: ContextDep, z: str, x: str, y: str, query: QueryDep) -> Response:
    """A tile of the default layer: `/tiles/{z}/{x}/{y}.png`, also .webp, .jpg, and @2x before the dot."""
    return await answer(context, None, parse_tile(z, x, y), query)


@router.head("/tiles/{layer}/{z}/{x}/{y}", include_in_schema=False)
@router.get("/tiles/{layer}/{z}/{x}/{y}", operation_id="layer_tile", response_class=Response)
async def layer_tile(context: ContextDep, layer: str, z: str, x: str, y: str, query: QueryDep) -> Response:
    """A tile of a named layer: `/tiles/{layer}/{z}/{x}/{y}.png`, also .webp, .jpg, and @2x before the dot.

    `/tiles/confidence/...`: how far the default layer's tile can be trusted.
    """
    if layer == "confidence":
        return await answer(context, None, parse_confidence_tile(z, x, y), query)
    return await answer(context, layer, parse_tile(z, x, y), query)


@router.get("/tiles/{layer}/confidence/{z}/{x}/{y}", operation_id="confidence_tile", response_class=Response)
async def confidence_tile(context: ContextDep, layer: str, z: str, x: str, y: str, query: QueryDep) -> Response:
    """How far a named layer's tile can be trusted: the share of its pixels expected to be wrong, as colours."""
    return await answer(context, layer, parse_confidence_tile(z, x, y), query)


async def answer(context: TileContext, layer: str | None, place: tuple[Tile, Variant], query: TileQuery) -> Response:
    """Answer a request for one tile, and measure how long it took."""
    began, state = time.perf_counter(), "error"
    if query.prompt is not None:
        raise BadRequestError(
            "a tile has no prompt of its own: it depends on its layer and its place only, so that all clients see the "
            "same map; say what is to be where with PUT /areas/LAYER"
        )
    try:
        response = await respond_once_more(TileRequest(context, context.service.resolver(layer), *place, query))
        state = response.headers.get("x-tile-state", "later")
    except NoTileError:
        if query.missing == "404":
            raise
        response, state = Response(status_code=204), "none"
    finally:
        seconds = time.perf_counter() - began
        context.metrics.answered(state, seconds)
    response.headers["Server-Timing"] = f"total;dur={seconds * 1000:.1f}"
    return response


async def respond_once_more(wanted: TileRequest) -> Response:
    """The answer to a request for one tile, asked of the network that takes over if the present one cannot go on."""
    while True:
        try:
            return await respond(wanted)
        except (BatchTooLargeError, EngineClosedError) as error:
            wanted.resolver = await wanted.resolver.successor(error)


async def respond(wanted: TileRequest) -> Response:
    """The answer to a request for one tile. HEAD never generates."""
    if not wanted.query.synthetic:
        return await base_map_only(wanted)
    unchanged = not_modified(wanted)
    if unchanged is not None:
        return unchanged
    found = await wanted.resolver.find_finished(wanted.tile, wanted.variant)
    if found is not None:
        return finished(wanted, found)
    if wanted.context.request.method == "HEAD":
        wanted.resolver.check_zoom(wanted.tile)
        raise NotFoundError("this tile has not been generated; HEAD does not generate it")
    return await generate(wanted)


async def generate(wanted: TileRequest) -> Response:
    """A tile that is not stored yet: the tile itself, or what can be answered before it is finished."""
    context, request = wanted.context, wanted.context.request
    settings = context.service.settings
    context.allowance.take(request)
    wait = settings.interactive_wait if wanted.query.wait is None else min(wanted.query.wait, settings.max_wait)
    asynchronous = "respond-async" in request.headers.get("prefer", "").lower()
    try:
        making = wanted.resolver.make(wanted.tile, wanted.variant, wanted.priority)
        found = await wait_for(request, context.service.background, making, 0.0 if asynchronous else wait)
    except QueueFullError:
        if asynchronous or wanted.variant.kind == "confidence":
            raise
        return await placeholder(wanted)  # a busy server is no reason for a client to show nothing
    if found is not None:
        if settings.look_ahead and found.source == GENERATED and wanted.priority == Priority.INTERACTIVE:
            context.service.background.generate_around(wanted.resolver, wanted.tile)
        return finished(wanted, found)
    if asynchronous:
        headers = {"Retry-After": RETRY_AFTER, "Preference-Applied": "respond-async", "Cache-Control": "no-store"}
        return JSONResponse({"detail": "this tile is being generated; ask again"}, 202, headers)
    if wanted.variant.kind == "confidence":
        raise NotReadyError("this tile is being generated; ask again, or with ?wait=60")
    return await placeholder(wanted)


async def base_map_only(wanted: TileRequest) -> Response:
    """The base map's own tile. Raises NotFoundError where it has none."""
    tile = wanted.tile
    drawn = wanted.resolver.layer.base_drawn
    if drawn or await wanted.resolver.store.from_base_map(tile) is None:
        raise NotFoundError(f"the base map has nothing at {tile.z}/{tile.x}/{tile.y}; a tile can be generated")
    if wanted.variant.scale == 2:
        raise NotFoundError("with synthetic=0 tiles are served at their own size only")
    return finished(wanted, await wanted.resolver.find(tile, wanted.variant))


def not_modified(wanted: TileRequest) -> Response | None:
    """304 for a client that has the tile as it lies on disk, without reading the file."""
    if not wanted.etags or wanted.query.mark or wanted.resolver.store.clock.purging(wanted.tile):
        return None
    stat = wanted.stat()
    if stat is None or not matches(wanted.etags, etag_of(stat)):
        return None
    headers = wanted.describe("cached", "disk") | {"ETag": etag_of(stat), "Cache-Control": wanted.cache_control}
    return Response(status_code=304, headers=headers)


def finished(wanted: TileRequest, found: FoundTile) -> Response:
    """A finished tile: 200, or 304 when the client has it."""
    state = "base-map" if found.from_base_map else "generated" if found.source == GENERATED else "cached"
    headers = wanted.describe(state, "miss" if state == "generated" else found.source)
    body, stat = found.data, wanted.stat()
    if wanted.query.mark and not found.from_base_map:
        body, stat = image.marked(body, wanted.variant.format), None
    headers |= {"ETag": etag_of(stat, body), "Cache-Control": wanted.cache_control}
    if matches(wanted.etags, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(body, media_type=MEDIA_TYPES[wanted.variant.format], headers=headers)


async def placeholder(wanted: TileRequest) -> Response:
    """What stands in for a tile that is not finished: what the network before has made of it, its nearest finished
    ancestor, enlarged, or a preview of its imagery.

    Never stored. Raises NoTileError where there is no imagery.
    """
    tile, form = wanted.tile, wanted.variant.format
    headers = wanted.describe("placeholder", "miss")
    briefly = {"Cache-Control": f"max-age={PLACEHOLDER_AGE}, must-revalidate"}
    earlier = await wanted.resolver.previous_tile(tile, wanted.variant)
    if earlier is not None:
        headers = earlier[0].info.describe(tile, wanted.variant, "placeholder", "miss")
        return Response(earlier[1], media_type=MEDIA_TYPES[form], headers=headers | briefly)
    nearest = await wanted.resolver.nearest_ancestor(tile)
    if nearest is not None:
        ancestor, data = nearest
        pixels = enlarge_part(image.decode(data), tile, tile.z - ancestor.z)
        headers["X-Tile-Ancestor"] = f"{ancestor.z}/{ancestor.x}/{ancestor.y}"
    else:
        layer = wanted.resolver.layer
        pixels = image.preview(*await asyncio.to_thread(layer.imagery.read, tile_window(tile)), layer.kind)
    known = pixels[..., 3] > 127
    if not known.any():
        raise NoTileError.no_imagery(tile)
    if wanted.variant.scale == 2:
        pixels, known = image.double(pixels), known.repeat(2, 0).repeat(2, 1)
    body = image.encode(pixels[..., :3], known, {"Comment": "placeholder"}, form)
    return Response(body, media_type=MEDIA_TYPES[form], headers=headers | briefly)
