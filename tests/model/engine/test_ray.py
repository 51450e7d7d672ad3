"""Replicas on a real Ray cluster, of a generator that costs nothing: order, errors, deaths, too much work."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import cluster
from tilecascade.model.conditions import Stage
from tilecascade.model.engine import BatchTooLargeError, Declined, Generated, OutOfMemoryError, Priority
from tilecascade.model.engine.ray import THIS_MACHINE, ClusterError, RayEngine, ReplicaOptions, Replicas

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(600)]

STAGE = Stage(16, 15, 512)


class Free:
    """A replica that gives back what it is asked, and does what that says."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.device = threading.Lock()

    def generate(self, kind: str, stage: Stage, batch: list[str]) -> list[Any]:
        with self.device:
            time.sleep(self.seconds)
        return [self._one(kind, asked) for asked in batch]

    def _one(self, kind: str, asked: str) -> Any:
        if asked == "die":
            os._exit(1)
        if asked.startswith("die once "):
            try:
                Path(asked.removeprefix("die once ")).touch(exist_ok=False)
            except FileExistsError:
                return "alive"
            time.sleep(0.5)  # before a replica has said that it has a call, Ray itself gives the call to another one
            os._exit(1)
        if asked == "fail":
            return ValueError("this block only")
        if asked == "too large":
            return BatchTooLargeError("a batch of 8 blocks does not fit")
        return f"{kind} {asked} by {os.getpid()}"

    async def raising(self) -> None:
        raise ValueError("as the replica says")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with cluster(2) as address:
        yield address


def replicas(address: str, number: int = 2, seconds: float = 0.0, name: str = "free") -> Replicas:
    return Replicas(f"{name}-{number}-{seconds}", Free, (seconds,), ReplicaOptions(THIS_MACHINE, number, number, 0.5))


def engine(some: Replicas, batch_size: int = 1, **more: Any) -> RayEngine:
    def ask(kind: str, stage: Stage, batch: Any) -> list[Any]:
        outputs: list[Any] = some.call("generate", kind, stage, list(batch), patience=120)
        return outputs

    return RayEngine(some, 2, ask, batch_size, more.get("on_too_large", lambda: None))


def test_replicas_generate_what_is_prepared_and_more_than_one_does(address: str) -> None:
    some = replicas(address, seconds=0.02)
    running = engine(some)
    try:
        until = time.monotonic() + 60
        while some.running() < 2 and time.monotonic() < until:
            time.sleep(0.2)
        time.sleep(2.5)  # the engine has seen them, too
        futures = [running.submit(STAGE, lambda number=number: str(number)) for number in range(60)]
        results = [future.result(60) for future in futures]
        outputs = [result.output for result in results if isinstance(result, Generated)]
        assert [text.split()[:2] for text in outputs] == [["map", str(number)] for number in range(60)]
        assert len({text.split()[-1] for text in outputs}) == 2
        imagery = running.submit_imagery(STAGE, lambda: "x").result(60)
        assert isinstance(imagery, Generated)
        assert imagery.output.startswith("imagery x")
        assert running.submit(STAGE, Declined).result(60).__class__ is Declined
    finally:
        running.close()


def test_an_error_is_its_own_blocks_only(address: str) -> None:
    running = engine(replicas(address), batch_size=4)
    try:
        futures = [running.submit(STAGE, lambda asked=asked: asked) for asked in ("a", "fail", "b")]
        with pytest.raises(ValueError, match="this block only"):
            futures[1].result(60)
        assert [str(futures[place].result(60).output).split()[1] for place in (0, 2)] == ["a", "b"]
    finally:
        running.close()


def test_a_replica_that_dies_costs_another_attempt(address: str, tmp_path: Path) -> None:
    some = replicas(address)
    running = engine(some)
    try:
        futures = [running.submit(STAGE, lambda n=n: f"die once {tmp_path / str(n // 2)}") for n in range(4)]
        others = [running.submit(STAGE, lambda number=number: str(number)) for number in range(20)]
        results = [future.result(120) for future in futures]
        assert [isinstance(result, Generated) and result.output for result in results] == ["alive"] * 4
        assert all(isinstance(other.result(120), Generated) for other in others)
        assert some.retries >= 2
    finally:
        running.close()


def test_a_batch_that_every_replica_dies_of_is_given_up(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tilecascade.model.engine.ray.DEATHS", 2)
    with pytest.raises(OutOfMemoryError, match="2 replicas have ended"):
        replicas(address, 2, 0.0, "victims").call("generate", "map", STAGE, ["die"], patience=120)


def test_what_a_replica_raises_is_raised_here(address: str) -> None:
    with pytest.raises(ValueError, match="as the replica says"):
        replicas(address).call("raising")


def test_a_batch_that_does_not_fit_is_told_once(address: str) -> None:
    told: list[int] = []
    running = engine(replicas(address), batch_size=2, on_too_large=lambda: told.append(1))
    try:
        for _ in range(2):
            with pytest.raises(BatchTooLargeError):
                running.submit(STAGE, lambda: "too large").result(60)
    finally:
        running.close()
    assert told == [1]


def test_priorities_and_dropping_stay_in_front(address: str) -> None:
    """What waits is in this process: it can be taken back, and a viewer overtakes a prefetch."""
    running = engine(replicas(address, 1, 0.2), batch_size=1)
    try:
        running.submit(STAGE, lambda: "first").result(60)
        finished: list[str] = []
        prefetch = [running.submit(STAGE, lambda n=n: f"p{n}", Priority.PREFETCH) for n in range(12)]
        viewer = running.submit(STAGE, lambda: "viewer", Priority.INTERACTIVE)
        for future in (*prefetch, viewer):
            future.add_done_callback(lambda done: done.cancelled() or finished.append(done.result().output.split()[1]))
        assert prefetch[-1].cancel()
        viewer.result(60)
        assert len(finished) <= 6, finished
        for future in prefetch[:-1]:
            future.result(60)
        assert running.state().dropped == 1
        assert "p11" not in finished
    finally:
        running.close()


def test_a_cluster_that_is_not_there_is_one_sentence() -> None:
    import ray

    ray.shutdown()
    with pytest.raises(ClusterError, match="cannot be reached"):
        Replicas("none", Free, (), ReplicaOptions("127.0.0.1:1"))
