"""What a finished tile costs: `python -m benchmarks.hit SCENE --others VENV`. Needs wrk and nginx. Prints Markdown.

The same 64 tiles, the same bytes: ours as `tilecascade serve` is, ours behind nginx as in deploy/, and from the
environment VENV (`pip install mapproxy gunicorn titiler.core "uvicorn[standard]"`) MapProxy's file cache with two
processes; and titiler with two, which makes its tiles from the scene each time. Interleaved; medians over the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import shutil
import signal
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from benchmarks.server import Server, free_port, head, machine, row, wait_for

DEPLOY = Path(__file__).parent.parent / "deploy"
EDGE = 8

SCRIPT = """
local paths, n = {%s}, 0
request = function() n = n %% #paths + 1; return wrk.format("GET", paths[n]) end
"""

MAPPROXY = """
services: {{tms: {{use_grid_names: true, origin: nw}}}}
layers: [{{name: map, title: map, sources: [tiles]}}]
caches:
  tiles:
    grids: [webmercator]
    sources: []
    format: image/png
    cache: {{type: file, directory: {folder}, directory_layout: tms}}
grids: {{webmercator: {{base: GLOBAL_WEBMERCATOR, origin: nw}}}}
globals: {{cache: {{base_dir: {base}, lock_dir: {base}/locks}}}}
"""

TITILER = """
from fastapi import FastAPI
from titiler.core.factory import TilerFactory
app = FastAPI()
app.include_router(TilerFactory().router)
"""


@contextmanager
def process(command: list[str], url: str, folder: Path, end: signal.Signals = signal.SIGTERM) -> Iterator[None]:
    """A server for the time of a `with`."""
    with (folder / "log").open("wb") as log:
        running = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        try:
            try:
                wait_for(url, running)
            except RuntimeError as error:
                raise RuntimeError(f"{error}: {(folder / 'log').read_text()[-2000:]}") from None
            yield
        finally:
            running.send_signal(end)
            running.wait(30)


def nginx(stack: ExitStack, folder: Path, app: Server, probe: str) -> str:
    """nginx as deployed, before the app; returns its URL."""
    folder.mkdir()
    (folder / "logs").mkdir()
    shutil.copy(DEPLOY / "tile_headers.conf", folder)
    port = free_port()
    config = (DEPLOY / "nginx.conf").read_text()
    config = config.replace("server app:8000", f"server 127.0.0.1:{app.port}")
    config = config.replace("/srv/tilecascade/tiles", str(app.data_dir / "tiles"))
    config = config.replace("listen 8080", f"listen 127.0.0.1:{port}").replace("processes auto", "processes 2")
    (folder / "nginx.conf").write_text("user root;\ndaemon off;\n" + config)
    url = f"http://127.0.0.1:{port}"
    stack.enter_context(process(["nginx", "-p", str(folder), "-c", "nginx.conf"], url + probe, folder, signal.SIGQUIT))
    return url


def mapproxy(stack: ExitStack, folder: Path, venv: Path, tiles: Path, probe: str) -> str:
    """MapProxy on the same files; returns its URL."""
    folder.mkdir()
    (folder / "mapproxy.yaml").write_text(MAPPROXY.format(folder=tiles, base=folder))
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    app = f"mapproxy.wsgiapp:make_wsgi_app('{folder}/mapproxy.yaml')"
    command = [str(venv / "bin" / "gunicorn"), "-w", "2", "-b", f"127.0.0.1:{port}", "--log-level", "error", app]
    stack.enter_context(process(command, url + probe, folder))
    return url


def titiler(stack: ExitStack, folder: Path, venv: Path) -> str:
    """titiler; returns its URL."""
    folder.mkdir()
    (folder / "titiler_app.py").write_text(TITILER)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [
        str(venv / "bin" / "uvicorn"),
        "titiler_app:app",
        "--port",
        str(port),
        "--workers",
        "2",
        "--no-access-log",
    ]
    stack.enter_context(process(command, url + "/openapi.json", folder))
    return url


def wrk(url: str, paths: list[str], connections: int, seconds: int, folder: Path) -> tuple[float, float, float]:
    """Requests a second, median and p99 latency in ms. Raises RuntimeError if anything but 2xx came."""
    script = folder / "wrk.lua"
    script.write_text(SCRIPT % ", ".join(f'"{path}"' for path in paths))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(script), url]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in said:
        raise RuntimeError(said)
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1])  # type: ignore[index]
    units = {"us": 1e-3, "ms": 1.0, "s": 1e3}
    latency = {
        share: float(value) * units[unit] for share, value, unit in re.findall(r"(\d+)%\s+([\d.]+)(us|ms|s)", said)
    }
    return rate, latency["50"], latency["99"]


async def draw(url: str, paths: list[str]) -> list[bytes]:
    """Have all tiles generated; returns their bytes."""
    async with httpx.AsyncClient(base_url=url, timeout=600) as client:
        answers = await asyncio.gather(*(client.get(path + "?wait=600") for path in paths))
    return [answer.raise_for_status().content for answer in answers]


def main() -> None:
    """Measure all, in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scene", type=Path)
    parser.add_argument("--others", type=Path, help="environment with MapProxy and titiler")
    parser.add_argument("--zoom", type=int, default=17)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        app = stack.enter_context(Server(given.scene))
        x, y = app.middle(given.zoom)
        places = [f"{given.zoom}/{x + i - EDGE // 2}/{y + j - EDGE // 2}.png" for j in range(EDGE) for i in range(EDGE)]
        ours = [f"/tiles/{place}" for place in places]
        bodies = asyncio.run(draw(app.url, ours))
        version = httpx.head(app.url + ours[0]).headers["x-tile-version"]
        cases = {"nginx alone (deploy/nginx.conf)": (nginx(stack, folder / "nginx", app, ours[0]), ours)}
        cases["tilecascade serve"] = (app.url, ours)
        if given.others:
            tiles = app.data_dir / "tiles" / "map" / version
            paths = [f"/tiles/1.0.0/map/webmercator/{place}" for place in places]
            url = mapproxy(stack, folder / "mapproxy", given.others.resolve(), tiles, paths[0])
            assert httpx.get(url + paths[0]).content == bodies[0]
            cases["MapProxy, 2 processes"] = (url, paths)
            url = titiler(stack, folder / "titiler", given.others.resolve())
            scene = given.scene.resolve()
            paths = [f"/tiles/WebMercatorQuad/{place}?url={scene}&bidx=1&bidx=2&bidx=3" for place in places]
            cases["titiler, 2 processes (no cache)"] = (url, paths)
        sizes = sorted(len(body) for body in bodies)
        logged = len(app.log_lines())
        measured: dict[tuple[str, int], list[tuple[float, float, float]]] = {}
        for _ in range(given.rounds):
            for connections in (1, 16, 64):
                for case, (url, paths) in cases.items():
                    figures = wrk(url, paths, connections, given.seconds, folder)
                    measured.setdefault((case, connections), []).append(figures)
        print(f"{machine()}; {len(bodies)} tiles of {sizes[0] / 1024:.1f} to {sizes[-1] / 1024:.1f} KB, ", end="")
        print(f"median {statistics.median(sizes) / 1024:.1f}; wrk -t1 on the same machine; {given.rounds} rounds\n")
        print(head("server", "c", "requests/s", "of nginx", "median ms", "p99 ms"))
        for connections in (1, 16, 64):
            base = statistics.median(rate for rate, _, _ in measured[next(iter(cases)), connections])
            for case in cases:
                rate, median, p99 = (
                    statistics.median(column) for column in zip(*measured[case, connections], strict=True)
                )
                print(row(case, connections, round(rate), rate / base, median, p99))
        print(f"\nlines that the app logged meanwhile: {len(app.log_lines()) - logged}")


if __name__ == "__main__":
    main()
