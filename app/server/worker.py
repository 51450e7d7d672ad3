"""A worker in front of the application: answers finished tiles from disk, and forwards everything else.

`tilecascade serve` starts one of these, or `--workers N`, under granian, which runs their event loop and HTTP in Rust
and calls `__rsgi__` once a request. They hold no model: the one process that owns the device is the application itself,
which listens on a unix socket. A worker compares what it keeps in memory with the file at each request, so that an
invalidated tile disappears here at once.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import threading
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
from cachetools import LRUCache
from mercantile import Tile
from yarl import URL

from tilecascade.app.api.http_cache import EXPOSED_HEADERS, etag_of, matches
from tilecascade.app.server.worker_metrics import WorkerMetrics
from tilecascade.app.tiles.formats import MEDIA_TYPES, PATH, Variant, is_whole
from tilecascade.app.tiles.layer_info import LayerInfo, read_layer_info

TILES, APPLICATION, OWNER, LAYER_INFO, MEMORY, TRUSTED, PUBLIC = (
    f"TILECASCADE_WORKER_{name}"
    for name in ("TILES", "APPLICATION", "OWNER", "LAYER_INFO", "MEMORY", "TRUSTED", "PUBLIC")
)
"""Environment variables: the tile directory, the application's socket and process, LAYER_INFO_FILE, bytes kept in
memory, proxies that are believed, and whether tiles may be read without a key (else the application answers
everything)."""

CORS = [("access-control-allow-origin", "*"), ("access-control-expose-headers", ", ".join(EXPOSED_HEADERS))]
HOP_BY_HOP = {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "proxy-connection", "expect"}
WITHOUT_BODY = ("GET", "HEAD", "OPTIONS")
QUERY = "/?:@!$&'()*+,;=%-._~[]"
"""What a query may have as it is; all else is passed on percent-encoded."""

METHODS = (*WITHOUT_BODY, "POST", "PUT", "DELETE", "PATCH")
START_SECONDS = 30
"""How long the first requests wait for the application to listen."""
MAX_WHOLE = 1 << 20
"""Answers of up to so many bytes are forwarded in one piece, longer and endless ones as they come."""

Headers = list[tuple[str, str]]
Networks = list[ipaddress.IPv4Network | ipaddress.IPv6Network]


@dataclass(frozen=True)
class Kept:
    """A tile in memory.

    stamp: of its file when it was read. plain, pinned: the headers of an answer from memory, for a request without
    `?v=` and for one with that of `revision`.
    """

    path: str
    stamp: tuple[int, int, int]
    revision: str
    etag: str
    plain: Headers
    pinned: Headers
    content: bytes


class FinishedTiles:
    """Finished tiles of the layers, as bytes with their headers."""

    def __init__(self, tiles: Path, layer_info: Path, memory: int) -> None:
        self._tiles = str(tiles)
        self._info_path = str(layer_info)
        self._info_stamp: tuple[int, int] | None = None
        self._layers: dict[str | None, LayerInfo] = {}
        self._kept: LRUCache[str, Kept] = LRUCache(memory, getsizeof=lambda kept: len(kept.content) + 1024)

    def find(self, url: str, revision: str | None) -> tuple[str, Headers, bytes] | None:
        """ETag, headers and bytes of a finished tile; None if there is none or the path is no tile's.

        What is in memory costs two `stat` calls: of the layers' information, and of the tile's file.
        """
        self._refresh()
        kept = self._kept.get(url)
        if kept is not None:
            try:
                stat = os.stat(kept.path)
            except OSError:
                return None
            if kept.stamp == (stat.st_mtime_ns, stat.st_size, stat.st_ino):
                return kept.etag, kept.pinned if revision == kept.revision else kept.plain, kept.content
        kept = self._read(url)
        if kept is None:
            return None
        headers = kept.pinned if revision == kept.revision else kept.plain
        return kept.etag, [("x-cache", "disk") if name == "x-cache" else (name, v) for name, v in headers], kept.content

    def _refresh(self) -> None:
        """Read the layers' information again if it has changed. There is none before the application is ready."""
        try:
            stat = os.stat(self._info_path)
        except FileNotFoundError:
            return
        if (stat.st_mtime_ns, stat.st_ino) != self._info_stamp:
            layers = read_layer_info(Path(self._info_path))
            self._layers = {None: layers[0]} | {layer.name: layer for layer in layers}
            self._info_stamp = (stat.st_mtime_ns, stat.st_ino)
            self._kept.clear()

    def _read(self, url: str) -> Kept | None:
        match = PATH.fullmatch(url)
        layer = self._layers.get(match[1]) if match else None
        if match is None or layer is None:
            return None
        tile = Tile(int(match[3]), int(match[4]), int(match[2]))
        variant = Variant(2 if match[5].startswith("@2x") else 1, match[6])
        path = f"{self._tiles}/{layer.name}/{layer.version}/{tile.z}/{tile.x}/{tile.y}{variant.suffix}"
        try:
            with open(path, "rb") as file:
                stat, content = os.fstat(file.fileno()), file.read()
        except OSError:
            return None
        if not is_whole(content):
            return None  # broken: the application makes it again
        described = layer.describe(tile, variant, "cached", "memory")
        etag = etag_of(stat)
        headers = [*CORS, ("content-type", MEDIA_TYPES[variant.format]), ("etag", etag)]
        headers += [(name.lower(), value) for name, value in described.items()]
        plain, pinned = ([*headers, ("cache-control", layer.cache_control(v))] for v in (None, layer.revision))
        stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        kept = Kept(path, stamp, layer.revision, etag, plain, pinned, content)
        if len(content) + 1024 <= self._kept.maxsize:
            self._kept[url] = kept
        return kept


