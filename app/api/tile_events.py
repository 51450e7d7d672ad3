"""`/tiles/{layer}/events`: which tiles have just been finished, as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import APIRouter
from sse_starlette import EventSourceResponse, ServerSentEvent

from tilecascade.app.api.dependencies import ServiceDep
from tilecascade.app.tiles.announcements import Announcements

router = APIRouter(tags=["tiles"])


@router.get("/tiles/events", operation_id="tile_events", response_class=EventSourceResponse)
async def tile_events(service: ServiceDep) -> EventSourceResponse:
    """Each tile of the default layer that this server finishes from now on; see `/tiles/{layer}/events`."""
    return await layer_tile_events(service, None)


@router.get("/tiles/{layer}/events", operation_id="layer_tile_events", response_class=EventSourceResponse)
async def layer_tile_events(service: ServiceDep, layer: str | None) -> EventSourceResponse:
    """Each tile that this server finishes from now on: the event `tile` with `z/x/y` (`curl -N`).

    Clients that show placeholders ask for a tile again when it is named. What another server with the same cache
    finishes is not told: ask again after a while, too.
    """
    return EventSourceResponse(_told(service.resolver(layer).store.finished), headers={"Cache-Control": "no-store"})


async def _told(finished: Announcements) -> AsyncIterator[ServerSentEvent]:
    async for tile in finished.listen():
        yield ServerSentEvent(f"{tile.z}/{tile.x}/{tile.y}", event="tile", sep="\n")
