"""The application: `create_app(settings)` builds the service and mounts the routes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp
from xstatic.pkg import leaflet

from tilecascade.app.api import (
    areas,
    features,
    health,
    imagery,
    jobs,
    model,
    ogc,
    ogc_features,
    reviews,
    scenes,
    stac,
    territories,
    tile_events,
    tilejson,
    tiles,
    viewer,
    wmts,
)
from tilecascade.app.api.access import Access
from tilecascade.app.api.allowance import Allowance
from tilecascade.app.api.errors import add_exception_handlers
from tilecascade.app.api.http_cache import EXPOSED_HEADERS
from tilecascade.app.api.metrics import ServiceMetrics
from tilecascade.app.api.request_log import RequestLog
from tilecascade.app.service import Service
from tilecascade.app.settings import DataDir, LayerSettings, Settings
from tilecascade.app.storage.keys import owner_secret
from tilecascade.app.storage.usage import Usage

ROUTES = (
    tiles, tile_events, tilejson, features, wmts, ogc, ogc_features,
    stac, imagery, scenes, territories, areas, reviews, jobs, model, health, viewer,
)  # fmt: skip


def create_app(
    settings: Settings,
    layers: list[LayerSettings],
    on_failure: Callable[[], None] = lambda: None,
    workers_dir: Path | None = None,
) -> ASGIApp:
    """The ASGI application. The model loads in the background while `/health` says `starting`.

    on_failure: called if loading fails. workers_dir: where the worker processes in front of the application count, and
    look for what they need to know of the layers.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with Service.running(settings, layers, workers_dir, on_failure) as service:
            app.state.service = service
            app.state.metrics = ServiceMetrics(service, workers_dir)
            usage = Usage(DataDir(settings.data_dir).usage)
            app.state.allowance = Allowance(settings.client_rate, usage)
            await asyncio.to_thread(owner_secret, settings)  # on disk before anybody looks for it
            yield
            await asyncio.to_thread(usage.close)

    # /docs without anything from the internet: the server may stand where there is none
    app = FastAPIOffline(
        title="tilecascade",
        summary="The tile server for maps that do not exist yet.",
        version=version("tilecascade"),
        license_info={"name": "Apache-2.0"},
        root_path=settings.root_path,
        lifespan=lifespan,
    )
    for room in ROUTES:
        app.include_router(room.router)
    app.mount("/static/leaflet", StaticFiles(directory=leaflet.BASE_DIR))
    app.mount("/static/viewer", StaticFiles(directory=viewer.VIEWER_DIR))
    add_exception_handlers(app)
    access = Access(app, settings, settings.root_path)
    # outermost, so that answers to errors carry the headers, too
    cors = CORSMiddleware(access, allow_origins=["*"], allow_methods=["GET", "HEAD"], expose_headers=EXPOSED_HEADERS)
    return RequestLog(cors)
