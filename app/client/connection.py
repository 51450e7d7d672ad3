"""A running server as the client commands see it over HTTP."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
from mercantile import Tile

from tilecascade.app.api.schemas import Bounds, TileJSON
from tilecascade.app.errors import SettingsError, TileFailedError
from tilecascade.app.settings import ENVIRONMENT, DataDir
from tilecascade.app.tiles.layer_info import NOTICE

Fetched = TypeVar("Fetched")

IMAGERY_FORM = "png"
"""Format of the imagery under tiles: WebP loses something where it is a scene's."""

PREFETCH = {"Priority": "u=6"}
"""Headers of requests that no person waits for (RFC 9218)."""


@dataclass(frozen=True)
class ServedLayer:
    """A layer of a server, and its tiles.

    parallel: requests at once. wait: seconds to wait for a tile. bounds: west, south, east, north in degrees. form: of
    the image files, "png" or "webp", as the server keeps them.
    """

    client: httpx.AsyncClient
    parallel: int
    wait: float
    name: str
    zooms: range
    bounds: Bounds
    attribution: str
    revision: str
    notice: str = NOTICE
    form: str = "png"

    def path(self, tile: Tile, suffix: str = "") -> str:
        """A tile's URL path."""
        return f"/tiles/{self.name}/{tile.z}/{tile.x}/{tile.y}{suffix or '.' + self.form}"

    def clip(self, bbox: Bounds, zooms: range) -> Bounds:
        """The part of an area that has imagery. Raises SettingsError if there is none or a zoom is not served."""
        low, high = self.zooms[0], self.zooms[-1]
        if zooms[-1] > high or zooms[0] < low:
            raise SettingsError(f"layer {self.name} has zooms {low}-{high}; --zooms asks for more")
        west, south, east, north = self.bounds
        inside = (max(bbox[0], west), max(bbox[1], south), min(bbox[2], east), min(bbox[3], north))
        if inside[0] >= inside[2] or inside[1] >= inside[3]:
            raise SettingsError(f"--bbox lies outside the layer's imagery, which spans {west},{south},{east},{north}")
        return inside

    async def fetch(self, tile: Tile, suffix: str = "") -> bytes | None:
        """A finished tile, generated if need be; None where there is no imagery. Raises TileFailedError."""
        answer = await self._ask(tile, self.path(tile, suffix))
        if answer.status_code == 404:
            return None
        state = answer.headers.get("x-tile-state", "")
        if answer.status_code == 200 and state in ("base-map", "generated", "cached"):
            return answer.content
        reason = f"only a {state}" if answer.status_code == 200 else detail(answer)
        raise TileFailedError(f"{tile.z}/{tile.x}/{tile.y}: {reason}")

    async def fetch_imagery(self, tile: Tile) -> bytes | None:
        """The imagery under a tile, as IMAGERY_FORM; None where there is none. Raises TileFailedError."""
        answer = await self._ask(tile, f"/imagery/{self.name}/{tile.z}/{tile.x}/{tile.y}.{IMAGERY_FORM}")
        if answer.status_code == 404 and "imagery is shown" not in detail(answer):
            return None
        if answer.status_code != 200:
            raise TileFailedError(f"{tile.z}/{tile.x}/{tile.y}: {detail(answer)}")
        return answer.content

    async def fetch_features(self, tile: Tile) -> list[dict[str, Any]] | None:
        """The features of a tile, generated if need be; None where there is no imagery. Raises TileFailedError, and
        SettingsError if the layer has no map objects at this zoom."""
        answer = await self._ask(tile, f"/features/{self.name}/{tile.z}/{tile.x}/{tile.y}.geojson")
        if answer.status_code == 404 and "no imagery" not in detail(answer):
            raise SettingsError(detail(answer))
        if answer.status_code == 404:
            return None
        if answer.status_code != 200:
            raise TileFailedError(f"{tile.z}/{tile.x}/{tile.y}: {detail(answer)}")
        features: list[dict[str, Any]] = answer.json()["features"]
        return features

    async def _ask(self, tile: Tile, path: str) -> httpx.Response:
        try:
            return await self.client.get(path, params={"wait": self.wait})
        except httpx.HTTPError as error:
            raise TileFailedError(f"{tile.z}/{tile.x}/{tile.y}: {type(error).__name__}: {error}") from None

    async def in_order(
        self, tiles: Iterable[Tile], fetch: Callable[[Tile], Coroutine[None, None, Fetched]]
    ) -> AsyncIterator[tuple[Tile, Fetched]]:
        """What is fetched of tiles, in the order given, `parallel` at once. Raises TileFailedError for the first that
        fails."""
        coming: deque[tuple[Tile, asyncio.Task[Fetched]]] = deque()
        remaining = iter(tiles)
        try:
            while True:
                while len(coming) < 4 * self.parallel and (tile := next(remaining, None)) is not None:
                    coming.append((tile, asyncio.ensure_future(fetch(tile))))
                if not coming:
                    return
                tile, task = coming.popleft()
                yield tile, await task
        finally:
            for _, task in coming:
                task.cancel()


