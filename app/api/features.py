"""`/features` and `/vector`: the map objects of a layer as GeoJSON and as vector tiles."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Coroutine
from typing import Annotated, Any, Literal, TypeVar

import mercantile
from fastapi import APIRouter, Query, Response
from mercantile import Tile

from tilecascade.app.api.dependencies import BaseUrl, KeyQuery, ServiceDep
from tilecascade.app.api.http_cache import matches
from tilecascade.app.api.schemas import Bounds, VectorTileJSON, parse_bbox
from tilecascade.app.api.tilejson import tilejson_of
from tilecascade.app.api.tiles import ContextDep, TileContext, parse_number, tile_of
from tilecascade.app.api.vector_style import style_of
from tilecascade.app.api.waiting import priority_of, wait_for
from tilecascade.app.errors import AreaError, BadRequestError, NotFoundError, NoTileError, NotReadyError
from tilecascade.app.jobs.area import Area
from tilecascade.app.tiles.features import features_of
from tilecascade.app.tiles.geojson import LAYERS, Feature, degrees_of
from tilecascade.app.tiles.layer import Layer
from tilecascade.app.tiles.layer_info import NOTICE
from tilecascade.app.tiles.vector_tiles import vector_tile
from tilecascade.model.cartography.objects import MapObject

router = APIRouter(tags=["features"])

MAX_TILES = 256
"""Tiles that one request for features may span."""

GEOJSON, MVT = "application/geo+json", "application/vnd.mapbox-vector-tile"

Result = TypeVar("Result")
WaitQuery = Annotated[float | None, Query(ge=0, description="Seconds to wait; the server's longest wait unless given.")]
RevisionQuery = Annotated[str | None, Query(description="Layer revision; the present one makes the answer cacheable.")]


@router.get("/features/{layer}", operation_id="features", response_class=Response)
async def features(
    context: ContextDep,
    layer: str,
    bbox: Annotated[str, Query(description="west,south,east,north in degrees")],
    zoom: Annotated[
        int | None, Query(ge=0, le=32, description="of the objects; the layer's finest unless given")
    ] = None,
    min_confidence: Annotated[float, Query(ge=0, le=1)] = 0.0,
    wait: WaitQuery = None,
) -> Response:
    """The map objects of an area, each once and whole, as GeoJSON; generated if need be."""
    resolver = context.service.resolver(layer)
    served = resolver.layer
    level = served.max_zoom if zoom is None else zoom
    if not served.ladder.root <= level <= served.max_zoom:
        raise BadRequestError(f"zoom must be {served.ladder.root} to {served.max_zoom}, not {level}")
    area = Area.of_box(parse_bbox(bbox)).clipped(served.imagery.bounds)
    if area is None:
        raise NotFoundError(f"there is no imagery in {bbox[:100]}")
    if area.count(level) > MAX_TILES:
        raise AreaError(
            f"{area.count(level)} tiles are too many for one answer; at most {MAX_TILES}. Ask for a smaller area or a "
            "coarser zoom, or use `tilecascade export --out area.gpkg`"
        )
    work = resolver.features.of_tiles(list(area.tiles(level)), priority_of(context.request))
    found = await waited(context, work, wait)
    box = area.bounds
    wanted = await asyncio.to_thread(collected, served, level, found, box, min_confidence)
    return Response(json.dumps(collection(served, wanted, box)), media_type=GEOJSON, headers=described(served))


@router.get("/features/{layer}/{z}/{x}/{y}", operation_id="features_of_tile", response_class=Response)
async def features_of_tile(
    context: ContextDep,
    layer: str,
    z: str,
    x: str,
    y: str,
    wait: WaitQuery = None,
    v: RevisionQuery = None,
    missing: Annotated[Literal["204", "404"], Query(description="Status where there is no imagery.")] = "404",
) -> Response:
    """What one tile has, `.geojson`: whole buildings whose centre is in it, and lines and areas cut at its edge."""
    resolver = context.service.resolver(layer)
    tile = parse_place(z, x, y, "geojson")
    try:
        found = await waited(context, resolver.features.of_tile(tile, priority_of(context.request)), wait)
    except NoTileError:
        if missing == "404":
            raise
        return Response(status_code=204)
    served = resolver.layer
    own = [each for each in found if each.own]
    some = await asyncio.to_thread(features_of, served, tile.z, own)
    body = json.dumps(collection(served, some, tuple(mercantile.bounds(tile))))
    return cacheable(context, served, body.encode(), GEOJSON, v)


@router.get("/vector/{layer}/tilejson.json", operation_id="vector_tilejson")
async def vector_tilejson(service: ServiceDep, base: BaseUrl, key: KeyQuery, layer: str) -> VectorTileJSON:
    """TileJSON of the vector tiles of a layer."""
    return describe(service.resolver(layer).layer, base, key)


@router.get("/vector/{layer}/style.json", operation_id="vector_style")
async def vector_style(service: ServiceDep, base: BaseUrl, key: KeyQuery, layer: str) -> dict[str, Any]:
    """A MapLibre style of the vector tiles that looks like the layer's own tiles."""
    served = service.resolver(layer).layer
    return style_of(served, describe(served, base, key))


