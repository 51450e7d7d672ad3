"""`/tiles/...`: parse and validate, ask the resolver, say with headers what the answer is."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from mercantile import Tile
from pydantic import BaseModel, Field

from app import tile_image, variants
from app.errors import RETRY_AFTER, BadRequestError, ClientLeftError, NotFoundError, NotReadyError
from app.hits import CONFIDENCE, MEDIA_TYPES, PLAIN, Variant, etag_of, matches
from app.layer import Layer
from app.resolver import Found, TileResolver
from app.service import Service
from model.engine import Urgency
from model.sgdm.scale_text import MAX_TABLE_ZOOM

router = APIRouter(tags=["tiles"])

PLACEHOLDER_AGE = 2
LEAST_URGENT = 5


class Wishes(BaseModel):
    """What the query of a tile may say."""

    wait: float | None = Field(
        default=None,
        ge=0,
        description="Seconds to wait for the finished tile; the server's interactive wait unless given.",
    )
    v: str | None = Field(default=None, description="Layer revision; the present one makes the tile cacheable.")
    synthetic: int = Field(
        default=1, ge=0, le=1, description="0: only what is real, the base map's tiles; 404 where nothing is."
    )
    mark: int = Field(default=0, ge=0, le=1, description="1: with a visible mark that the tile is generated.")


Wish = Annotated[Wishes, Query()]


def parse_number(name: str, text: str) -> int:
    """A non-negative decimal integer of at most ten ASCII digits. Raises BadRequestError."""
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise BadRequestError(f"{name} must be a whole number from 0 up, not {text[:40]!r}")
    return int(text)


def parse_tile(z: str, x: str, y: str) -> tuple[Tile, Variant]:
    """Validate tile coordinates and the suffix. Raises BadRequestError or NotFoundError with a sentence."""
    row, dot, form = y.partition(".")
    form = {"jpeg": "jpg"}.get(form.lower(), form.lower())
    if not dot or form not in MEDIA_TYPES:
        known = ", ".join(f".{name}" for name in MEDIA_TYPES)
        raise NotFoundError(f"tiles are served as {known}; {form[:20] or 'no format'!r} is not available")
    row, at, scale = row.partition("@")
    if at and scale != "2x":
        raise NotFoundError(f"tiles are served at their own size and @2x; {at + scale[:20]!r} is not available")
    zoom = parse_number("z", z)
    if zoom > MAX_TABLE_ZOOM + 10:
        raise BadRequestError(f"z must be at most {MAX_TABLE_ZOOM}, not {zoom}")
    tile = Tile(parse_number("x", x), parse_number("y", row), zoom)
    limit = (1 << zoom) - 1
    if tile.x > limit or tile.y > limit:
        raise BadRequestError(f"x and y go from 0 to {limit} at zoom {zoom}; got {tile.x}, {tile.y}")
    return tile, Variant(2 if at else 1, form)


def confidence_of(z: str, x: str, y: str) -> tuple[Tile, Variant]:
    """See `parse_tile`; there are .png of 256 pixels only."""
    tile, variant = parse_tile(z, x, y)
    if variant != PLAIN:
        raise NotFoundError("confidence comes as .png in 256 pixels")
    return tile, CONFIDENCE


@dataclass(frozen=True)
class Asked:
    """One request for a tile, understood."""

    request: Request
    service: Service
    resolver: TileResolver
    tile: Tile
    variant: Variant
    wish: Wishes

    @property
    def layer(self) -> Layer:
        """The layer asked for."""
        return self.resolver.layer

    @property
    def known(self) -> str:
        """The client's If-None-Match, or nothing."""
        return self.request.headers.get("if-none-match", "")

    def stat(self) -> os.stat_result | None:
        """Of the tile's file."""
        return self.service.disk.stat(self.layer.key(self.tile, self.variant))

    def describe(self, state: str, source: str) -> dict[str, str]:
        """Headers of an answer."""
        return self.layer.facts.describe(self.tile, self.variant, state, source)


