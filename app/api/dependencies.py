"""What routes get by `Depends`: the parts of the running application."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from tilecascade.app.api.metrics import ServiceMetrics
from tilecascade.app.api.rate_limit import TokenBuckets
from tilecascade.app.service import Service


def get_service(request: Request) -> Service:
    """The running service."""
    service: Service = request.app.state.service
    return service


def get_metrics(request: Request) -> ServiceMetrics:
    """What the application counts."""
    metrics: ServiceMetrics = request.app.state.metrics
    return metrics


def get_rate_limit(request: Request) -> TokenBuckets:
    """The rate limit of new tiles, by client."""
    buckets: TokenBuckets = request.app.state.rate_limit
    return buckets


def base_url(request: Request) -> str:
    """The server's own address as the client sees it, without a trailing slash."""
    return str(request.base_url).rstrip("/")


ServiceDep = Annotated[Service, Depends(get_service)]
MetricsDep = Annotated[ServiceMetrics, Depends(get_metrics)]
RateLimitDep = Annotated[TokenBuckets, Depends(get_rate_limit)]
BaseUrl = Annotated[str, Depends(base_url)]
