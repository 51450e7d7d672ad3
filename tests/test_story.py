"""The emergency story on the real program: scenes come while clients load, and the purge is killed at any point."""

from __future__ import annotations

import contextlib
import io
import os
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import mercantile
import pytest
import rasterio
from mercantile import Tile
from PIL import Image
from rasterio.windows import Window

from tests.conftest import PLACE, SceneMaker, write_scene
from tests.golden import SHARED
from tests.nginx import nginx_before
from tests.program import TILECASCADE, Server
from tests.support import as_kept, corner_scene
from tilecascade.app.sources.mosaic import SceneMosaic, newest_first
from tilecascade.app.sources.scene import open_scene
from tilecascade.app.tiles.invalidation import affected_by, changed_scenes
from tilecascade.model.cascade import Ladder
from tilecascade.model.sgdm.config import tiny

KEY = "a key for the story"
ROOT, LAST = 16, 18
EDGES = ((16, 4, 1), (17, 8, 3), (18, 16, 7))
TILES = [
    Tile((PLACE.x << zoom - 14) + i, (PLACE.y << zoom - 14) + j, zoom)
    for zoom, edge, step in EDGES
    for i in range(0, edge, step)
    for j in range(0, edge, step)
]


@pytest.fixture
def begin(tiny_weights: Path, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start servers of one layer: by its base scenes, and the data directory's name."""
    running: list[Server] = []

    def start(scenes: list[Path], data: str = "data", **env: str) -> Server:
        layers = tmp_path / f"{data}.toml"
        listed = ", ".join(f'"{path}"' for path in scenes)
        layers.write_text(f'[[layer]]\nname = "map"\nscenes = [{listed}]\nroot_zoom = {ROOT}\nmax_zoom = {LAST}\n')
        settings = {"TILECASCADE_LAYERS_FILE": str(layers), "TILECASCADE_API_KEY": KEY, "TILECASCADE_REDIS_URL": "none"}
        running.append(Server(None, tiny_weights, tmp_path / data, settings | env))
        return running[-1]

    yield start
    for server in running:
        server.kill()


REAL = SHARED / "data" / "scenes"


def path_of(tile: Tile) -> str:
    return f"/tiles/{tile.z}/{tile.x}/{tile.y}.png?wait=100"


def all_tiles(url: str) -> dict[Tile, bytes]:
    with httpx.Client(base_url=url, timeout=120) as client:
        return {tile: client.get(path_of(tile)).raise_for_status().content for tile in TILES}


def stored(server: Server) -> set[Tile]:
    with httpx.Client(base_url=server.url, timeout=120) as client:
        return {tile for tile in TILES if client.head(path_of(tile)).status_code == 200}


def affected(base: Path, added: Path) -> set[Tile]:
    """The tiles that a scene over another one affects, computed here."""
    both = SceneMosaic(newest_first([open_scene(base), open_scene(added)]))
    changed = changed_scenes([open_scene(base)], both.scenes)
    named = affected_by(Ladder(ROOT, 1, tiny().windows), LAST, changed)
    return {tile for tile in TILES if tile in named}


@pytest.fixture
def pair(make_scene: SceneMaker, tmp_path: Path) -> tuple[Path, Path]:
    """An old scene and a newer one over a corner of it."""
    base, added = make_scene(), corner_scene(tmp_path, 7)
    os.utime(base, (1e9, 1e9))
    return base, added


def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*TILECASCADE, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=os.environ | {"TILECASCADE_API_KEY": KEY}
    )


