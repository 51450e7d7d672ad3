"""Leases: one holder among threads, processes and hosts; nothing is left behind, nobody waits for the dead."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from tilecascade.cache.lease import BestEffort, Claim, Leases, RedisLeases
from tilecascade.cache.redis import EmbeddedRedis, RedisClient

KEY = "map/abc/16/1/2"


@pytest.fixture(params=["itself", "best effort"])
def leases(request: pytest.FixtureRequest, redis_server: EmbeddedRedis) -> Leases:
    leases = RedisLeases(RedisClient(redis_server.url))
    return leases if request.param == "itself" else BestEffort(leases)


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


def test_without_redis_everybody_has_the_lease(redis_server: EmbeddedRedis) -> None:
    leases = BestEffort(RedisLeases(RedisClient(redis_server.url)))
    os.kill(redis_server.process.pid, signal.SIGSTOP)
    for none in (leases, BestEffort(None)):
        for _ in range(2):
            release = none.acquire(KEY)
            assert release is not None
            release()
    os.kill(redis_server.process.pid, signal.SIGCONT)


def test_a_claim_given_up_takes_nothing_any_more(redis_server: EmbeddedRedis) -> None:
    claim = Claim(RedisLeases(RedisClient(redis_server.url)), KEY)
    assert claim.acquire()
    assert claim.acquire()
    claim.give_up()
    assert not claim.acquire()
    assert not redis.Redis.from_url(redis_server.url).exists(f"lease:{KEY}")
