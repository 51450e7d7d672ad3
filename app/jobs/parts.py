"""A job that all servers of a group work on: its area is cut into parts, which wait in a stream in Redis.

Whoever is free takes the next part; one whose server has died is taken over by another. What is done is counted in the
same moment in which the part is ticked off, so that a job of a million tiles is a thousand short entries, and nothing
of it is lost when a server or the whole group stops. (Only Redis itself must not lose its memory: then the job begins
again, with all that is stored.)
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import mercantile
from mercantile import Tile

from tilecascade.app.jobs.area import EDGE, Area
from tilecascade.app.jobs.job import Order
from tilecascade.cache.redis import RedisClient

PART_LEVELS = 5
"""Zooms that a part has below its topmost tile: at most 4^5 tiles of the last one."""

IDLE_MILLISECONDS = 60_000
"""A part of which nobody has said for so long that he works on it is taken by another server."""

COUNTED = ("finished", "generated", "without_imagery", "failed")
"""What is counted of the tiles of a part."""

_DONE = (
    "if redis.call('xack',KEYS[1],'servers',ARGV[1])==0 then return 0 end redis.call('xdel',KEYS[1],ARGV[1]) "
    "for i=2,#ARGV,2 do redis.call('hincrby',KEYS[2],ARGV[i],ARGV[i+1]) end "
    "return redis.call('hincrby',KEYS[2],'done',1)"
)


@dataclass(frozen=True)
class Part:
    """A part of a job. entry: its place in the stream."""

    entry: str
    job: str
    order: Order


def cut(order: Order) -> Iterator[Order]:
    """An order in parts, coarse zooms first: all of its tiles, each once."""
    first, last = order.zooms
    bottoms = range(last, first - 1, -PART_LEVELS - 1)
    for bottom in reversed(bottoms):  # so that the parts of the last zooms, which are most of the work, are whole
        top = max(first, bottom - PART_LEVELS)
        for tile in order.area.tiles(top):
            yield replace(order, area=_within(order.area, tile), zooms=(top, bottom))


def _within(area: Area, tile: Tile) -> Area:
    """The part of an area that lies in a tile, without its edges: a neighbour only touches them."""
    west, south, east, north = mercantile.bounds(tile)
    inside = area.clipped((west + EDGE, south, east, north - EDGE))
    assert inside is not None  # it is one of the area's tiles
    return inside


class Parts:
    """The parts of a group's jobs. Thread-safe; every method may block, and raises redis errors.

    name: of the group. me: names this server.
    """

    def __init__(self, client: RedisClient, name: str, me: str) -> None:
        self._client, self._me = client, me
        self._stream, self._prefix = f"group:{{{name}}}:parts", f"group:{{{name}}}:job:"

    def begin(self, job: str, order: Order) -> int:
        """Put the parts of a job into the stream, unless that has been done; returns how many there are."""
        record, total = self._prefix + job, 0
        known = self._client.call("HGET", record, "parts")
        if isinstance(known, bytes):
            return int(known)
        for part in cut(order):
            text = json.dumps({"job": job, "order": asdict(part)})
            self._client.call("XADD", self._stream, "*", "part", text)
            total += 1
        self._client.call("HSET", record, "parts", str(total))
        return total

    def take(self) -> Part | None:
        """The next part, or one whose server has died; None if there is none."""
        self._ensure_group()
        claimed: Any = self._client.call(
            "XAUTOCLAIM", self._stream, "servers", self._me, str(IDLE_MILLISECONDS), "0", "COUNT", "1"
        )
        entries = [entry for entry in claimed[1] if entry[1]]
        if not entries:
            read: Any = self._client.call(
                "XREADGROUP", "GROUP", "servers", self._me, "COUNT", "1", "STREAMS", self._stream, ">"
            )
            entries = read[0][1] if read else []
        if not entries:
            return None
        entry, fields = entries[0]
        said = json.loads(fields[b"part"])
        area = Area(tuple(said["order"]["area"]["bounds"]), tuple(said["order"]["area"]["polygons"]))
        order = Order(**said["order"] | {"area": area, "zooms": tuple(said["order"]["zooms"])})
        return Part(entry.decode(), said["job"], order)

    def still(self, part: Part) -> None:
        """Say that this server works on a part."""
        self._client.call("XCLAIM", self._stream, "servers", self._me, "0", part.entry)

    def done(self, part: Part, counts: dict[str, int]) -> None:
        """Tick a part off, and count its tiles; once, however often it is called."""
        numbers = [text for name in COUNTED for text in (name, str(counts.get(name, 0)))]
        self._client.call("EVAL", _DONE, 2, self._stream, self._prefix + part.job, part.entry, *numbers)

    def progress(self, job: str) -> dict[str, int]:
        """What is counted of a job, and its `done` parts of all `parts`; all 0 if nothing is known of it."""
        names = (*COUNTED, "done", "parts")
        values: Any = self._client.call("HMGET", self._prefix + job, *names)
        return {name: int(value or 0) for name, value in zip(names, values, strict=True)}

    def publish(self, job: str, said: str) -> None:
        """Let the other servers show a job."""
        self._client.call("HSET", self._prefix + "all", job, said)

    def published(self) -> dict[str, str]:
        """What servers let others show, by job."""
        rows: Any = self._client.call("HGETALL", self._prefix + "all")
        pairs = rows.items() if isinstance(rows, dict) else zip(rows[::2], rows[1::2], strict=True)
        return {job.decode(): said.decode() for job, said in pairs}

    def cancel(self, job: str) -> None:
        """Ask the server that has a job to end it."""
        self._client.call("HSET", self._prefix + job, "cancelled", "1")

    def cancelled(self, job: str) -> bool:
        """Whether another server has been asked to end a job."""
        return self._client.call("HGET", self._prefix + job, "cancelled") is not None

    def drop(self, part: Part) -> None:
        """Take a part off the stream that nobody wants any more."""
        self._client.call("XACK", self._stream, "servers", part.entry)
        self._client.call("XDEL", self._stream, part.entry)

    def forget(self, job: str) -> None:
        """A job has ended, or is cancelled: its parts are taken off the stream."""
        read: Any = self._client.call("XRANGE", self._stream, "-", "+")
        for entry, fields in read:
            if json.loads(fields[b"part"])["job"] == job:
                self._client.call("XACK", self._stream, "servers", entry)
                self._client.call("XDEL", self._stream, entry)
        self._client.call("DEL", self._prefix + job)

    def wanted(self, part: Part) -> bool:
        """Whether a part's job has not been cancelled meanwhile."""
        return self._client.call("EXISTS", self._prefix + part.job) == 1

    def _ensure_group(self) -> None:
        if not self._client.call("EXISTS", self._stream) or not self._groups():
            self._client.call("XGROUP", "CREATE", self._stream, "servers", "0", "MKSTREAM")

    def _groups(self) -> Any:
        return self._client.call("XINFO", "GROUPS", self._stream)
