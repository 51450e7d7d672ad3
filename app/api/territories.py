"""`/territories`: countries that do not exist, made of a sketch while the server runs. Making one needs a key."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from tilecascade.app.api.access import SCHEMES
from tilecascade.app.api.dependencies import BaseUrl, ServiceDep
from tilecascade.app.api.schemas import TerritoryAnswer, parse_bbox
from tilecascade.app.errors import BadRequestError, NotFoundError
from tilecascade.app.scenes.territories import TerritoryRequest
from tilecascade.app.service import Service
from tilecascade.app.tiles.formats import PAINTED
from tilecascade.app.tiles.layer import IMAGERY_SUFFIX

router = APIRouter(tags=["territories"])


def territory_answer(service: Service, base: str, name: str, said: str = "") -> TerritoryAnswer:
    """A territory as the API shows it. Raises NotFoundError."""
    request, layer = service.territories.request(name), service.resolver(name).layer
    return TerritoryAnswer(
        name=name,
        bounds=request.bounds,
        seed=request.seed,
        zooms=(layer.min_zoom, layer.max_zoom),
        revision=layer.revision,
        map=f"{base}/tiles/{name}/{{z}}/{{x}}/{{y}}.png",
        imagery=f"{base}/tiles/{name}{IMAGERY_SUFFIX}/{{z}}/{{x}}/{{y}}{PAINTED.suffix}",
        says=said,
    )


@router.get("/territories", operation_id="territories")
async def territories(service: ServiceDep, response: Response, base: BaseUrl) -> list[TerritoryAnswer]:
    """The territories that were made while this server, or one before it, ran."""
    service.resolver(None)  # raises while the server is starting
    response.headers["Cache-Control"] = "no-cache"
    names = await asyncio.to_thread(service.territories.names)
    return [territory_answer(service, base, name) for name in names if name in service.resolvers]


@router.put("/territories/{name}", operation_id="make_territory", dependencies=SCHEMES)
async def make(
    request: Request,
    response: Response,
    service: ServiceDep,
    base: BaseUrl,
    name: str,
    bounds: Annotated[str | None, Query(description="W,S,E,N in degrees; as before unless given.")] = None,
    seed: Annotated[int | None, Query(ge=0, lt=2**32, description="Another one: other detail.")] = None,
    painted_zoom: Annotated[int | None, Query(ge=14, le=19, description="Finest zoom.")] = None,
) -> TerritoryAnswer:
    """Make a territory of a sketch: the body is a picture, as `tilecascade territory new` takes it.

    If there is a territory of that name, it is replaced; without a body it keeps its sketch. When this answers, the
    layer `name` serves its map and the layer `name`-imagery its imagery.
    """
    service.resolver(None)
    picture = await request.body()
    here = name in await asyncio.to_thread(service.territories.names)
    if not here and (not picture or bounds is None):
        raise BadRequestError("a new territory takes bounds=W,S,E,N, and a picture as the body")
    given = {"seed": seed, "painted_zoom": painted_zoom, "bounds": bounds and parse_bbox(bounds, "bounds")}
    before = asdict(await asyncio.to_thread(service.territories.request, name)) if here else {}
    wanted = TerritoryRequest(**before | {key: value for key, value in given.items() if value is not None})
    picture = picture or await asyncio.to_thread(service.territories.sketch, name)
    said = await service.make_territory(name, picture, wanted)
    response.status_code = 200 if here else 201
    response.headers["Location"] = f"/territories/{name}"
    return territory_answer(service, base, name, said)


@router.get("/territories/{name}/sketch", operation_id="territory_sketch", response_class=Response)
async def sketch(service: ServiceDep, name: str) -> Response:
    """The picture that a territory was made of."""
    data = await asyncio.to_thread(service.territories.sketch, name)
    return Response(data, media_type="application/octet-stream", headers={"Cache-Control": "no-cache"})


@router.delete("/territories/{name}", operation_id="remove_territory", status_code=204, dependencies=SCHEMES)
async def remove(service: ServiceDep, name: str) -> None:
    """Remove a territory, its layers and their tiles."""
    if name not in await asyncio.to_thread(service.territories.names):
        raise NotFoundError(f"there is no territory {name[:40]!r}")
    await service.remove_territory(name)
