"""Tiers: what goes in comes out, broken files heal, unavailable tiers are passed over. Redis is a real redis_server."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from tilecascade.cache import DiskStore, MemoryStore, RedisStore, SingleFlight, TieredStore
from tilecascade.cache.redis import EmbeddedRedis, RedisClient, find_server

KEY = "map/abc/16/1/2.png"


def whole(value: bytes) -> bool:
    return value.endswith(b"END")


def test_memory_keeps_the_latest_within_its_bytes() -> None:
    store = MemoryStore(100)
    for i in range(20):
        store.put(f"k{i}", bytes(10))
    store.put("big", bytes(101))
    assert store.get("big") is None
    assert store.get("k0") is None
    assert store.get("k19") == bytes(10)
    store.put("map/k", b"x")
    store.purge("map", "map/k".__eq__)
    assert store.get("map/k") is None


def test_disk_path_is_the_key(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, 1 << 20)
    store.put(KEY, b"x")
    assert (tmp_path / KEY).read_bytes() == b"x"
    assert store.get(KEY) == b"x"
    assert store.get("map/none") is None
    store.purge("map/abc", lambda key: key == KEY)
    store.purge("map/abc", lambda key: key == KEY)
    assert store.get(KEY) is None


@pytest.mark.parametrize("key", ["../secret", "a/../../b", "/etc/passwd", "a//b", "", "a/.", ".tmp-1"])
def test_disk_refuses_keys_that_are_no_paths_below_it(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="not a key"):
        DiskStore(tmp_path, 100).get(key)


@pytest.mark.parametrize("broken", [b"", b"begin", b"EN"])
def test_a_broken_file_is_a_miss_and_heals(tmp_path: Path, broken: bytes) -> None:
    store = DiskStore(tmp_path, 1 << 20, whole)
    path = tmp_path / KEY
    path.parent.mkdir(parents=True)
    path.write_bytes(broken)
    assert store.get(KEY) is None
    assert not path.exists()
    store.put(KEY, b"good END")
    assert store.get(KEY) == b"good END"


def test_scan_finds_broken_files_and_left_overs(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, 1 << 20, whole)
    store.put("a/1", b"1 END")
    store.put("a/2", b"2 END")
    (tmp_path / "a" / "3").write_bytes(b"cut")
    (tmp_path / "a" / ".tmp-9-x").write_bytes(b"9 END")
    assert store.scan() == (2, 2)
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["1", "2"]


def test_disk_evicts_the_oldest(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, 1000)
    for i in range(10):
        store.put(f"k{i}", bytes(100))
        os.utime(tmp_path / f"k{i}", (i, i))
    store.put("k10", bytes(100))
    left = {p.name for p in tmp_path.iterdir()}
    assert "k0" not in left
    assert "k10" in left
    assert sum(p.stat().st_size for p in tmp_path.iterdir()) <= 1000


def test_readers_never_see_half_a_file(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, 1 << 30, whole)
    values = [bytes([i]) * 200_000 + b"END" for i in range(4)]
    stop, seen = threading.Event(), []

    def write(value: bytes) -> None:
        while not stop.is_set():
            store.put(KEY, value)

    writers = [threading.Thread(target=write, args=(v,)) for v in values]
    store.put(KEY, values[0])
    for writer in writers:
        writer.start()
    for _ in range(300):
        seen.append(store.get(KEY))
    stop.set()
    for writer in writers:
        writer.join()
    assert all(value in values for value in seen)
    assert [p.name for p in (tmp_path / KEY).parent.iterdir()] == ["2.png"]


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = DiskStore(tmp_path, 1 << 20)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    tiers = TieredStore([MemoryStore(1000), store])
    tiers.put(KEY, b"x")
    assert tiers.unavailable == {"disk"}
    assert tiers.get(KEY) == (b"x", "memory")
    assert not any(p.is_file() for p in tmp_path.rglob("*"))


def test_redis_holds_the_bytes_with_a_time_to_live(redis_server: EmbeddedRedis) -> None:
    revisions = ["first"]
    store = RedisStore(RedisClient(redis_server.url), 100, lambda key: f"{revisions[0]}/{key}")
    store.put(KEY, b"\x00png")
    client = redis.Redis.from_url(redis_server.url)
    name = f"tile:first/{KEY}"
    assert client.get(name) == b"\x00png"
    assert 80 <= client.ttl(name) <= 110
    assert store.get(KEY) == b"\x00png"
    revisions[0] = "second"
    assert store.get(KEY) is None
    revisions[0] = "first"
    assert store.get(KEY) == b"\x00png"


def test_a_dead_redis_is_skipped_quickly(redis_server: EmbeddedRedis, tmp_path: Path) -> None:
    tiers = TieredStore([MemoryStore(10), DiskStore(tmp_path, 1 << 20), RedisStore(RedisClient(redis_server.url), 100)])
    tiers.put(KEY, b"a" * 20)
    redis_server.process.send_signal(signal.SIGKILL)
    redis_server.process.wait()
    began = time.monotonic()
    for i in range(200):
        tiers.put(f"k{i}", b"b" * 20)
        assert tiers.get(f"k{i}") == (b"b" * 20, "disk")
        assert tiers.get(f"none{i}") is None
    assert time.monotonic() - began < 5
    assert tiers.unavailable == {"redis"}


def test_a_redis_that_swallows_everything_is_skipped_quickly(tmp_path: Path) -> None:
    """What takes connections and never answers, as behind a broken firewall, is worse than a dead one."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as hole:
        client = RedisClient(f"redis://127.0.0.1:{hole.getsockname()[1]}")
        tiers = TieredStore([MemoryStore(10), DiskStore(tmp_path, 1 << 20), RedisStore(client, 100)])
        began = time.monotonic()
        for i in range(100):
            tiers.put(f"k{i}", b"b" * 20)
            assert tiers.get(f"k{i}") == (b"b" * 20, "disk")
            assert tiers.get(f"none{i}") is None
        assert time.monotonic() - began < 5
        assert tiers.unavailable == {"redis"}


