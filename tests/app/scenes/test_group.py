"""Servers of one group: what is changed at one is changed at all, also after Redis was away, or was emptied."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import mercantile
import pytest
import redis
from PIL import Image, ImageDraw

from tests.conftest import PLACE, SceneMaker
from tests.program import Server, run_cli
from tests.support import corner_scene
from tilecascade.cache.redis import EmbeddedRedis
from tilecascade.model.world.sketch import COVERS, NUMBER

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

KEY = "the-owners-key"
HEADERS = {"X-API-Key": KEY}
NEAR = f"/tiles/16/{PLACE.x * 4 + 3}/{PLACE.y * 4 + 3}.png?wait=100"
FAR = f"/tiles/16/{PLACE.x * 4}/{PLACE.y * 4}.png?wait=100"


def upload(server: Server, scene: Path) -> httpx.Response:
    return httpx.post(server.url + "/scenes", content=scene.read_bytes(), headers=HEADERS, timeout=60)


@pytest.fixture
def group(
    make_scene: SceneMaker, tiny_weights: Path, tmp_path: Path, redis_server: EmbeddedRedis
) -> Iterator[tuple[Server, Server]]:
    """Two servers with one Redis and one folder of scenes."""
    env = {
        "TILECASCADE_REDIS_URL": redis_server.url, "TILECASCADE_GROUP": "us", "TILECASCADE_API_KEY": KEY,
        "TILECASCADE_SCENES_DIR": str(tmp_path / "scenes"),
    }  # fmt: skip
    scene = make_scene()
    with ThreadPoolExecutor() as pool, ExitStack() as stack:
        servers = list(pool.map(lambda name: Server(scene, tiny_weights, tmp_path / name, env), ("a", "b")))
        for server in servers:
            stack.callback(server.kill)
        yield servers[0], servers[1]
        for server in servers:
            assert "Traceback" not in server.log.read_text(), server.log.read_text()


def test_what_one_changes_all_show_at_once(group: tuple[Server, Server], tmp_path: Path, tiny_weights: Path) -> None:
    a, b = group
    before = {path: a.get(path).content for path in (NEAR, FAR)}
    assert {path: b.get(path).content for path in before} == before
    added = upload(a, corner_scene(tmp_path, 5))
    assert added.status_code == 201, added.text
    # the call has returned: nobody shows the old imagery any more
    after = {path: b.get(path).content for path in (NEAR, FAR)}
    assert after[NEAR] != before[NEAR]
    assert {path: a.get(path).content for path in (NEAR, FAR)} == after
    assert b.get("/scenes").json() == a.get("/scenes").json()
    # and the other way round
    id = next(scene["id"] for scene in a.get("/scenes").json()["scenes"] if scene["id"] == added.json()["id"])
    assert httpx.delete(f"{b.url}/scenes/{id}", headers=HEADERS, timeout=60).status_code < 300
    assert a.get(NEAR).content == before[NEAR]
    # one that comes later has what was changed before
    upload(b, corner_scene(tmp_path, 6, "another.tif"))
    env = {
        "TILECASCADE_REDIS_URL": "unix:" + str(redis_of(a)), "TILECASCADE_GROUP": "us",
        "TILECASCADE_SCENES_DIR": str(tmp_path / "scenes"),
    }  # fmt: skip
    late = Server(tmp_path / "scene.tif", tiny_weights, tmp_path / "late", env)
    try:
        assert late.get(NEAR).content == a.get(NEAR).content == b.get(NEAR).content != before[NEAR]
        assert late.get("/scenes").json() == a.get("/scenes").json()
    finally:
        late.kill()


def test_a_territory_that_one_makes_is_at_all_and_goes_from_all(group: tuple[Server, Server]) -> None:
    a, b = group
    picture = Image.new("RGB", (60, 40), COVERS[NUMBER["farmland"]].paint)
    ImageDraw.Draw(picture).ellipse((20, 10, 40, 30), fill=COVERS[NUMBER["town"]].paint)
    picture.save(sketch := io.BytesIO(), "PNG")
    path = "/territories/carana"
    where = path + "?bounds=10,50,10.04,50.02&seed=3"

    def put(server: Server, seed: int) -> httpx.Response:
        address = server.url + where.replace("seed=3", f"seed={seed}")
        return httpx.put(address, content=sketch.getvalue(), headers=HEADERS, timeout=90)

    made = put(a, 3)
    assert made.status_code in (200, 201), made.text
    tile = mercantile.tile(10.02, 50.01, 15)
    address = f"/tiles/carana/{tile.z}/{tile.x}/{tile.y}.png?wait=100"
    first = b.get(address)
    assert first.status_code == 200
    assert a.get(address).content == first.content
    # its areas, like those of any layer, and a new sketch in its place
    ring = [[10.005, 50.005], [10.03, 50.005], [10.03, 50.015], [10.005, 50.015], [10.005, 50.005]]
    geometry = {"type": "Polygon", "coordinates": [ring]}
    fog = {"type": "Feature", "properties": {"weather": "fog", "strength": 1}, "geometry": geometry}
    body = {"type": "FeatureCollection", "features": [fog]}
    assert httpx.put(b.url + "/areas/carana", json=body, headers=HEADERS, timeout=60).status_code == 200
    assert len(a.get("/areas/carana").json()["features"]) == 1
    assert put(b, 4).status_code in (200, 201)
    second = a.get(address)
    assert second.content == b.get(address).content != first.content
    said = [server.get("/territories").json() for server in (a, b)]
    assert [[one[key] for key in ("name", "seed", "revision")] for (one,) in said] == [
        ["carana", 4, said[0][0]["revision"]]
    ] * 2
    assert len(a.get("/areas/carana").json()["features"]) == 1
    assert httpx.delete(b.url + path, headers=HEADERS, timeout=60).status_code < 300
    assert a.get(address).status_code == b.get(address).status_code == 404
    # what comes under this name later has nothing of it
    assert put(b, 3).status_code in (200, 201)
    assert a.get("/areas/carana").json()["features"] == []
    assert a.get(address).content == first.content


def redis_of(server: Server) -> str:
    """The address of a server's Redis, without its scheme."""
    environ = Path(f"/proc/{server.process.pid}/environ").read_text().split("\0")
    return next(line.split("=unix:")[1] for line in environ if line.startswith("TILECASCADE_REDIS_URL="))


