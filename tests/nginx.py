"""The real nginx with deploy/nginx.conf, before a server of a test."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.program import Server, free_port

DEPLOY = Path(__file__).parent.parent / "deploy"


@contextmanager
def nginx_before(app: Server, data: Path, folder: Path) -> Iterator[str]:
    """The URL of an nginx over the tiles in `data`, that asks `app` for the rest. Skips where there is no nginx."""
    places = {"server app:8000": f"server 127.0.0.1:{app.port}", "/srv/tilecascade/tiles": str(data / "tiles")}
    with nginx("nginx.conf", places, folder) as url:
        yield url


@contextmanager
def nginx(name: str, places: dict[str, str], folder: Path) -> Iterator[str]:
    """The URL of an nginx with a file of deploy/, in which places are others. Skips where there is no nginx."""
    if shutil.which("nginx") is None:
        pytest.skip("no nginx here (Debian: nginx-light)")
    port = free_port()
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    shutil.copy(DEPLOY / "tile_headers.conf", folder)
    config = (DEPLOY / name).read_text()
    for ours, here in (places | {"listen 8080": f"listen 127.0.0.1:{port}"}).items():
        assert config.count(ours) == 1
        config = config.replace(ours, here)
    # workers of a root master would not be allowed into pytest's folders
    (folder / "nginx.conf").write_text("user root;\ndaemon off;\n" + config)
    process = subprocess.Popen(["nginx", "-p", str(folder), "-c", "nginx.conf"], stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(100):
            try:
                if httpx.get(url + "/health").status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(0.05)
        yield url
    finally:
        process.send_signal(signal.SIGQUIT)
        process.wait(20)
