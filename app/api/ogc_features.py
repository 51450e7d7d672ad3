"""`/ogc/collections/{layer}/items`: OGC API - Features, Part 1 (OGC 17-069r4), core and GeoJSON.

A feature is assembled from the tiles of an area, and a road is as long as it is in the area. So its identifier names
the area's tiles, too, and asking for it later assembles the same.
"""

from __future__ import annotations

import asyncio
import datetime
import json
from collections.abc import Sequence
from typing import Annotated, Any

import mercantile
from fastapi import APIRouter, Query, Response
from mercantile import Tile

from tilecascade.app.api.dependencies import BaseUrl
from tilecascade.app.api.features import GEOJSON, MAX_TILES, collected, collection, described, waited
from tilecascade.app.api.ogc import link
from tilecascade.app.api.schemas import parse_bbox
from tilecascade.app.api.tiles import ContextDep
from tilecascade.app.api.waiting import priority_of
from tilecascade.app.errors import AreaError, BadRequestError, NotFoundError
from tilecascade.app.jobs.area import Area
from tilecascade.app.tiles.geojson import Feature
from tilecascade.app.tiles.layer import Layer

router = APIRouter(prefix="/ogc", tags=["ogc"])

PAGE, LARGEST_PAGE = 100, 10_000
"""Features of one answer, unless the client says otherwise; and at most."""

PARAMETERS = {"bbox", "limit", "offset", "datetime", "zoom", "wait", "key"}
"""All others are refused, as the standard wants it."""

Json = dict[str, Any]


@router.get("/collections/{layer}/items", operation_id="ogc_items", response_class=Response)
async def items(
    context: ContextDep,
    base: BaseUrl,
    layer: str,
    bbox: Annotated[str | None, Query(description="west,south,east,north in degrees; the layer if absent")] = None,
    limit: Annotated[int, Query(ge=1, description=f"Features of the answer, at most {LARGEST_PAGE}.")] = PAGE,
    offset: Annotated[int, Query(ge=0, description="Features that were answered before.")] = 0,
    when: Annotated[str | None, Query(alias="datetime", description="Time of the imagery, or an interval.")] = None,
    zoom: Annotated[int | None, Query(description="Zoom of the objects.")] = None,
    wait: Annotated[float | None, Query(ge=0)] = None,
) -> Response:
    """The map objects of an area, page by page; generated if need be. Without `zoom`, of the finest zoom at which the
    area has few enough tiles.

    The parameters are the standard's, because its clients send them.
    """
    request, resolver = context.request, context.service.resolver(layer)
    unknown = sorted(set(request.query_params) - PARAMETERS)
    if unknown:
        raise BadRequestError(f"unknown parameter {unknown[0][:40]!r}; known are {', '.join(sorted(PARAMETERS))}")
    served = resolver.layer
    box = served.imagery.bounds if bbox is None else parse_bbox(bbox)
    area = Area.of_box(box).clipped(served.imagery.bounds)
    some: list[Feature] = []
    if area is not None:
        level = finest(served, area) if zoom is None else allowed(served, area, zoom)
        tiles = list(area.tiles(level))
        work = resolver.features.of_tiles(tiles, priority_of(request))
        found = await waited(context, work, wait)
        some = await asyncio.to_thread(collected, served, level, found, area.bounds, 0.0)
        some = named([each for each in some if when is None or taken(each, when)], tiles)
    page = some[offset : offset + min(limit, LARGEST_PAGE)]
    place = f"{base}/ogc/collections/{served.name}"
    links = [link(f"{place}/items?{request.url.query}", "self", "These features", GEOJSON)]
    if offset + len(page) < len(some):
        following = request.url.include_query_params(offset=offset + len(page))
        links.append(link(f"{place}/items?{following.query}", "next", "More of them", GEOJSON))
    links.append(link(place, "collection", "The layer"))
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    body = collection(served, page, box) | {
        "links": links, "timeStamp": now, "numberMatched": len(some), "numberReturned": len(page),
    }  # fmt: skip
    return Response(json.dumps(body), media_type=GEOJSON, headers=described(served))


