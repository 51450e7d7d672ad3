"""The real program for benchmarks: started, asked, stopped; and the row that every benchmark prints."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

import httpx


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(url: str, process: subprocess.Popen[bytes], seconds: float = 120) -> None:
    """Until the URL answers 200. Raises RuntimeError if the process ends or time is over."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"{url} did not come up")


class Server:
    """`tilecascade serve` in a process of its own, in a `with`. env: settings without their prefix."""

    def __init__(self, *arguments: str | Path, data_dir: Path | None = None, **env: object) -> None:
        self._own = tempfile.TemporaryDirectory()
        self.data_dir = data_dir or Path(self._own.name) / "data"
        self._arguments = [str(argument) for argument in arguments]
        env = {"warm_tiles": 0} | env  # what is measured begins with nothing
        self._env = {f"TILECASCADE_{name.upper()}": str(value) for name, value in env.items()}
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Server:
        command = [sys.executable, "-m", "tilecascade.app.cli", "serve", *self._arguments]
        command += ["--port", str(self.port), "--data-dir", str(self.data_dir)]
        self.log = open(Path(self._own.name) / "log", "wb")
        self.process = subprocess.Popen(command, env=os.environ | self._env, stdout=self.log, stderr=self.log)
        wait_for(self.url + "/health", self.process)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        self.log.close()
        self._own.cleanup()

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = httpx.get(self.url + "/metrics", timeout=30).text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((name + "{", name + " ")))

    def log_lines(self) -> list[str]:
        """What the program has logged."""
        return Path(self.log.name).read_text().splitlines()

    def middle(self, zoom: int) -> tuple[int, int]:
        """Column and row of the tile in the middle of the default layer."""
        import mercantile

        west, south, east, north = httpx.get(self.url + "/tilejson.json").json()["bounds"]
        tile = mercantile.tile((west + east) / 2, (south + north) / 2, zoom)
        return tile.x, tile.y


def layers_file(scene: Path, max_zoom: int) -> Path:
    """A layers file that lets a scene be generated to a zoom whatever its resolution."""
    path = Path(tempfile.gettempdir()) / f"tilecascade-benchmark-{scene.stem}-{max_zoom}.toml"
    path.write_text(f'[[layer]]\nscenes = ["{scene.resolve()}"]\nmax_zoom = {max_zoom}\n')
    return path


def row(*cells: object) -> str:
    """One line of a Markdown table; floats with three figures."""
    return "| " + " | ".join(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in cells) + " |"


def head(*cells: str) -> str:
    """The first two lines of a Markdown table."""
    return row(*cells) + "\n" + "|" + "---|" * len(cells)


def machine() -> str:
    """What the figures were taken on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(os.sched_getaffinity(0))} cores of {names[0] if names else 'unknown'}"


def quantile(values: list[float], share: float) -> float:
    """The value that `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
