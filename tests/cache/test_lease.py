"""Leases: one holder among threads, processes and hosts; nothing is left behind, nobody waits for the dead."""

import multiprocessing
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis

from tilecascade.cache.lease import AllLeases, Claim, FileLeases, Leases, RedisLeases
from tilecascade.cache.redis import EmbeddedRedis, RedisClient

KEY = "map/abc/16/1/2"


@pytest.fixture(params=["flock", "redis", "both"])
def leases(request: pytest.FixtureRequest, tmp_path: Path, redis_server: EmbeddedRedis) -> Leases:
    files, remote = FileLeases(tmp_path / "leases"), RedisLeases(RedisClient(redis_server.url))
    return {"flock": files, "redis": remote, "both": AllLeases([remote, files])}[request.param]


def test_one_holds_a_key_until_it_is_released(leases: Leases) -> None:
    first = leases.acquire(KEY)
    assert first is not None
    assert leases.acquire(KEY) is None
    assert leases.acquire("map/other") is not None
    first()
    second = leases.acquire(KEY)
    assert second is not None
    second()


def test_a_crowd_of_threads_is_never_two_at_once(leases: Leases) -> None:
    inside, most, turns = 0, 0, 0

    def one(_: int) -> None:
        nonlocal inside, most, turns
        while (release := leases.acquire(KEY)) is None:
            time.sleep(0.001)
        inside += 1
        most = max(most, inside)
        time.sleep(0.001)
        inside -= 1
        turns += 1
        release()

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(one, range(100)))
    assert (most, turns) == (1, 100)


def test_files_are_removed_with_the_lease(tmp_path: Path) -> None:
    release = FileLeases(tmp_path).acquire(KEY)
    assert release is not None
    assert len(list(tmp_path.iterdir())) == 1
    release()
    assert not list(tmp_path.iterdir())


def _hold_and_die(folder: Path, ready: Any) -> None:
    assert FileLeases(folder).acquire(KEY) is not None
    ready.send(True)
    time.sleep(60)


def test_the_lease_of_a_killed_process_is_free(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    child = context.Process(target=_hold_and_die, args=(tmp_path, there))
    child.start()
    assert here.poll(30)
    assert FileLeases(tmp_path).acquire(KEY) is None
    child.kill()
    child.join()
    assert FileLeases(tmp_path).acquire(KEY) is not None


def test_redis_leases_expire_unless_renewed(redis_server: EmbeddedRedis) -> None:
    client = redis.Redis.from_url(redis_server.url)
    living = RedisLeases(RedisClient(redis_server.url), ttl=0.3)
    dead = RedisLeases(RedisClient(redis_server.url), ttl=0.3)
    assert living.acquire("living") is not None
    assert dead.acquire("dead") is not None
    dead.close()
    time.sleep(0.9)
    assert client.exists("lease:living")
    assert not client.exists("lease:dead")
    living.close()


def test_only_the_holder_ends_a_redis_lease(redis_server: EmbeddedRedis) -> None:
    client = redis.Redis.from_url(redis_server.url)
    release = RedisLeases(RedisClient(redis_server.url)).acquire(KEY)
    assert release is not None
    client.set(f"lease:{KEY}", "somebody who came after it had expired")
    release()
    assert client.exists(f"lease:{KEY}")


def test_a_kind_that_does_not_work_is_skipped(redis_server: EmbeddedRedis, tmp_path: Path) -> None:
    leases = AllLeases([RedisLeases(RedisClient(redis_server.url)), FileLeases(tmp_path / "leases")])
    redis_server.process.kill()
    redis_server.process.wait()
    release = leases.acquire(KEY)
    assert release is not None
    assert leases.acquire(KEY) is None
    release()
    assert AllLeases([FileLeases(Path("/proc/no"))]).acquire(KEY) is not None


def test_a_claim_given_up_takes_nothing_any_more(tmp_path: Path) -> None:
    claim = Claim(FileLeases(tmp_path), KEY)
    assert claim.acquire()
    assert claim.acquire()
    claim.give_up()
    assert not claim.acquire()
    assert not list(tmp_path.iterdir())
