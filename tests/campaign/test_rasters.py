"""Hostile rasters against the running application: refused with a sentence, or served without a foreign byte."""

from __future__ import annotations

import io
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from tests.campaign.rasters import LETTER, SECRET, Bait, corpus, edited, foreign_files, large, lies
from tests.conftest import PLACE, picture, place_bounds, write_scene
from tests.program import Server, ready, stops_in_time
from tests.support import wait_ready
from tilecascade.app.api.app import create_app
from tilecascade.app.settings import LayerSettings, Settings

KEY = {"X-API-Key": "a key for tests"}
NEAR = 6
"""Levels within which a colour counts as the same: WebP and JPEG change them."""

HEALTH_SECONDS = float(os.environ.get("TILECASCADE_CAMPAIGN_HEALTH", "10"))
"""Longest that /health may take. A busy machine pauses for seconds, and a blocked event loop for far longer; `make
campaign` asks for one second."""


class Listener:
    """A port on loopback that counts who connects."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.connections = 0
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            connection.close()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def bait(tmp_path: Path) -> Iterator[tuple[Bait, Listener]]:
    folder = tmp_path / "bait"
    folder.mkdir()
    listener = Listener()
    yield Bait(folder, listener.address), listener
    listener.close()


@pytest.fixture
def settings(make_settings: Callable[..., Settings], tmp_path: Path) -> Settings:
    (tmp_path / "allowed").mkdir()
    return make_settings(
        api_key=KEY["X-API-Key"], scene_roots=[tmp_path / "allowed"], upload_bytes=64 << 20, scene_seconds=60
    )


@pytest.fixture
def client(settings: Settings, layer_settings: LayerSettings) -> Iterator[TestClient]:
    with TestClient(create_app(settings, [layer_settings]), raise_server_exceptions=False) as running:
        wait_ready(running)
        yield running


def shows_bait(client: TestClient) -> str | None:
    """Where imagery has the colours of the bait, if anywhere."""
    places = [(zoom, PLACE.x << zoom >> 14, PLACE.y << zoom >> 14) for zoom in (12, 13, 14, 15, 16)]
    for zoom, x, y in places:
        answer = client.get(f"/imagery/map/{zoom}/{x}/{y}.png")
        if answer.status_code != 200:
            continue
        pixels = np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB")).astype(int)
        for colour in (SECRET, (LETTER,) * 3):
            share = (abs(pixels - colour).max(axis=2) <= NEAR).mean()
            if share > 0.05:
                return f"{zoom}/{x}/{y}: {share:.0%} of {colour}"
    return None


def beside_health(client: TestClient, work: Callable[[], httpx.Response]) -> tuple[httpx.Response, float]:
    """What the work gave, and the longest that /health took meanwhile."""
    longest = 0.0
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        while not working.done():
            began = time.monotonic()
            assert client.get("/health").status_code == 200
            longest = max(longest, time.monotonic() - began)
            time.sleep(0.02)
        return working.result(), longest


@pytest.mark.slow
def test_no_raster_shows_a_foreign_byte_or_opens_a_connection(
    client: TestClient, settings: Settings, bait: tuple[Bait, Listener], tmp_path: Path
) -> None:
    trap, listener = bait
    folder = tmp_path / "made"
    folder.mkdir()
    before = client.get("/scenes").json()
    tried: dict[str, int] = {}
    for name, content in corpus(folder, trap):
        answer, slow = beside_health(
            client, partial(client.post, "/scenes?acquired=2099-01-01", content=content, headers=KEY)
        )
        tried[name] = answer.status_code
        assert slow < HEALTH_SECONDS, (name, slow)
        if answer.status_code == 201:
            assert shows_bait(client) is None, (name, shows_bait(client))
            assert client.delete(f"/scenes/{answer.json()['id']}", headers=KEY).status_code == 200, name
        else:
            assert 400 <= answer.status_code < 500, (name, answer.status_code, answer.text)
            words = answer.json()["detail"]
            assert len(words.split()) >= 4, (name, words)
            assert str(settings.data_dir) not in words, (name, words)
        left = [path.name for path in (settings.data_dir / "scenes").iterdir()]
        assert left == [], (name, left)
    assert len(tried) >= 60
    assert sum(status == 201 for name, status in tried.items() if name.startswith("overviews")) >= 20, tried
    assert listener.connections == 0
    assert client.get("/scenes").json() == before
    assert client.get("/health").json()["state"] == "ready"


@pytest.mark.slow
def test_rasters_cost_a_running_server_no_more_memory_than_it_may_have(tmp_path: Path, tiny_weights: Path) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    scene = write_scene(tmp_path / "scene.tif", picture(1024, 0), place_bounds())
    env = {"TILECASCADE_API_KEY": KEY["X-API-Key"], "TILECASCADE_SCENE_SECONDS": "60"}
    server = ready(Server(scene, tiny_weights, tmp_path / "data", env))
    try:
        for name, content in (*large(folder), *islice(lies(folder), 6)):
            address = f"{server.url}/scenes?acquired=2099-01-01"
            answer = httpx.post(address, content=content, headers=KEY, timeout=120)
            assert answer.status_code == 201 or 400 <= answer.status_code < 500, (name, answer.text)
            if answer.status_code == 201:
                scene_address = f"{server.url}/scenes/{answer.json()['id']}"
                assert httpx.delete(scene_address, headers=KEY, timeout=60).status_code == 200, name
        stops_in_time(server)
        assert "Traceback" not in server.log.read_text()
    finally:
        server.kill()


@pytest.mark.slow
def test_files_in_an_allowed_folder_may_not_name_others(
    client: TestClient, bait: tuple[Bait, Listener], tmp_path: Path
) -> None:
    """Such a file is served from where it lies, so it is refused if its metadata name overviews; sidecars are not
    read."""
    trap, listener = bait
    folder, allowed = tmp_path / "made", tmp_path / "allowed"
    folder.mkdir()
    for name, content in foreign_files(folder, trap):
        path = allowed / f"{name.replace(' ', '-')}.tif"
        path.write_bytes(content)
        answer = client.post("/scenes", json={"path": str(path), "acquired": "2099-01-01"}, headers=KEY)
        if name.startswith("overviews"):
            assert answer.status_code == 422, (name, answer.text)
            assert "OVERVIEWS" in answer.json()["detail"]
        if answer.status_code == 201:
            assert shows_bait(client) is None, name
            client.delete(f"/scenes/{answer.json()['id']}", headers=KEY)
    plain = write_scene(allowed / "plain.tif", picture(1024, 6), place_bounds())
    shutil.copy(trap.raster, allowed / "plain.tif.ovr")
    shutil.copy(trap.raster, allowed / "plain.tif.msk")
    (allowed / "plain.tif.aux.xml").write_text(
        f'<PAMDataset><Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">{trap.raster}</MDI></Metadata></PAMDataset>'
    )
    added = client.post("/scenes", json={"path": str(plain), "acquired": "2099-01-01"}, headers=KEY)
    assert added.status_code == 201, added.text
    assert shows_bait(client) is None
    assert listener.connections == 0


def test_the_bait_is_one(bait: tuple[Bait, Listener], tmp_path: Path) -> None:
    """A reader without precautions shows it: the other tests can fail."""
    from rio_tiler.io import Reader

    trap, _ = bait
    for value, colour in ((str(trap.raster), SECRET), (trap.raw_vrt(str(trap.text)), (LETTER,) * 3)):
        path = tmp_path / "caught.tif"
        path.write_bytes(edited(tmp_path, lambda d, v=value: d.update_tags(ns="OVERVIEWS", OVERVIEW_FILE=v)))  # type: ignore[misc]
        with Reader(str(path)) as reader:
            shown = reader.preview(max_size=256).array.data
        assert (abs(shown.astype(int) - np.array(colour)[:, None, None]).max(axis=0) <= NEAR).mean() > 0.5
