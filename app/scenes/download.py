"""Fetching scenes from addresses that the operator has allowed."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx

from tilecascade.app.errors import SceneError, SceneRefusedError, SceneTooLargeError, StorageError
from tilecascade.app.settings import Settings
from tilecascade.app.storage.atomic import reason

ITEM_BYTES = 1 << 20
"""Largest STAC item that is read."""


def check_allowed(url: str, settings: Settings) -> httpx.URL:
    """The address as it is fetched. Raises SceneRefusedError for one that the operator has not allowed."""
    try:
        parts = httpx.URL(url)
        names = {parts.host, f"{parts.host}:{parts.port}"}
    except (httpx.InvalidURL, ValueError):
        raise SceneRefusedError("this is not an address (http:// or https://) that could be fetched") from None
    if parts.scheme not in ("http", "https") or parts.userinfo or not names & set(settings.scene_hosts):
        raise SceneRefusedError(
            "scenes are not accepted from this address; upload the file, or have the operator add its host to "
            "TILECASCADE_SCENE_HOSTS"
        )
    return parts


async def resolve(host: str) -> str:
    """The address of a host, which is then connected to, so that no second answer of a name server counts.

    Raises SceneError if there is none, and SceneRefusedError if one is inside this network. An address that the
    operator has written down as such may be.
    """
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise SceneError(f"{host[:100]} cannot be found") from None
    addresses = [str(info[4][0]) for info in found]
    if not all(ipaddress.ip_address(address.partition("%")[0]).is_global for address in addresses):
        raise SceneRefusedError(f"{host} is an address inside this network")
    return addresses[0]


@asynccontextmanager
async def fetch(url: str, settings: Settings) -> AsyncIterator[httpx.Response]:
    """A GET request's answer, 200 and not read yet, from the address that was checked; redirects are not followed.

    Raises SceneError or SceneRefusedError.
    """
    parts = check_allowed(url, settings)
    pinned = parts.copy_with(host=await resolve(parts.host))
    headers = {"Host": parts.netloc.decode("ascii"), "Accept-Encoding": "identity"}
    timeout = httpx.Timeout(60, connect=10)
    async with httpx.AsyncClient(timeout=timeout, follow_redirects=False, trust_env=False) as client:
        try:
            extensions = {"sni_hostname": parts.host}
            async with client.stream("GET", pinned, headers=headers, extensions=extensions) as answer:
                if answer.status_code != 200:
                    raise SceneError(f"{url} answers {answer.status_code} and not 200")
                if answer.headers.get("content-encoding", "identity") != "identity":
                    raise SceneError(f"{url} is sent compressed, though that was not asked for")
                yield answer
        except httpx.HTTPError as error:
            raise SceneError(f"{url} cannot be fetched: {type(error).__name__}") from None


async def download(url: str, target: Path, settings: Settings) -> None:
    """Fetch a scene's file. Raises SceneError, SceneRefusedError, SceneTooLargeError or StorageError."""
    async with fetch(url, settings) as answer:
        await save(answer.aiter_raw(), target, settings.upload_bytes)


async def asset_of(item_url: str, settings: Settings) -> tuple[str, str | None]:
    """The address of a STAC item's picture, and its time. Raises SceneError or SceneRefusedError."""
    content = b""
    async with fetch(item_url, settings) as answer:
        async for chunk in answer.aiter_raw():
            content += chunk
            if len(content) > ITEM_BYTES:
                raise SceneError(f"{item_url} is no STAC item: it has more than {ITEM_BYTES} bytes")
    try:
        item = json.loads(content)
    except (ValueError, RecursionError):
        raise SceneError(f"{item_url} is not a STAC item") from None
    assets = item.get("assets") if isinstance(item, dict) else None
    usable = {name: asset for name, asset in assets.items() if _is_tiff(asset)} if isinstance(assets, dict) else {}
    chosen = usable.get("visual") or usable.get("data") or next(iter(usable.values()), None)
    if chosen is None:
        raise SceneError(f"{item_url} has no GeoTIFF among its assets")
    properties = item.get("properties")
    acquired = properties.get("datetime") if isinstance(properties, dict) else None
    try:
        address = urljoin(item_url, chosen["href"])
    except ValueError:
        raise SceneError(f"{item_url} names an asset that has no address") from None
    return address, acquired.replace("Z", "+00:00") if isinstance(acquired, str) else None


def _is_tiff(asset: Any) -> bool:
    return isinstance(asset, dict) and "tiff" in str(asset.get("type", "")) and isinstance(asset.get("href"), str)


async def save(chunks: AsyncIterator[bytes], target: Path, limit: int) -> None:
    """Write chunks to a file.

    Raises SceneTooLargeError beyond `limit` bytes, SceneError if there are none, and StorageError.
    """
    size = 0
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            async for chunk in chunks:
                size += len(chunk)
                if size > limit:
                    raise SceneTooLargeError(f"a file may have {limit} bytes here (TILECASCADE_UPLOAD_BYTES)")
                await asyncio.to_thread(file.write, chunk)
    except OSError as error:
        raise StorageError(f"the file cannot be kept: {reason(error)}") from None
    if not size:
        raise SceneError("the request has no file in its body")
