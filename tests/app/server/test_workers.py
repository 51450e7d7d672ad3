"""`tilecascade serve --workers N` and several servers on one cache: the real programs, many clients."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import PLACE, SceneMaker
from tests.program import TILECASCADE, Server, free_port, run_cli
from tests.support import corner_scene
from tilecascade.cache.redis import EmbeddedRedis, find_server

TILE = f"/tiles/16/{PLACE.x * 4 + 1}/{PLACE.y * 4 + 2}.png"
"""Below a root block, a block of zoom 15 and one of zoom 16: three blocks, if nobody draws one twice."""

Begin = Callable[..., Server]


@pytest.fixture
def begin(make_scene: SceneMaker, tiny_weights: Path, tmp_path: Path) -> Iterator[Begin]:
    """Start servers of one scene, each by its data directory's name and its environment."""
    scene, running = make_scene(), []

    def start(data: str = "data", **env: str) -> Server:
        settings = {f"TILECASCADE_{name.upper()}": value for name, value in env.items()}
        running.append(Server(scene, tiny_weights, tmp_path / data, settings))
        return running[-1]

    yield start
    for server in running:
        server.kill()


def counted(server: Server, name: str) -> float:
    """The sum of a metric over its labels."""
    lines = server.get("/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((name + "{", name + " ")))


def crowd(urls: list[str], clients: int) -> list[httpx.Response]:
    """What `clients` clients at once get, spread over the URLs."""

    async def all_of_them() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(timeout=120, limits=limits) as client:
            return list(await asyncio.gather(*(client.get(urls[i % len(urls)]) for i in range(clients))))

    return asyncio.run(all_of_them())


def test_workers_answer_hits_as_the_app_does(begin: Begin, tmp_path: Path) -> None:
    server = begin(workers="2")
    drawn = server.get(TILE + "?wait=100")
    assert drawn.headers["x-tile-state"] == "generated"
    answers = [server.get(TILE) for _ in range(8)]
    assert {answer.content for answer in answers} == {drawn.content}
    assert {answer.headers["x-cache"] for answer in answers} <= {"disk", "memory"}
    large = [server.get(TILE.replace(".png", "@2x.webp") + "?wait=100") for _ in range(6)]
    assert large[-1].headers["x-cache"] in ("disk", "memory")
    assert large[-1].headers["content-type"] == "image/webp"
    assert large[-1].headers["x-tile-scale"] == large[0].headers["x-tile-scale"] == "enlarged"
    assert large[-1].content == large[0].content
    # with a query that only the app knows the app answers
    own = server.get(TILE + "?other=1")
    for name in own.headers:
        if name not in ("date", "server", "server-timing", "x-request-id", "vary", "x-cache", "cache-control"):
            assert answers[0].headers[name] == own.headers[name], name
    etag = drawn.headers["etag"]
    assert own.headers["etag"] == etag
    for path in (TILE, TILE + "?other=1"):
        unchanged = httpx.get(server.url + path, headers={"If-None-Match": f'"x", {etag}'})
        assert (unchanged.status_code, unchanged.content) == (304, b"")
    revision = server.get("/tilejson.json").json()["tiles"][0].partition("?v=")[2]
    pinned = server.get(f"{TILE}?v={revision}")
    assert pinned.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert server.get(TILE + "?v=000000000000").headers["cache-control"] == "no-cache"
    assert server.get(TILE + "?wait=5").headers["cache-control"] == "no-cache"
    assert counted(server, "tilecascade_blocks_generated_total") == 3
    time.sleep(0.1)
    assert counted(server, "tilecascade_worker_answers_total") >= 15

    # a file that is gone or broken is not answered from memory
    file = tmp_path / "data" / "tiles" / "map" / own.headers["x-tile-version"] / TILE.removeprefix("/tiles/")
    file.write_bytes(file.read_bytes()[:-20])
    assert server.get(TILE).content == drawn.content
    assert httpx.head(server.url + TILE).status_code == 200
    assert server.get("/tiles/99/0/0.png").status_code == 400
    assert server.get("/tiles/nothing/14/0/0.png").status_code == 404
    assert server.get("/tilejson.json").json()["tiles"][0].startswith(server.url)
    assert server.stop() == 0


def test_workers_end_with_the_app_and_say_when_it_does_not_answer(begin: Begin) -> None:
    server = begin(workers="1")
    path = TILE.replace("/16/", "/15/")
    server.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(server.url + path, timeout=0.5)
    finally:
        server.process.send_signal(signal.SIGCONT)
    server.process.kill()
    server.process.wait()
    for _ in range(100):
        try:
            answer = httpx.get(server.url + "/health", timeout=1)
            assert answer.status_code == 503
        except httpx.HTTPError:
            break
        time.sleep(0.1)
    else:
        pytest.fail("the workers outlive the app")


@pytest.mark.slow
def test_nothing_outlives_an_app_that_is_killed_while_it_starts(tmp_path: Path) -> None:
    """granian loses a SIGTERM that comes while it starts; the address would stay taken for good."""
    for delay in (0.0, 0.2, 0.4, 0.8):
        port = free_port()
        command = [*TILECASCADE, "serve", "--port", str(port), "--data-dir", str(tmp_path / str(port))]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        def of_port(number: int = port) -> list[Path]:
            found = []
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    if f"--port={number}".encode() in path.read_bytes():
                        found.append(path)
            return found

        while not of_port():
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(delay)
        process.kill()
        process.wait()
        until = time.monotonic() + 10
        while of_port() and time.monotonic() < until:
            time.sleep(0.05)
        assert not of_port(), f"killed {delay} s after the workers began to start"


def test_a_crowd_costs_one_generation_of_each_block_with_workers(begin: Begin) -> None:
    server = begin(workers="2")
    answers = crowd([server.url + TILE + "?wait=100"], 60)
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert counted(server, "tilecascade_blocks_generated_total") == 3


@pytest.mark.slow
def test_two_servers_share_the_work_through_one_redis(begin: Begin) -> None:
    program = find_server()
    if program is None:
        pytest.skip("no redis-server here")
    common = EmbeddedRedis(program, 64 << 20)
    try:
        servers = [begin(name, redis_url=common.url) for name in ("one", "two")]
        answers = crowd([server.url + TILE + "?wait=100" for server in servers], 60)
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.content for answer in answers}) == 1
        assert sum(counted(server, "tilecascade_blocks_generated_total") for server in servers) == 3
    finally:
        common.close()


