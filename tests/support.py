"""Helpers that several tests share."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import mercantile
import numpy as np
import pytest
import shapely
import torch
from fastapi.testclient import TestClient
from mercantile import Tile

from tests.conftest import PLACE, picture, write_scene
from tilecascade.app.scenes.ingest import keep
from tilecascade.app.service import Service
from tilecascade.app.settings import LayerSettings, Settings
from tilecascade.app.sources.scene import window_bounds
from tilecascade.app.tiles.resolver import TileResolver
from tilecascade.model.cascade import tile_window
from tilecascade.model.conditions import Stage
from tilecascade.model.engine import Declined, EngineState, Generated, GenerationEngine, Priority
from tilecascade.model.engine.protocol import Prepare
from tilecascade.model.imagery.network import OctaveConfig, OctaveNet
from tilecascade.model.layout.network import LayoutConfig, LayoutNet
from tilecascade.model.layout.sampling import LayoutGenerator
from tilecascade.model.palette import LAND

MakeSettings = Callable[..., Settings]
Result = TypeVar("Result")


def with_service(
    settings: Settings, layer: LayerSettings, story: Callable[[Service, TileResolver], Awaitable[Result]]
) -> Result:
    """Run a coroutine function on a service of one layer and its resolver."""

    async def whole() -> Result:
        async with Service.running(settings, [layer]) as service:
            return await story(service, service.resolvers[layer.name])

    return asyncio.run(whole())


def run(settings: Settings, layer: LayerSettings, story: Callable[[TileResolver], Awaitable[Result]]) -> Result:
    """Run a coroutine function on the resolver of a service of one layer."""
    return with_service(settings, layer, lambda service, resolver: story(resolver))


def tiles_at(zoom: int) -> list[Tile]:
    """All tiles of a zoom in PLACE."""
    shift = zoom - 14
    edge = 1 << shift
    return [Tile((PLACE.x << shift) + i, (PLACE.y << shift) + j, zoom) for j in range(edge) for i in range(edge)]


ALL = [tile for zoom in (14, 15, 16) for tile in tiles_at(zoom)]


async def fetch_all(resolver: TileResolver, order: Sequence[Tile], parallel: int = 8) -> dict[Tile, bytes]:
    """The bytes of tiles, requested in this order."""
    gate = asyncio.Semaphore(parallel)

    async def one(tile: Tile) -> tuple[Tile, bytes]:
        async with gate:
            return tile, (await resolver.find(tile)).data

    return dict(await asyncio.gather(*(one(tile) for tile in order)))


def tiny_octaves() -> OctaveNet:
    """A network of imagery with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = OctaveNet(OctaveConfig((8, 12, 16), (1, 1, 1), 16, 2)).eval()
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter, 0.0, 0.08)
    return made


def tiny_layouts() -> LayoutGenerator:
    """A generator of layouts with random weights, which knows the words of a few captions."""
    words = (
        "a across bank building dense east element forest from in lake meadow north of residential river road "
        "area the to water west along buildings south medium sparse farmland"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = LayoutNet(LayoutConfig(tuple(sorted(words.split())), (8, 16, 16), 16, 1, 2, 4)).eval()
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter, 0.0, 0.15)
    return LayoutGenerator(made)


async def until(ready: Callable[[], bool]) -> None:
    """Wait for something to become true."""
    for _ in range(6000):
        if ready():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never became true")


