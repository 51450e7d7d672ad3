"""Run the application under uvicorn until told to stop; SIGTERM lets running requests finish."""

from __future__ import annotations

import signal
import sys

import uvicorn

from app.layer import Generator, build_layer
from app.main import create_app
from app.settings import LayerSettings, Settings, SettingsError
from model.sgdm.config import WindowConfig

DRAIN_SECONDS = 30


def run_server(settings: Settings, layers: list[LayerSettings]) -> int:
    """Serve; returns the exit code: 0 after a normal stop, 2 if the service could not start.

    Raises SettingsError or SceneError for what is wrong with settings or scenes, before anything listens.
    """
    weights = settings.weights.with_suffix(".safetensors")
    if not weights.is_file():
        raise SettingsError(f"weights {weights} do not exist")
    for layer in layers:
        build_layer(layer, Generator("check", "check", WindowConfig()))
    server: uvicorn.Server
    failed = False

    def stop() -> None:
        nonlocal failed
        failed = True
        server.should_exit = True

    app = create_app(settings, layers, on_failure=stop)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        timeout_graceful_shutdown=DRAIN_SECONDS,
        access_log=False,
        log_config=None,
    )
    server = uvicorn.Server(config)
    # uvicorn drains on SIGTERM and then raises it again: let that be a normal end
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server.run()
    return 2 if failed else 0