def test_a_wrong_type_in_redis_is_no_error_of_ours(redis_server: EmbeddedRedis) -> None:
    redis.Redis.from_url(redis_server.url).lpush("tile:" + KEY, "list")
    tiers = TieredStore([MemoryStore(100), RedisStore(RedisClient(redis_server.url), 100)])
    assert tiers.get(KEY) is None


def test_embedded_redis_ends_with_its_parent() -> None:
    program = find_server()
    if program is None:
        pytest.skip("no redis-server here")
    # a fresh process: what other tests have loaded into this one may not bear a fork
    script = (
        "import os\nfrom tilecascade.cache.redis import EmbeddedRedis\n"
        f"running = EmbeddedRedis({program!r}, 32 << 20)\n"
        "print(running.process.pid, flush=True)\nos.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    pid = int(done.stdout)
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":
            return
        time.sleep(0.05)
    pytest.fail("the redis-server outlived its parent")


def test_a_purge_costs_what_is_stored_and_spares_other_folders(tmp_path: Path) -> None:
    tiers = TieredStore([MemoryStore(1 << 20), DiskStore(tmp_path, 1 << 20)])
    for number in range(3000):
        tiers.put(f"map/abc/16/{number % 7}/{number}.png", b"x")
    others = ["map/abcd/16/1/2.png", "map/ab/16/1/2.png", "another/abc/16/1/2.png"]
    for key in others:
        tiers.put(key, b"y")
    asked: list[str] = []

    def outdated(key: str) -> bool:
        asked.append(key)
        return int(key.split("/")[-1].removesuffix(".png")) % 2 == 0

    assert tiers.purge("map/abc", outdated)
    assert len(set(asked)) == 3000
    for tier in tiers.tiers:
        names = [f"map/abc/16/{number % 7}/{number}.png" for number in range(3000)]
        left = [name for name in names if tier.get(name) is not None]
        assert len(left) == 1500
        assert not any(outdated(key) for key in left)
        assert all(tier.get(key) == b"y" for key in others)
    assert tiers.purge("nothing/abc", outdated)


def test_a_hit_fills_the_nearer_tiers(tmp_path: Path) -> None:
    memory, disk = MemoryStore(1000), DiskStore(tmp_path, 1000)
    tiers = TieredStore([memory, disk])
    disk.put(KEY, b"x")
    assert tiers.get(KEY) == (b"x", "disk")
    assert tiers.get(KEY) == (b"x", "memory")


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from(["put", "delete", "get"]), st.integers(0, 5), st.binary(max_size=30))))
def test_tiers_never_answer_with_other_bytes(tmp_path_factory: pytest.TempPathFactory, steps: list) -> None:
    tiers = TieredStore([MemoryStore(60), DiskStore(tmp_path_factory.mktemp("t"), 100, intact=lambda value: True)])
    model: dict[str, bytes] = {}
    for action, number, value in steps:
        key = f"k/{number}"
        if action == "put":
            tiers.put(key, value)
            model[key] = value
        elif action == "delete":
            tiers.purge("k", key.__eq__)
            model.pop(key, None)
        else:
            found = tiers.get(key)
            assert found is None or found[0] == model.get(key)


