"""People looking while a night's prefetch runs: `python -m benchmarks.mixed SCENE`. Prints Markdown rows.

Clients that ask for tiles, 95 % finished ones and 5 % new ones, without and with a prefetch in the background,
interleaved; and what part of the device the prefetch still gets.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from pathlib import Path

import httpx

from benchmarks.server import Server, head, layers_file, machine, quantile, row


class Area:
    """Tiles of one zoom around the middle, handed out once each, blocks far apart first."""

    def __init__(self, server: Server, zoom: int, edge: int, seed: int) -> None:
        x, y = server.middle(zoom)
        blocks = [(x // 2 + i - edge // 2, y // 2 + j - edge // 2) for j in range(edge) for i in range(edge)]
        random.Random(seed).shuffle(blocks)
        self._new = [f"/tiles/{zoom}/{2 * a}/{2 * b}.png?wait=600" for a, b in blocks]
        self.zoom = zoom

    def take(self) -> str:
        """A tile that nobody has asked for. Raises IndexError when there is none left."""
        return self._new.pop()


async def look(client: httpx.AsyncClient, area: Area, hits: list[str], seconds: float, share: float) -> list[float]:
    """Ask as one viewer for some time; returns the seconds that each new tile took."""
    took, end, pick = [], time.monotonic() + seconds, random.Random(len(hits))
    while time.monotonic() < end:
        new = pick.random() < share
        began = time.perf_counter()
        answer = await client.get(area.take() if new else pick.choice(hits))
        answer.raise_for_status()
        if new:
            took.append(time.perf_counter() - began)
        await asyncio.sleep(0.02)
    return took


async def prefetch(client: httpx.AsyncClient, area: Area, stop: asyncio.Event) -> int:
    """Ask for tiles nobody looks at until told to stop; returns how many came."""
    count = 0
    while not stop.is_set():
        answer = await client.get(area.take(), headers={"Priority": "u=6"})
        answer.raise_for_status()
        count += 1
    return count


async def phase(
    server: Server, area: Area, hits: list[str], seconds: float, viewers: int, fetchers: int
) -> tuple[list[float], int]:
    """One stretch of time: what new tiles took, and how many the prefetch got."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=server.url, timeout=700, limits=limits) as client:
        stop = asyncio.Event()
        background = [asyncio.create_task(prefetch(client, area, stop)) for _ in range(fetchers)]
        if fetchers:
            await asyncio.sleep(2)  # until its queue is full
        took = await asyncio.gather(*(look(client, area, hits, seconds, 0.05) for _ in range(viewers)))
        stop.set()
        return [t for times in took for t in times], sum(await asyncio.gather(*background))


def main() -> None:
    """Run the phases in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scene", type=Path)
    parser.add_argument("--zoom", type=int, default=19, help="generated whatever the scene's resolution")
    parser.add_argument("--seconds", type=float, default=7)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--edge", type=int, default=16, help="blocks along the area's edge")
    given = parser.parse_args()
    alone: list[float] = []
    beside: list[float] = []
    fetched = 0
    with Server("--layers", layers_file(given.scene, given.zoom), interactive_wait=60) as server:
        area = Area(server, given.zoom, given.edge, 0)
        x, y = server.middle(given.zoom - 1)
        edge = given.edge // 2 + 2
        above = [(x + i - edge, y + j - edge) for j in range(2 * edge) for i in range(2 * edge)]
        hits = [f"/tiles/{given.zoom - 1}/{a}/{b}.png" for a, b in above]

        async def warm() -> list[str]:
            async with httpx.AsyncClient(base_url=server.url, timeout=700) as client:
                answers = await asyncio.gather(*(client.get(path + "?wait=600") for path in hits))
            return [path for path, answer in zip(hits, answers, strict=True) if answer.status_code == 200]

        hits = asyncio.run(warm())
        for _ in range(given.rounds):
            took, _ = asyncio.run(phase(server, area, hits, given.seconds, 4, 0))
            alone += took
            took, count = asyncio.run(phase(server, area, hits, given.seconds, 4, 16))
            beside += took
            fetched += count
    print(f"{machine()}, 4 viewers, 5 % of their requests for new tiles, zoom {given.zoom}\n")
    print(head("new tiles for viewers", "tiles", "median s", "p95 s"))
    print(row("without a prefetch", len(alone), quantile(alone, 0.5), quantile(alone, 0.95)))
    print(row("beside a prefetch", len(beside), quantile(beside, 0.5), quantile(beside, 0.95)))
    print(
        row("ratio", "", quantile(beside, 0.5) / quantile(alone, 0.5), quantile(beside, 0.95) / quantile(alone, 0.95))
    )
    total = fetched + len(beside)
    print(f"\nthe prefetch got {fetched} of {total} blocks generated: {fetched / total:.0%}")


if __name__ == "__main__":
    main()
