"""`/imagery/{layer}/{z}/{x}/{y}.jpg`: the imagery under a tile, for people to compare."""

from __future__ import annotations

import asyncio
import hashlib
import io
from contextlib import suppress
from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter, Query, Response
from mercantile import Tile
from PIL import Image

from tilecascade.app.api.http_cache import matches
from tilecascade.app.api.tiles import ContextDep, TileQuery, answer, parse_tile
from tilecascade.app.errors import NotFoundError, NoTileError
from tilecascade.app.sources.mosaic import SceneMosaic
from tilecascade.app.sources.source import Source
from tilecascade.app.tiles.formats import MEDIA_TYPES
from tilecascade.app.tiles.image import decode, notes_of
from tilecascade.app.tiles.layer import IMAGERY_SUFFIX, LEVELS_BELOW
from tilecascade.app.tiles.orders import ATTEMPTS
from tilecascade.app.tiles.resolver import TileResolver
from tilecascade.model.cascade import Mask, Pixels, tile_window

router = APIRouter(tags=["imagery"])


def encode(imagery: Source, tile: Tile, form: str) -> bytes | None:
    """A tile of imagery; None where there is none. May block."""
    colours, known = imagery.read(tile_window(tile))
    if not known.any():
        return None
    return file_of(colours, known, form)


def file_of(colours: Pixels, known: Mask, form: str) -> bytes:
    """A picture of this format; JPEG is white where nothing is known."""
    out = io.BytesIO()
    if form == "jpg":
        Image.fromarray(np.where(known[..., None], colours, 255).astype(np.uint8)).save(out, "JPEG", quality=85)
    else:
        Image.fromarray(np.dstack([colours, known.astype(np.uint8) * 255])).save(out, form.upper())
    return out.getvalue()


async def with_scenes(mosaic: SceneMosaic, painted: TileResolver, tile: Tile, form: str) -> Response:
    """The scenes over a tile, over what is painted where they leave some of it free."""
    place = tile_window(tile)
    colours, known = await asyncio.to_thread(mosaic.shown, place)
    if not known.all():
        with suppress(NoTileError):  # scenes may reach beyond what is painted
            below = decode((await painted.find(tile)).data)
            colours, known = mosaic.over(place, below[..., :3], below[..., 3] > 127)
    data = await asyncio.to_thread(file_of, colours, known, form)
    return Response(data, media_type=MEDIA_TYPES[form], headers={"Cache-Control": "no-cache"})


@router.get("/imagery/{layer}/{z}/{x}/{y}", operation_id="imagery_tile", response_class=Response)
async def imagery_tile(
    context: ContextDep,
    layer: str,
    z: str,
    x: str,
    y: str,
    missing: Annotated[Literal["204", "404"], Query(description="Status where there is no imagery.")] = "404",
) -> Response:
    """The imagery under a tile, as .jpg, .png or .webp. What is painted is a tile of the layer NAME-imagery."""
    service = context.service
    shown = service.resolver(layer).layer
    tile, variant = parse_tile(z, x, y)
    first = (shown.ladder.root if shown.base is None else shown.min_zoom) - LEVELS_BELOW
    if variant.scale != 1 or not first <= tile.z <= shown.max_zoom:
        raise NotFoundError(f"imagery is shown at zooms {first} to {shown.max_zoom}, 256 pixels")
    painted = service.resolvers.get(layer + IMAGERY_SUFFIX)
    if painted is not None and tile.z > painted.layer.ladder.root:
        mosaic = shown.imagery
        if isinstance(mosaic, SceneMosaic):
            scenes = await asyncio.to_thread(mosaic.sources, tile)
            if scenes:
                return await with_scenes(mosaic, painted, tile, variant.format)
        response = await answer(context, painted.layer.name, (tile, variant), TileQuery(missing=missing))
        stored = await painted.store.run(painted.store.stored, [tile])  # which counts as no other hit
        if stored is not None:
            response.headers["X-Imagery-Attempts"] = notes_of(stored[tile].data).get(ATTEMPTS, "0")
        return response
    data = await asyncio.to_thread(encode, shown.imagery, tile, variant.format)
    if data is None and missing == "204":
        return Response(status_code=204)
    if data is None:
        raise NotFoundError(f"there is no imagery at {tile.z}/{tile.x}/{tile.y}")
    etag = f'"{hashlib.blake2b(data, digest_size=12).hexdigest()}"'
    headers = {"ETag": etag, "Cache-Control": "no-cache", "X-Tile-Imagery": shown.imagery.id}
    if matches(context.request.headers.get("if-none-match", ""), etag):
        return Response(status_code=304, headers=headers)
    return Response(data, media_type=MEDIA_TYPES[variant.format], headers=headers)
