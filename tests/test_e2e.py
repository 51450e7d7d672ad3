"""The real program in a process of its own: draw, restart, lose Redis, stop, prefetch."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import mercantile
import pytest
import redis

from tests.conftest import PLACE, SceneMaker
from tests.program import Server, run_cli
from tilecascade.app.sources.scene import open_scene
from tilecascade.cache.redis import EmbeddedRedis, find_server

Start = Callable[..., Server]

TILE_FILES = "*/*/*[0-9].png"
"""The files of tiles, without fields and variants."""


@pytest.fixture
def start(make_scene: SceneMaker, tiny_weights: Path, tmp_path: Path) -> Iterator[Start]:
    scene = make_scene()
    running: list[Server] = []

    def begin(env: dict[str, str] | None = None) -> Server:
        running.append(Server(scene, tiny_weights, tmp_path / "data", env))
        return running[-1]

    yield begin
    for server in running:
        server.kill()


PATHS = [
    f"/tiles/{z}/{(PLACE.x << z - 14) + i}/{(PLACE.y << z - 14) + i}.png?wait=100"
    for z, i in ((16, 1), (15, 0), (14, 0))
]


@pytest.mark.slow
def test_the_same_bytes_after_a_restart_and_from_nothing(start: Start, tmp_path: Path) -> None:
    first = start()
    drawn = [first.get(path) for path in PATHS]
    assert [d.headers["x-tile-state"] for d in drawn] == ["generated", "cached", "cached"]
    assert [first.get(path).content for path in PATHS] == [d.content for d in drawn]
    assert first.stop() == 0
    second = start()
    again = [second.get(path) for path in PATHS]
    assert [a.headers["x-cache"] for a in again] == ["disk"] * 3
    assert [a.content for a in again] == [d.content for d in drawn]
    assert second.stop() == 0
    shutil.rmtree(tmp_path / "data")
    third = start()  # its private Redis is new, too
    anew = [third.get(path) for path in PATHS[::-1]]
    assert [a.headers["x-tile-state"] for a in anew] == ["generated"] * 3
    assert [a.content for a in anew][::-1] == [d.content for d in drawn]


@pytest.mark.slow
def test_without_a_scene_the_fictional_country_is_served(tiny_weights: Path, tmp_path: Path) -> None:
    server = Server(None, tiny_weights, tmp_path / "data")
    try:
        described = server.get("/tilejson.json").json()
        west, south, east, north = described["bounds"]
        assert east - west == pytest.approx(360 / 256)
        assert "fictional" in described["attribution"]
        middle = mercantile.tile((west + east) / 2, (south + north) / 2, 15)
        answer = server.get(f"/tiles/15/{middle.x}/{middle.y}.png?wait=100")
        assert answer.status_code == 200
        assert answer.headers["x-tile-state"] == "generated"
        assert server.get("/tiles/15/5/5.png?wait=100").status_code == 404
    finally:
        server.stop()


def test_bytes_are_in_redis_and_its_death_loses_no_request(start: Start, tmp_path: Path) -> None:
    program = find_server()
    if program is None:
        pytest.skip("no redis-server here")
    own = EmbeddedRedis(program, 32 << 20)
    try:
        server = start({"TILECASCADE_REDIS_URL": own.url})
        drawn = server.get(PATHS[2])
        client = redis.Redis.from_url(own.url)
        revision = server.get("/tilejson.json").json()["tilecascade_revision"]
        key = f"tile:map/{revision}/14/{PLACE.x}/{PLACE.y}.png"
        assert client.get(key) == drawn.content
        assert client.ttl(key) > 0
        # Redis alone can answer, too: without the disk and in a fresh process
        server.stop()
        shutil.rmtree(tmp_path / "data")
        server = start({"TILECASCADE_REDIS_URL": own.url})
        assert server.get(PATHS[2]).headers["x-cache"] == "redis"
        assert server.get("/health").json()["state"] == "ready"
        everything = [
            f"/tiles/{z}/{(PLACE.x << z - 14) + i}/{(PLACE.y << z - 14) + j}.png?wait=100"
            for z in (15, 16)
            for i in range(1 << z - 14)
            for j in range(1 << z - 14)
        ]
        with ThreadPoolExecutor(8) as pool:
            answers = [pool.submit(server.get, path) for path in everything * 3]
            time.sleep(0.3)
            own.close()  # for good: killed, it would be started again
            assert {a.result().status_code for a in answers} == {200}
        assert server.get("/health").json()["state"] == "degraded"
        assert server.get(PATHS[0]).status_code == 200
    finally:
        own.close()


@pytest.mark.slow
def test_termination_finishes_what_was_asked(start: Start) -> None:
    server = start()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(server.get, PATHS[0])
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        assert answer.result().status_code == 200
    assert server.process.wait(60) == 0


@pytest.mark.slow
def test_a_broken_file_heals(start: Start, tmp_path: Path) -> None:
    server = start()
    answer = server.get(PATHS[2])
    drawn = answer.content
    server.stop()
    version = answer.headers["x-tile-version"]
    file = tmp_path / "data" / "tiles" / "map" / version / "14" / str(PLACE.x) / f"{PLACE.y}.png"
    file.write_bytes(drawn[:100])
    server = start()
    assert server.get(PATHS[2]).content == drawn
    assert file.read_bytes() == drawn
    current = tmp_path / "data" / "tiles" / "map" / "current"
    assert (current / "14" / str(PLACE.x) / f"{PLACE.y}.png").read_bytes() == drawn


@pytest.mark.slow
def test_prefetch_generates_everything_once_and_tells(start: Start, make_scene: SceneMaker, tmp_path: Path) -> None:
    server = start()
    west, south, east, north = open_scene(make_scene()).bounds
    box = f"{west + 1e-6},{south + 1e-6},{east - 1e-6},{north - 1e-6}"
    there = ["--url", server.url, "--data-dir", str(tmp_path / "data")]
    guess = run_cli("prefetch", "--bbox", box, "--zooms", "14-16", "--dry-run", *there)
    assert "21 tiles (1 at zoom 14, 4 at zoom 15, 16 at zoom 16), 0 stored already" in guess.stdout, guess.stderr
    first = run_cli("prefetch", "--bbox", box, "--zooms", "14-16", *there)
    assert first.returncode == 0, first.stderr
    assert "done: 21 of 21 tiles finished (21 generated), 0 without imagery, 0 failed" in first.stdout
    assert len(list((tmp_path / "data" / "tiles" / "map" / "current").glob(TILE_FILES))) == 21
    second = run_cli("prefetch", "--bbox", box, "--zooms", "14-16", *there)
    assert "21 of 21 tiles finished (0 generated)" in second.stdout
    assert len(run_cli("jobs", *there).stdout.splitlines()) == 2
    for arguments, words in [
        (["--bbox", "1,2,3", "--zooms", "14-16"], "--bbox wants"),
        (["--bbox", box, "--zooms", "16-14"], "rising"),
        (["--bbox", box, "--zooms", "14-18"], "zooms 14 to 16"),
        (["--bbox", "100,10,101,11", "--zooms", "14-15"], "outside"),
        (["--bbox", box, "--zooms", "14", "--layer", "no"], "no layer"),
        (["--zooms", "14"], "--bbox or --area"),
        (["--area", "missing.json", "--zooms", "14"], "missing.json"),
    ]:
        wrong = run_cli("prefetch", *arguments, *there)
        assert wrong.returncode == 2, wrong.stdout
        assert words in wrong.stderr
        assert len(wrong.stderr.strip().splitlines()) == 1
    server.stop()
    gone = run_cli("prefetch", "--bbox", box, "--zooms", "14", *there)
    assert gone.returncode == 2
    assert "no server answers" in gone.stderr


@pytest.mark.slow
def test_a_killed_server_goes_on_with_its_job(start: Start, make_scene: SceneMaker, tmp_path: Path) -> None:
    server = start()
    key = {"X-API-Key": (tmp_path / "data" / "api-key").read_text()}
    order = {"bbox": list(open_scene(make_scene()).bounds), "zooms": [14, 16], "rate": 10}
    job = httpx.post(server.url + "/jobs", json=order, headers=key).json()
    for _ in range(200):
        now = httpx.get(f"{server.url}/jobs/{job['id']}").json()
        if now["finished"] >= 5:
            break
        time.sleep(0.05)
    assert now["state"] == "running"
    server.process.kill()
    server.process.wait()
    again = start()
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    events = subprocess.run(
        ["curl", "-sSN", f"{again.url}/jobs/{job['id']}/events"], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    last = events.strip().split("\n\n")[-1].splitlines()
    assert last[0] == "event: done", events
    assert events.count("event: progress") >= 1
    done = json.loads(last[1].removeprefix("data: "))
    files = list((tmp_path / "data" / "tiles" / "map" / "current").glob(TILE_FILES))
    # what was generated before it was killed counts, if it had been written down
    assert done["finished"] == len(files) >= done["generated"] > 0
    assert done["finished"] + done["without_imagery"] == done["total"]


def test_curl_globbing(start: Start, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    server = start()
    x, y = PLACE.x * 2, PLACE.y * 2
    out = tmp_path / "tiles" / "#1_#2.png"
    url = f"{server.url}/tiles/15/[{x}-{x + 1}]/[{y}-{y + 1}].png?wait=60"
    subprocess.run(["curl", "-sSf", "--create-dirs", "--parallel", url, "-o", str(out)], check=True)
    assert len({path.read_bytes() for path in out.parent.iterdir()}) == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["serve", "missing.tif"], "missing.tif does not exist"),
        (["serve", "--layers", "missing.toml"], "missing.toml does not exist"),
        (["serve", "--weights", "missing", "README.md"], "weights missing.safetensors do not exist"),
        (["serve", "--port", "99999"], "port"),
        (["train", "missing.toml"], "does not exist"),
        (
            ["evaluate", "scene", "x.tif", "--truth", ".", "--split", "val", "--out", "/tmp/x"],
            "neither a manifest.csv",
        ),
    ],
)
def test_wrong_commands_get_one_line(arguments: list[str], words: str) -> None:
    answer = run_cli(*arguments)
    assert answer.returncode == 2
    assert words in answer.stderr
    assert "Traceback" not in answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "now"),
    [
        (("scenes", "add", "x.tif", "--taken", "2026-11-22"), "--acquired"),
        (("evaluate", "--pairs", "x"), "`evaluate pairs`"),
        (("evaluate", "--scene", "x.tif", "--seams"), "`evaluate scene`"),
    ],
)
def test_a_renamed_option_says_what_it_is_called_now(arguments: tuple[str, ...], now: str) -> None:
    result = run_cli(*arguments, env={"TILECASCADE_API_KEY": "a key of some length"})
    assert result.returncode == 2
    assert now in result.stderr
    assert "Traceback" not in result.stderr
