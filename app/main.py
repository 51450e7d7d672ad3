"""The application: `create_app(settings)` builds the service and mounts the routes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp
from xstatic.pkg import leaflet

from app.errors import add_exception_handlers
from app.hits import EXPOSED
from app.imagery import SceneError
from app.logs import RequestLog
from app.routes import about, imagery, jobs, scenes, tiles, wmts
from app.service import Service
from app.settings import LayerSettings, Settings, SettingsError

log = logging.getLogger(__name__)


def create_app(
    settings: Settings,
    layers: list[LayerSettings],
    on_failure: Callable[[], None] = lambda: None,
    workers_dir: Path | None = None,
) -> ASGIApp:
    """The ASGI application. The model loads after start-up, while `/health` says `starting`.

    on_failure is called when loading fails; workers_dir: see Service. Raises SettingsError for what can be seen to be
    wrong before loading.
    """
    service = Service(settings, layers, workers_dir)

    async def load() -> None:
        try:
            await asyncio.to_thread(service.start)
            service.jobs.start()
        except (SettingsError, SceneError) as error:
            service.state, service.problem = "failed", str(error)
            log.error("%s", error)
            on_failure()
        except Exception:
            service.state, service.problem = "failed", "the server could not start; its log says why"
            log.exception("start failed")
            on_failure()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(load())
        yield
        loading.cancel()
        with suppress(asyncio.CancelledError):
            await loading
        service.changes.close()
        await service.jobs.close()
        for resolver in service.resolvers.values():
            await resolver.drain()
        await asyncio.to_thread(service.close)

    app = FastAPI(
        title="tilecascade",
        summary="The tile server for maps that do not exist yet.",
        license_info={"name": "Apache-2.0"},
        root_path=settings.root_path,
        lifespan=lifespan,
    )
    app.state.service = service
    app.include_router(tiles.router)
    app.include_router(about.router)
    app.include_router(wmts.router)
    app.include_router(scenes.router)
    app.include_router(jobs.router)
    app.include_router(imagery.router)
    app.mount("/static/leaflet", StaticFiles(directory=leaflet.BASE_DIR))
    app.mount("/static/viewer", StaticFiles(directory=Path(__file__).parent / "viewer"))
    add_exception_handlers(app)
    # outermost, so that errors carry the headers too
    return RequestLog(CORSMiddleware(app, allow_origins=["*"], allow_methods=["GET", "HEAD"], expose_headers=EXPOSED))