@router.get("/vector/{layer}/{z}/{x}/{y}", operation_id="vector_tile", response_class=Response)
async def vector_tile_of_layer(
    context: ContextDep, layer: str, z: str, x: str, y: str, wait: WaitQuery = None, v: RevisionQuery = None
) -> Response:
    """A Mapbox Vector Tile, `.mvt`, with the layers landcover, road and building: the objects of the next zoom."""
    resolver = context.service.resolver(layer)
    tile = parse_place(z, x, y, "mvt")
    found = await waited(context, resolver.features.of_vector_tile(tile, priority_of(context.request)), wait)
    return cacheable(context, resolver.layer, await asyncio.to_thread(vector_tile, tile, found), MVT, v)


def parse_place(z: str, x: str, y: str, suffix: str) -> Tile:
    """Tile coordinates with a suffix after y. Raises BadRequestError or NotFoundError."""
    row, _, form = y.partition(".")
    if form != suffix:
        raise NotFoundError(f"the address ends in .{suffix}; {form[:20] or 'no format'!r} is not available")
    return tile_of(parse_number("z", z), parse_number("x", x), parse_number("y", row))


async def waited(context: TileContext, work: Coroutine[None, None, Result], wait: float | None) -> Result:
    """The result of work that may generate. Raises NotReadyError when the time is over."""
    longest = context.service.settings.max_wait
    try:
        context.allowance.take(context.request)
    except BaseException:
        work.close()
        raise
    seconds = longest if wait is None else min(wait, longest)
    result = await wait_for(context.request, context.service.background, work, seconds)
    if result is None:
        raise NotReadyError("the map objects are being generated; ask again in a moment")
    return result


def collected(layer: Layer, zoom: int, found: list[MapObject], box: Bounds, least: float) -> list[Feature]:
    """The features that are sure enough and reach into a box."""
    west, south, east, north = box
    kept = []
    for each in found:
        left, bottom, right, top = degrees_of(each.geometry, zoom).bounds
        if each.confidence >= least and left <= east and right >= west and bottom <= north and top >= south:
            kept.append(each)
    return features_of(layer, zoom, kept)


def collection(layer: Layer, some: list[Feature], box: tuple[float, ...]) -> dict[str, Any]:
    """A GeoJSON feature collection."""
    notes = {"notice": NOTICE, "attribution": layer.attribution, "version": layer.revision}
    return {"type": "FeatureCollection", "bbox": list(box), **notes, "features": some}


def described(layer: Layer) -> dict[str, str]:
    """Headers that say what an answer is of."""
    return {**layer.info.headers, "Cache-Control": "no-cache"}


def cacheable(context: TileContext, layer: Layer, body: bytes, media: str, revision: str | None) -> Response:
    """An answer with its ETag, or 304."""
    etag = f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
    headers = described(layer) | {"ETag": etag, "Cache-Control": layer.info.cache_control(revision)}
    if matches(context.request.headers.get("if-none-match", ""), etag):
        return Response(status_code=304, headers=headers)
    return Response(body, media_type=media, headers=headers)


def describe(layer: Layer, base: str, key: str) -> VectorTileJSON:
    """TileJSON of a layer's vector tiles."""
    if layer.finish == "none":
        raise NotFoundError(f"layer {layer.name} has no map objects, because its finish is none")
    fields = {"class": "String", "confidence": "Number", "generated": "Boolean"}
    plain = tilejson_of(layer, base).model_dump()
    plain |= {
        "tiles": [f"{base}/vector/{layer.name}/{{z}}/{{x}}/{{y}}.mvt?v={layer.revision}{key}"],
        "minzoom": layer.ladder.root - 1,
        "maxzoom": layer.max_zoom - 1,
        "vector_layers": [{"id": name, "fields": fields} for name in LAYERS.values()],
    }
    return VectorTileJSON(**plain)
