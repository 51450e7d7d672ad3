"""`/scenes`: list, add, remove and reorder the scenes of a layer. Changing them needs the server's key."""

from __future__ import annotations

import asyncio
import uuid
from functools import partial
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import ValidationError

from tilecascade.app.api.access import SCHEMES
from tilecascade.app.api.dependencies import ServiceDep
from tilecascade.app.api.schemas import NamedScene, SceneAnswer, SceneOrder, ScenesAnswer
from tilecascade.app.errors import BadRequestError, NotFoundError
from tilecascade.app.scenes.download import asset_of, download, save
from tilecascade.app.scenes.ingest import allowed_path, examine, keep
from tilecascade.app.scenes.scene_set import SceneSet
from tilecascade.app.service import Service
from tilecascade.app.settings import first_problem
from tilecascade.app.sources.scene import Scene
from tilecascade.app.sources.sensors import sensors_notice
from tilecascade.app.tiles.layer import Layer
from tilecascade.model.sgdm.scale_text import MAX_TABLE_ZOOM

router = APIRouter(tags=["scenes"])

TRAINED_ZOOMS = range(14, 19)
"""Zooms that the shipped network was trained for."""

LayerName = Annotated[str | None, Query(description="Layer; the default one unless given.")]


def scene_answer(scene: Scene, layer: Layer) -> SceneAnswer:
    """A scene as the API shows it."""
    last = min(scene.native_zoom, MAX_TABLE_ZOOM)
    notes = []
    if scene.native_zoom < layer.ladder.root:
        notes.append(f"coarser than the layer's first zoom {layer.ladder.root}: it is enlarged")
    if last > TRAINED_ZOOMS[-1]:
        notes.append(f"finer than the network was trained for: zooms above {TRAINED_ZOOMS[-1]} add no detail")
    if scene.sensor != "rgb":
        notes.append(f"sensor: {sensors_notice([scene.sensor])}")
    return SceneAnswer(
        id=scene.id,
        bounds=scene.bounds,
        acquired=scene.acquired,
        attribution=scene.attribution,
        zooms=(layer.ladder.root, max(last, layer.ladder.root)),
        notes=notes,
    )


def scenes_answer(layer: Layer) -> ScenesAnswer:
    """All scenes of a layer, topmost first; none for the fictional country."""
    scenes: list[Scene] = list(getattr(layer.imagery, "scenes", []))
    return ScenesAnswer(
        layer=layer.name, revision=layer.revision, scenes=[scene_answer(scene, layer) for scene in scenes]
    )


@router.get("/scenes", operation_id="scenes")
async def scenes(service: ServiceDep, response: Response, layer: LayerName = None) -> ScenesAnswer:
    """The scenes of a layer, topmost first."""
    response.headers["Cache-Control"] = "no-cache"
    return scenes_answer(service.resolver(layer).layer)


@router.post("/scenes", operation_id="add_scene", status_code=201, dependencies=SCHEMES)
async def add(
    request: Request,
    response: Response,
    service: ServiceDep,
    layer: LayerName = None,
    acquired: Annotated[str | None, Query(description="Capture time, ISO 8601; the file's own unless given.")] = None,
    attribution: Annotated[str, Query(max_length=500)] = "",
    sensor: Annotated[str | None, Query(description="rgb, pan, nir or sar; told by its bands unless given.")] = None,
    taken: Annotated[str | None, Query(include_in_schema=False)] = None,
) -> SceneAnswer:
    """Add a GeoTIFF: as the request's body, or named in JSON by `path`, `url` or `stac`.

    When this answers, no tile made without the scene is served any more, and all tiles that it does not affect are
    unchanged.
    """
    if taken is not None:
        raise BadRequestError("taken is called acquired since version 0.2")
    service.resolver(layer)
    incoming = service.data_dir.scenes / f".incoming-{uuid.uuid4().hex}.tif"
    scene = None
    try:
        if request.headers.get("content-type", "").startswith("application/json"):
            scene = await _named(await request.body(), incoming, service)
        else:
            await save(request.stream(), incoming, service.settings.upload_bytes)
            scene = await keep(incoming, acquired, attribution, service.settings, sensor)
        changed = await service.change_scenes(layer, partial(SceneSet.add, scene=scene))
    finally:
        await asyncio.to_thread(incoming.unlink, missing_ok=True)
        if scene is not None:
            await asyncio.to_thread(service.forget_scene, scene)  # if it was refused
    response.headers["Location"] = f"/scenes/{scene.id}"
    return scene_answer(scene, changed)


async def _named(body: bytes, incoming: Path, service: Service) -> Scene:
    """The scene that a JSON body names."""
    try:
        named = NamedScene.model_validate_json(body)
    except ValidationError as error:
        raise BadRequestError(first_problem(error)) from None
    if named.path is not None:
        path = await asyncio.to_thread(allowed_path, named.path, service.settings)
        return await examine(path, named.acquired, named.attribution, service.settings, named.sensor)
    url, acquired = named.url, named.acquired
    if url is None:
        url, stac_time = await asset_of(str(named.stac), service.settings)
        acquired = acquired or stac_time
    await download(url, incoming, service.settings)
    return await keep(incoming, acquired, named.attribution, service.settings, named.sensor)


@router.delete("/scenes/{id}", operation_id="remove_scene", dependencies=SCHEMES)
async def remove(service: ServiceDep, id: str, layer: LayerName = None) -> ScenesAnswer:
    """Remove a scene, and every tile that shows something of it."""
    here = service.resolver(layer).layer
    known = {scene.id: scene for scene in getattr(here.imagery, "scenes", [])}
    if id not in known:
        raise NotFoundError(f"layer {here.name} has no scene {id[:40]!r}")
    changed = await service.change_scenes(layer, lambda current: current.remove(id))
    await asyncio.to_thread(service.forget_scene, known[id])
    return scenes_answer(changed)


@router.put("/scenes/order", operation_id="order_scenes", dependencies=SCHEMES)
async def reorder(service: ServiceDep, order: SceneOrder, layer: LayerName = None) -> ScenesAnswer:
    """Put scenes in an order by hand, topmost first."""
    here = service.resolver(layer).layer
    known = {scene.id for scene in getattr(here.imagery, "scenes", [])}
    if order.ids and (set(order.ids) != known or len(order.ids) != len(known)):
        raise BadRequestError(f"the order names each of the layer's scenes once: {', '.join(sorted(known))}")

    def change(current: SceneSet) -> SceneSet:
        return SceneSet(current.path, current.added, current.hidden, order.ids)

    return scenes_answer(await service.change_scenes(layer, change))