def tile_revision(query: str) -> tuple[bool, str | None]:
    """Whether a query asks for no more than a tile (`v`, `wait`, `missing`), and the layer revision it names."""
    revision = None
    for part in query.split("&") if query else ():
        name, _, value = part.partition("=")
        if name == "v":
            revision = value
        elif name not in ("wait", "missing"):
            return False, None
    return True, revision


class Worker:
    """The RSGI application of one worker process."""

    def __init__(self, finished: FinishedTiles, application: Path, trusted: Networks, public: bool) -> None:
        self._finished = finished
        self._application = application
        self._trusted, self._public = trusted, public
        self._client: aiohttp.ClientSession | None = None
        self._has_answered = False
        self._metrics = WorkerMetrics()

    def _session(self) -> aiohttp.ClientSession:
        """Connections to the application; made when the event loop runs."""
        if self._client is None:
            self._client = aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(str(self._application), limit=0),
                timeout=aiohttp.ClientTimeout(total=None),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("accept", "accept-encoding", "user-agent", "content-type"),
            )
        return self._client

    def __rsgi_del__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Called by granian in each worker, after the last request."""
        if self._client is not None:
            loop.run_until_complete(self._client.close())

    async def __rsgi__(self, scope: Any, proto: Any) -> None:
        """Answer one request."""
        if scope.method == "GET" and self._public:
            plain, revision = tile_revision(scope.query_string)
            hit = self._finished.find(scope.path, revision) if plain else None
            if hit is not None:
                etag, headers, png = hit
                known = scope.headers.get("if-none-match")
                if known is not None and matches(known, etag):
                    self._metrics.hit(304)
                    proto.response_empty(304, headers)
                else:
                    self._metrics.hit(200)
                    proto.response_bytes(200, headers, png)
                return
        self._metrics.forwarded()
        await self._forward(scope, proto)

    async def _forward(self, scope: Any, proto: Any) -> None:
        """Ask the application. When the client leaves, the request ends, too, and the application may drop the work."""
        asking = asyncio.ensure_future(self._ask(scope, proto))
        gone = asyncio.ensure_future(proto.client_disconnect())
        try:
            await asyncio.wait({asking, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not asking.done():
                asking.cancel()
        if not asking.cancelled() and asking.done():
            asking.result()

    async def _wait_for_start(self) -> None:
        """Until the application listens for the first time: both start together, and a map client asks only once."""
        deadline = asyncio.get_running_loop().time() + START_SECONDS
        while not self._has_answered and asyncio.get_running_loop().time() < deadline:
            if self._application.exists():
                return
            await asyncio.sleep(0.05)

    async def _ask(self, scope: Any, proto: Any) -> None:
        if scope.method not in METHODS:
            refuse(proto, 405, f"requests are one of {', '.join(METHODS)}")
            return
        if not is_plain(scope.path):
            refuse(proto, 400, "a path has no control characters and no segments '.' or '..'")
            return
        query = f"?{quote(scope.query_string, safe=QUERY)}" if scope.query_string else ""
        address = URL(f"http://application{quote(scope.path)}{query}", encoded=True)
        body = None if scope.method in WITHOUT_BODY else body_of(proto)
        headers = forwarded_headers(scope, self._trusted, body is not None)
        await self._wait_for_start()
        try:
            async with self._session().request(
                scope.method, address, headers=headers, data=body, allow_redirects=False
            ) as answer:
                self._has_answered = True
                await _pass_on(answer, scope.method, proto)
        except (ValueError, aiohttp.InvalidURL):
            refuse(proto, 400, "the headers or the query have characters that HTTP does not allow")
        except aiohttp.ClientError:
            refuse(proto, 503, "the application does not answer; try again in a moment")


async def _pass_on(answer: aiohttp.ClientResponse, method: str, proto: Any) -> None:
    """Give the client what the application answers. Raises aiohttp.ClientError if that ends before the client has
    anything."""
    headers = [(name, value) for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP]
    length = answer.content_length
    if method == "HEAD" or answer.status in (204, 304):
        proto.response_empty(answer.status, headers)
    elif length is not None and length <= MAX_WHOLE:
        proto.response_bytes(answer.status, headers, await answer.read())
    else:
        transport = proto.response_stream(answer.status, headers)
        # the application ends event streams when it stops; a shortened file is told by its content-length
        with suppress(aiohttp.ClientError):
            async for chunk in answer.content.iter_any():
                await transport.send_bytes(chunk)
        del transport  # this ends the answer; an error that aiohttp keeps would keep this frame, and so the transport


async def body_of(proto: Any) -> AsyncIterator[bytes]:
    """The chunks of a request's body."""
    async for chunk in proto:
        yield chunk


