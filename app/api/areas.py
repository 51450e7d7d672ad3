"""`/areas`: what is to be where in a territory, in words. Saying it needs a key with the role `scenes`."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response

from tilecascade.app.api.access import SCHEMES
from tilecascade.app.api.dependencies import ServiceDep
from tilecascade.app.api.schemas import AreasAnswer
from tilecascade.app.errors import BadRequestError
from tilecascade.app.scenes.areas import notes_of
from tilecascade.app.sources.areas import areas_of

router = APIRouter(tags=["territories"])


@router.get("/areas/{layer}", operation_id="areas")
async def areas(service: ServiceDep, response: Response, layer: str) -> dict[str, Any]:
    """The areas of a territory as GeoJSON, the last on top; sent back as they are, they change nothing."""
    response.headers["Cache-Control"] = "no-cache"
    return service.resolver(layer).layer.areas.collection()


@router.put("/areas/{layer}", operation_id="steer", dependencies=SCHEMES)
async def steer(request: Request, service: ServiceDep, layer: str) -> AreasAnswer:
    """Replace the areas of a territory: a GeoJSON FeatureCollection of polygons.

    Each has a `prompt` ("snow, dense residential north of a river"), a `caption` {scene, relation, element}, or
    `weather` (fog, low light, snow, dusk, night) with `strength`. Only the tiles of areas that have changed are
    generated anew; when this answers, none from before is served.
    """
    try:
        collection = await request.json()
    except (ValueError, RecursionError):
        raise BadRequestError("the body is no JSON; send a GeoJSON FeatureCollection of polygons") from None
    changed = await service.steer(layer, await asyncio.to_thread(areas_of, collection))
    areas = changed.areas
    return AreasAnswer(areas=len(areas.all), revision=changed.revision, notes=notes_of(areas))