@pytest.mark.slow
def test_a_directory_has_one_server(begin: Begin, tmp_path: Path) -> None:
    first = begin("one", redis_url="none")
    second = run_cli("serve", "--port", "0", "--data-dir", str(tmp_path / "one"))
    assert second.returncode == 2
    assert f"process {first.process.pid} on" in second.stderr
    assert second.stderr.count("\n") == 1
    first.process.kill()
    first.process.wait()
    assert begin("one", redis_url="none").get("/health").status_code == 200


@pytest.mark.slow
def test_servers_with_one_redis_share_tiles_only_of_the_same_imagery(begin: Begin, tmp_path: Path) -> None:
    program = find_server()
    if program is None:
        pytest.skip("no redis-server here")
    common = EmbeddedRedis(program, 64 << 20)
    try:
        one, two = (begin(name, redis_url=common.url, api_key="a long enough key") for name in ("one", "two"))
        upload, headers = corner_scene(tmp_path, 7).read_bytes(), {"X-API-Key": "a long enough key"}
        corner = f"/tiles/16/{PLACE.x * 4 + 3}/{PLACE.y * 4 + 3}.png?wait=100"
        before = one.get(corner)
        assert two.get(corner).headers["x-tile-state"] == "cached"
        added = httpx.post(f"{one.url}/scenes?acquired=2099-01-01", content=upload, headers=headers, timeout=60)
        assert added.status_code == 201
        changed = one.get(corner)
        assert changed.content != before.content
        assert two.get(corner).content == before.content
        same = httpx.post(f"{two.url}/scenes?acquired=2099-01-01", content=upload, headers=headers, timeout=60)
        assert same.json()["id"] == added.json()["id"]
        again = two.get(corner)
        assert (again.headers["x-tile-state"], again.content) == ("cached", changed.content)
    finally:
        common.close()


def test_an_embedded_redis_that_is_killed_comes_back(begin: Begin) -> None:
    if find_server() is None:
        pytest.skip("no redis-server here")
    server = begin("one")
    children = subprocess.check_output(["pgrep", "-P", str(server.process.pid), "redis"], text=True)
    os.kill(int(children.split()[0]), signal.SIGKILL)
    assert server.get(TILE + "?wait=100").status_code == 200
    deadline = time.monotonic() + 30
    while server.get("/health").json()["state"] != "ready":
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.slow
def test_when_redis_dies_midway_each_server_generates_at_most_once(begin: Begin) -> None:
    program = find_server()
    if program is None:
        pytest.skip("no redis-server here")
    common = EmbeddedRedis(program, 64 << 20)
    servers = [begin(name, redis_url=common.url) for name in ("one", "two")]
    os.kill(common.process.pid, signal.SIGSTOP)  # worse than dead: every command runs into its time-out

    answers = crowd([server.url + TILE + "?wait=100" for server in servers], 60)
    os.kill(common.process.pid, signal.SIGCONT)
    common.close()
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    for server in servers:
        assert counted(server, "tilecascade_blocks_generated_total") <= 3


def test_a_client_has_its_share_of_new_tiles(begin: Begin) -> None:
    server = begin(client_rate="0.05")  # three tiles at once
    tiles = [f"/tiles/14/{PLACE.x}/{PLACE.y}.png", f"/tiles/15/{2 * PLACE.x}/{2 * PLACE.y}.png", TILE]
    assert [server.get(path + "?wait=100").status_code for path in tiles] == [200] * 3
    refused = server.get(f"/tiles/16/{4 * PLACE.x}/{4 * PLACE.y}.png?wait=100")
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 20
    assert "faster" in refused.json()["detail"]
    assert [server.get(path).status_code for path in tiles * 5] == [200] * 15


def test_open_event_streams_do_not_keep_a_server_from_stopping(begin: Begin) -> None:
    server = begin(workers="1")
    with httpx.stream("GET", server.url + "/tiles/events", timeout=30) as events:
        lines = events.iter_lines()
        assert server.get(TILE + "?wait=100").status_code == 200
        said = [next(lines) for _ in range(6)]
        assert "event: tile" in said
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 15
        assert all(line == "" or line.startswith(("event:", "data:", ":")) for line in lines)
        assert "Unclosed" not in server.log.read_text()
