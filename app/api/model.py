"""`/model`: which network generates, and giving the server another one. Changing it needs the owner's key."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request, Response

from tilecascade.app.api.access import SCHEMES
from tilecascade.app.api.dependencies import ServiceDep
from tilecascade.app.api.schemas import ModelAnswer
from tilecascade.app.errors import NotFoundError, NotReadyError
from tilecascade.app.scenes.download import save
from tilecascade.app.service import Service
from tilecascade.model.sgdm.network import load_description, weights_hash

router = APIRouter(tags=["model"])


async def answer_of(service: Service) -> ModelAnswer:
    """The model in use. Raises NotReadyError while the server starts."""
    model = service.model
    if model is None:
        raise NotReadyError("the server is starting: the model is being loaded")
    try:
        before = await asyncio.to_thread(weights_hash, service.shelf.before())
    except NotFoundError:
        before = None
    return ModelAnswer(
        id=model.info.hash,
        name=load_description(model.stem).name,
        device=model.device,
        batch=model.batch,
        before=before,
        versions={layer.name: layer.version for layer in service.layers},
    )


@router.get("/model", operation_id="model")
async def model(service: ServiceDep, response: Response) -> ModelAnswer:
    """The network that generates, and the one before it."""
    response.headers["Cache-Control"] = "no-cache"
    return await answer_of(service)


@router.post("/model", operation_id="use_model", dependencies=SCHEMES)
async def use(request: Request, service: ServiceDep) -> ModelAnswer:
    """Use another network: the file that `tilecascade model export` writes, as the body.

    Each layer has another version from then on. Tiles of the version before are shown until they are generated anew,
    and nothing of them is lost.
    """
    await answer_of(service)
    with service.shelf.incoming() as file:
        await save(request.stream(), file, service.settings.upload_bytes)
        stem = await asyncio.to_thread(service.shelf.keep, file)
    await service.use_model(stem)
    return await answer_of(service)


@router.post("/model/back", operation_id="use_model_before", dependencies=SCHEMES)
async def back(service: ServiceDep) -> ModelAnswer:
    """Use the network that was in use before."""
    await answer_of(service)
    await service.use_model(service.shelf.before())
    return await answer_of(service)