def finished(asked: Asked, found: Found) -> Response:
    """A finished tile: 200, or 304 when the client has it."""
    state = "real" if found.real else "generated" if found.source == "generated" else "cached"
    headers = asked.describe(state, "miss" if state == "generated" else found.source)
    body, stat = found.png, asked.stat()
    if asked.wish.mark and not found.real:
        body, stat = tile_image.marked(body, asked.variant.format), None
    headers["ETag"] = etag_of(stat, body)
    headers["Cache-Control"] = asked.layer.facts.age(asked.wish.v)
    if matches(asked.known, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(body, media_type=MEDIA_TYPES[asked.variant.format], headers=headers)


def unchanged(asked: Asked) -> Response | None:
    """304 for a client that has the tile as it lies on disk, without reading it."""
    if not asked.known or asked.wish.mark or asked.resolver.epochs.purging(asked.tile):
        return None
    stat = asked.stat()
    if stat is None or not matches(asked.known, etag_of(stat)):
        return None
    headers = asked.describe("cached", "disk")
    headers |= {"ETag": etag_of(stat), "Cache-Control": asked.layer.facts.age(asked.wish.v)}
    return Response(status_code=304, headers=headers)


async def placeholder(asked: Asked) -> Response:
    """The nearest cached ancestor enlarged, never stored; 503 where there is none."""
    nearest = await asked.resolver.nearest_ancestor(asked.tile)
    if nearest is None:
        raise NotReadyError("this tile is being drawn and no coarser one exists yet; try again, or use ?wait=60")
    ancestor, png = nearest
    part = tile_image.enlarge_part(tile_image.decode(png), asked.tile, asked.tile.z - ancestor.z)
    if asked.variant.scale == 2:
        part = tile_image.double(part)
    body = tile_image.encode(part[..., :3], part[..., 3] > 127, {"Comment": "placeholder"}, asked.variant.format)
    headers = asked.describe("placeholder", "miss")
    headers["X-Tile-Ancestor"] = f"{ancestor.z}/{ancestor.x}/{ancestor.y}"
    headers["Cache-Control"] = f"max-age={PLACEHOLDER_AGE}, must-revalidate"
    return Response(body, media_type=MEDIA_TYPES[asked.variant.format], headers=headers)


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


async def draw(asked: Asked, patience: float) -> Found | None:
    """Wait for a tile that is not cached. None when patience is over; it is then drawn on for the next request.

    When the client leaves, the work is dropped, unless others wait for it or drawing has begun.
    """
    work = variants.find(asked.resolver, asked.tile, asked.variant, urgency_of(asked.request))
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(client_left(asked.request))
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
    asked.service.linger(task)
    return None


async def answer(request: Request, layer: str | None, place: tuple[Tile, Variant], wish: Wishes) -> Response:
    """Find, make, or stand in for one tile, and measure it."""
    service: Service = request.app.state.service
    began, state = time.perf_counter(), "error"
    try:
        response = await find(Asked(request, service, service.resolver(layer), *place, wish))
        state = response.headers.get("x-tile-state", "later")
    finally:
        seconds = time.perf_counter() - began
        service.metrics.answered(state, seconds)
    response.headers["Server-Timing"] = f"total;dur={seconds * 1000:.1f}"
    return response


async def find(asked: Asked) -> Response:
    """The answer to a request for one tile. HEAD never generates."""
    request, service, settings = asked.request, asked.service, asked.service.settings
    if not asked.wish.synthetic:
        return await only_real(asked)
    response = unchanged(asked)
    if response is not None:
        return response
    found = await asked.resolver.cached(asked.tile, asked.variant)
    if found is None and request.method == "HEAD":
        asked.resolver.check_zoom(asked.tile)
        raise NotFoundError("this tile has not been drawn; HEAD does not draw it")
    if found is None:
        service.limits.take(request.client.host if request.client else "")
        patience = settings.interactive_wait if asked.wish.wait is None else min(asked.wish.wait, settings.max_wait)
        later = "respond-async" in request.headers.get("prefer", "").lower()
        found = await draw(asked, 0.0 if later else patience)
        if found is None and later:
            headers = {"Retry-After": RETRY_AFTER, "Preference-Applied": "respond-async", "Cache-Control": "no-store"}
            return JSONResponse({"detail": "this tile is being drawn; ask again"}, 202, headers)
        if found is None and asked.variant.confidence:
            raise NotReadyError("this is being drawn; ask again, or with ?wait=60")
        if found is None:
            return await placeholder(asked)
        if settings.look_ahead and found.source == "generated" and urgency_of(request) == Urgency.INTERACTIVE:
            service.look_ahead(asked.resolver, asked.tile)
    return finished(asked, found)


async def only_real(asked: Asked) -> Response:
    """The base map's tile. Raises NotFoundError where it has none."""
    if await asked.resolver.real(asked.tile) is None:
        raise NotFoundError(f"nothing at {asked.tile.z}/{asked.tile.x}/{asked.tile.y} is surveyed; a tile can be drawn")
    if asked.variant.scale == 2:
        raise NotFoundError("with synthetic=0 tiles are served at their own size only")
    return finished(asked, await variants.find(asked.resolver, asked.tile, asked.variant))


@router.head("/tiles/{z}/{x}/{y}", include_in_schema=False)
@router.get("/tiles/{z}/{x}/{y}", operation_id="tile", response_class=Response)
async def tile(request: Request, z: str, x: str, y: str, wish: Wish) -> Response:
    """A tile of the default layer: `/tiles/{z}/{x}/{y}.png`, also .webp, .jpg, and @2x before the dot."""
    return await answer(request, None, parse_tile(z, x, y), wish)


@router.head("/tiles/{layer}/{z}/{x}/{y}", include_in_schema=False)
@router.get("/tiles/{layer}/{z}/{x}/{y}", operation_id="layer_tile", response_class=Response)
async def layer_tile(request: Request, layer: str, z: str, x: str, y: str, wish: Wish) -> Response:
    """A tile of a named layer: `/tiles/{layer}/{z}/{x}/{y}.png`, also .webp, .jpg, and @2x before the dot.

    `/tiles/confidence/...`: how far the default layer's tile can be trusted.
    """
    if layer == "confidence":
        return await answer(request, None, confidence_of(z, x, y), wish)
    return await answer(request, layer, parse_tile(z, x, y), wish)


@router.get("/tiles/{layer}/confidence/{z}/{x}/{y}", operation_id="confidence_tile", response_class=Response)
async def confidence_tile(request: Request, layer: str, z: str, x: str, y: str, wish: Wish) -> Response:
    """How far a named layer's tile can be trusted: the share of its pixels expected to be wrong, as colours."""
    return await answer(request, layer, confidence_of(z, x, y), wish)
