"""`/reviews`: what people say about the objects of a layer. Saying it needs a key with the role `review`."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import shapely
from fastapi import APIRouter, Request, Response
from shapely.geometry.base import BaseGeometry

from tilecascade.app.api.access import SCHEMES
from tilecascade.app.api.dependencies import ServiceDep
from tilecascade.app.api.schemas import ReviewRequest
from tilecascade.app.errors import BadRequestError, NotFoundError
from tilecascade.app.tiles.layer import Layer
from tilecascade.app.tiles.reviews import Review, Reviews
from tilecascade.model.cartography.areas import COVER
from tilecascade.model.style import ORDER

router = APIRouter(tags=["reviews"])

KINDS = {"building": ("building",), "road": ORDER, "landcover": tuple(COVER)}
SHAPES = {"building": shapely.Polygon, "road": shapely.LineString, "landcover": shapely.Polygon}

MAX_POINTS = 5000
"""Points of one geometry."""

MAX_REVIEWS = 20_000
"""Reviews of one layer: the file is written anew with each."""


@router.get("/reviews/{layer}", operation_id="reviews")
async def reviews(service: ServiceDep, response: Response, layer: str) -> dict[str, Any]:
    """All reviews of a layer as GeoJSON, the oldest first."""
    response.headers["Cache-Control"] = "no-cache"
    served = service.resolver(layer).layer
    return served.reviews.collection()


@router.post("/reviews/{layer}", operation_id="review", status_code=201, dependencies=SCHEMES)
async def add(request: Request, response: Response, service: ServiceDep, layer: str, said: ReviewRequest
              ) -> dict[str, Any]:  # fmt: skip
    """Say of an object that it is there, that it is not, or how it looks.

    When this answers, every tile is served as the review says, at all zooms; tiles elsewhere are unchanged.
    """
    served = service.resolver(layer).layer
    if len(served.reviews.all) >= MAX_REVIEWS:
        raise BadRequestError(f"a layer may have {MAX_REVIEWS} reviews")
    key = request.scope.get("state", {}).get("key")
    review = await asyncio.to_thread(checked, served, said, key.name if key else "")
    await service.review(layer, lambda known: known.add(review))
    response.headers["Location"] = f"/reviews/{layer}/{review.id}"
    return review.feature()


@router.delete("/reviews/{layer}/{id}", operation_id="remove_review", status_code=204, dependencies=SCHEMES)
async def remove(service: ServiceDep, layer: str, id: str) -> None:
    """Take a review back."""

    def without(known: Reviews) -> Reviews:
        try:
            return known.remove(id)
        except KeyError:
            raise NotFoundError(f"there is no review {id[:40]!r} of layer {layer}") from None

    await service.review(layer, without)


def checked(layer: Layer, said: ReviewRequest, by: str) -> Review:
    """A review that can be drawn. Raises BadRequestError."""
    if layer.finish == "none":
        raise BadRequestError(f"layer {layer.name} has no map objects to review, because its finish is none")
    if said.kind not in KINDS[said.layer]:
        raise BadRequestError(f"class of a {said.layer} is one of {', '.join(KINDS[said.layer])}, not {said.kind!r}")
    box = shapely.box(*layer.imagery.bounds)
    seen, there = (None if each is None else geometry_of(each, said.layer) for each in (said.seen, said.there))
    if not all(box.intersects(outline) for outline in (seen, there) if outline is not None):
        raise BadRequestError(f"layer {layer.name} has no imagery there; its bounds are {list(layer.imagery.bounds)}")
    return Review(
        verdict=said.verdict,
        layer=said.layer,
        kind=said.kind,
        seen=geojson_of(seen),
        there=geojson_of(seen if said.verdict == "accepted" else there),
        zoom=said.zoom,
        by=by,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        note=said.note,
    )


def geometry_of(given: dict[str, Any], layer: str) -> BaseGeometry:
    """A GeoJSON geometry of the kind that a layer has. Raises BadRequestError."""
    wanted = SHAPES[layer]
    try:
        found: BaseGeometry = shapely.geometry.shape(given)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, shapely.errors.ShapelyError):
        found = shapely.Point()
    if not isinstance(found, wanted) or found.is_empty:
        raise BadRequestError(f"the geometry of a {layer} is a GeoJSON {wanted.__name__}")
    if shapely.get_num_coordinates(found) > MAX_POINTS:
        raise BadRequestError(f"a geometry may have {MAX_POINTS} points")
    west, south, east, north = found.bounds
    if not (west >= -180 and east <= 180 and south >= -85.06 and north <= 85.06 and found.is_valid):
        raise BadRequestError(f"the {wanted.__name__} must be valid (its line may not cross itself), in degrees")
    return found


def geojson_of(geometry: BaseGeometry | None) -> dict[str, Any] | None:
    """As a file has it: lists, two coordinates, and nothing that the request has had besides."""
    if geometry is None:
        return None
    plain: dict[str, Any] = json.loads(json.dumps(shapely.geometry.mapping(shapely.force_2d(geometry))))
    return plain
