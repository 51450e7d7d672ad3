"""Killed again and again while tiles are generated: what is stored is right or is not there."""

from __future__ import annotations

import os
import random
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from mercantile import Tile

from tests.conftest import SceneMaker
from tests.program import Server
from tests.support import ALL, tiles_at
from tilecascade.app.tiles.formats import is_whole

KILLS = int(os.environ.get("TILECASCADE_CAMPAIGN_KILLS", "1"))
"""How often the server is killed; `make campaign` does it fifty times."""

AT_LEAST = 20
"""Tiles that are generated between two kills, at least."""

TILES = [*ALL, *tiles_at(17)]


def path_of(tile: Tile) -> str:
    return f"/tiles/{tile.z}/{tile.x}/{tile.y}.png?wait=100"


def fetch(server: Server, tiles: list[Tile], answers: dict[Tile, bytes]) -> None:
    """Ask for tiles, eight at once, and keep what is answered until the server is killed."""

    def ask(tile: Tile) -> None:
        with suppress(httpx.HTTPError):
            answer = httpx.get(server.url + path_of(tile), timeout=100)
            if answer.status_code == 200:
                answers[tile] = answer.content

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, tiles))


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_killed_again_and_again(make_scene: SceneMaker, tiny_weights: Path, tmp_path: Path) -> None:
    scene, env, data = make_scene(size=2048), {"TILECASCADE_REDIS_URL": "none"}, tmp_path / "data"
    truth: dict[Tile, bytes] = {}
    whole = Server(scene, tiny_weights, tmp_path / "truth", env)
    fetch(whole, TILES, truth)
    whole.stop()
    assert len(truth) == len(TILES)
    rng, compared = random.Random(5), 0
    for kill in range(KILLS):
        if kill % 3 == 0:
            shutil.rmtree(data, ignore_errors=True)
        server, answers = Server(scene, tiny_weights, data, env), dict[Tile, bytes]()
        for path in (data / "tiles").rglob("*.png"):
            path.unlink()  # all that an earlier server had finished; what it had begun stays
        order = rng.sample(TILES, len(TILES))
        with ThreadPoolExecutor(1) as pool:
            asking = pool.submit(fetch, server, order, answers)
            while len(answers) < AT_LEAST:
                assert not asking.done()
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.5))
            server.process.kill()
            server.process.wait()
        assert all(body == truth[tile] for tile, body in answers.items())
        version = next(path for path in (data / "tiles" / "map").iterdir() if path.is_dir() and not path.is_symlink())
        for tile, body in truth.items():
            file = version / str(tile.z) / str(tile.x) / f"{tile.y}.png"
            if file.exists() and is_whole(file.read_bytes()):
                assert file.read_bytes() == body, tile
                compared += 1
    last, after = Server(scene, tiny_weights, data, env), dict[Tile, bytes]()
    fetch(last, TILES, after)
    last.stop()
    assert after == truth
    print(f"killed {KILLS} times, {compared} stored tiles compared, all right")
    assert compared >= AT_LEAST * KILLS
