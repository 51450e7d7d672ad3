"""Scenes that come and go while the server runs: what may be taken in from where, and the set that a layer shows."""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import warnings
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx
import rasterio

from app.imagery import Scene, SceneError, newest_first, open_scene
from app.registry import scenes_from
from app.settings import Settings

MAX_SCENE_PIXELS = 16_000_000_000
"""Width x height of a scene: a hundred square kilometres at 8 cm."""

DRIVERS = ["GTiff"]
"""What an upload may be. Not VRT and the like, which name other files and addresses."""


class SceneRefusedError(SceneError):
    """A scene from a place that the operator has not opened."""


class SceneTooLargeError(SceneError):
    """More bytes than the server takes in."""


def examine(path: Path, taken: str | None, attribution: str) -> Scene:
    """Open a file somebody gave us. Raises SceneError with a sentence.

    taken: ISO date or time; the file's own if None.
    """
    size = path.stat().st_size
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with rasterio.open(path, driver=DRIVERS[0]) as dataset:
                if dataset.width * dataset.height > MAX_SCENE_PIXELS:
                    raise SceneError(
                        f"{dataset.width} x {dataset.height} pixels are too many; cut it into scenes of at most "
                        f"{MAX_SCENE_PIXELS // 10**9} thousand million"
                    )
                if dataset.crs is not None and not dataset.crs.is_projected and not dataset.crs.is_geographic:
                    raise SceneError("its coordinate reference system is local; georeference it first")
                if dataset.crs is not None and dataset.transform.is_identity:
                    raise SceneError("it has no georeference: pixels have no place on the earth")
                _check_blocks(dataset, size)
                if not dataset.dataset_mask(out_shape=_small(dataset)).any():
                    raise SceneError("it holds no valid pixel")
    except rasterio.errors.RasterioError:
        raise SceneError("it is no GeoTIFF, or too damaged to be read; give a whole GeoTIFF or COG") from None
    try:
        scene = open_scene(path, attribution)
    except SceneError as error:
        raise SceneError(str(error).replace(str(path), "it").replace(path.name, "it")) from None
    west, south, east, north = scene.bounds
    if not (-180.001 <= west < east <= 180.001 and -90 <= south < north <= 90):
        raise SceneError("its bounds lie outside the world; is the coordinate reference system right?")
    return replace(scene, taken=parse_time(taken)) if taken else scene


def _small(dataset: rasterio.DatasetReader) -> tuple[int, int]:
    scale = max(1.0, max(dataset.width, dataset.height) / 512)
    return max(1, round(dataset.height / scale)), max(1, round(dataset.width / scale))


