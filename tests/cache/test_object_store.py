"""The object store, of a real S3 server and of a folder: the first writer wins, broken objects heal, it may be gone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.bucket import Bucket
from tilecascade.cache import MemoryStore, TieredStore

pytest.importorskip("obstore")

from tilecascade.cache.object_store import ObjectStore

KEY = "map/abc/16/1/2.png"


@pytest.fixture(params=["s3", "folder"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., ObjectStore]:
    url = request.getfixturevalue("bucket").url if request.param == "s3" else f"file://{tmp_path}/bucket"
    return lambda **more: ObjectStore(url, **more)


def test_what_goes_in_comes_out_under_its_name(make: Callable[..., ObjectStore]) -> None:
    store = make(placed=lambda key: key.replace("abc", "r1"))
    assert store.get(KEY) is None
    assert store.put(KEY, b"tile") is None
    assert store.get(KEY) == b"tile"
    assert list(store.groups(2)) == ["map/r1"]
    assert make(placed=lambda key: key.replace("abc", "r2")).get(KEY) is None
    store.check()


def test_the_first_writer_wins_and_all_learn_of_it(make: Callable[..., ObjectStore]) -> None:
    """Sixteen servers at once, twenty times: each goes on with the bytes of the one that was first."""
    stores = [TieredStore([MemoryStore(1 << 20), make()]) for _ in range(16)]
    with ThreadPoolExecutor(16) as pool:
        for turn in range(20):
            gate = threading.Barrier(16)

            def write(place: int, turn: int = turn, gate: threading.Barrier = gate) -> bytes:
                gate.wait()
                return stores[place].put(f"map/abc/16/1/{turn}.png", f"by {place}".encode())

            kept = set(pool.map(write, range(16)))
            assert len(kept) == 1
            assert {store.get_nearest(f"map/abc/16/1/{turn}.png") for store in stores} == kept


def test_a_broken_object_is_a_miss_and_heals(make: Callable[..., ObjectStore]) -> None:
    make().put(KEY, b"half")
    store = make(intact=lambda value: value.endswith(b"END"))
    assert store.get(KEY) is None
    assert store.put(KEY, b"good END") is None
    assert store.get(KEY) == b"good END"


def test_old_prefixes_can_be_removed(make: Callable[..., ObjectStore]) -> None:
    store = make()
    for number in range(3):
        store.put(f"map/r1/16/1/{number}.png", b"x")
    store.put("map/r2/16/1/1.png", b"x")
    assert abs(store.newest("map/r1").timestamp() - time.time()) < 60
    assert store.remove("map/r1") == 3
    assert store.remove("map/r1") == 0
    assert "map/r2" in store.groups(2)
    assert store.get("map/r2/16/1/1.png") == b"x"
    assert store.get("map/r1/16/1/1.png") is None


def test_what_a_browser_needs_is_with_the_object(bucket: Bucket) -> None:
    """A CDN in front of the bucket can answer by itself, for ever."""
    ObjectStore(bucket.url).put(KEY, b"tile")
    head = bucket.client().head_object(Bucket="tiles", Key="cache/" + KEY)  # type: ignore[attr-defined]
    assert head["ContentType"] == "image/png"
    assert "immutable" in head["CacheControl"]


def test_a_store_that_is_gone_is_skipped_and_comes_back(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ObjectStore(bucket.url)
    tiers = TieredStore([MemoryStore(1 << 20), store])
    store.put(KEY, b"tile")
    bucket.server.stop()
    began = time.monotonic()
    assert tiers.get(KEY) is None
    assert tiers.put("map/abc/16/1/3.png", b"new") == b"new"
    assert tiers.unavailable == {"object store"}
    for number in range(100):
        assert tiers.get(f"map/abc/16/1/{number + 10}.png") is None
    assert time.monotonic() - began < 8  # asked once, then left alone
    again = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", bucket.port, verbose=False)
    again.start()
    monkeypatch.setattr("tilecascade.cache.object_store.PAUSE", 0.0)
    store._unavailable_until = 0.0
    try:
        assert tiers.get("map/abc/16/1/3.png") == (b"new", "memory")
        tiers.get("map/abc/16/1/99.png")
        tiers.check()
        assert tiers.unavailable == set()
    finally:
        again.stop()


@pytest.mark.parametrize("url", ["foo://bar/x", "s3://"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        ObjectStore(url)