@pytest.mark.slow
def test_scenes_come_and_go_while_clients_load(
    begin: Callable[..., Server], pair: tuple[Path, Path], tmp_path: Path
) -> None:
    base, added = pair
    server = begin([base], TILECASCADE_WORKERS="2")
    old = all_tiles(server.url)
    new = all_tiles(begin([base, as_kept(added, tmp_path)], "both").url)
    changed_tiles = affected(base, added)
    assert 0 < len(changed_tiles) < len(TILES)
    assert all(old[tile] == new[tile] for tile in set(TILES) - changed_tiles)
    heart = Tile(PLACE.x * 4 + 3, PLACE.y * 4 + 3, ROOT)
    assert heart in changed_tiles
    assert old[heart] != new[heart]

    stop, wrong = threading.Event(), []

    def load(seed: int) -> None:
        pick = random.Random(seed)
        with httpx.Client(base_url=server.url, timeout=120) as client:
            while not stop.is_set():
                tile = pick.choice(TILES)
                body = client.get(path_of(tile)).content
                if body not in (old[tile], new[tile]):
                    wrong.append(tile)

    clients = [threading.Thread(target=load, args=(seed,)) for seed in range(4)]
    for client in clients:
        client.start()
    try:
        done = cli("scenes", "--url", server.url, "add", str(added), "--attribution", "Drone team")
        assert done.returncode == 0, done.stderr
        after = all_tiles(server.url)
    finally:
        stop.set()
        for client in clients:
            client.join()
    assert not wrong
    assert after == new
    listed = cli("scenes", "--url", server.url, "list")
    assert listed.stdout.splitlines()[1].startswith(done.stdout.strip())
    assert "Drone team" in listed.stdout
    assert cli("scenes", "--url", server.url, "remove", done.stdout.strip()).returncode == 0
    kept = stored(server)
    assert kept == set(TILES) - changed_tiles
    assert all_tiles(server.url) == old
    refused = cli("scenes", "--url", server.url, "remove", done.stdout.strip())
    assert refused.returncode == 2
    assert "no scene" in refused.stderr


def changed_part(valley: Path, out: Path) -> Path:
    """A newer copy of a part of a scene, with its colours inverted."""
    with rasterio.open(valley) as scene:
        window = Window(scene.width * 0.7, scene.height * 0.6, 400, 400)
        pixels = 255 - scene.read((1, 2, 3), window=window).transpose(1, 2, 0)
        left, bottom, right, top = scene.window_bounds(window)
        return write_scene(out, pixels, (left, bottom, right, top), str(scene.crs), tiled=False)