@router.get("/collections/{layer}/items/{item}", operation_id="ogc_item", response_class=Response)
async def one_item(context: ContextDep, base: BaseUrl, layer: str, item: str) -> Response:
    """One feature, by the identifier that `items` gave it."""
    resolver = context.service.resolver(layer)
    served = resolver.layer
    tiles = tiles_of(served, item)
    found = await waited(context, resolver.features.of_tiles(tiles, priority_of(context.request)), None)
    box = mercantile.bounds(tiles[0]), mercantile.bounds(tiles[-1])
    area = box[0].west, box[1].south, box[1].east, box[0].north
    some = named(await asyncio.to_thread(collected, served, tiles[0].z, found, area, 0.0), tiles)
    for each in some:
        if each["id"] == item:
            place = f"{base}/ogc/collections/{served.name}"
            links = [
                link(f"{place}/items/{item}", "self", "This feature", GEOJSON),
                link(place, "collection", "The layer"),
            ]
            return Response(json.dumps(each | {"links": links}), media_type=GEOJSON, headers=described(served))
    raise NotFoundError(f"layer {served.name} has no feature {item[:80]!r} any more; ask for its items again")


def finest(layer: Layer, area: Area) -> int:
    """The finest zoom of objects at which an area has few enough tiles for one answer. Raises AreaError."""
    zooms = range(layer.max_zoom, layer.ladder.root - 1, -1)
    for zoom in zooms:
        if area.count(zoom) <= MAX_TILES:
            return zoom
    raise AreaError(f"the area has more than {MAX_TILES} tiles at zoom {zooms[-1]}; ask for a smaller bbox")


def allowed(layer: Layer, area: Area, zoom: int) -> int:
    """The zoom, if it has objects, and the area few enough tiles. Raises BadRequestError or AreaError."""
    if not layer.ladder.root <= zoom <= layer.max_zoom:
        raise BadRequestError(f"zoom must be {layer.ladder.root} to {layer.max_zoom}, not {zoom}")
    if area.count(zoom) > MAX_TILES:
        raise AreaError(f"{area.count(zoom)} tiles are too many for one answer; at most {MAX_TILES}")
    return zoom


def named(some: Sequence[Feature], tiles: Sequence[Tile]) -> list[Feature]:
    """Features with identifiers that say which tiles they were assembled from."""
    first, last = tiles[0], tiles[-1]
    place = f"{first.z}-{first.x}-{first.y}-{last.x}-{last.y}"
    return [each | {"id": f"{place}-{each['id']}"} for each in some]


def tiles_of(layer: Layer, item: str) -> list[Tile]:
    """The tiles that an identifier names. Raises NotFoundError for what is none."""
    unknown = NotFoundError(f"{item[:80]!r} is no identifier of a feature of layer {layer.name}")
    try:
        zoom, left, top, right, bottom = (int(part) for part in item.split("-")[:5])
    except ValueError:
        raise unknown from None
    count = (right - left + 1) * (bottom - top + 1)
    inside = 0 <= left <= right < 2**zoom and 0 <= top <= bottom < 2**zoom if 0 <= zoom <= layer.max_zoom else False
    if not inside or zoom < layer.ladder.root or count > MAX_TILES or len(item.split("-")) != 6:
        raise unknown
    return [Tile(x, y, zoom) for y in range(top, bottom + 1) for x in range(left, right + 1)]


def taken(each: Feature, when: str) -> bool:
    """Whether the imagery of a feature was taken at a time or in an interval of RFC 3339; what has no time always was.

    Raises BadRequestError.
    """
    first, slash, last = when.partition("/")
    try:
        begin, end = (None if part in ("", "..") else moment(part) for part in (first, last if slash else first))
    except ValueError:
        raise BadRequestError(f"datetime is a time, or begin/end with .. for open, not {when[:60]!r}") from None
    captured = each["properties"]["captured"]
    if captured is None:
        return True
    at = moment(captured)
    return (begin is None or at >= begin) and (end is None or at <= end)


def moment(text: str) -> datetime.datetime:
    """A time of RFC 3339; a date is its beginning, without a zone it is UTC."""
    at = datetime.datetime.fromisoformat(text)
    return at if at.tzinfo is not None else at.replace(tzinfo=datetime.UTC)