class HeldEngine:
    """An engine that begins with a block but finishes none before `open`. priorities: of the blocks submitted, by
    zoom."""

    remote = False

    def __init__(self, engine: GenerationEngine) -> None:
        self.engine = engine
        self.begun = threading.Event()
        self.priorities: dict[Future[Any], Priority] = {}
        self._open = threading.Event()

    def open(self) -> None:
        """Let everything finish."""
        self._open.set()

    def submit(
        self, stage: Stage, prepare: Prepare, priority: Priority = Priority.INTERACTIVE
    ) -> Future[Generated[Any, Any] | Declined]:
        """See GenerationEngine."""
        future = self.engine.submit(stage, self._held(prepare), priority)
        self.priorities[future] = priority
        return future

    def _held(self, prepare: Callable[[], Any]) -> Callable[[], Any]:
        def wait() -> Any:
            conditions = prepare()
            self.begun.set()
            self._open.wait(30)
            return conditions

        return wait

    def submit_uncertainty(
        self, stage: Stage, prepare: Prepare, priority: Priority = Priority.INTERACTIVE
    ) -> Future[Generated[Any, Any] | Declined]:
        """See GenerationEngine."""
        return self.engine.submit_uncertainty(stage, self._held(prepare), priority)

    def submit_imagery(
        self, stage: Stage, prepare: Prepare, priority: Priority = Priority.INTERACTIVE
    ) -> Future[Generated[Any, Any] | Declined]:
        """See GenerationEngine."""
        future = self.engine.submit_imagery(stage, self._held(prepare), priority)
        self.priorities[future] = priority
        return future

    def promote(self, future: Future[Any], priority: Priority) -> None:
        """See GenerationEngine."""
        self.priorities[future] = min(priority, self.priorities[future])
        self.engine.promote(future, priority)

    def state(self) -> EngineState:
        """See GenerationEngine."""
        return self.engine.state()

    def close(self, drop_waiting: bool = False) -> None:
        """See GenerationEngine."""
        self.open()
        self.engine.close(drop_waiting)


def hold(resolver: TileResolver) -> HeldEngine:
    """Put a HeldEngine in front of a resolver's engine."""
    held = HeldEngine(resolver.generator.works.engine)
    resolver.generator.works.engine = held
    return held


def corner_scene(folder: Path, seed: int, name: str = "new.tif") -> Path:
    """Fresh imagery over the south-eastern sixteenth of the test tile."""
    left, bottom, right, _ = window_bounds(tile_window(PLACE))
    quarter = (right - left) / 4
    return write_scene(
        folder / name, picture(256, seed), (right - quarter, bottom, right, bottom + quarter), "EPSG:3857"
    )


def as_kept(path: Path, folder: Path) -> Path:
    """The file that the server keeps of an uploaded one."""
    incoming = folder / f"{path.stem}-incoming.tif"
    shutil.copy(path, incoming)
    return asyncio.run(keep(incoming, None, "", Settings())).path


def write_mbtiles(path: Path, tiles: dict[Tile, bytes]) -> Path:
    file = sqlite3.connect(path)
    file.execute("CREATE TABLE tiles (zoom_level integer, tile_column integer, tile_row integer, tile_data blob)")
    rows = [(t.z, t.x, (1 << t.z) - 1 - t.y, data) for t, data in tiles.items()]
    file.executemany("INSERT INTO tiles VALUES (?, ?, ?, ?)", rows)
    file.commit()
    file.close()
    return path


def wait_ready(client: TestClient) -> None:
    for _ in range(600):
        if client.get("/health").status_code == 200:
            return
        time.sleep(0.05)
    pytest.fail("never ready")


def map_picture(rng: np.random.Generator) -> np.ndarray:
    """A map-like tile: land, a wood, a lake, roads, houses."""
    image = np.full((256, 256, 3), LAND, dtype=np.uint8)
    for colour, size in (((173, 209, 158), 120), ((170, 211, 223), 70)):
        top, left = rng.integers(0, 256 - size, 2)
        image[top : top + size, left : left + size] = colour
    for _ in range(3):
        row = int(rng.integers(10, 240))
        image[row : row + 6] = 255
        image[:, row : row + 6] = 255
    for _ in range(12):
        top, left = rng.integers(0, 240, 2)
        image[top : top + 14, left : left + 10] = (217, 208, 201)
    return image


def house(x: float, y: float, pixels: int = 24) -> dict[str, Any]:
    """A square house at a share of the place's width and height, so many pixels of z16 wide."""
    left, top = (PLACE.x + x) * 1024, (PLACE.y + y) * 1024
    (west, north), (east, south) = (
        mercantile.ul(*(part / 256 for part in corner), 16) for corner in ((left, top), (left + pixels, top + pixels))
    )
    return dict(shapely.geometry.mapping(shapely.box(west, south, east, north)))


def drawn(there: dict[str, Any]) -> dict[str, Any]:
    return {"verdict": "redrawn", "layer": "building", "class": "building", "zoom": 16, "there": there}
