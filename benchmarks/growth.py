"""Whether anything grows with the number of tiles: `python -m benchmarks.growth`. Prints Markdown rows.

The whole service with a generator that costs nothing (one grey block, one condition), from 100 to 100,000 tiles: cost
per tile and resident memory. And the scheduler alone: no conditions, no encoding, no disk.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from mercantile import Tile

from benchmarks.server import head, machine, row
from tilecascade.app.service import Service
from tilecascade.app.settings import LayerSettings, Settings
from tilecascade.app.tiles.generator import BlockGenerator
from tilecascade.app.tiles.layer import Layer
from tilecascade.app.tiles.resolver import TileResolver
from tilecascade.app.tiles.store import TileStore
from tilecascade.model.cascade import Pixels, Window, cut_pixels
from tilecascade.model.conditions import Conditions, Stage
from tilecascade.model.engine import LocalEngine, Priority
from tilecascade.model.generated import Drawing, GeneratedMap

PARALLEL = 64
LOT = 100
WARM_UP = 5


class FlatImagery:
    """Imagery everywhere, always the same."""

    id, bounds, native_zoom, attribution = "flat", (-180.0, -85.0, 180.0, 85.0), 22, ""

    def read(self, window: Window) -> tuple[Pixels, np.ndarray]:
        """See Source."""
        return np.zeros((window.height, window.width, 3), dtype=np.uint8), np.ones(
            (window.height, window.width), dtype=np.bool_
        )

    def covers(self, tile: Tile) -> bool:
        """See Source."""
        return True

    def id_at(self, tile: Tile) -> str:
        """See Source."""
        return self.id


def free(stage: Stage, windows: Sequence[Conditions]) -> list[GeneratedMap]:
    """Render nothing: grey blocks."""
    side = stage.size + 2 * stage.ring
    field = np.full((side, side, 3), 128, dtype=np.uint8)
    return [GeneratedMap(field, lambda: Drawing(cut_pixels(field, stage.ring)))] * len(windows)


def resident() -> float:
    """Megabytes of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return float("nan")


async def grow(resolver: TileResolver, zoom: int, counts: list[int]) -> None:
    """Ask for ever more tiles, depth first as a prefetch does, and print a row at each count.

    The cost is the median over lots of 100 tiles, as the machine is not ours alone; a few lots go before.
    """
    done, edge = -WARM_UP * LOT, 1 << 9
    tiles = (
        Tile(2 * (i % edge) + dx, 2 * (i // edge) + dy, zoom)
        for i in range(edge * edge)
        for dy in (0, 1)
        for dx in (0, 1)
    )
    gate = asyncio.Semaphore(PARALLEL)

    async def one(tile: Tile) -> None:
        async with gate:
            await resolver.find(tile, priority=Priority.PREFETCH)

    for count in (0, *counts):
        costs = []
        while done < count:
            lot = [next(tiles) for _ in range(LOT)]
            began = time.perf_counter()
            await asyncio.gather(*(one(tile) for tile in lot))
            costs.append((time.perf_counter() - began) / LOT * 1000)
            done += LOT
        if count:
            print(row(count, statistics.median(costs), round(resident())), flush=True)


def scheduler(count: int) -> float:
    """Windows a second that the engine takes, orders and hands back, four tiles each."""
    engine = LocalEngine(free, batch_size=1)
    window = Window(14, 0, 0, 512, 512)
    empty = np.zeros((1, 1, 3), dtype=np.uint8)
    conditions = Conditions(window, empty, np.ones((1, 1), dtype=np.bool_), None, None)
    stage = Stage(14, None, 512, 0, "growth")
    began = time.perf_counter()
    futures = []
    for index in range(count):
        futures.append(engine.submit(stage, lambda: conditions, Priority(index % 3)))
        if len(futures) >= 100:
            futures.pop(0).result()
    for future in futures:
        future.result()
    seconds = time.perf_counter() - began
    engine.close()
    return count / seconds


def main() -> None:
    """Run both parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=100_000)
    given = parser.parse_args()
    print(f"{machine()}, a generator that costs nothing\n")
    rate = scheduler(5000)
    print(f"scheduler alone: {rate:.0f} blocks a second, {4 * rate:.0f} tiles\n")
    print(head("tiles", "ms a tile since the row above, median", "resident MB"))
    counts = [n for n in (100, 1000, 10_000, 30_000, 100_000) if n <= given.most]
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(grow_in(Path(folder), counts))


async def grow_in(folder: Path, counts: list[int]) -> None:
    """`grow` with the caches of a service in `folder`."""
    async with Service.running(Settings(data_dir=folder, redis_url="none"), [LayerSettings(country=1)]) as service:
        like = service.layers[0]
        layer = Layer("map", FlatImagery(), like.ladder, 22, 0, like.model, "")  # type: ignore[arg-type]
        engine = LocalEngine(free)
        with ThreadPoolExecutor(4) as executor:
            store = TileStore(layer, service.caches, executor)
            leases = service.caches.leases
            await grow(TileResolver(store, BlockGenerator(store, leases, engine)), 14, counts)
        engine.close()


if __name__ == "__main__":
    main()
