"""How a raster file becomes a scene: uploads are copied into a file of our own, files on this machine are checked.

Both happen in `tilecascade.app.scenes.reencode`, a process of its own with limits. A file below a folder that the
operator has allowed stays where it is, because it may be as large as the disk; what the server opens it for is checked
there first, and `Scene.stamp` tells if it is another file later.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path

import rasterio

from tilecascade.app.errors import SceneError, SceneRefusedError, StorageError
from tilecascade.app.scenes.reencode import DRIVERS, LOST, REFUSED
from tilecascade.app.settings import Settings
from tilecascade.app.sources.scene import Scene, open_scene
from tilecascade.cache.lifetime import die_with_parent

MEMORY = 4 << 30
"""Bytes of address space that checking and copying a file may take."""

GROWTH = 16
"""How many times larger a copy without loss may be than the file, if that is a JPEG (ten times was seen)."""

SMALL = 256 << 20
"""Bytes that a copy may always have."""


@cache
def confinement() -> dict[str, str]:
    """The environment of the program that opens strangers' files: no driver that names other files, no sidecars, no
    network."""
    with rasterio.Env() as env:
        others = sorted(set(env.drivers()) - set(DRIVERS))
    inherited = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH") if name in os.environ}
    return inherited | {
        "GDAL_SKIP": ",".join(others),
        "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
        "GDAL_TIFF_INTERNAL_MASK": "YES",
        "GDAL_CACHEMAX": "128",
        "GDAL_NUM_THREADS": "2",
        "OPENBLAS_NUM_THREADS": "1",
        "PROJ_NETWORK": "OFF",
        "CPL_VSIL_CURL_ALLOWED_FILENAME": "none",
    }


async def confined(source: Path, target: Path | None, settings: Settings, sensor: str | None = None) -> None:
    """Check a file, and copy it into a COG if there is a target. Raises SceneError with a sentence about the file, or
    StorageError."""
    size, seconds = await asyncio.to_thread(os.path.getsize, source), settings.scene_seconds
    limits = {"as": MEMORY, "cpu": seconds, "nofile": 64, "core": 0, "fsize": SMALL + GROWTH * size}
    order = json.dumps({"source": str(source), "target": target and str(target), "limits": limits, "sensor": sensor})
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tilecascade.app.scenes.reencode",
        order,
        env=confinement(),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        preexec_fn=partial(die_with_parent, os.getpid()),
    )
    try:
        output, _ = await asyncio.wait_for(child.communicate(), seconds)
    except TimeoutError:
        raise SceneError(_TOO_LONG.format(seconds)) from None
    finally:
        if child.returncode is None:  # too slow, or the client or the server has given up
            child.kill()
            await child.wait()
    said = output.decode(errors="replace").strip().rsplit("\n", 1)[-1]
    if child.returncode == 0:
        return
    if child.returncode == REFUSED:
        raise SceneError(said)
    if child.returncode == LOST:
        raise StorageError(f"the scene cannot be kept: {said}")
    if child.returncode in (-signal.SIGKILL, -signal.SIGXCPU):
        raise SceneError(_TOO_LONG.format(seconds))
    raise SceneError("it is too damaged to be read, or asks for too much; save it anew (gdal_translate -of COG)")


_TOO_LONG = "reading it takes longer than {} s (TILECASCADE_SCENE_SECONDS); cut it into smaller scenes"


async def keep(
    incoming: Path, acquired: str | None, attribution: str, settings: Settings, sensor: str | None = None
) -> Scene:
    """A file that a user has sent, as a scene with a file of our own beside it. sensor: as they say.

    Raises SceneError or StorageError.
    """
    copied = incoming.with_suffix(".cog.tif")
    try:
        await confined(incoming, copied, settings, sensor)
        scene = await asyncio.to_thread(_scene, copied, acquired, attribution, None)
        kept = copied.with_name(f"{scene.id}.tif").resolve()
        copied.replace(kept)
    finally:
        for left in (copied, copied.with_suffix(".plain.tif")):
            left.unlink(missing_ok=True)
    return replace(scene, path=kept).stamped()


async def examine(
    path: Path, acquired: str | None, attribution: str, settings: Settings, sensor: str | None = None
) -> Scene:
    """A file on this machine, as a scene. Raises SceneError with a sentence about the file."""
    await confined(path, None, settings, sensor)
    return await asyncio.to_thread(_scene, path, acquired, attribution, sensor)


def _scene(path: Path, acquired: str | None, attribution: str, sensor: str | None) -> Scene:
    try:
        scene = open_scene(path, attribution, sensor)
    except SceneError as error:
        raise SceneError(str(error).replace(str(path), "it").replace(path.name, "it")) from None
    west, south, east, north = scene.bounds
    if not (-180.001 <= west < east <= 180.001 and -90 <= south < north <= 90):
        raise SceneError("its bounds lie outside the world; is the coordinate reference system right?")
    return replace(scene, acquired=parse_time(acquired)) if acquired else scene


def parse_time(text: str) -> str:
    """A capture time as scenes are sorted by, in UTC. Raises SceneError."""
    try:
        time = datetime.fromisoformat(text)
        return (time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time).isoformat()
    except (ValueError, OverflowError):
        raise SceneError(f"acquired wants a date or time such as 2026-11-22T10:30, not {text[:40]!r}") from None


def allowed_path(path: Path, settings: Settings) -> Path:
    """A file on this machine below one of the folders that the operator has allowed. Raises SceneRefusedError."""
    try:
        real = path.resolve()
        inside = any(real.is_relative_to(root.resolve()) for root in settings.scene_roots)
    except (OSError, ValueError, RuntimeError):  # too long, a null byte, a loop of links
        inside = False
    if not inside:
        raise SceneRefusedError(
            "scenes are not accepted from this place; upload the file, or have the operator add its folder "
            "to TILECASCADE_SCENE_ROOTS"
        )
    if not real.is_file():
        raise SceneError(f"{path.name[:60]} does not exist or is not a file")
    return real
