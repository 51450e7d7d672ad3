"""The real server under hostile requests: no 5xx but 503, no traceback, /health answers, SIGTERM ends it."""

from __future__ import annotations

import contextlib
import os
import random
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from mercantile import Tile

from tests.campaign.rasters import sparse
from tests.campaign.requests import Reply, request_of, send
from tests.conftest import PLACE, SceneMaker
from tests.program import Server, memory, ready, stops_in_time

REQUESTS = int(os.environ.get("TILECASCADE_CAMPAIGN_REQUESTS", "500"))
"""Fuzz requests; `make campaign` sends a hundred thousand."""

HEALTH_SECONDS = float(os.environ.get("TILECASCADE_CAMPAIGN_HEALTH", "10"))
"""Longest that /health may take. A busy machine pauses for seconds, and a blocked event loop for far longer; `make
campaign` asks for one second."""

Begin = Callable[..., Server]


@pytest.fixture
def begin(make_scene: SceneMaker, tiny_weights: Path, tmp_path: Path) -> Iterator[Begin]:
    """Start a server of one scene with settings of its own."""
    scene, running = make_scene(), []

    def start(**env: str) -> Server:
        settings = {f"TILECASCADE_{name.upper()}": value for name, value in env.items()}
        running.append(Server(scene, tiny_weights, tmp_path / "data", {"TILECASCADE_REDIS_URL": "none"} | settings))
        return ready(running[-1])

    yield start
    for server in running:
        server.kill()


class Pulse:
    """Asks for /health all the time."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._over = threading.Event()
        self.times: list[float] = []
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with httpx.Client(base_url=self._server.url, timeout=30) as client:
            while not self._over.is_set():
                began = time.monotonic()
                assert client.get("/health").status_code == 200
                self.times.append(time.monotonic() - began)
                time.sleep(0.02)

    def __enter__(self) -> Pulse:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        while not self.times and self._thread.is_alive():
            time.sleep(0.01)
        self._over.set()
        self._thread.join()

    @property
    def slowest(self) -> float:
        """The 99.9th percentile of what was measured."""
        return sorted(self.times)[int(len(self.times) * 0.999)]


def address(server: Server) -> tuple[str, int]:
    return "127.0.0.1", server.port


@pytest.mark.slow
def test_fuzzed_requests_get_answers(begin: Begin) -> None:
    server = begin()
    tiles = [Tile(PLACE.x * 4 + i, PLACE.y * 4 + j, 16) for i in range(4) for j in range(4)]
    for tile in tiles[:8]:
        server.get(f"/tiles/{tile.z}/{tile.x}/{tile.y}.png?wait=60")
    statuses: Counter[int] = Counter()
    wrong: list[tuple[bytes, Reply]] = []

    def some(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(REQUESTS // 8):
            request = request_of(rng, tiles)
            reply = send(address(server), request)
            statuses[reply.status] += 1
            if reply.status >= 500 and not (reply.status == 503 and b"retry-after" in reply.head.lower()):
                wrong.append((request, reply))

    with Pulse(server) as pulse, ThreadPoolExecutor(8) as pool:
        list(pool.map(some, range(8)))
    print(f"statuses {dict(sorted(statuses.items()))}, /health p99.9 {pulse.slowest * 1000:.0f} ms")
    assert not wrong, wrong[:3]
    assert statuses[200] > REQUESTS // 50
    assert pulse.slowest < HEALTH_SECONDS
    log = server.log.read_text()
    assert "Traceback" not in log, log[log.index("Traceback") :][:3000]
    stops_in_time(server)


def test_a_path_means_the_same_to_a_proxy_and_to_the_server(begin: Begin) -> None:
    server = begin()
    for path in (
        "/health%3F",
        "/tiles/%2e%2e/%2e%2e/health",
        "/tiles/../health",
        "/%2e/health",
        "/health%00",
        "/a%0d%0a",
    ):
        reply = send(address(server), f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        assert reply.status in (400, 404), (path, reply)
    assert send(address(server), b"GET /health HTTP/1.1\r\nHost: xn--\r\nConnection: close\r\n\r\n").status == 200


def test_a_body_without_a_key_is_not_taken_in(begin: Begin) -> None:
    server = begin()
    with Pulse(server) as pulse, socket.create_connection(address(server), 30) as connection:
        connection.sendall(
            b"POST /jobs HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 1500000000\r\n\r\n"
        )
        sent = 0
        try:
            while sent < 300 << 20:
                sent += connection.send(b"[" * (1 << 20))
        except (ConnectionError, TimeoutError):
            pass
    assert memory(server) < server.idle + (100 << 20)
    assert pulse.slowest < HEALTH_SECONDS
    stops_in_time(server)


@pytest.mark.slow
def test_half_sent_requests_shut_nobody_out(begin: Begin) -> None:
    server = begin()
    held = []
    for index in range(1200):
        connection = socket.create_connection(address(server), 10)
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n" if index % 2 else b"POST /scenes HTTP/1.1\r\n")
        held.append(connection)
    assert httpx.get(server.url + "/health", timeout=10).status_code == 200
    time.sleep(12)
    closed = 0
    for connection in held:
        connection.setblocking(False)
        try:
            closed += connection.recv(1000) is not None  # an answer (408), or the end
        except BlockingIOError:
            pass
        except ConnectionError:
            closed += 1
        connection.close()
    assert closed == len(held)
    stops_in_time(server)


@pytest.mark.slow
def test_a_long_copy_keeps_no_server_from_stopping(begin: Begin, tmp_path: Path) -> None:
    """Of a file that says that it is 60,000 pixels wide: a minute's work. What was taken in goes at the next start."""
    wide = sparse(tmp_path / "wide.tif", 60_000)
    server = begin(api_key="a long enough key")

    def upload() -> None:
        with contextlib.suppress(httpx.HTTPError):
            httpx.post(server.url + "/scenes", content=wide, headers={"X-API-Key": "a long enough key"}, timeout=120)

    thread = threading.Thread(target=upload)
    thread.start()
    scenes = tmp_path / "data" / "scenes"
    while not list(scenes.glob("*.plain.tif")):
        assert thread.is_alive()
        time.sleep(0.05)
    with Pulse(server) as pulse:
        time.sleep(1)
    assert pulse.slowest < HEALTH_SECONDS
    stops_in_time(server)
    thread.join()
    (scenes / ".incoming-left.tif").write_bytes(b"of a server that was killed")
    stops_in_time(begin())
    assert list(scenes.iterdir()) == []
    programs = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not any(b"scenes.reencode" in program and bytes(tmp_path) in program for program in programs)


