"""Three front ends, one Redis, replicas on a real Ray cluster of two machines that are killed at random."""

from __future__ import annotations

import os
import random
import re
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest
from mercantile import Tile, children

from tests.cluster import cluster
from tests.conftest import PLACE, picture, write_scene
from tests.program import Server, run_cli
from tilecascade.app.sources.scene import window_bounds
from tilecascade.cache.redis import EmbeddedRedis
from tilecascade.model.cascade import tile_window
from tilecascade.model.sgdm.config import WEIGHTS_DIR

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with cluster(4) as address:
        yield address


def roots(count: int) -> list[Tile]:
    return [Tile(PLACE.x + place % 3, PLACE.y + place // 3, PLACE.z) for place in range(count)]


def layers_file(folder: Path, tops: list[Tile], max_zoom: int) -> Path:
    """A layer over these z14 tiles."""
    boxes = [window_bounds(tile_window(tile)) for tile in tops]
    west, south = min(box[0] for box in boxes), min(box[1] for box in boxes)
    east, north = max(box[2] for box in boxes), max(box[3] for box in boxes)
    columns, rows = len({tile.x for tile in tops}), len({tile.y for tile in tops})
    pixels = picture(max(columns, rows) * 512)[: rows * 512, : columns * 512]
    write_scene(folder / "scene.tif", pixels, (west, south, east, north))
    (folder / "layers.toml").write_text(
        f'[[layer]]\nname = "map"\nscenes = ["scene.tif"]\nroot_zoom = 14\nmax_zoom = {max_zoom}\n'
    )
    return folder / "layers.toml"


def all_tiles(tops: list[Tile], max_zoom: int) -> list[Tile]:
    found = [*tops]
    for tile in found:
        found += children(tile) if tile.z < max_zoom else []
    return found


def fetch(servers: list[Server], tiles: list[Tile]) -> list[dict[Tile, bytes]]:
    """All tiles of each server, which are asked at the same time, each in an order of its own."""

    def of(place: int) -> dict[Tile, bytes]:
        order = list(tiles)
        random.Random(place).shuffle(order)

        def one(tile: Tile) -> tuple[Tile, bytes]:
            answer = servers[place].get(f"/tiles/{tile.z}/{tile.x}/{tile.y}.png?wait=300")
            assert answer.status_code == 200, answer.text
            assert answer.headers["x-tile-state"] in ("generated", "cached"), answer.headers
            return tile, answer.content

        with ThreadPoolExecutor(4) as pool:
            return dict(pool.map(one, order))

    with ThreadPoolExecutor(len(servers)) as pool:
        return list(pool.map(of, range(len(servers))))


@contextmanager
def killing(seconds: float) -> Iterator[list[int]]:
    """Kill a replica, whichever, again and again."""
    over, killed = threading.Event(), list[int]()

    def kill() -> None:
        while not over.wait(seconds):
            pids = [p.pid for p in psutil.process_iter(["cmdline"]) if _is_replica(p.info["cmdline"])]
            if len(pids) > 1:  # to start one takes longer than this
                killed.append(random.choice(pids))
                os.kill(killed[-1], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def _is_replica(command: list[str] | None) -> bool:
    """Whether this is the name of a process that generates; one that starts has another one."""
    return bool(command) and command[0].startswith("ray::ServeReplica") and command[0].split()[0].endswith(":blocks")


def end_applications(address: str) -> None:
    """Let nothing be left for the next test. A replica that has just been told to start ends late."""
    import ray
    from ray import serve

    ray.init(address, log_to_driver=False, logging_level="ERROR")
    try:
        for name in serve.status().applications:
            serve.delete(name, _blocking=False)
        for _ in range(300):
            if not serve.status().applications:
                return
            time.sleep(1)
        pytest.fail("replicas do not end")
    finally:
        ray.shutdown()


def metric(server: Server, name: str) -> float:
    lines = server.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name + "{") or line.startswith(name + " "))


# a network that costs nothing, and the shipped one
@pytest.mark.parametrize(("network", "tops", "max_zoom", "seconds"), [("tiny", 6, 17, 5.0), ("default", 2, 17, 5.0)])
def test_replicas_die_and_nobody_notices(
    network: str, tops: int, max_zoom: int, seconds: float, address: str, tmp_path: Path, tiny_weights: Path,
    redis_server: EmbeddedRedis,
) -> None:  # fmt: skip
    """No error, no lost tile, each block generated once, and the bytes of the local engine."""
    weights = tiny_weights if network == "tiny" else WEIGHTS_DIR / "default"
    places = roots(tops)
    tiles = all_tiles(places, max_zoom)
    env = {"TILECASCADE_LAYERS_FILE": str(layers_file(tmp_path, places, max_zoom))}
    shared = env | {
        "TILECASCADE_ENGINE": "ray",
        "RAY_ADDRESS": address,
        "TILECASCADE_REPLICAS_LEAST": "3",
        "TILECASCADE_REPLICAS_MOST": "3",
        "TILECASCADE_REDIS_URL": redis_server.url,
    }
    with ExitStack() as stack:
        stack.callback(end_applications, address)
        alone = Server(None, weights, tmp_path / "alone", env | {"TILECASCADE_REDIS_URL": "none"})
        stack.callback(alone.kill)
        truth = fetch([alone], tiles)[0]
        blocks = metric(alone, "tilecascade_blocks_generated_total")
        assert alone.stop() == 0
        with ThreadPoolExecutor(3) as pool:
            servers = list(pool.map(lambda n: Server(None, weights, tmp_path / f"front{n}", shared), range(3)))
        for server in servers:
            stack.callback(server.kill)
        with killing(seconds) as killed:
            found = fetch(servers, tiles)
        assert killed
        assert all(each == truth for each in found)
        assert sum(metric(server, "tilecascade_blocks_generated_total") for server in servers) == blocks
        assert metric(servers[0], "tilecascade_replicas") <= 3
        for server in servers:
            # Ray itself reports each death with a traceback
            assert not re.search("ERROR tilecascade|in tilecascade", server.log.read_text())
            assert server.stop() == 0


def test_a_server_joins_a_cluster_and_leaves_it(address: str, tmp_path: Path, tiny_weights: Path) -> None:
    """On a machine that is no part of it: with a node of its own, which ends with the server."""
    import ray

    places = roots(1)
    env = {"TILECASCADE_LAYERS_FILE": str(layers_file(tmp_path, places, 15)), "TILECASCADE_ENGINE": f"ray://{address}"}
    server = Server(None, tiny_weights, tmp_path / "data", env)
    try:
        tile = places[0]
        assert server.get(f"/tiles/{tile.z}/{tile.x}/{tile.y}.png?wait=100").status_code == 200
        assert server.get("/model").json()["device"] == "cpu"
        ray.init(address, log_to_driver=False, logging_level="ERROR")
        assert sum(node["Alive"] for node in ray.nodes()) == 3
        assert server.stop() == 0
        for _ in range(300):
            if sum(node["Alive"] for node in ray.nodes()) == 2:
                break
            time.sleep(0.1)
        assert sum(node["Alive"] for node in ray.nodes()) == 2
    finally:
        ray.shutdown()
        server.kill()


def test_a_cluster_that_cannot_be_reached_is_one_line(tmp_path: Path, tiny_weights: Path) -> None:
    """The server says so and ends."""
    answer = run_cli(
        "serve", "--data-dir", str(tmp_path / "data"), "--weights", str(tiny_weights), "--engine",
        "ray://127.0.0.1:1", "--port", "0",
    )  # fmt: skip
    assert answer.returncode == 2
    assert "cannot be reached" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert run_cli("serve", "--engine", "ray:8", "--data-dir", str(tmp_path / "data")).returncode == 2