def refuse(proto: Any, status: int, sentence: str) -> None:
    """Answer a request that is not passed on."""
    headers = [*CORS, ("content-type", "application/json"), ("cache-control", "no-store")]
    retry = [("retry-after", "2")] if status == 503 else []
    proto.response_str(status, headers + retry, json.dumps({"detail": sentence}))


def is_plain(path: str) -> bool:
    """Whether a path, without its percent-encoding, means the same to everybody who reads it."""
    segments = path.split("/")
    return path.startswith("/") and path.isprintable() and "." not in segments and ".." not in segments


def client_of(peer: str, forwarded: str, trusted: Networks) -> str:
    """The address of the client: of a request from a trusted proxy, the last one in X-Forwarded-For that is no such
    proxy itself, because what stands before that is the client's own word."""
    for address in [peer, *(part.strip() for part in reversed(forwarded.split(",")))]:
        try:
            is_proxy = any(ipaddress.ip_address(address) in network for network in trusted)
        except ValueError:  # no address: "unknown", or a name that somebody has made up
            return peer
        peer = address
        if not is_proxy:
            break
    return peer


def forwarded_headers(scope: Any, trusted: Networks, body: bool) -> Headers:
    """The request's headers for the application, with the client's address and the scheme it used, of which a trusted
    proxy is believed."""
    peer = scope.client.rsplit(":", 1)[0].strip("[]") or "127.0.0.1"
    given = ", ".join(scope.headers.get_all("x-forwarded-for"))
    proxied = any(ipaddress.ip_address(peer) in network for network in trusted)
    scheme = scope.headers.get("x-forwarded-proto") if proxied else None
    ours = [
        ("host", scope.headers.get("host") or scope.authority or "localhost"),
        ("x-forwarded-for", client_of(peer, given, trusted)),
        ("x-forwarded-proto", scheme if scheme in ("http", "https") else scope.scheme),
    ]
    left_out = {name for name, _ in ours} | HOP_BY_HOP | (set() if body else {"content-length"})
    return [*ours, *((name, value) for name, value in scope.headers.items() if name not in left_out)]


def _end_with(owner: int) -> None:
    """End this process soon after the application has. Asking is surer than a signal: granian, which stands between,
    loses some while it starts."""
    while True:
        try:
            os.kill(owner, 0)
        except ProcessLookupError:
            os._exit(1)
        time.sleep(1)


def create() -> Worker:
    """The worker that this process's environment describes. It ends when the application has."""
    threading.Thread(target=_end_with, args=(int(os.environ[OWNER]),), name="application", daemon=True).start()
    finished = FinishedTiles(Path(os.environ[TILES]), Path(os.environ[LAYER_INFO]), int(os.environ[MEMORY]))
    trusted = [ipaddress.ip_network(text) for text in os.environ[TRUSTED].split(",") if text]
    return Worker(finished, Path(os.environ[APPLICATION]), trusted, bool(os.environ[PUBLIC]))