@asynccontextmanager
async def connect(url: str, layer: str | None, parallel: int, wait: float) -> AsyncIterator[ServedLayer]:
    """A layer of the server at `url`, the default one if None; waits while the server starts.

    Raises SettingsError if there is no such server or layer.
    """
    limits = httpx.Limits(max_connections=parallel)
    async with httpx.AsyncClient(base_url=url, timeout=wait + 30, limits=limits, headers=PREFETCH) as client:
        path = f"/tiles/{layer}/tilejson.json" if layer else "/tilejson.json"
        for _ in range(120):
            try:
                answer = await client.get(path)
            except httpx.HTTPError as error:
                raise SettingsError(f"no server answers at {url}: {error or type(error).__name__}") from None
            if answer.status_code != 503:
                break
            await asyncio.sleep(1)
        if answer.status_code != 200:
            raise SettingsError(f"{url}{path}: {detail(answer)}")
        info = TileJSON.model_validate_json(answer.content)
        zooms = range(info.minzoom, info.maxzoom + 1)
        form = suffix_of(info).removeprefix(".")
        yield ServedLayer(
            client,
            parallel,
            wait,
            info.name,
            zooms,
            info.bounds,
            info.attribution,
            info.tilecascade_revision,
            form=form,
        )


def suffix_of(info: TileJSON) -> str:
    """What the address of a layer's tiles ends in: ".png"."""
    return PurePosixPath(urlsplit(info.tiles[0]).path).suffix


class Key(httpx.Auth):
    """The server's key, looked for when a request needs it: in the environment, or in the server's data directory."""

    VARIABLE = f"{ENVIRONMENT}API_KEY"

    def __init__(self, data_dir: Path) -> None:
        self._file = DataDir(data_dir).api_key

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Add the key to a request. Raises SettingsError if there is none."""
        request.headers["X-API-Key"] = os.environ.get(self.VARIABLE) or self._read()
        yield request

    def _read(self) -> str:
        try:
            return self._file.read_text().strip()
        except OSError:
            raise SettingsError(
                f"no key: set {self.VARIABLE}, or name the server's data directory with --data-dir (it holds api-key)"
            ) from None


def ask(client: httpx.Client, method: str, path: str, **request: Any) -> bytes:
    """The JSON that a server answers. Raises SettingsError with the server's sentence for what it refuses."""
    try:
        answer = client.request(method, path, **request)
    except httpx.HTTPError as error:
        raise SettingsError(f"no server answers at {client.base_url}: {error or type(error).__name__}") from None
    if answer.status_code >= 400:
        raise SettingsError(detail(answer))
    return answer.content


def detail(answer: httpx.Response) -> str:
    """The sentence of an error's body, or its status."""
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"status {answer.status_code}"
