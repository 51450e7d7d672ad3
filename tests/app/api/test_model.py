"""Another network for a running server: sent, used, gone back from; and batches that do not fit into memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient

from tests.conftest import PLACE, SceneMaker
from tests.program import Server, run_cli
from tests.support import hold, wait_ready
from tilecascade.app.api.app import create_app
from tilecascade.app.service import Service
from tilecascade.app.settings import LayerSettings, Settings
from tilecascade.model.conditions import Conditions, Stage
from tilecascade.model.generated import GeneratedMap
from tilecascade.model.pipeline import CascadePipeline
from tilecascade.model.sgdm.config import STEM, tiny
from tilecascade.model.sgdm.network import pack_network, random_network, save_network, weights_hash

MakeSettings = Callable[..., Settings]
KEY = {"X-API-Key": "a long enough key"}
ROOT = f"/tiles/14/{PLACE.x}/{PLACE.y}.png"
TILES = [
    f"/tiles/{z}/{(PLACE.x << z - 14) + x}/{(PLACE.y << z - 14) + y}.png"
    for z in (14, 15, 16)
    for x in range(1 << z - 14)
    for y in range(1 << z - 14)
]


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """The folder of another model."""
    save_network(random_network(tiny(), seed=3), tmp_path / "other" / STEM)
    return tmp_path / "other"


@pytest.fixture
def packed(other: Path, tmp_path: Path) -> bytes:
    pack_network(other / STEM, tmp_path / "packed.safetensors")
    return (tmp_path / "packed.safetensors").read_bytes()


@pytest.fixture
def client(make_settings: MakeSettings, layer_settings: LayerSettings) -> Iterator[TestClient]:
    settings = make_settings(interactive_wait=60, api_key=KEY["X-API-Key"])
    with TestClient(create_app(settings, [layer_settings])) as running:
        wait_ready(running)
        yield running


def service_of(client: TestClient) -> Service:
    service: Service = client.app.app.app.app.state.service  # type: ignore[attr-defined]
    return service


def test_another_model_is_used_and_the_one_before_again(client: TestClient, other: Path, packed: bytes) -> None:
    before, tile = client.get("/model").json(), client.get(ROOT)
    assert before["before"] is None
    changed = client.post("/model", content=packed, headers=KEY).json()
    assert changed["id"] == weights_hash(other / STEM) != before["id"]
    assert changed["before"] == before["id"]
    assert changed["versions"] != before["versions"]
    assert client.get("/tilejson.json").json()["tilecascade_revision"] != tile.headers["x-tile-version"]
    new = client.get(ROOT)
    assert new.headers["x-tile-state"] == "generated"
    assert new.headers["x-tile-version"] == changed["versions"]["map"]
    assert new.content != tile.content
    again = client.post("/model/back", headers=KEY).json()
    assert (again["id"], again["versions"]) == (before["id"], before["versions"])
    old = client.get(ROOT)
    assert (old.headers["x-tile-state"], old.content) == ("cached", tile.content)
    # and there once more: it is still here
    assert client.post("/model/back", headers=KEY).json()["id"] == changed["id"]
    assert client.get(ROOT).content == new.content


def test_old_tiles_are_shown_until_they_are_generated_anew(client: TestClient, packed: bytes) -> None:
    tile = client.get(ROOT)
    client.post("/model", content=packed, headers=KEY)
    held = hold(service_of(client).resolver(None))
    shown = client.get(ROOT, params={"wait": 0.05})
    assert (shown.headers["x-tile-state"], shown.content) == ("placeholder", tile.content)
    assert shown.headers["x-tile-version"] == tile.headers["x-tile-version"]
    assert "max-age=2" in shown.headers["cache-control"]
    held.open()
    assert client.get(ROOT).content != tile.content


def test_a_tile_that_is_begun_is_finished_by_the_model_that_began(client: TestClient, packed: bytes) -> None:
    held = hold(service_of(client).resolver(None))
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(client.get, ROOT)
        assert held.begun.wait(30)
        version = client.get("/model").json()["versions"]["map"]
        client.post("/model", content=packed, headers=KEY)
        held.open()
        answer = waiting.result(60)
    assert (answer.status_code, answer.headers["x-tile-version"]) == (200, version)
    assert client.get(ROOT).headers["x-tile-version"] != version


def test_what_is_no_model_changes_nothing(client: TestClient, tiny_weights: Path, packed: bytes) -> None:
    before = client.get("/model").json()
    plain = tiny_weights.with_suffix(".safetensors").read_bytes()
    for body, words in ((b"", "no file"), (b"not a model", "safetensors"), (packed[:-9], "safetensors"),
                        (plain, "model export")):  # fmt: skip
        refused = client.post("/model", content=body, headers=KEY)
        assert refused.status_code == 422, refused.text
        assert words in refused.json()["detail"]
    assert client.post("/model", content=packed).status_code == 403
    assert client.post("/model/back", headers=KEY).status_code == 404
    assert client.get("/model").json() == before
    assert list(service_of(client).data_dir.models.iterdir()) == []


def test_a_removed_scene_is_not_shown_by_the_version_before(
    client: TestClient, packed: bytes, make_scene: SceneMaker
) -> None:
    scene = client.post("/scenes", content=make_scene("new.tif", seed=5).read_bytes(), headers=KEY).json()
    tile = client.get(ROOT)
    client.post("/model", content=packed, headers=KEY)
    assert client.delete(f"/scenes/{scene['id']}", headers=KEY).status_code == 200
    hold(service_of(client).resolver(None))
    assert client.get(ROOT, params={"wait": 0.05}).content != tile.content
    # and the version before does not bring it back either
    client.post("/model/back", headers=KEY)
    assert client.get(ROOT).content != tile.content


@pytest.mark.slow
def test_a_change_under_load_fails_no_request_and_outlasts_a_restart(
    make_scene: SceneMaker, tiny_weights: Path, other: Path, tmp_path: Path
) -> None:
    """The real program: four clients ask for everything, over and over, while the model changes and changes back."""
    scene, data = make_scene(), tmp_path / "data"
    server = Server(scene, tiny_weights, data)
    stop, seen = threading.Event(), set[str]()

    def load() -> list[int]:
        wrong = []
        with httpx.Client(base_url=server.url, timeout=120) as http:
            while not stop.is_set():
                for path in TILES:
                    answer = http.get(path)
                    seen.add(answer.headers.get("x-tile-version", ""))
                    if answer.status_code != 200:
                        wrong.append(answer.status_code)
        return wrong

    try:
        with ThreadPoolExecutor(4) as threads:
            running = [threads.submit(load) for _ in range(4)]
            time.sleep(1)
            address = ["--url", server.url, "--data-dir", str(data)]
            there = run_cli("model", "use", str(other), *address)
            assert there.returncode == 0, there.stderr
            time.sleep(2)
            back = run_cli("model", "use", "--back", *address)
            assert back.returncode == 0, back.stderr
            time.sleep(1)
            assert run_cli("model", "use", "--back", *address).returncode == 0
            time.sleep(3)
            stop.set()
            assert [each.result() for each in running] == [[]] * 4
        assert len(seen) == 2
        assert run_cli("model", "use", *address).returncode == 2
        now = server.get("/model").json()
        assert now["id"] == weights_hash(other / STEM)
        assert server.stop() == 0
        server = Server(scene, tiny_weights, data)
        assert server.get("/model").json() == now
        assert server.get(TILES[-1]).headers["x-tile-state"] == "cached"
    finally:
        stop.set()
        server.kill()


@pytest.mark.slow
@pytest.mark.parametrize("fits", [8, 4, 2, 1, 0])
def test_out_of_memory_ends_in_tiles_or_in_one_sentence(
    fits: int, make_settings: MakeSettings, layer_settings: LayerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    generate = CascadePipeline.__call__

    def limited(self: CascadePipeline, stage: Stage, batch: Sequence[Conditions]) -> list[GeneratedMap]:
        calls.append(len(batch))
        if len(batch) > fits:
            raise MemoryError("no memory for so many")
        return generate(self, stage, batch)

    monkeypatch.setattr(CascadePipeline, "__call__", limited)
    settings = make_settings(interactive_wait=60, api_key=KEY["X-API-Key"], batch_blocks=8)
    with TestClient(create_app(settings, [layer_settings])) as client:
        wait_ready(client)
        first = client.get("/model").json()
        with ThreadPoolExecutor(4) as threads:
            answers = list(threads.map(client.get, TILES))
        now = client.get("/model").json()
        assert now["batch"] == max(fits, 1)
        assert now["id"] == first["id"]
        assert (now["versions"] == first["versions"]) == (fits == 8)
        if fits:
            assert {answer.status_code for answer in answers} == {200}
            assert {answer.headers["x-tile-version"] for answer in answers} == {now["versions"]["map"]}
        else:
            assert {answer.status_code for answer in answers} == {503}
            assert {answer.json()["detail"] for answer in answers} == {
                "the device has too little memory for one block; try again later"
            }
        # each size is tried a bounded number of times: by the blocks that were in flight, and once more each
        for size in (8, 4, 2):
            if size > fits:
                assert calls.count(size) <= 2 * 2
