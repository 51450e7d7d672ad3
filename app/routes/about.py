"""`/health`, `/metrics`, `/tilejson.json` and the viewer page."""

from __future__ import annotations

import asyncio
import json
from importlib.resources import files

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from app.hits import NOTICE
from app.layer import Layer
from app.service import Service

router = APIRouter(tags=["about"])


@router.get("/health", operation_id="health")
async def health(request: Request) -> JSONResponse:
    """`starting` and `failed` answer 503; `ready` and `degraded` (a cache is ill, tiles still come) answer 200."""
    service: Service = request.app.state.service
    answer = await asyncio.to_thread(service.health)
    return JSONResponse(answer, 200 if answer["state"] in ("ready", "degraded") else 503)


@router.get("/metrics", operation_id="metrics")
async def metrics(request: Request) -> Response:
    """Counts and timings in Prometheus' text format."""
    service: Service = request.app.state.service
    return Response(await asyncio.to_thread(service.metrics.text), media_type=CONTENT_TYPE_LATEST)


def base_url(request: Request) -> str:
    """The server's own address as the client sees it, without a trailing slash."""
    return str(request.base_url).rstrip("/")


def tilejson(layer: Layer, base: str) -> dict[str, object]:
    """TileJSON 3.0 of one layer."""
    west, south, east, north = layer.imagery.bounds
    notes = [note for note in (layer.attribution, f"tilecascade: {NOTICE}") if note]
    return {
        "tilejson": "3.0.0",
        "name": layer.name,
        "description": f"Map drawn by a diffusion cascade from imagery; {NOTICE}.",
        "version": "1.0.0",
        "scheme": "xyz",
        "tiles": [f"{base}/tiles/{layer.name}/{{z}}/{{x}}/{{y}}.png?v={layer.revision}"],
        "minzoom": layer.min_zoom,
        "maxzoom": layer.max_zoom,
        "bounds": [west, south, east, north],
        "center": [*layer.imagery.center, min(layer.ladder.root + 2, layer.max_zoom)],
        "attribution": " | ".join(notes),
        "generated": True,
        "tilecascade_revision": layer.revision,
    }


async def _layer_tilejson(request: Request, layer: str | None) -> JSONResponse:
    service: Service = request.app.state.service
    return JSONResponse(
        tilejson(service.resolver(layer).layer, base_url(request)), headers={"Cache-Control": "no-cache"}
    )


@router.get("/tilejson.json", operation_id="tilejson")
async def default_tilejson(request: Request) -> JSONResponse:
    """TileJSON of the default layer."""
    return await _layer_tilejson(request, None)


@router.get("/tiles/{layer}/tilejson.json", operation_id="layer_tilejson")
async def layer_tilejson(request: Request, layer: str) -> JSONResponse:
    """TileJSON of a named layer."""
    return await _layer_tilejson(request, layer)


def shown(layer: Layer, base: str) -> dict[str, object]:
    """What the page needs of a layer."""
    return tilejson(layer, base) | {
        "imagery": f"{base}/imagery/{layer.name}/{{z}}/{{x}}/{{y}}.jpg?v={layer.revision}",
        "confidence": f"{base}/tiles/{layer.name}/confidence/{{z}}/{{x}}/{{y}}.png?v={layer.revision}",
    }


@router.get("/", response_class=HTMLResponse, include_in_schema=False)
async def viewer(request: Request) -> Response:
    """The map page: Leaflet over the layers, served from here (no content delivery network)."""
    service: Service = request.app.state.service
    base = base_url(request)
    layers = [shown(resolver.layer, base) for resolver in service.resolvers.values()]
    page = (files("app") / "viewer" / "index.html").read_text(encoding="utf-8")
    # "<" would let a layer's attribution close the script element
    data = json.dumps({"layers": layers, "base": base}).replace("<", "\\u003c")
    note = "" if layers else "The server is starting; this page reloads by itself."
    page = page.replace("__DATA__", data).replace("__BASE__", base).replace("__NOTE__", note)
    return HTMLResponse(page, headers={"Cache-Control": "no-cache"})
