"""What routes get by `Depends`: the parts of the running application.

Coroutines, because FastAPI calls other functions in a thread, which would triple the time of a finished tile.
"""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

from fastapi import Depends, Request

from tilecascade.app.api.metrics import ServiceMetrics
from tilecascade.app.service import Service


async def get_service(request: Request) -> Service:
    """The running service."""
    service: Service = request.app.state.service
    return service


async def get_metrics(request: Request) -> ServiceMetrics:
    """What the application counts."""
    metrics: ServiceMetrics = request.app.state.metrics
    return metrics


async def base_url(request: Request) -> str:
    """The server's own address as the client sees it, without a trailing slash."""
    return str(request.base_url).rstrip("/")


async def key_query(request: Request) -> str:
    """What addresses of tiles need at their end so that their reader may open them, too: `&key=...` or nothing."""
    secret = request.scope.get("state", {}).get("key_in_query", "")
    return f"&key={quote(secret)}" if secret else ""


ServiceDep = Annotated[Service, Depends(get_service)]
MetricsDep = Annotated[ServiceMetrics, Depends(get_metrics)]
KeyQuery = Annotated[str, Depends(key_query)]
BaseUrl = Annotated[str, Depends(base_url)]
