"""Changing the scenes of a server with a full store: `python -m benchmarks.scenes SCENE ADDED`. Prints Markdown rows.

The store gets `--tiles` tiles that were not generated (copies of one), in all parts of the layer; then `scenes add` and
`scenes remove` are timed as a user runs them.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx

from benchmarks.server import Server, head, machine, row


def fill(server: Server, count: int) -> int:
    """Copy one finished tile to `count` other places of the layer's finest zooms; returns how many tiles are there."""
    with httpx.Client(base_url=server.url, timeout=120) as client:
        info = client.get("/tilejson.json").json()
        zoom = info["minzoom"]
        x, y = server.middle(zoom)
        answer = client.get(f"/tiles/{zoom}/{x}/{y}.png?wait=100")
        answer.raise_for_status()
    version = answer.headers["x-tile-version"]
    folder = server.data_dir / "tiles" / "map" / version
    source = folder / str(zoom) / str(x) / f"{y}.png"
    finest = zoom + 8
    edge = 1 << (finest - zoom)
    placed = 0
    for column in range(edge):
        below = folder / str(finest) / str(x * edge + column)
        below.mkdir(parents=True, exist_ok=True)
        for row_number in range(edge):
            if placed == count:
                return placed
            shutil.copyfile(source, below / f"{y * edge + row_number}.png")
            placed += 1
    return placed


def timed(server: Server, *arguments: str) -> float:
    """Seconds of one `tilecascade scenes` command. Raises CalledProcessError if it fails."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "tilecascade.app.cli", "scenes", "--url", server.url]
    subprocess.run([*command, "--data-dir", str(server.data_dir), *arguments], check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scene", type=Path)
    parser.add_argument("added", type=Path)
    parser.add_argument("--tiles", type=int, default=20_000)
    parser.add_argument("--repeat", type=int, default=3)
    given = parser.parse_args()
    print(machine())
    with Server(given.scene) as server:
        count = fill(server, given.tiles)
        print(head(f"{count} tiles stored", "seconds"))
        print(row("`scenes list`, for comparison", f"{timed(server, 'list'):.2f}"), flush=True)
        for _ in range(given.repeat):
            print(row("`scenes add`", f"{timed(server, 'add', str(given.added)):.2f}"), flush=True)
            with httpx.Client(base_url=server.url) as client:
                newest = client.get("/scenes").json()["scenes"][0]["id"]
            print(row("`scenes remove`", f"{timed(server, 'remove', newest):.2f}"), flush=True)


if __name__ == "__main__":
    main()