def images(url: str, tiles: list[Tile]) -> dict[Tile, bytes]:
    """The pixels of tiles, without the text chunks: these name scenes by their files."""
    found = {}
    with httpx.Client(base_url=url, timeout=120) as client:
        for tile in tiles:
            with Image.open(io.BytesIO(client.get(path_of(tile)).raise_for_status().content)) as image:
                found[tile] = image.convert("RGBA").tobytes()
    return found


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="the real scenes (../shared/data) are not here")
def test_the_story_with_real_scenes(begin: Callable[..., Server], tmp_path: Path) -> None:
    """An alpine valley is served and prefetched by curl; a drone's mosaic of another place and a newer picture of a
    part of the valley come in, while clients load, behind nginx."""
    valley, drone = REAL / "valley.tif", REAL / "drone.tif"
    part = changed_part(valley, tmp_path / "part.tif")
    server = begin([valley])
    west, south, east, north = open_scene(valley).bounds
    tiles = []
    for z, step in ((16, 1), (17, 2), (18, 4)):
        x, y, _ = mercantile.tile((west + east) / 2, (south + north) / 2, z)
        columns, rows = (f"[{at - 2 * step}-{at + 2 * step}:{step}]" for at in (x, y))
        url = f"{server.url}/tiles/{z}/{columns}/{rows}.png?wait=100"
        name = str(tmp_path / "curl" / f"{z}-#1-#2.png")
        subprocess.run(["curl", "-sS", "--create-dirs", "-o", name, url], check=True, timeout=200)
        tiles += [Tile(x + i * step, y + j * step, z) for i in range(-2, 3) for j in range(-2, 3)]
    fetched = {tile: (tmp_path / "curl" / f"{tile.z}-{tile.x}-{tile.y}.png").read_bytes() for tile in tiles}
    old = {tile: data for tile, data in fetched.items() if data.startswith(b"\x89PNG")}
    tiles = list(old)  # the others are outside
    with nginx_before(server, tmp_path / "data", tmp_path / "nginx") as outside:
        stop, errors = threading.Event(), []

        def load(url: str) -> None:
            pick = random.Random(url)
            with httpx.Client(base_url=url, timeout=120) as client:
                while not stop.is_set():
                    status = client.get(path_of(pick.choice(tiles))).status_code
                    if status != 200:
                        errors.append(status)

        clients = [threading.Thread(target=load, args=(url,)) for url in (server.url, outside)]
        for client in clients:
            client.start()
        try:
            for scene, taken in ((drone, "2040-01-01"), (part, "2041-01-01")):
                added = cli("scenes", "--url", server.url, "add", str(scene), "--acquired", taken)
                assert added.returncode == 0, added.stderr
            with httpx.Client(base_url=outside, timeout=120) as client:
                after = {tile: client.get(path_of(tile)).content for tile in tiles}
        finally:
            stop.set()
            for client in clients:
                client.join()
        assert not errors
        with httpx.Client(base_url=server.url, timeout=120) as client:
            assert after == {tile: client.get(path_of(tile)).content for tile in tiles}
        named = affected_by(Ladder(ROOT, 1, tiny().windows), LAST, [open_scene(part)])
        changed = {tile for tile in tiles if old[tile] != after[tile]}
        assert changed
        assert changed <= {tile for tile in tiles if tile in named}
        assert any(tile not in named for tile in tiles)
        older, newest = as_kept(drone, tmp_path), as_kept(part, tmp_path)
        truth = begin([newest, older, valley], "truth")
        assert images(outside, tiles) == images(truth.url, tiles)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_purge_killed_at_any_point_is_finished_by_the_next_start(
    begin: Callable[..., Server], pair: tuple[Path, Path], tmp_path: Path
) -> None:
    base, added = pair
    headers, upload = {"X-API-Key": KEY}, added.read_bytes()
    server = begin([base])
    old = all_tiles(server.url)
    both = begin([base, as_kept(added, tmp_path)], "both")
    new = all_tiles(both.url)
    both.stop()
    untouched = set(TILES) - affected(base, added)
    began = time.perf_counter()
    scene = httpx.post(server.url + "/scenes", content=upload, headers=headers, timeout=60).json()["id"]
    took = time.perf_counter() - began
    seen = []
    for attempt in range(5):
        # whatever the last attempt left: one scene or two, all tiles drawn
        present = len(httpx.get(server.url + "/scenes").json()["scenes"]) == 2
        assert all_tiles(server.url) == (new if present else old)

        def change(url: str = server.url, present: bool = present) -> None:
            with contextlib.suppress(httpx.HTTPError):  # killed under it
                if present:
                    httpx.delete(f"{url}/scenes/{scene}", headers=headers, timeout=60)
                else:
                    httpx.post(url + "/scenes", content=upload, headers=headers, timeout=60)

        request = threading.Thread(target=change)
        request.start()
        time.sleep(took * (0.5 + 0.12 * attempt))  # before that, the file is being copied
        server.process.kill()
        server.process.wait()
        request.join()
        server = begin([base])
        shown = len(httpx.get(server.url + "/scenes").json()["scenes"])
        seen.append(shown)
        expected = new if shown == 2 else old
        left = stored(server)
        assert left >= untouched  # nothing else was removed
        with nginx_before(server, tmp_path / "data", tmp_path / f"nginx-{attempt}") as outside:
            for url in (server.url, outside):
                with httpx.Client(base_url=url, timeout=120) as client:
                    for tile in left:
                        assert client.get(path_of(tile)).content == expected[tile], (attempt, tile, url)
    assert seen
