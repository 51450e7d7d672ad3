"""`/health` and `/metrics`."""

from __future__ import annotations

import asyncio
from importlib.metadata import version

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from tilecascade.app.api.dependencies import MetricsDep, ServiceDep
from tilecascade.app.api.schemas import HealthAnswer

router = APIRouter(tags=["operations"])


@router.get("/health", operation_id="health", response_model_exclude_none=True)
async def health(service: ServiceDep, response: Response) -> HealthAnswer:
    """`starting` and `failed` answer 503; `ready` and `degraded` (a cache does not work, tiles still come) answer
    200."""
    answer = HealthAnswer.model_validate(await asyncio.to_thread(service.health) | {"version": version("tilecascade")})
    response.status_code = 200 if answer.state in ("ready", "degraded") else 503
    return answer


@router.get("/metrics", operation_id="metrics", response_class=Response)
async def metrics(counted: MetricsDep) -> Response:
    """Counts and timings in Prometheus' text format."""
    return Response(await asyncio.to_thread(counted.text), media_type=CONTENT_TYPE_LATEST)
