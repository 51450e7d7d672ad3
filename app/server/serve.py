"""Run the application under uvicorn until told to stop; SIGTERM lets running requests finish.

The application listens on a unix socket only, and granian's processes stand in front of it (worker.py).
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import uvicorn

from tilecascade.app.api.app import create_app
from tilecascade.app.errors import SettingsError
from tilecascade.app.server import worker
from tilecascade.app.server.worker_metrics import MULTIPROCESS
from tilecascade.app.settings import DataDir, LayerSettings, Settings
from tilecascade.app.storage.ownership import Ownership
from tilecascade.app.storage.publication import LAYER_INFO_FILE
from tilecascade.app.tiles.layer import ModelInfo, build_layer
from tilecascade.cache.lifetime import die_with_parent
from tilecascade.model.cascade import WindowConfig

log = logging.getLogger(__name__)

SOCKET = "application.sock"
KEEP_SECONDS = 60
"""How long the application keeps an idle connection: longer than the workers do (15 s), who would otherwise use one now
and then that it is just closing."""

DRAIN_SECONDS = 6
"""How long requests that run may take to end after SIGTERM."""

WORKER_SECONDS = 2
"""The same for the worker processes, which are told when the application has ended."""

HEADER_BYTES, HEADER_SECONDS = 64 << 10, 10
"""What the head of a request may have, and how long it may take to come: half-sent ones would use up connections."""

BACKLOG = 4096
"""Connections that may wait, and requests at once, per worker: many clients that wait for a missing tile must not keep
others from finished ones."""


def run_server(settings: Settings, layers: list[LayerSettings]) -> int:
    """Serve; returns the exit code: 0 after a normal stop, 2 if the service could not start.

    Raises SettingsError or SceneError for what is wrong with settings or scenes, before anything listens.
    """
    weights = settings.weights.with_suffix(".safetensors")
    if not weights.is_file():
        raise SettingsError(f"weights {weights} do not exist")
    for layer in layers:
        build_layer(layer, ModelInfo("check", "check", WindowConfig()), DataDir(settings.data_dir))
    check_port_is_free(settings.host, settings.port)
    Ownership(settings.data_dir).release()  # or another server's
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a connection is a file; 1024 are soon used up
    with tempfile.TemporaryDirectory(prefix="tilecascade-workers-") as folder:
        try:
            code = _run(settings, layers, Path(folder))
        except SystemExit:  # of the handler of SIGTERM
            code = 0
    if settings.engine != "local":  # threads of Ray may abort a process that ends in the usual way
        logging.shutdown()
        os._exit(code)
    return code


def _run(settings: Settings, layers: list[LayerSettings], folder: Path) -> int:
    """Run the application, with workers in front of it; `folder` is for the files that they share."""
    server: uvicorn.Server
    failed = False

    def stop() -> None:
        nonlocal failed
        failed = True
        server.should_exit = True

    app = create_app(settings, layers, on_failure=stop, workers_dir=folder)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            uds=str(folder / SOCKET),
            forwarded_allow_ips="*",  # only our own workers can reach the socket: what they say of a client is true
            timeout_keep_alive=KEEP_SECONDS,
            timeout_graceful_shutdown=DRAIN_SECONDS,
            access_log=False,
            log_config=None,
        )
    )
    # uvicorn drains on SIGTERM and then raises it again: let that be a normal end
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with workers(settings, folder, stop):
        server.run()
    return 2 if failed else 0


def check_port_is_free(host: str, port: int) -> None:
    """Raises SettingsError if nothing can listen there."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise SettingsError(f"cannot listen on {host}:{port}: {error.strerror}") from None


@contextmanager
def workers(settings: Settings, folder: Path, on_end: Callable[[], None]) -> Iterator[None]:
    """Worker processes on the settings' address while the `with` lasts; on_end is called should they end by themselves.

    They end with this process, however that ends; granian starts a failed one again.
    """
    count = settings.workers
    environment = {
        worker.TILES: str(DataDir(settings.data_dir).tiles),
        worker.APPLICATION: str(folder / SOCKET),
        worker.OWNER: str(os.getpid()),
        worker.LAYER_INFO: str(folder / LAYER_INFO_FILE),
        worker.MEMORY: str(settings.memory_bytes // count),
        worker.TRUSTED: ",".join(settings.trusted_proxies),
        worker.PUBLIC: "yes" if settings.public else "",
        MULTIPROCESS: str(folder),
    }
    options = {
        "interface": "rsgi",
        "workers": count,
        "host": settings.host,
        "port": settings.port,
        "backlog": BACKLOG,
        "backpressure": BACKLOG,
        "workers-kill-timeout": WORKER_SECONDS,
        "http1-buffer-size": HEADER_BYTES,
        "http1-header-read-timeout": HEADER_SECONDS * 1000,
        "log-level": "warning",
    }
    arguments = [f"--{name}={value}" for name, value in options.items()]
    command = [sys.executable, "-m", "granian", *arguments, "--factory", "--respawn-failed-workers", "--no-ws"]
    process = subprocess.Popen(
        [*command, "tilecascade.app.server.worker:create"],
        env=os.environ | environment,
        # granian loses a SIGTERM that comes while it starts
        preexec_fn=partial(die_with_parent, os.getpid(), signal.SIGKILL),
    )
    ending = threading.Event()

    def watch() -> None:
        process.wait()
        if not ending.is_set():
            log.error("the workers have ended with exit code %d", process.returncode)
            on_end()

    watcher = threading.Thread(target=watch, name="workers", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ending.set()
        process.terminate()
        watcher.join(WORKER_SECONDS + 1)
        process.kill()
