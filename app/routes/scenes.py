"""`/scenes`: list, add, remove and reorder what a layer is drawn from. Changing needs the server's key."""

from __future__ import annotations

import asyncio
import hmac
import uuid
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, ValidationError, model_validator

from app.errors import BadRequestError, ForbiddenError, NotFoundError
from app.imagery import Scene
from app.layer import Layer
from app.scenes import SceneSet, allowed_path, asset_of, download, examine, save
from app.service import Service
from app.settings import first_problem
from model.sgdm.scale_text import MAX_TABLE_ZOOM

router = APIRouter(tags=["scenes"])

TRAINED_ZOOMS = range(14, 19)

LayerName = Annotated[str | None, Query(description="Layer; the default one unless given.")]


def need_key(request: Request) -> None:
    """Raises ForbiddenError unless the request carries the key, as `X-API-Key` or `Authorization: Bearer`."""
    service: Service = request.app.state.service
    bearer = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
    given = request.headers.get("x-api-key", bearer)
    if not given or not hmac.compare_digest(given.encode(), service.api_key.encode()):
        raise ForbiddenError(f"this needs the server's key, as X-API-Key; it is in {service.api_key_place}")


class Named(BaseModel, extra="forbid"):
    """A scene that is named instead of uploaded: by one of path, url and stac."""

    path: Path | None = None
    url: str | None = Field(default=None, max_length=2000)
    stac: str | None = Field(default=None, max_length=2000)
    taken: str | None = None
    attribution: str = Field(default="", max_length=500)

    @model_validator(mode="after")
    def _one_place(self) -> Named:
        if sum(place is not None for place in (self.path, self.url, self.stac)) != 1:
            raise ValueError("name a scene by one of path, url and stac")
        return self


class Order(BaseModel, extra="forbid"):
    """Scene ids, topmost first; an empty list goes back to the newest first."""

    ids: list[str] = Field(max_length=10_000)


def told(scene: Scene, layer: Layer) -> dict[str, object]:
    """A scene as the API shows it, with the zooms that it will be drawn at."""
    last = min(scene.native_zoom, MAX_TABLE_ZOOM)
    notes = []
    if scene.native_zoom < layer.ladder.root:
        notes.append(f"coarser than the layer's first zoom {layer.ladder.root}: it is enlarged")
    if last > TRAINED_ZOOMS[-1]:
        notes.append(
            f"finer than what the network was trained for: zooms above {TRAINED_ZOOMS[-1]} repeat what that knows"
        )
    return {
        "id": scene.id,
        "bounds": list(scene.bounds),
        "taken": scene.taken,
        "attribution": scene.attribution,
        "zooms": [layer.ladder.root, max(last, layer.ladder.root)],
        "notes": notes,
    }


def listed(layer: Layer) -> JSONResponse:
    """All scenes of a layer, topmost first."""
    scenes: list[Scene] = list(getattr(layer.imagery, "scenes", []))
    body = {"layer": layer.name, "revision": layer.revision, "scenes": [told(scene, layer) for scene in scenes]}
    return JSONResponse(body, headers={"Cache-Control": "no-cache"})


@router.get("/scenes", operation_id="scenes")
async def scenes(request: Request, layer: LayerName = None) -> JSONResponse:
    """What a layer is drawn from, topmost first."""
    service: Service = request.app.state.service
    return listed(service.resolver(layer).layer)


@router.post("/scenes", operation_id="add_scene", status_code=201, dependencies=[Depends(need_key)])
async def add(
    request: Request,
    layer: LayerName = None,
    taken: Annotated[str | None, Query(description="Capture time, ISO 8601; the file's own unless given.")] = None,
    attribution: Annotated[str, Query(max_length=500)] = "",
) -> JSONResponse:
    """Add a GeoTIFF: as the request's body, or named in JSON by `path`, `url` or `stac`.

    When this answers, no tile made without the scene is served any more, and all tiles it does not reach are unchanged.
    """
    service: Service = request.app.state.service
    service.resolver(layer)
    folder = service.settings.data_dir / "scenes"
    fresh = folder / f".incoming-{uuid.uuid4().hex}.tif"
    try:
        if request.headers.get("content-type", "").startswith("application/json"):
            scene = await _named(await request.body(), fresh, service)
        else:
            await save(request.stream(), fresh, service.settings.upload_bytes)
            scene = await asyncio.to_thread(_take_in, fresh, taken, attribution)
        changed = await service.change_scenes(layer, lambda known: known.add(scene))
    finally:
        await asyncio.to_thread(fresh.unlink, missing_ok=True)
    return JSONResponse(told(scene, changed), 201, {"Location": f"/scenes/{scene.id}"})


def _take_in(fresh: Path, taken: str | None, attribution: str) -> Scene:
    """Examine an uploaded file and give it the name it keeps."""
    scene = examine(fresh, taken, attribution)
    kept = fresh.with_name(f"{scene.id}.tif").resolve()
    fresh.replace(kept)
    return Scene(**{**scene.__dict__, "path": kept})


async def _named(body: bytes, fresh: Path, service: Service) -> Scene:
    try:
        named = Named.model_validate_json(body)
    except ValidationError as error:
        raise BadRequestError(first_problem(error)) from None
    if named.path is not None:
        path = await asyncio.to_thread(allowed_path, named.path, service.settings)
        return await asyncio.to_thread(examine, path, named.taken, named.attribution)
    url, taken = named.url, named.taken
    if url is None:
        url, stac_taken = await asset_of(str(named.stac), service.settings)
        taken = taken or stac_taken
    await download(url, fresh, service.settings)
    return await asyncio.to_thread(_take_in, fresh, taken, named.attribution)


@router.delete("/scenes/{id}", operation_id="remove_scene", dependencies=[Depends(need_key)])
async def remove(request: Request, id: str, layer: LayerName = None) -> JSONResponse:
    """Remove a scene, and every tile that shows something of it."""
    service: Service = request.app.state.service
    here = service.resolver(layer).layer
    known = {scene.id: scene for scene in getattr(here.imagery, "scenes", [])}
    if id not in known:
        raise NotFoundError(f"layer {here.name} has no scene {id[:40]!r}")
    changed = await service.change_scenes(layer, lambda current: current.remove(id))
    if known[id].path.parent == (service.settings.data_dir / "scenes").resolve():
        await asyncio.to_thread(known[id].path.unlink, missing_ok=True)
    return listed(changed)


@router.put("/scenes/order", operation_id="order_scenes", dependencies=[Depends(need_key)])
async def reorder(request: Request, order: Order, layer: LayerName = None) -> JSONResponse:
    """Put scenes in an order by hand, topmost first."""
    service: Service = request.app.state.service
    here = service.resolver(layer).layer
    known = {scene.id for scene in getattr(here.imagery, "scenes", [])}
    if order.ids and (set(order.ids) != known or len(order.ids) != len(known)):
        raise BadRequestError(f"the order names each of the layer's scenes once: {', '.join(sorted(known))}")

    def change(current: SceneSet) -> SceneSet:
        return SceneSet(current.path, current.added, current.hidden, order.ids)

    return listed(await service.change_scenes(layer, change))
