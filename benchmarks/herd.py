"""Many clients, one missing tile: `python -m benchmarks.herd SCENE [--clients 1000]`.

How often each block is drawn (a) with four workers before one owner, (b) by two servers with a Redis in common, (c) by
two on one directory without Redis, (d) as (b), with Redis killed midway. Prints a Markdown row each.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import httpx

from benchmarks.server import Server, head, machine, row
from cache.redis import EmbeddedRedis, find_server


async def crowd(urls: list[str], clients: int) -> list[httpx.Response]:
    """What the clients get, all at once, spread over the URLs."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=300, limits=limits) as client:
        return list(await asyncio.gather(*(client.get(urls[i % len(urls)]) for i in range(clients))))


def run(name: str, servers: list[Server], zoom: int, clients: int) -> str:
    """One case: fire, count, compare."""
    x, y = servers[0].middle(zoom)
    before = [server.metric("tilecascade_blocks_generated_total") for server in servers]
    began = time.perf_counter()
    answers = asyncio.run(crowd([f"{server.url}/tiles/{zoom}/{x}/{y}.png?wait=300" for server in servers], clients))
    seconds = time.perf_counter() - began
    after = [server.metric("tilecascade_blocks_generated_total") for server in servers]
    blocks = [int(b - a) for a, b in zip(before, after, strict=True)]
    good = sum(answer.status_code == 200 for answer in answers)
    return row(name, clients, good, len({a.content for a in answers}), " + ".join(map(str, blocks)), round(seconds, 1))


def main() -> None:
    """Run the four cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scene", type=Path)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--zoom", type=int, default=17)
    given = parser.parse_args()
    program = find_server()
    if program is None:
        parser.error("there is no redis-server")
    print(f"{machine()}, one tile of zoom {given.zoom} of {given.scene.name}, everything missing\n")
    print(head("case", "clients", "answered 200", "different bodies", "blocks drawn by each server", "seconds"))
    with Server(given.scene, redis_url="none") as alone:
        needed = run("needed: one client, one server", [alone], given.zoom, 1)
    print(needed, flush=True)
    with Server(given.scene, workers=4) as server:
        print(run("(a) four workers, one owner", [server], given.zoom, given.clients), flush=True)
    common = EmbeddedRedis(program, 256 << 20)
    with ExitStack() as stack:
        servers = [stack.enter_context(Server(given.scene, redis_url=common.url)) for _ in range(2)]
        print(run("(b) two servers, one Redis", servers, given.zoom, given.clients), flush=True)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        both = Path(folder) / "data"
        servers = [stack.enter_context(Server(given.scene, data_dir=both, redis_url="none")) for _ in range(2)]
        print(run("(c) two servers, one directory, no Redis", servers, given.zoom, given.clients), flush=True)
    with ExitStack() as stack:
        common.process.kill()
        common.close()
        common = EmbeddedRedis(program, 256 << 20)
        servers = [stack.enter_context(Server(given.scene, redis_url=common.url)) for _ in range(2)]
        threading.Timer(2.0, common.process.kill).start()
        print(run("(d) as (b), Redis killed after 2 s", servers, given.zoom, given.clients), flush=True)
    common.close()


if __name__ == "__main__":
    main()
