"""The real program in a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

STOP_SECONDS = 10 * float(os.environ.get("TILECASCADE_CAMPAIGN_HEALTH", "10"))
"""Longest that a server may take to end. A busy machine pauses for seconds; `make campaign` asks for ten."""

TILECASCADE = [sys.executable, "-m", "tilecascade.app.cli"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """`tilecascade serve` in a subprocess; without a scene, of the fictional country.

    within: what comes before the command, such as `ip netns exec NAME`; host: where it listens then.
    """

    def __init__(
        self, scene: Path | None, weights: Path, data: Path, env: dict[str, str] | None = None,
        within: Sequence[str] = (), host: str = "127.0.0.1",
    ) -> None:  # fmt: skip
        self.port = free_port()
        self.url = f"http://{host}:{self.port}"
        self.log = data.with_suffix(".log")
        scenes = [] if scene is None else [str(scene)]
        arguments = ["serve", *scenes, "--port", str(self.port), "--data-dir", str(data), "--weights", str(weights)]
        arguments += ["--host", host] if within else []
        with self.log.open("a") as out:
            self.process = subprocess.Popen(
                [*within, *TILECASCADE, *arguments],
                stdout=out,
                stderr=out,
                env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "TILECASCADE_WARM_TILES": "0"} | (env or {}),
            )
        for _ in range(1800):
            try:
                if httpx.get(self.url + "/health").status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        self.process.kill()
        pytest.fail(self.log.read_text())

    idle = 0
    """Resident bytes of the server and its children when it was `ready`."""

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=400)  # longer than any `wait`

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def kill(self) -> None:
        """End it, if it has not ended."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def memory(server: Server, which: str = "VmRSS") -> int:
    """Resident bytes of a server and its children: now, or (VmHWM) the most that each has had."""
    pids, total = [server.process.pid], 0
    for pid in pids:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        pids += [int(child) for child in children]
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        total += next((int(line.split()[1]) << 10 for line in lines if line.startswith(which)), 0)
    return total


def ready(server: Server) -> Server:
    """The server, when it has loaded its model; it remembers how much memory it has then."""
    for _ in range(600):
        if server.get("/health").json()["state"] != "starting":
            break
        time.sleep(0.1)
    server.idle = memory(server)
    return server


def stops_in_time(server: Server) -> None:
    """The server has never used more memory than it may, and ends in time."""
    assert memory(server, "VmHWM") < 1.5 * server.idle + (500 << 20)
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < STOP_SECONDS


def run_cli(
    *arguments: str, env: dict[str, str] | None = None, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    command, environment = TILECASCADE + list(arguments), os.environ | (env or {})
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment)
