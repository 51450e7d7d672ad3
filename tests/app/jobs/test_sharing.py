"""Jobs that a group of servers works on: all tiles once, nothing lost when one dies, the same job at all of them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import SceneMaker, place_bounds
from tests.program import Server
from tests.support import ALL
from tilecascade.app.jobs import parts as module
from tilecascade.app.jobs.area import Area
from tilecascade.app.jobs.job import Order
from tilecascade.app.jobs.parts import Parts, cut
from tilecascade.cache.redis import EmbeddedRedis, RedisClient

KEY = "the-owners-key"

ORDER = Order("map", Area((11.2, 48.4, 11.25, 48.43)), (12, 19))


@given(
    west=st.floats(-179, 170), south=st.floats(-80, 79), width=st.floats(1e-4, 0.3), height=st.floats(1e-4, 0.2),
    first=st.integers(8, 13), levels=st.integers(0, 4),
)  # fmt: skip
def test_parts_have_all_tiles_each_once(
    west: float, south: float, width: float, height: float, first: int, levels: int
) -> None:
    order = Order("map", Area((west, south, west + width, south + height)), (first, first + levels))
    found = Counter(tile for part in cut(order) for tile in part.tiles())
    assert set(found) == set(order.tiles())
    assert set(found.values()) == {1}


def test_parts_of_polygons_have_all_tiles() -> None:
    ring = [[11.2, 48.4], [11.25, 48.41], [11.22, 48.43], [11.2, 48.4]]
    order = Order("map", Area.of_geojson({"type": "Polygon", "coordinates": [ring]}), (12, 18))
    assert {tile for part in cut(order) for tile in part.tiles()} == set(order.tiles())
    million = Order("map", Area((11.0, 48.0, 11.9, 48.6)), (10, 19))
    assert sum(million.counts().values()) > 1_000_000
    assert sum(1 for _ in cut(million)) < 5000  # a short entry each


@pytest.fixture
def servers(redis_server: EmbeddedRedis) -> list[Parts]:
    return [Parts(RedisClient(redis_server.url), "us", name) for name in ("a", "b")]


def test_each_part_is_taken_once_and_counted_once(servers: list[Parts]) -> None:
    a, b = servers
    assert a.take() is None
    total = a.begin("job", ORDER)
    assert total == b.begin("job", ORDER) > 4  # whoever asks again adds nothing
    taken = []
    while (part := servers[len(taken) % 2].take()) is not None:
        taken.append(part)
    assert len({part.entry for part in taken}) == len(taken) == total
    assert {tile for part in taken for tile in part.order.tiles()} == set(ORDER.tiles())
    for part in taken:
        a.done(part, {"finished": 3, "failed": 1})
        b.done(part, {"finished": 3, "failed": 1})
    progress = b.progress("job")
    assert (progress["done"], progress["finished"], progress["failed"]) == (total, 3 * total, total)
    assert a.take() is None


def test_the_part_of_a_server_that_dies_goes_to_another(servers: list[Parts], monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = servers
    a.begin("job", Order("map", ORDER.area, (12, 13)))
    lost = a.take()
    assert lost is not None
    rest = []
    while (part := b.take()) is not None:
        rest.append(part)
        b.done(part, {})
    assert lost.entry not in {part.entry for part in rest}
    monkeypatch.setattr(module, "IDLE_MILLISECONDS", 50)
    time.sleep(0.1)
    a.still(lost)  # it lives
    assert b.take() is None
    time.sleep(0.1)
    again = b.take()
    assert again is not None
    assert again.order == lost.order
    b.done(again, {"finished": 1})
    a.done(lost, {"finished": 1})  # it was only slow
    progress = a.progress("job")
    assert progress["done"] == progress["parts"]
    assert progress["finished"] == 1


def test_a_job_that_is_forgotten_leaves_nothing(servers: list[Parts]) -> None:
    a, b = servers
    a.begin("one", ORDER)
    a.begin("two", ORDER)
    part = b.take()
    assert part is not None
    assert b.wanted(part)
    a.forget("one")
    assert not b.wanted(part)
    left = []
    while (each := b.take()) is not None:
        left.append(each.job)
    assert set(left) == {"two"}


@pytest.fixture
def group(
    make_scene: SceneMaker, tiny_weights: Path, tmp_path: Path, redis_server: EmbeddedRedis
) -> Iterator[list[Server]]:
    env = {"TILECASCADE_REDIS_URL": redis_server.url, "TILECASCADE_GROUP": "us", "TILECASCADE_API_KEY": KEY}
    layers = tmp_path / "layers.toml"
    make_scene()
    layers.write_text('[[layer]]\nname = "map"\nscenes = ["scene.tif"]\nmax_zoom = 20\n')
    env["TILECASCADE_LAYERS_FILE"] = str(layers)
    with ThreadPoolExecutor() as pool, ExitStack() as stack:
        servers = list(pool.map(lambda name: Server(None, tiny_weights, tmp_path / name, env), ("a", "b")))
        for server in servers:
            stack.callback(server.kill)
        yield servers


@pytest.mark.slow
def test_all_servers_work_on_a_job_and_all_show_it(group: list[Server]) -> None:
    a, b = group
    order = {"zooms": [14, 16], "bbox": list(place_bounds("EPSG:4326"))}
    headers = {"X-API-Key": KEY}
    job = httpx.post(a.url + "/jobs", json=order, headers=headers, timeout=30).json()
    deadline = time.monotonic() + 120
    while b.get("/jobs").json()[-1:] == [] or b.get(f"/jobs/{job['id']}").json()["state"] != "done":
        assert time.monotonic() < deadline, (a.get("/jobs").text, b.get("/jobs").text)
        time.sleep(0.3)
    shown = [server.get(f"/jobs/{job['id']}").json() for server in group]
    assert {each["state"] for each in shown} == {"done"}
    assert [each["finished"] for each in shown] == [len(ALL)] * 2
    for tile in ALL:
        states = [
            server.get(f"/tiles/{tile.z}/{tile.x}/{tile.y}.png?wait=0").headers["x-tile-state"] for server in group
        ]
        assert states == ["cached", "cached"]
    # a long one is ended at the server that does not have it
    long = {"zooms": [14, 20], "bbox": order["bbox"]}
    job = httpx.post(a.url + "/jobs", json=long, headers=headers, timeout=30).json()
    while b.get(f"/jobs/{job['id']}").status_code == 404:
        time.sleep(0.2)
    assert httpx.delete(f"{b.url}/jobs/{job['id']}", headers=headers, timeout=30).json()["state"] == "cancelled"
    while a.get(f"/jobs/{job['id']}").json()["state"] != "cancelled":
        assert time.monotonic() < deadline + 60
        time.sleep(0.2)
    for server in group:
        assert "Traceback" not in server.log.read_text(), server.log.read_text()