def _check_blocks(dataset: rasterio.DatasetReader, size: int) -> None:
    """Raises SceneError if a block of the image lies beyond the file's end: it was cut off on its way."""
    height, width = dataset.block_shapes[0]
    for row in range(-(-dataset.height // height)):
        for column in range(-(-dataset.width // width)):
            offset = dataset.get_tag_item(f"BLOCK_OFFSET_{column}_{row}", "TIFF", bidx=1)
            length = dataset.get_tag_item(f"BLOCK_SIZE_{column}_{row}", "TIFF", bidx=1)
            if offset and length and int(offset) + int(length) > size:
                raise SceneError("the file is cut off: it names data beyond its end; copy it again")


def parse_time(text: str) -> str:
    """A capture time as scenes are sorted by. Raises SceneError."""
    try:
        return datetime.fromisoformat(text).replace(tzinfo=None).isoformat()
    except ValueError:
        raise SceneError(f"taken wants a date or time such as 2026-11-22T10:30, not {text[:40]!r}") from None


def allowed_path(path: Path, settings: Settings) -> Path:
    """A file on this machine below one of the places that the operator opened. Raises SceneRefusedError."""
    real = path.resolve()
    if not any(real.is_relative_to(root.resolve()) for root in settings.scene_roots):
        raise SceneRefusedError(
            "scenes are taken from no such place on this machine; upload the file, or have the operator add its folder "
            "to TILECASCADE_SCENE_ROOTS"
        )
    if not real.is_file():
        raise SceneError(f"{path.name} does not exist or is not a file")
    return real


def check_address(url: str, settings: Settings) -> None:
    """Raises SceneRefusedError for an address that the operator has not opened, or one inside his network."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    names = {host, f"{host}:{parts.port}"}
    if parts.scheme not in ("http", "https") or parts.username or not names & set(settings.scene_hosts):
        raise SceneRefusedError(
            "scenes are taken from no such address; upload the file, or have the operator add its host to "
            "TILECASCADE_SCENE_HOSTS"
        )
    try:
        ipaddress.ip_address(host)
    except ValueError:
        try:
            found = {info[4][0] for info in socket.getaddrinfo(host, None)}
        except OSError:
            raise SceneError(f"{host} cannot be found") from None
        if not all(ipaddress.ip_address(address).is_global for address in found):
            raise SceneRefusedError(f"{host} is an address inside this network") from None


async def download(url: str, target: Path, settings: Settings) -> None:
    """Fetch a scene's file. Raises SceneError, SceneRefusedError or SceneTooLargeError."""
    async with httpx.AsyncClient(timeout=60, follow_redirects=False) as client:
        check_address(url, settings)
        try:
            async with client.stream("GET", url) as answer:
                if answer.status_code != 200:
                    raise SceneError(f"{url} answers {answer.status_code}")
                await save(answer.aiter_bytes(), target, settings.upload_bytes)
        except httpx.HTTPError as error:
            raise SceneError(f"{url} cannot be fetched: {type(error).__name__}") from None


async def asset_of(item_url: str, settings: Settings) -> tuple[str, str | None]:
    """The address of a STAC item's picture, and its time. Raises SceneError or SceneRefusedError."""
    check_address(item_url, settings)
    async with httpx.AsyncClient(timeout=60, follow_redirects=False) as client:
        try:
            answer = await client.get(item_url)
            item = answer.raise_for_status().json()
            assets = item["assets"]
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            raise SceneError(f"{item_url} is not a STAC item") from None
    usable = [a for a in assets.values() if "tiff" in str(a.get("type", "")) and a.get("href")]
    chosen = next((a for name in ("visual", "data") for a in [assets.get(name)] if a in usable), None)
    chosen = chosen or next(iter(usable), None)
    if chosen is None:
        raise SceneError(f"{item_url} has no GeoTIFF among its assets")
    taken = item.get("properties", {}).get("datetime")
    return urljoin(item_url, chosen["href"]), taken.replace("Z", "+00:00") if taken else None


async def save(chunks: AsyncIterator[bytes], target: Path, limit: int) -> None:
    """Write what comes to a file. Raises SceneTooLargeError beyond `limit` bytes, SceneError if nothing came."""
    size = 0
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        async for chunk in chunks:
            size += len(chunk)
            if size > limit:
                raise SceneTooLargeError(f"a scene may have {limit} bytes here (TILECASCADE_UPLOAD_BYTES)")
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    if not size:
        raise SceneError("the request has no file in its body")


@dataclass
class SceneSet:
    """What has been added, hidden and ordered since the configuration; kept in a file that survives a power cut."""

    path: Path
    added: list[Scene] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    order: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> SceneSet:
        """The set in a file; an empty one if there is none. Raises SceneError for a file that is none of ours."""
        try:
            data = json.loads(path.read_text())
            return cls(path, scenes_from(data["added"]), list(data["hidden"]), list(data["order"]))
        except FileNotFoundError:
            return cls(path)
        except (ValueError, KeyError, TypeError) as error:
            raise SceneError(f"{path} is not a set of scenes: {error}") from None

    def write(self) -> None:
        """Replace the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_name(f".{self.path.name}-{os.getpid()}")
        data = {"added": [asdict(scene) for scene in self.added], "hidden": self.hidden, "order": self.order}
        with fresh.open("w") as file:
            json.dump(data, file, default=str, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, self.path)

    def effective(self, configured: Sequence[Scene]) -> list[Scene]:
        """The scenes shown, topmost first: as ordered by hand, else newest first. A file that is gone is left out."""
        scenes = {scene.id: scene for scene in (*configured, *self.added) if scene.id not in self.hidden}
        shown = [scene for scene in scenes.values() if scene.path.is_file()]
        place = {id: index for index, id in enumerate(self.order)}
        newest = newest_first(shown)
        return sorted(newest, key=lambda scene: place.get(scene.id, -1 if not place else len(place)))

    def add(self, scene: Scene) -> SceneSet:
        """With one more scene, or a hidden one shown again; by hand ordered ones stay below a new one."""
        order = [scene.id, *(id for id in self.order if id != scene.id)] if self.order else []
        return replace(
            self,
            added=[*(s for s in self.added if s.id != scene.id), scene],
            hidden=[id for id in self.hidden if id != scene.id],
            order=order,
        )

    def remove(self, id: str) -> SceneSet:
        """Without a scene."""
        return replace(
            self,
            added=[scene for scene in self.added if scene.id != id],
            hidden=[*self.hidden, id],
            order=[other for other in self.order if other != id],
        )