def test_two_changes_at_once_are_both_made(group: tuple[Server, Server], tmp_path: Path) -> None:
    scenes = [corner_scene(tmp_path, seed, f"{seed}.tif") for seed in (7, 8)]
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(upload, group, scenes))
    assert [answer.status_code for answer in answers] == [201, 201], [answer.text for answer in answers]
    shown = [[scene["id"] for scene in server.get("/scenes").json()["scenes"]] for server in group]
    assert shown[0] == shown[1]
    assert len(shown[0]) == 3


def test_without_redis_tiles_go_on_and_changes_wait(
    group: tuple[Server, Server], tmp_path: Path, redis_server: EmbeddedRedis
) -> None:
    a, b = group
    before = a.get(NEAR).content
    redis_server.process.kill()  # it is started again after a second, empty
    refused = upload(a, corner_scene(tmp_path, 9))
    assert refused.status_code in (201, 503)
    assert refused.status_code == 201 or "Redis" in refused.json()["detail"]
    assert b.get(FAR).status_code == 200
    client = redis.Redis.from_url(redis_server.url)
    for _ in range(100):
        try:
            client.ping()
            break
        except redis.RedisError:
            time.sleep(0.1)
    time.sleep(5)
    if refused.status_code == 503:
        added = upload(b, corner_scene(tmp_path, 9))
        assert added.status_code == 201, added.text
    assert a.get(NEAR).content == b.get(NEAR).content != before


def test_a_group_without_a_redis_is_one_line(make_scene: SceneMaker, tiny_weights: Path, tmp_path: Path) -> None:
    answer = run_cli(
        "serve", str(make_scene()), "--weights", str(tiny_weights), "--data-dir", str(tmp_path / "data"),
        env={"TILECASCADE_GROUP": "us", "TILECASCADE_REDIS_URL": "none"},
    )  # fmt: skip
    assert answer.returncode == 2
    assert "a group needs a redis_url" in answer.stderr
    assert "Traceback" not in answer.stderr