def test_single_flight_runs_once_and_shares() -> None:
    async def story() -> None:
        flights: SingleFlight[int] = SingleFlight()
        runs = 0

        async def work() -> int:
            nonlocal runs
            runs += 1
            await asyncio.sleep(0.02)
            return 7

        assert await asyncio.gather(*(flights.run("k", work) for _ in range(50))) == [7] * 50
        assert runs == 1
        assert await flights.run("k", work) == 7
        assert runs == 2
        assert "k" not in flights

    asyncio.run(story())


def test_a_waiter_that_leaves_does_not_stop_the_work() -> None:
    async def story() -> None:
        flights: SingleFlight[int] = SingleFlight()
        done = []

        async def work() -> int:
            await asyncio.sleep(0.05)
            done.append(1)
            return 1

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await flights.run("k", work)
        assert await flights.run("k", work) == 1
        assert done == [1]
        await flights.drain()

    asyncio.run(story())


def test_work_that_nobody_waits_for_is_cancelled_unless_it_is_kept() -> None:
    async def story(kept: bool) -> list[str]:
        flights: SingleFlight[int] = SingleFlight(lambda key: kept)
        said = []

        async def work() -> int:
            try:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                said.append("cancelled")
                raise
            said.append("done")
            return 1

        callers = [asyncio.create_task(flights.run("k", work)) for _ in range(3)]
        await asyncio.sleep(0.01)
        for caller in callers[:2]:
            caller.cancel()
        await asyncio.sleep(0.01)
        assert "k" in flights
        assert not said
        callers[2].cancel()
        await asyncio.gather(*callers, return_exceptions=True)
        assert ("k" in flights) == kept
        assert await flights.run("k", work) == 1
        await flights.drain()
        assert "k" not in flights
        return said

    assert asyncio.run(story(True)) == ["done"]
    assert asyncio.run(story(False)) == ["cancelled", "done"]


def test_an_error_reaches_the_waiters_and_is_forgotten() -> None:
    async def story() -> None:
        flights: SingleFlight[int] = SingleFlight()
        tries = 0

        async def work() -> int:
            nonlocal tries
            tries += 1
            await asyncio.sleep(0.01)
            if tries == 1:
                raise OSError("no")
            return 3

        results = await asyncio.gather(*(flights.run("k", work) for _ in range(5)), return_exceptions=True)
        assert all(isinstance(r, OSError) for r in results)
        assert await flights.run("k", work) == 3

    asyncio.run(story())
