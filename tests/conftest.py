"""Fixtures: small real rasters, tiny random weights, and a service over them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from hypothesis import settings
from mercantile import Tile
from rasterio.transform import from_bounds
from rasterio.warp import transform_bounds

from tests.bucket import Bucket
from tilecascade.app.settings import LayerSettings, Settings
from tilecascade.app.sources.scene import window_bounds
from tilecascade.cache.redis import EmbeddedRedis, find_server
from tilecascade.model.cascade import tile_window
from tilecascade.model.sgdm.config import tiny
from tilecascade.model.sgdm.network import random_network, save_network

# one thread a process, of tests and of what they start: there is a process for each core, and more threads only wait
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

# no example is timed: a busy machine is no fault of the code
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

PLACE = Tile(8703, 5612, 14)
"""The z14 tile that test scenes lie in."""

SceneMaker = Callable[..., Path]


def picture(size: int, seed: int = 0) -> np.ndarray:
    """size x size x 3 uint8 with structure at several scales."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    waves = [np.sin(8 * x + 5 * y + p) + np.sin(23 * x * y + p) for p in rng.uniform(0, 6, 3)]
    noise = rng.normal(0, 12, (size, size, 3))
    return np.clip(np.stack(waves, -1) * 40 + 120 + noise, 0, 255).astype(np.uint8)


def write_scene(
    path: Path,
    pixels: np.ndarray,
    bounds: tuple[float, float, float, float],
    crs: str = "EPSG:3857",
    mask: np.ndarray | None = None,
    **options: object,
) -> Path:
    """A GeoTIFF of H x W x bands pixels; `mask` becomes an internal mask; `bounds` are in `crs`."""
    height, width, count = pixels.shape
    profile = {
        "driver": "GTiff",
        "height": height,
        "width": width,
        "count": count,
        "dtype": str(pixels.dtype),
        "crs": crs,
        "transform": from_bounds(*bounds, width, height),
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
    } | options
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "w", **profile) as out:
        out.write(pixels.transpose(2, 0, 1))
        if mask is not None:
            out.write_mask(mask.astype(np.uint8) * 255)
    return path


def place_bounds(crs: str = "EPSG:3857") -> tuple[float, float, float, float]:
    """The z14 test tile's bounds in a CRS."""
    box = window_bounds(tile_window(PLACE))
    return box if crs == "EPSG:3857" else transform_bounds("EPSG:3857", crs, *box)


@pytest.fixture
def make_scene(tmp_path: Path) -> SceneMaker:
    """Write a scene of 1024 x 1024 pixels over the whole test tile (native zoom 16)."""

    def make(
        name: str = "scene.tif", size: int = 1024, seed: int = 0, crs: str = "EPSG:3857", **options: object
    ) -> Path:
        return write_scene(tmp_path / name, picture(size, seed), place_bounds(crs), crs, **options)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stem of a stored network with tiny random weights."""
    stem = tmp_path_factory.mktemp("weights") / "tiny"
    save_network(random_network(tiny()), stem)
    return stem


@pytest.fixture
def make_settings(tmp_path: Path, tiny_weights: Path) -> Callable[..., Settings]:
    """Settings with tiny weights, no Redis, and a data directory of the test's own."""

    def make(**given: object) -> Settings:
        values = {"data_dir": tmp_path / "data", "weights": tiny_weights, "redis_url": "none", "device": "cpu"}
        values["threads"] = 2  # whatever the machine has
        values["warm_tiles"] = 0  # tests count what is generated
        return Settings(**(values | given))  # type: ignore[arg-type]

    return make


@pytest.fixture
def layer_settings(make_scene: SceneMaker) -> LayerSettings:
    """A layer over one small scene, zooms 14 to 16."""
    return LayerSettings(scenes=[make_scene()])


@pytest.fixture
def redis_server() -> Iterator[EmbeddedRedis]:
    """A private redis-server; skips where there is none."""
    program = find_server()
    if program is None:
        pytest.skip("no redis-server here")
    running = EmbeddedRedis(program, 32 << 20)
    yield running
    running.close()


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    made = Bucket()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{made.port}",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    made.client().create_bucket(Bucket="tiles")  # type: ignore[attr-defined]
    yield made
    made.server.stop()
