"""`tilecascade doctor`: whether a server could start here, and what it would make of its settings and scenes."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import redis
import torch

from tilecascade.app.errors import TilecascadeError
from tilecascade.app.server.serve import check_port_is_free
from tilecascade.app.settings import DataDir, LayerSettings, Settings
from tilecascade.app.sources.scene import open_scene
from tilecascade.app.tiles.layer import ModelInfo, build_layer
from tilecascade.cache.redis import find_server
from tilecascade.model.cascade import WindowConfig
from tilecascade.model.engine.device import choose_device, choose_dtype
from tilecascade.model.sgdm.network import load_network

LITTLE_ROOM = 1 << 30
"""Bytes of free disk below which it is said that there is little."""


@dataclass(frozen=True)
class Finding:
    """One line of the report. level: "ok", "warning" (it works, but), "problem" (the server would not start)."""

    level: str
    subject: str
    text: str

    def __str__(self) -> str:
        return f"{self.level:8} {self.subject:10} {self.text}"


def examine(settings: Settings, layers: list[LayerSettings]) -> Iterator[Finding]:
    """All findings, one after the other."""
    yield Finding(
        "ok", "program", f"Python {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} cores"
    )
    for subject, check in (
        ("device", _device),
        ("weights", _weights),
        ("disk", _disk),
        ("redis", _redis),
        ("address", _address),
    ):
        yield _guarded(subject, check, settings)
    for layer in layers:
        scenes = [_guarded("scene", _scene, path) for path in layer.scenes]
        yield from scenes
        if all(scene.level != "problem" for scene in scenes):
            yield _guarded("layer", _layer, settings, layer)


def _guarded(subject: str, check: Callable[..., Finding], *given: object) -> Finding:
    """A check's finding, or the problem that it raised."""
    try:
        return check(*given)
    except (TilecascadeError, OSError, ValueError, RuntimeError) as error:
        return Finding("problem", subject, str(error).splitlines()[0])


def _device(settings: Settings) -> Finding:
    device = choose_device(settings.device)
    dtype = str(choose_dtype(settings.dtype, device)).removeprefix("torch.")
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else torch.backends.cpu.get_cpu_capability()
    return Finding("ok", "device", f"{device} ({name}), products in {dtype}")


def _weights(settings: Settings) -> Finding:
    network = load_network(settings.weights)
    return Finding("ok", "weights", f"{settings.weights}, preset {network.config.name}")


def _disk(settings: Settings) -> Finding:
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    if not os.access(settings.data_dir, os.W_OK):
        return Finding("problem", "disk", f"{settings.data_dir} cannot be written to")
    free = shutil.disk_usage(settings.data_dir).free
    text = f"{settings.data_dir}: {free >> 30} GiB free, up to {settings.disk_bytes.human_readable()} for tiles"
    if free < LITTLE_ROOM:
        return Finding("warning", "disk", f"{text}: there is little room left")
    if free < settings.disk_bytes:
        return Finding("warning", "disk", f"{text}: less room than that; lower TILECASCADE_DISK_BYTES")
    return Finding("ok", "disk", text)


def _redis(settings: Settings) -> Finding:
    if settings.redis_url == "none":
        return Finding("ok", "redis", "none, as the settings say")
    if settings.redis_url is None:
        program = find_server()
        if program is None:
            return Finding("warning", "redis", "no redis-server is installed: memory and disk only")
        return Finding("ok", "redis", f"a private one, {program}")
    try:
        redis.Redis.from_url(settings.redis_url, socket_timeout=2, socket_connect_timeout=2).ping()
    except redis.RedisError as error:
        return Finding("warning", "redis", f"{settings.redis_url} does not answer and would be skipped: {error}")
    return Finding("ok", "redis", f"{settings.redis_url} answers")


def _address(settings: Settings) -> Finding:
    check_port_is_free(settings.host, settings.port)
    return Finding("ok", "address", f"http://{settings.host}:{settings.port} is free")


def _layer(settings: Settings, wanted: LayerSettings) -> Finding:
    layer = build_layer(wanted, ModelInfo("check", "check", WindowConfig()), DataDir(settings.data_dir))
    box = ",".join(f"{edge:.5f}" for edge in layer.imagery.bounds)
    text = f"{layer.name}: zooms {layer.min_zoom}-{layer.max_zoom}, --bbox {box}"
    return Finding("ok", "layer", text if wanted.base_map is None else f"{text}, over {wanted.base_map}")


def _scene(path: Path) -> Finding:
    scene = open_scene(path)
    text = f"{path}: acquired {scene.acquired}, its pixels are those of zoom {scene.native_zoom}"
    if scene.black_is_nodata:
        return Finding("warning", "scene", f"{text}; areas of pure black count as missing imagery")
    return Finding("ok", "scene", text)
