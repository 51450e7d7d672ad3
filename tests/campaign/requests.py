"""Requests that nobody would send by mistake alone: bytes for a socket, made from a seed."""

from __future__ import annotations

import random
import socket
from dataclasses import dataclass
from urllib.parse import quote

from mercantile import Tile

METHODS = ["GET"] * 12 + ["HEAD", "OPTIONS", "POST", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND", "get", "G\x00T", ""]
FIXED = [
    "/", "/health", "/metrics", "/tilejson.json", "/scenes", "/jobs", "/jobs/x", "/docs", "/openapi.json", "/wmts",
    "/wmts?service=WMTS&request=GetCapabilities", "/wmts/1.0.0/WMTSCapabilities.xml", "/collections", "/conformance",
    "/tiles", "/tiles/", "/tiles/map", "/imagery/map/14/1/1.png", "/static/viewer/", "/static/leaflet/", "/favicon.ico",
    "/tileMatrixSets", "/stac", "/robots.txt",
]  # fmt: skip
ODD = [
    "%00", "%0d%0a", "%2e%2e", "%2f", "..", ".", "//", "%3F", "%23", "%", "%zz", "%ff", "%c0%af", "\\", "~", "'", '"',
    "<", "%25", ";", "@2x", "@9x", "é", "\u2603", "%E2%98%83", "a" * 300, "-1", "1e9", "0x1", "²", "٣", "9" * 25, "{z}",
    "NaN", "null", " ", "+", "%20", "..%2f..%2fhealth", "$(id)", "{{7*7}}",
]  # fmt: skip
QUERIES = [
    "", "", "", "?", "?wait=0", "?wait=0&wait=1", "?wait=-1", "?wait=NaN", "?wait=inf", "?wait=1e308", "?wait=²",
    "?v=%00", "?missing=204", "?missing=1", "?mark=1&wait=0", "?mark=2", "?synthetic=0", "?synthetic=x", "?key=x",
    "?key=", "?%ff=%ff", "?a[]=1", "?wait=0;v=1", "?" + "a=1&" * 200, "?layer=%00", "?layer=nothing", "?bbox=1,2,3",
]  # fmt: skip
HEADERS = [
    "", "", "", "", "Host: xn--", "Host: ", "Host: a b", "Host: [::1", "Host: \xff", "Host: evil.example",
    "Range: bytes=0-", "If-None-Match: *", 'If-None-Match: W/"', "If-None-Match: " + "a," * 500, "Priority: u=²",
    "Priority: u=9, i", "Priority: =;,", "Prefer: respond-async", "Accept: image/webp",
    "X-Forwarded-For: unknown, ::1, 1.2.3.4", "X-Forwarded-For: \xe9", "X-Forwarded-Proto: javascript",
    "X-Request-ID: \x07", "X-API-Key: \xff\xfe",
    "X-API-Key: é", "Authorization: Bearer", "Authorization: Basic Og==", "Authorization: \x01",
    "Cookie: tilecascade_key=\xff; =;;", "Cookie: " + "a=b; " * 300,
    "Transfer-Encoding: chunked", "Transfer-Encoding: gzip", "Expect: 100-continue",
    "Expect: nothing", "Upgrade: websocket\r\nConnection: Upgrade", "Connection: close, X-API-Key", "Te: trailers",
    "Content-Type: application/json", "Content-Type: multipart/form-data", "Origin: null", "Accept-Encoding: \x00",
    "Access-Control-Request-Method: POST", "Content-Encoding: gzip",
]  # fmt: skip
BODIES = [
    "",
    "",
    "",
    "x",
    "{}",
    "[" * 500,
    '{"bbox": [0, 0, 1, 1], "zooms": [0, 30]}',
    "5\r\nhello\r\n0\r\n\r\n",
    "\x00" * 50,
]


@dataclass(frozen=True)
class Reply:
    """What came back: the status (0 for a connection that was closed without one) and the first bytes."""

    status: int
    head: bytes


def request_of(rng: random.Random, inside: list[Tile]) -> bytes:
    """One request, with mistakes in some of its parts."""
    path = rng.choice(FIXED)
    if rng.random() < 0.6:
        tile = rng.choice(inside)
        z, x, y = (str(part) for part in (tile.z, tile.x, tile.y))
        if rng.random() < 0.5:
            z, x, y = (rng.choice([part, part, rng.choice(ODD), str(rng.randrange(-2, 1 << 34))]) for part in (z, x, y))
        kind = rng.choice(["/tiles", "/tiles", "/tiles/map", "/tiles/confidence", "/imagery/map", "/tiles/none"])
        suffix = rng.choice([".png", ".png", ".webp", ".jpg", "@2x.png", ".gif", "", ".", ".PNG", ".png.png"])
        path = f"{kind}/{z}/{x}/{y}{suffix}"
    for _ in range(rng.choice([0, 0, 0, 1, 2])):
        at = rng.randrange(len(path) + 1)
        path = path[:at] + rng.choice(ODD) + path[at:]
    query = rng.choice(QUERIES)
    if path.startswith("/tiles") and "wait" not in query:
        query += ("&" if "?" in query else "?") + "wait=0"
    header, body = rng.choice(HEADERS), rng.choice(BODIES)
    if rng.random() < 0.5:  # without mistakes in the protocol, which end the way of a request early
        return f"GET {quote(path, safe='/%@.~-')}{query} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode()
    lines = [f"{rng.choice(METHODS)} {path}{query} HTTP/{rng.choice(['1.1'] * 40 + ['1.0', '2', '0.9', '9'])}"]
    if not header.lower().startswith("host") and rng.random() < 0.97:
        lines.append("Host: 127.0.0.1")
    if header:
        lines.append(header)
    if body and "chunked" not in header:
        lines.append(
            f"Content-Length: {rng.choice([len(body)] * 4 + [0, 'x', -1, 1 << 40, f'{len(body)}, {len(body)}'])}"
        )
    end = rng.choice(["\r\n"] * 40 + ["\n", "\r", ""])
    return ("\r\n".join([*lines, "Connection: close", "", ""])[:-2] + end + body).encode("latin-1", "replace")


def send(address: tuple[str, int], request: bytes, seconds: float = 15) -> Reply:
    """Send bytes and read what comes back. For a request that does not end, the server is told that no more comes."""
    with socket.create_connection(address, seconds) as connection:
        try:
            connection.sendall(request)
            if b"\r\n\r\n" not in request:
                connection.shutdown(socket.SHUT_WR)
            head = connection.recv(4096)
        except (OSError, TimeoutError):
            return Reply(0, b"")
    line = head.split(b"\r\n", 1)[0].split(b" ")
    return Reply(int(line[1]) if len(line) > 1 and line[1].isdigit() else 0, head)
