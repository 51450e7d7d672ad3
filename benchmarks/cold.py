"""From nothing to sharp: `python -m benchmarks.cold SCENE [--town SCENE]`. Prints Markdown rows.

One cold block below a cached parent, halo and HTTP included; a viewport of 24 tiles until the last is sharp; and the
C2GM paper's case, 441 tiles = 21 x 21 at zoom 18, from an empty cache with all their ancestors.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import httpx

from benchmarks.server import Server, head, layers_file, machine, quantile, row

WAIT = "?wait=600"

REFERENCES = (200, 404)
"""What tiles around a block may answer: there may be no imagery."""


async def fetch(client: httpx.AsyncClient, tiles: list[tuple[int, int, int]], fine: tuple[int, ...] = (200,)) -> float:
    """Seconds until the last of the tiles is there, all asked for at once. Raises RuntimeError for one that fails."""
    began = time.perf_counter()
    answers = await asyncio.gather(*(client.get(f"/tiles/{z}/{x}/{y}.png{WAIT}") for z, x, y in tiles))
    bad = [
        a.status_code for a in answers if a.status_code not in fine or a.headers.get("x-tile-state") == "placeholder"
    ]
    if bad:
        raise RuntimeError(f"{len(bad)} tiles failed, the first with status {bad[0]}")
    return time.perf_counter() - began


def client_of(server: Server) -> httpx.AsyncClient:
    """A client as patient and as parallel as need be."""
    return httpx.AsyncClient(base_url=server.url, timeout=700, limits=httpx.Limits(max_connections=64))


async def blocks(server: Server, zoom: int, count: int) -> list[float]:
    """Seconds for one tile, and so one block, at a time, references being there."""
    x, y = server.middle(zoom)
    corners = [(x // 2 * 2 + 2 * (i % 4) - 4, y // 2 * 2 + 2 * (i // 4) - 4) for i in range(count)]
    async with client_of(server) as client:
        above = {
            (zoom - 1, (left + dx) // 2, (top + dy) // 2) for left, top in corners for dx in (-2, 2) for dy in (-2, 2)
        }
        await fetch(client, sorted(above), REFERENCES)
        return [await fetch(client, [(zoom, left, top)]) for left, top in corners]


async def viewport(server: Server, zoom: int, columns: int = 6, rows: int = 4) -> tuple[float, float]:
    """Seconds until all 24 tiles are sharp: from an empty cache, and below cached parents a screen further."""
    x, y = server.middle(zoom)
    first = [(zoom, x + i - columns, y + j - rows // 2) for j in range(rows) for i in range(columns)]
    second = [(z, i + columns, j) for z, i, j in first]
    async with client_of(server) as client:
        empty = await fetch(client, first)
        around = {
            (zoom - 1, (i + dx) // 2, (j + dy) // 2) for _, i, j in second for dx in (-2, 0, 2) for dy in (-2, 0, 2)
        }
        await fetch(client, sorted(around), REFERENCES)
        return empty, await fetch(client, second)


def paper_case(server: Server, zoom: int = 18, edge: int = 21) -> float:
    """Seconds for `edge` x `edge` tiles from an empty cache, as curl with 64 connections gets them (README).

    Not httpx: with hundreds of requests waiting it takes a third of a core for itself. Raises RuntimeError if a tile
    fails.
    """
    x, y = (place - edge // 2 for place in server.middle(zoom))
    url = f"{server.url}/tiles/{zoom}/[{x}-{x + edge - 1}]/[{y}-{y + edge - 1}].png{WAIT}"
    command = ["curl", "-sS", "--parallel", "--parallel-max", "64", "-w", "%{http_code} %header{x-tile-state}\n"]
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        done = subprocess.run([*command, url, "-o", f"{folder}/#1-#2.png"], capture_output=True, text=True, check=True)
        seconds = time.perf_counter() - began
    bad = [line for line in done.stdout.splitlines() if line not in ("200 generated", "200 cached")]
    if bad or len(done.stdout.splitlines()) != edge**2:
        raise RuntimeError(f"{len(bad)} tiles failed: {bad[:1]}")
    return seconds


def main() -> None:
    """Run all three."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scene", type=Path, help="for blocks and viewports")
    parser.add_argument("--town", type=Path, help="for the 441 tiles; the same scene unless given")
    parser.add_argument("--zoom", type=int, default=17)
    parser.add_argument("--repeat", type=int, default=3)
    given = parser.parse_args()
    print(f"{machine()}, default network\n")
    print(head("case", "runs", "median s", "p95 s", "best s", "worst s"))

    def show(name: str, times: list[float]) -> None:
        cells = (statistics.median(times), quantile(times, 0.95), min(times), max(times))
        print(row(name, len(times), *(f"{cell:.2f}" for cell in cells)), flush=True)

    with Server(given.scene) as server:
        show(f"a cold block of 2 x 2 at z{given.zoom}, parents cached", asyncio.run(blocks(server, given.zoom, 16)))
    pairs = []
    for _ in range(given.repeat):
        with Server(given.scene) as server:
            pairs.append(asyncio.run(viewport(server, given.zoom)))
    show(f"24 tiles at z{given.zoom}, empty cache", [empty for empty, _ in pairs])
    show(f"24 tiles at z{given.zoom}, parents cached", [warm for _, warm in pairs])
    times = []
    for _ in range(given.repeat):
        with Server("--layers", layers_file(given.town or given.scene, 18)) as server:
            times.append(paper_case(server))
    show("441 tiles at z18 and all their ancestors, empty cache", times)


if __name__ == "__main__":
    main()
