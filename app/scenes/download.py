"""Fetching scenes from addresses that the operator has allowed."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx

from tilecascade.app.errors import SceneError, SceneRefusedError, SceneTooLargeError, StorageError
from tilecascade.app.settings import Settings
from tilecascade.app.storage.atomic import reason


def check_allowed(url: str, settings: Settings) -> None:
    """Raises SceneRefusedError for an address that the operator has not allowed, or one inside the network."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    names = {host, f"{host}:{parts.port}"}
    if parts.scheme not in ("http", "https") or parts.username or not names & set(settings.scene_hosts):
        raise SceneRefusedError(
            "scenes are not accepted from this address; upload the file, or have the operator add its host to "
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
        check_allowed(url, settings)
        try:
            async with client.stream("GET", url) as answer:
                if answer.status_code != 200:
                    raise SceneError(f"{url} answers {answer.status_code}")
                await save(answer.aiter_bytes(), target, settings.upload_bytes)
        except httpx.HTTPError as error:
            raise SceneError(f"{url} cannot be fetched: {type(error).__name__}") from None


async def asset_of(item_url: str, settings: Settings) -> tuple[str, str | None]:
    """The address of a STAC item's picture, and its time. Raises SceneError or SceneRefusedError."""
    check_allowed(item_url, settings)
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
    acquired = item.get("properties", {}).get("datetime")
    return urljoin(item_url, chosen["href"]), acquired.replace("Z", "+00:00") if acquired else None


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
                    raise SceneTooLargeError(f"a scene may have {limit} bytes here (TILECASCADE_UPLOAD_BYTES)")
                await asyncio.to_thread(file.write, chunk)
    except OSError as error:
        raise StorageError(f"the scene cannot be kept: {reason(error)}") from None
    if not size:
        raise SceneError("the request has no file in its body")
