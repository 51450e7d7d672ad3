"""The real program in a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

TILECASCADE = [sys.executable, "-m", "tilecascade.app.cli"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """`tilecascade serve` in a subprocess; without a scene, of the fictional country."""

    def __init__(self, scene: Path | None, weights: Path, data: Path, env: dict[str, str] | None = None) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = data.with_suffix(".log")
        scenes = [] if scene is None else [str(scene)]
        arguments = ["serve", *scenes, "--port", str(self.port), "--data-dir", str(data), "--weights", str(weights)]
        with self.log.open("a") as out:
            self.process = subprocess.Popen(
                TILECASCADE + arguments,
                stdout=out,
                stderr=out,
                env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "TILECASCADE_WARM_TILES": "0"} | (env or {}),
            )
        for _ in range(600):
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

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=120)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def kill(self) -> None:
        """End it, if it has not ended."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def run_cli(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command, environment = TILECASCADE + list(arguments), os.environ | (env or {})
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
