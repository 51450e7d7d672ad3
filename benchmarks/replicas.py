"""What Ray costs, and how replicas add up: `python -m benchmarks.replicas [--tiles 100000]`. Prints Markdown rows.

A cluster on this machine with a generator that costs nothing, or 50 ms a block. What travels is as large as it is in
use: the references of a block there, its four tiles, field and objects back.
"""

from __future__ import annotations

import argparse
import os
import threading
import time
from concurrent.futures import Future
from typing import Any

import psutil

from benchmarks.server import head, machine, row
from tilecascade.model.conditions import Stage
from tilecascade.model.engine import LocalEngine
from tilecascade.model.engine.ray import THIS_MACHINE, RayEngine, ReplicaOptions, Replicas

STAGE = Stage(16, 15, 512)
THERE, BACK = bytes(60_000), bytes(150_000)
TILES = 4
"""Tiles of a block."""

AT_ONCE = 64
BLOCK_SECONDS = 0.05


class Device:
    """A replica whose generator takes so many seconds for a block, one after the other."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._device = seconds, threading.Lock()

    def generate(self, kind: str, stage: Stage, batch: list[bytes]) -> list[bytes]:
        """The blocks of a batch."""
        for _ in batch:
            if self._seconds:
                with self._device:
                    time.sleep(self._seconds)
        return [BACK] * len(batch)

    def memory(self) -> int:
        """Resident bytes."""
        return int(psutil.Process().memory_info().rss)


def started(seconds: float, number: int, batch_size: int) -> tuple[RayEngine, Replicas]:
    """An engine of so many replicas, all of them running."""
    options = ReplicaOptions(THIS_MACHINE, number, number, 0.25)
    replicas = Replicas(f"bench-{seconds}-{number}", Device, (seconds,), options)

    def asked(kind: str, stage: Stage, batch: Any) -> list[Any]:
        outputs: list[Any] = replicas.call("generate", kind, stage, list(batch))
        return outputs

    engine = RayEngine(replicas, number, asked, batch_size, lambda: None)
    while engine.state().replicas != number:
        time.sleep(0.2)
    return engine, replicas


def pace(engine: LocalEngine, blocks: int) -> float:
    """Seconds a block, of many at once."""
    gate = threading.BoundedSemaphore(AT_ONCE)

    def submit() -> Future[Any]:
        gate.acquire()
        future = engine.submit(STAGE, lambda: THERE)
        future.add_done_callback(lambda done: gate.release())
        return future

    for _ in range(AT_ONCE):
        submit().result()
    began = time.perf_counter()
    futures = [submit() for _ in range(blocks)]
    for future in futures:
        future.result()
    return (time.perf_counter() - began) / blocks


def overhead(blocks: int) -> None:
    """What the way through Ray costs, beside an engine in this process."""
    local = LocalEngine(lambda stage, batch: [BACK] * len(batch))  # type: ignore[arg-type,misc]
    print(row("local, no cost", f"{pace(local, blocks) * 1000 / TILES:.2f} ms a tile"))
    local.close()
    for batch in (1, 8):
        engine, replicas = started(0.0, 1, batch)
        print(row(f"Ray, no cost, batches of {batch}", f"{pace(engine, blocks) * 1000 / TILES:.2f} ms a tile"))
        engine.close()
        replicas.remove()


def scaling(blocks: int) -> None:
    """How much faster more replicas are."""
    alone = 0.0
    for number in (1, 2, 4):
        engine, replicas = started(BLOCK_SECONDS, number, 1)
        found = 1 / pace(engine, blocks * number)
        alone = alone or found
        linear = found / number / alone
        print(
            row(f"{number} of {BLOCK_SECONDS * 1000:.0f} ms a block", f"{found:.1f} blocks/s, {linear:.2f} of linear")
        )
        engine.close()
        replicas.remove()


def growth(tiles: int) -> None:
    """Whether memory grows with the number of tiles."""
    engine, replicas = started(0.0, 1, 8)
    me, blocks = psutil.Process(), tiles // TILES
    for part in range(1, 6):
        pace(engine, blocks // 5)
        here, there = me.memory_info().rss, replicas.call("memory")
        print(
            row(f"after {blocks // 5 * part * TILES} tiles", f"{here >> 20} MiB here, {there >> 20} MiB in the replica")
        )
    engine.close()
    replicas.remove()


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tiles", type=int, default=100_000)
    parser.add_argument("--blocks", type=int, default=400)
    options = parser.parse_args()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    print(machine())
    print(head("engine", "measured"))
    overhead(options.blocks)
    scaling(options.blocks // 4)
    growth(options.tiles)
    ray.shutdown()


if __name__ == "__main__":
    main()
