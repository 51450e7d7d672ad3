"""A tile's bytes depend on nothing but what it is: shipped network, any history of requests, evictions, restarts."""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mercantile import Tile

from tests.conftest import place_bounds, write_scene
from tests.model.world.test_world import tile_at
from tests.program import Server
from tests.support import ALL, tiles_at
from tilecascade.app.service import Service
from tilecascade.app.settings import LayerSettings, Settings
from tilecascade.model.cascade import tile_window
from tilecascade.model.sgdm.config import WEIGHTS_DIR
from tilecascade.model.world import places as settlements
from tilecascade.model.world.imagery_rendering import render_imagery

PLACE_TILES = {zoom: tiles_at(zoom) for zoom in (14, 15, 16)}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A town of a fictional country, native zoom 16."""
    town = settlements.places(3)[4]
    corner = tile_window(tile_at(town.x - town.radius, town.y - town.radius, 16))
    pixels = render_imagery(3, replace(corner, width=1024, height=1024))
    return write_scene(tmp_path_factory.mktemp("scene") / "scene.tif", pixels, place_bounds())


class Truth(dict[Tile, bytes]):
    """All tiles of the scene."""

    def __repr__(self) -> str:
        return f"{len(self)} tiles"


@pytest.fixture(scope="module")
def truth(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Truth]:
    """All tiles, from a process of its own with nothing cached, deepest zoom first."""
    server = Server(scene, WEIGHTS_DIR / "default", tmp_path_factory.mktemp("first") / "data")
    yield Truth(fetch(server, ALL[::-1]))
    server.stop()


def fetch(server: Server, order: list[Tile]) -> dict[Tile, bytes]:
    def one(tile: Tile) -> tuple[Tile, bytes]:
        answer = server.get(f"/tiles/{tile.z}/{tile.x}/{tile.y}.png?wait=300")
        assert answer.headers["x-tile-state"] in ("generated", "cached"), answer.headers
        return tile, answer.content

    with ThreadPoolExecutor(4) as pool:
        return dict(pool.map(one, order))


def test_two_processes_with_separate_caches_agree(scene: Path, truth: Truth, tmp_path: Path) -> None:
    order = list(ALL)
    random.Random(3).shuffle(order)
    server = Server(scene, WEIGHTS_DIR / "default", tmp_path / "data")
    try:
        assert fetch(server, order) == truth
    finally:
        server.stop()
    # not a blank: hardly a tile is like another
    assert len(set(truth.values())) > 0.8 * len(ALL)


places = st.builds(
    lambda zoom, i: PLACE_TILES[zoom][i % 4 ** (zoom - 14)], st.sampled_from([14, 15, 16]), st.integers(0)
)
acts = st.one_of(
    st.tuples(st.just("ask"), st.lists(places, min_size=1, max_size=12)),
    st.tuples(st.just("evict"), st.lists(places, min_size=1, max_size=12)),
    st.tuples(st.sampled_from(["restart", "empty"]), st.just([])),
)


@settings(
    max_examples=6,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(story=st.lists(acts, min_size=2, max_size=7), memory=st.sampled_from([0, 200_000, 64 << 20]))
def test_any_history_gives_the_same_bytes(
    scene: Path, truth: Truth, story: list[tuple[str, list[Tile]]], memory: int
) -> None:
    """Requests of one act are concurrent; "empty" removes every cache and starts afresh."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        made = Settings(data_dir=data, redis_url="none", device="cpu", memory_bytes=memory)
        chapter: list[tuple[str, list[Tile]]] = []
        for act in [*story, ("restart", []), ("ask", ALL), ("end", [])]:
            if act[0] in ("restart", "empty", "end"):
                asyncio.run(live(made, scene, chapter, truth))
                chapter = []
                if act[0] == "empty":
                    shutil.rmtree(data, ignore_errors=True)
            else:
                chapter.append(act)


async def live(made: Settings, scene: Path, acts: list[tuple[str, list[Tile]]], truth: Truth) -> None:
    """One life of the service."""
    if not acts:
        return
    async with Service.running(made, [LayerSettings(scenes=[scene])]) as service:
        resolver = service.resolver(None)
        for kind, tiles in acts:
            if kind == "evict":
                for tile in tiles:
                    service.caches.store.purge(resolver.layer.folder, resolver.layer.key(tile).__eq__)
                continue
            found = await asyncio.gather(*(resolver.find(tile) for tile in tiles))
            for tile, answer in zip(tiles, found, strict=True):
                assert answer.data == truth[tile], tile