def test_long_heads_are_refused(begin: Begin) -> None:
    server = begin()
    for size in (40_000, 100_000, 5_000_000):
        request = b"GET /health HTTP/1.1\r\nHost: a\r\nX-Long: " + b"a" * size + b"\r\n\r\n"
        assert send(address(server), request).status in (0, 400, 413, 414, 431)
        request = b"GET /health?" + b"a" * size + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        assert send(address(server), request).status in (0, 200, 400, 413, 414, 431)
    assert server.get("/health").status_code == 200
    stops_in_time(server)


def test_places_without_imagery_cost_nothing(begin: Begin) -> None:
    """Map tiles, confidence tiles and imagery, of a crowd that asks for what nobody can generate."""
    server = begin()

    def ask(index: int) -> int:
        kind = ("tiles", "tiles/confidence", "imagery/map")[index % 3]
        path = f"/{kind}/16/{index}/7.png"
        return client.get(path).status_code

    limits = httpx.Limits(max_connections=32)
    with (
        Pulse(server) as pulse,
        ThreadPoolExecutor(32) as pool,
        httpx.Client(base_url=server.url, timeout=60, limits=limits) as client,
    ):
        assert set(pool.map(ask, range(900))) == {404}
    assert server.get(f"/tiles/14/{PLACE.x}/{PLACE.y}.png?wait=60").status_code == 200
    assert pulse.slowest < HEALTH_SECONDS
    assert re.search(r"tilecascade_blocks_generated_total\S* 1\.0", server.get("/metrics").text)
    stops_in_time(server)


def test_a_client_in_front_of_the_proxy_is_not_believed(begin: Begin) -> None:
    server = begin(client_rate="0.02", log_format="json")
    tiles = [f"/tiles/16/{PLACE.x * 4 + i}/{PLACE.y * 4 + j}.png" for i in (0, 2) for j in (0, 2)]
    statuses = []
    for number, path in enumerate(tiles):
        forwarded = {"X-Forwarded-For": f"10.9.8.{number}, 203.0.113.7"}  # the proxy has added the last
        statuses.append(httpx.get(server.url + path, headers=forwarded, timeout=60).status_code)
    assert statuses[0] == 200
    assert statuses[-1] == 429
    others = {"X-Forwarded-For": "203.0.113.8"}
    assert httpx.get(server.url + tiles[-1], headers=others, timeout=60).status_code == 200
    stops_in_time(server)
