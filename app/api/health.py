"""`/health` and `/metrics`."""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from tilecascade.app.api.dependencies import MetricsDep, ServiceDep
from tilecascade.app.api.schemas import HealthAnswer
from tilecascade.app.service import Service
from tilecascade.app.sources.mosaic import SceneMosaic

router = APIRouter(tags=["operations"])


def state_of(service: Service) -> dict[str, Any]:
    """Starting, ready, degraded (a cache or a scene's file cannot be used, or is slow) or failed, and why. Asks Redis
    and the disk, so it may block."""
    caches, problems = service.caches.state()
    problems += [service.problem] if service.problem else []
    for layer in service.layers:
        if isinstance(layer.imagery, SceneMosaic):
            problems += layer.imagery.problems()
    degraded = service.state == "ready" and (problems or "unavailable" in caches.values())
    answer: dict[str, Any] = {
        "state": "degraded" if degraded else service.state,
        "caches": caches,
        "layers": sorted(service.resolvers),
        "version": version("tilecascade"),
    }
    if problems:
        answer["problem"] = "; ".join(dict.fromkeys(problems))
    return answer


@router.get("/health", operation_id="health", response_model_exclude_none=True)
async def health(service: ServiceDep, response: Response) -> HealthAnswer:
    """`starting` and `failed` answer 503; `ready` and `degraded` (a cache does not work, tiles still come) answer
    200."""
    answer = HealthAnswer.model_validate(await asyncio.to_thread(state_of, service))
    response.status_code = 200 if answer.state in ("ready", "degraded") else 503
    return answer


@router.get("/metrics", operation_id="metrics", response_class=Response)
async def metrics(counted: MetricsDep) -> Response:
    """Counts and timings in Prometheus' text format."""
    return Response(await asyncio.to_thread(counted.text), media_type=CONTENT_TYPE_LATEST)
