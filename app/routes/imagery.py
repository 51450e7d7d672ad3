"""`/imagery/{layer}/{z}/{x}/{y}.jpg`: what a layer is drawn from, for people to compare."""

from __future__ import annotations

import asyncio
import hashlib
import io

import numpy as np
from fastapi import APIRouter, Request, Response
from mercantile import Tile
from PIL import Image

from app.errors import NotFoundError
from app.hits import MEDIA_TYPES, matches
from app.imagery import Imagery
from app.routes.tiles import parse_tile
from app.service import Service
from model.cascade import tile_window

router = APIRouter(tags=["imagery"])

LEVELS_BELOW = 2
"""Zooms below a layer's first that imagery is shown at: farther out a scene without overviews would be read whole."""


def encode(imagery: Imagery, tile: Tile, form: str) -> bytes | None:
    """A tile of imagery; None where there is none. JPEG shows white where it is missing."""
    colours, known = imagery.read(tile_window(tile))
    if not known.any():
        return None
    out = io.BytesIO()
    if form == "jpg":
        Image.fromarray(np.where(known[..., None], colours, 255).astype(np.uint8)).save(out, "JPEG", quality=85)
    else:
        image = Image.fromarray(np.dstack([colours, known.astype(np.uint8) * 255]))
        image.save(out, form.upper())
    return out.getvalue()


@router.get("/imagery/{layer}/{z}/{x}/{y}", operation_id="imagery_tile", response_class=Response)
async def imagery_tile(request: Request, layer: str, z: str, x: str, y: str) -> Response:
    """The imagery under a tile, as .jpg, .png or .webp."""
    service: Service = request.app.state.service
    shown = service.resolver(layer).layer
    tile, variant = parse_tile(z, x, y)
    if variant.scale != 1 or not shown.min_zoom - LEVELS_BELOW <= tile.z <= shown.max_zoom:
        raise NotFoundError(
            f"imagery is shown at zooms {shown.min_zoom - LEVELS_BELOW} to {shown.max_zoom}, 256 pixels"
        )
    data = await asyncio.to_thread(encode, shown.imagery, tile, variant.format)
    if data is None:
        raise NotFoundError(f"there is no imagery at {tile.z}/{tile.x}/{tile.y}")
    etag = f'"{hashlib.blake2b(data, digest_size=12).hexdigest()}"'
    headers = {"ETag": etag, "Cache-Control": "no-cache", "X-Tile-Imagery": shown.imagery.id}
    if matches(request.headers.get("if-none-match", ""), etag):
        return Response(status_code=304, headers=headers)
    return Response(data, media_type=MEDIA_TYPES[variant.format], headers=headers)
