"""`/model`: which network generates, and giving the server another one. Changing it needs the owner's key."""

from __future__ import annotations

import asyncio
from pathlib import Path

from fastapi import APIRouter, Request, Response

from tilecascade.app.api.access import SCHEMES
from tilecascade.app.api.dependencies import ServiceDep
from tilecascade.app.api.schemas import ModelAnswer
from tilecascade.app.errors import ModelError, NotReadyError, SettingsError
from tilecascade.app.scenes.download import save
from tilecascade.app.service import Service

router = APIRouter(tags=["model"])


async def answer_of(service: Service) -> ModelAnswer:
    """The model in use. Raises NotReadyError while the server starts."""
    model = service.model
    if model is None:
        raise NotReadyError("the server is starting: the model is being loaded")
    before = await asyncio.to_thread(service.shelf.id_before)
    return ModelAnswer(
        id=model.info.hash,
        name=model.name,
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
    # one after the other: a change removes what is neither used nor the one before
    async with service.receiving:
        with service.shelf.incoming() as file:
            await save(request.stream(), file, service.settings.upload_bytes)
            stem = await asyncio.to_thread(service.shelf.keep, file)
        await change(service, stem)
    return await answer_of(service)


@router.post("/model/back", operation_id="use_model_before", dependencies=SCHEMES)
async def back(service: ServiceDep) -> ModelAnswer:
    """Use the network that was in use before."""
    await answer_of(service)
    async with service.receiving:
        await change(service, service.shelf.before())
    return await answer_of(service)


async def change(service: Service, stem: Path) -> None:
    """Use a network. Raises ModelError if it cannot make what a layer needs, or does not fit into memory."""
    try:
        await service.use_model(stem)
    except SettingsError as error:
        raise ModelError(str(error)) from None
