"""Disks that are full or damaged: what is said, what goes on, and what is whole again afterwards."""

from __future__ import annotations

import errno
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mercantile
import pytest
from fastapi.testclient import TestClient

from tests.conftest import PLACE
from tests.program import Server
from tests.support import corner_scene, wait_ready
from tilecascade.app.api.app import create_app
from tilecascade.app.settings import LayerSettings, Settings
from tilecascade.app.tiles.formats import is_whole
from tilecascade.cache.disk import DiskStore

KEY = {"X-API-Key": "a long enough key"}
ROOT = f"/tiles/14/{PLACE.x}/{PLACE.y}"
CHILD = f"/tiles/15/{2 * PLACE.x}/{2 * PLACE.y}.png"
BOX = list(mercantile.bounds(PLACE))


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings(api_key=KEY["X-API-Key"], interactive_wait=60, memory_bytes=0)


@pytest.fixture
def client(settings: Settings, layer_settings: LayerSettings) -> Iterator[TestClient]:
    with TestClient(create_app(settings, [layer_settings]), raise_server_exceptions=False) as running:
        wait_ready(running)
        yield running


def files_of(settings: Settings, pattern: str) -> list[Path]:
    return [path for path in (settings.data_dir / "tiles").rglob(pattern) if not path.is_symlink()]


@pytest.mark.parametrize("suffix", [".png", ".webp", ".jpg", "@2x.png"])
def test_a_damaged_tile_is_made_again(client: TestClient, settings: Settings, suffix: str) -> None:
    whole = client.get(ROOT + suffix).content
    assert is_whole(whole)
    damaged = 0
    for path in files_of(settings, f"*{PLACE.y}*{suffix.removeprefix('@2x')}"):
        content = path.read_bytes()
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes(64) + content[middle + 64 :])
        assert not is_whole(path.read_bytes())
        damaged += 1
    assert damaged
    again = client.get(ROOT + suffix)
    assert (again.status_code, again.content) == (200, whole)
    assert client.get(CHILD).status_code == 200
    assert client.get(f"{ROOT}@2x.webp").status_code == 200


def test_one_wrong_byte_anywhere_is_seen(client: TestClient) -> None:
    for suffix in (".png", ".webp", ".jpg"):
        content = client.get(ROOT + suffix).content
        for at in range(0, len(content), max(1, len(content) // 300)):
            assert not is_whole(content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :]), (suffix, at)
        assert not is_whole(content + b"x")
        assert not is_whole(content[:-1])


def wait_for_job(client: TestClient, job: str, ready: Callable[[dict[str, object]], bool]) -> dict[str, object]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        answer: dict[str, object] = client.get(f"/jobs/{job}").json()
        if ready(answer):
            return answer
        time.sleep(0.05)
    pytest.fail(f"{answer}")


def test_a_job_is_done_when_its_tiles_are_on_disk(
    client: TestClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = client.app.app.app.app.state.service.caches.disk  # type: ignore[attr-defined]

    def full(*what: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(disk, "put", full)
        patch.setattr(disk, "check", full)
        job = client.post("/jobs", json={"bbox": BOX, "zooms": [14, 15]}, headers=KEY).json()["id"]
        stuck = wait_for_job(client, job, lambda answer: bool(answer["problems"]))
        assert stuck["state"] == "running"
        assert "disk" in str(stuck["problems"])
        assert client.get("/health").json()["state"] == "degraded"
        assert client.get(CHILD).status_code == 200  # viewers get their tiles meanwhile
    ended = wait_for_job(client, job, lambda answer: answer["state"] != "running")
    assert (ended["state"], ended["finished"], ended["problems"]) == ("done", 5, [])
    assert len([path for path in files_of(settings, "*.png") if "field" not in path.name]) >= 5
    assert client.get("/health").json()["state"] == "ready"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB; skips where it cannot be mounted."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_full_and_freed_again(
    small_disk: Path, make_settings: Callable[..., Settings], layer_settings: LayerSettings, tmp_path: Path
) -> None:
    settings = make_settings(data_dir=small_disk / "data", api_key=KEY["X-API-Key"], interactive_wait=60)
    with TestClient(create_app(settings, [layer_settings]), raise_server_exceptions=False) as client:
        wait_ready(client)
        filler = small_disk / "filler"
        subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=4096"], capture_output=True)
        assert client.get(ROOT + ".png").status_code == 200
        health = client.get("/health").json()
        assert (health["state"], health["caches"]["disk"]) == ("degraded", "unavailable")
        for answer in (
            client.post("/scenes", content=corner_scene(tmp_path, 7).read_bytes(), headers=KEY),
            client.post("/jobs", json={"bbox": BOX, "zooms": [14, 15]}, headers=KEY),
        ):
            assert answer.status_code == 507, answer.text
            assert "full" in answer.json()["detail"]
        filler.unlink()
        job = client.post("/jobs", json={"bbox": BOX, "zooms": [14, 15]}, headers=KEY)
        assert job.status_code == 202
        assert wait_for_job(client, job.json()["id"], lambda answer: answer["state"] == "done")["failed"] == 0
        assert client.get("/health").json()["state"] == "ready"


def test_a_disk_that_stops_answering_for_a_while(
    make_settings: Callable[..., Settings], layer_settings: LayerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in memory comes at once, the rest when the disk goes on; `/health` answers throughout and says so."""
    answering = threading.Event()
    answering.set()

    def slowly(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            assert answering.wait(60)
            return function(*arguments, **named)

        return call

    for name in ("get", "put", "check"):
        monkeypatch.setattr(DiskStore, name, slowly(getattr(DiskStore, name)))
    settings = make_settings(api_key=KEY["X-API-Key"], interactive_wait=60)
    with TestClient(create_app(settings, [layer_settings])) as client, ThreadPoolExecutor(1) as other:
        wait_ready(client)
        kept = client.get(ROOT + ".png?wait=60").content
        answering.clear()
        new = other.submit(client.get, CHILD + "?wait=60")
        began = time.monotonic()
        for _ in range(6):  # more than there are threads
            health = client.get("/health").json()
            assert (health["state"], health["caches"]["disk"]) == ("degraded", "slow"), health
            assert "slow" in health["problem"]
            assert client.get(ROOT + ".png").content == kept
        assert time.monotonic() - began < 6 * 1.0
        assert not new.done()
        answering.set()
        assert new.result(60).status_code == 200
        assert client.get("/health").json()["state"] == "ready"


@pytest.mark.slow
def test_a_read_only_disk_is_served_from(tmp_path: Path, make_scene: Callable[..., Path], tiny_weights: Path) -> None:
    """With all that was finished; the rest is generated and kept in memory only."""
    scene, data = make_scene(), tmp_path / "data"
    data.mkdir()
    bound = subprocess.run(["mount", "--bind", str(data), str(data)], capture_output=True)
    if bound.returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        first = Server(scene, tiny_weights, data)
        tile = first.get(ROOT + ".png?wait=60").content
        assert first.stop() == 0
        subprocess.run(["mount", "-o", "remount,ro,bind", str(data)], check=True)
        second = Server(scene, tiny_weights, data)
        try:
            kept = second.get(ROOT + ".png")
            assert (kept.content, kept.headers["x-tile-state"]) == (tile, "cached")
            assert second.get(CHILD + "?wait=60").status_code == 200
            assert second.get("/health").json()["state"] == "degraded"
        finally:
            assert second.stop() == 0
    finally:
        subprocess.run(["umount", "-l", str(data)], check=True)
