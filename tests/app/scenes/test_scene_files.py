"""A scene is its file's content: what happens when the file changes, breaks or goes, under a server or without one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tests.conftest import PLACE, picture, place_bounds, write_scene
from tests.support import corner_scene, wait_ready
from tilecascade.app.api.app import create_app
from tilecascade.app.settings import LayerSettings, Settings

KEY = {"X-API-Key": "a key for tests"}
CORNER = f"/tiles/16/{PLACE.x * 4 + 3}/{PLACE.y * 4 + 3}.png"
BESIDE = f"/tiles/16/{PLACE.x * 4 + 2}/{PLACE.y * 4 + 2}.png"
FAR = f"/tiles/16/{PLACE.x * 4}/{PLACE.y * 4}.png"
IMAGERY = f"/imagery/map/16/{PLACE.x * 4 + 3}/{PLACE.y * 4 + 3}.png"


@pytest.fixture
def allowed(tmp_path: Path) -> Path:
    folder = tmp_path / "allowed"
    folder.mkdir()
    return folder


@pytest.fixture
def start(
    make_settings: Callable[..., Settings], layer_settings: LayerSettings, allowed: Path
) -> Callable[[], TestClient]:
    settings = make_settings(interactive_wait=60, api_key=KEY["X-API-Key"], scene_roots=[allowed])
    layer = layer_settings.model_copy(update={"root_zoom": 16})
    return lambda: TestClient(create_app(settings, [layer]), raise_server_exceptions=False)


def add(client: TestClient, path: Path) -> str:
    answer = client.post("/scenes", json={"path": str(path), "acquired": "2099-01-01"}, headers=KEY)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def overwrite_in_place(path: Path, folder: Path) -> None:
    """With another picture of the same size, and the times of before."""
    stat = path.stat()
    other = corner_scene(folder, 99, "other.tif").read_bytes()
    assert len(other) == stat.st_size
    with path.open("r+b") as file:
        file.write(other)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def swap(path: Path, folder: Path) -> None:
    os.replace(corner_scene(folder, 98, "other.tif"), path)


def truncate(path: Path, folder: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path, folder: Path) -> None:
    path.write_bytes(b"")


def delete(path: Path, folder: Path) -> None:
    path.unlink()


FAULTS = [overwrite_in_place, swap, truncate, empty, delete]


@pytest.mark.parametrize("harm", FAULTS)
def test_a_file_that_changes_under_a_server(
    start: Callable[[], TestClient], allowed: Path, tmp_path: Path, harm: Callable[[Path, Path], None]
) -> None:
    scene, good = corner_scene(allowed, 7, "scene.tif"), tmp_path / "good.tif"
    shutil.copy(scene, good)
    with start() as client:
        wait_ready(client)
        id = add(client, scene)
        corner, imagery = client.get(CORNER).content, client.get(IMAGERY).content
        harm(scene, tmp_path)
        # what is stored is right; what needs the file is refused, and nothing of another file is kept
        assert client.get(CORNER).content == corner
        client.delete(f"/scenes/{id}", headers=KEY)
        assert add(client, good_again(scene, good)) == id
        harm(scene, tmp_path)
        for path in (CORNER, IMAGERY, BESIDE):
            answer = client.get(path)
            assert answer.status_code == 503, path
            assert id in answer.json()["detail"]
            assert "retry-after" in answer.headers
        health = client.get("/health").json()
        assert health["state"] == "degraded"
        assert id in health["problem"]
        assert client.get(FAR).status_code == 200
        good_again(scene, good)
        assert client.get(CORNER).content == corner
        assert client.get(IMAGERY).content == imagery
        assert client.get("/health").json()["state"] == "ready"


def good_again(scene: Path, good: Path) -> Path:
    shutil.copy(good, scene)
    return scene


@pytest.mark.parametrize("harm", FAULTS)
def test_a_file_that_changes_while_no_server_runs(
    start: Callable[[], TestClient], allowed: Path, tmp_path: Path, harm: Callable[[Path, Path], None]
) -> None:
    scene, good = corner_scene(allowed, 7, "scene.tif"), tmp_path / "good.tif"
    shutil.copy(scene, good)
    with start() as client:
        wait_ready(client)
        id = add(client, scene)
        corner = client.get(CORNER).content
    harm(scene, tmp_path)
    with start() as client:
        wait_ready(client)
        assert client.get("/health").json()["state"] == "degraded"
        assert client.get("/scenes").json()["scenes"][0]["id"] == id
        assert client.get(CORNER).content == corner
        assert client.get(BESIDE).status_code == 503
        assert client.get(IMAGERY).status_code == 503
        gone = client.delete(f"/scenes/{id}", headers=KEY)
        assert gone.status_code == 200
        assert client.get(CORNER).content != corner
        assert client.get("/health").json()["state"] == "ready"
    shutil.copy(good, scene)


def test_a_configured_file_that_is_replaced_between_two_runs_changes_its_tiles_only(
    make_settings: Callable[..., Settings], layer_settings: LayerSettings, tmp_path: Path
) -> None:
    extra = corner_scene(tmp_path, 7, "extra.tif")
    layer = layer_settings.model_copy(update={"root_zoom": 16, "scenes": [*layer_settings.scenes, extra]})
    settings = make_settings(interactive_wait=60)
    shown: list[dict[str, bytes]] = []
    for _ in range(2):
        with TestClient(create_app(settings, [layer])) as client:
            wait_ready(client)
            shown.append({path: client.get(path).content for path in (CORNER, FAR)})
            state = client.get(FAR).headers["x-tile-state"]
        swap(extra, tmp_path)
    assert shown[0][CORNER] != shown[1][CORNER]
    assert shown[0][FAR] == shown[1][FAR]
    assert state == "cached"


@pytest.fixture
def client(start: Callable[[], TestClient]) -> Iterator[TestClient]:
    with start() as running:
        wait_ready(running)
        yield running


def test_a_refused_upload_leaves_no_file(client: TestClient, tmp_path: Path) -> None:
    coarse = write_scene(tmp_path / "coarse.tif", picture(256, 3), (-180.0, -85.0, 180.0, 85.0), "EPSG:4326")
    answer = client.post("/scenes", content=coarse.read_bytes(), headers=KEY)
    assert answer.status_code == 422
    assert "too coarse" in answer.json()["detail"]
    assert list((tmp_path / "data" / "scenes").iterdir()) == []


def test_layers_may_share_a_file(
    make_settings: Callable[..., Settings], layer_settings: LayerSettings, tmp_path: Path
) -> None:
    layers = [layer_settings.model_copy(update={"root_zoom": 16, "name": name}) for name in ("one", "two")]
    upload = corner_scene(tmp_path, 7).read_bytes()
    with TestClient(create_app(make_settings(api_key=KEY["X-API-Key"], interactive_wait=60), layers)) as client:
        wait_ready(client)
        ids = {
            client.post(f"/scenes?layer={name}", content=upload, headers=KEY).json()["id"] for name in ("one", "two")
        }
        assert len(ids) == 1
        assert client.delete(f"/scenes/{ids.pop()}?layer=one", headers=KEY).status_code == 200
        assert client.get(CORNER.replace("/tiles", "/tiles/two")).status_code == 200
        assert client.get("/health").json()["state"] == "ready"


def test_a_scene_as_large_as_a_country_is_added_in_no_time(client: TestClient, tmp_path: Path) -> None:
    left, bottom, *_ = place_bounds()
    wide = write_scene(tmp_path / "wide.tif", picture(2048, 3), (left, bottom, left + 80_000, bottom + 80_000))
    answer = client.post("/scenes", content=wide.read_bytes(), headers=KEY)
    assert answer.status_code == 201, answer.text
    assert "enlarged" in answer.json()["notes"][0]
