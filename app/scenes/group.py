"""Servers that show the same layers change them together, by way of the Redis that they share.

What has been changed about a layer, its scenes, reviews and areas, is one numbered record in Redis. A server changes
the record under a lease, and all others follow: they are told at once, and they look every two seconds, so that no
message can be missed for longer. One that Redis cannot reach goes on with what it has, and follows afterwards; it is
only its layers that cannot be changed meanwhile, because two changes must not be made without knowing of each other.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

import redis

from tilecascade.app.errors import NotReadyError, PurgeError
from tilecascade.app.jobs.parts import Parts
from tilecascade.app.settings import DataDir
from tilecascade.app.storage.atomic import write_atomically
from tilecascade.cache.lease import RedisLeases, Release
from tilecascade.cache.redis import RedisClient

log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
"""Time between two looks at the records, if no message comes."""

ALIVE_SECONDS = 8
"""A server that has not been heard of for so long is not waited for."""

FOLLOW_SECONDS = 10.0
"""How long a change waits for the other servers to follow."""

TURN_SECONDS = 30.0
"""How long a change waits for another server's."""

_WRITE = (
    "if (redis.call('hget',KEYS[1],'number') or '0')~=ARGV[1] then return 0 end "
    "redis.call('hset',KEYS[1],'number',ARGV[2],'state',ARGV[3]) redis.call('publish',ARGV[4],ARGV[5]) return 1"
)


@dataclass(frozen=True)
class State:
    """What has been changed about a layer since the configuration.

    scenes, reviews, areas: the files that say so; None where nothing has been changed. revisions: the history of the
    layer and of its imagery's, by folder (see `app.storage.revisions`).
    """

    scenes: str | None
    reviews: str | None
    areas: str | None
    revisions: dict[str, list[Any]]


def files_of(data_dir: DataDir, layer: str) -> dict[str, Any]:
    """Where the parts of a layer's state are, by their names."""
    return {"scenes": data_dir.scene_set(layer), "reviews": data_dir.reviews(layer), "areas": data_dir.areas(layer)}


def state_of(data_dir: DataDir, layer: str, revisions: dict[str, list[Any]]) -> State:
    """A layer's state as its files have it. May block."""
    texts = {}
    for part, path in files_of(data_dir, layer).items():
        with suppress(FileNotFoundError):
            texts[part] = path.read_text()
    return State(texts.get("scenes"), texts.get("reviews"), texts.get("areas"), revisions)


class Group:
    """This server in its group. Thread-safe.

    numbers: the last change of each layer that has been made here.
    """

    def __init__(self, client: RedisClient, name: str) -> None:
        self._client, self._name = client, name
        self._id = uuid.uuid4().hex[:12]
        self._leases = RedisLeases(client, f"group:{{{name}}}:turn:")
        self._closing = threading.Event()
        self._watcher: threading.Thread | None = None
        self.numbers: dict[str, int] = {}

    def parts(self) -> Parts:
        """The group's jobs."""
        return Parts(self._client, self._name, self._id)

    def _record(self, layer: str) -> str:
        return f"group:{{{self._name}}}:layer:{layer}"

    @property
    def _channel(self) -> str:
        return f"group:{{{self._name}}}:changes"

    def newer(self, layer: str) -> tuple[int, State] | None:
        """A layer's record, if its number is another one than that of the last change made here.

        If there is no record, because Redis has lost its memory, the number here counts no more. Raises redis errors.
        """
        number, state = self._call("HMGET", self._record(layer), "number", "state")
        if number is None:
            self.numbers.pop(layer, None)
            return None
        if int(number) == self.numbers.get(layer, 0):
            return None
        return int(number), State(**json.loads(state))

    def write(self, layer: str, state: State) -> None:
        """Write a layer's record after a change, and tell the others. Raises redis errors, or NotReadyError if another
        server has changed it meanwhile."""
        before = self.numbers.get(layer, 0)
        text = json.dumps(asdict(state))
        record = self._record(layer)
        done = self._call("EVAL", _WRITE, 1, record, str(before), str(before + 1), text, self._channel, layer)
        if not done:
            raise NotReadyError("another server has changed this layer at the same time; ask again")
        self.numbers[layer] = before + 1

    def count(self, what: str) -> None:
        """Tell the others that something has changed which is no layer's, and wait until they have made it."""
        try:
            self.numbers[what] = int(self._call("HINCRBY", self._record(what), "number", 1))
            self._call("PUBLISH", self._channel, what)
        except redis.RedisError as error:  # they look by themselves, too
            log.warning("%s: the change is not known to the group yet: %s", what, error)
        self.wait_for_others(what)

    def counted(self, what: str) -> int:
        """How often something has changed which is no layer's. Raises redis errors."""
        return int(self._call("HGET", self._record(what), "number") or 0)

    def forget(self, layer: str) -> None:
        """Remove the record of a layer that there is no more. Raises redis errors."""
        self.numbers.pop(layer, None)
        self._call("DEL", self._record(layer))

    def turn(self, layer: str) -> Release:
        """Wait until no other server changes a layer. Raises NotReadyError."""
        deadline = time.monotonic() + TURN_SECONDS
        try:
            while time.monotonic() < deadline:
                release = self._leases.acquire(layer)
                if release is not None:
                    return release
                time.sleep(0.1)
        except redis.RedisError:
            raise NotReadyError(
                "the Redis of this group of servers does not answer, so the others would not learn of a change; "
                "try again when it does"
            ) from None
        raise NotReadyError("another server is changing this layer; try again in a moment")

    def wait_for_others(self, layer: str) -> None:
        """Until all servers that are alive have made a layer's last change; at most FOLLOW_SECONDS."""
        wanted, deadline = self.numbers.get(layer, 0), time.monotonic() + FOLLOW_SECONDS
        with suppress(redis.RedisError):
            while time.monotonic() < deadline:
                if all(numbers.get(layer, 0) >= wanted for numbers in self._members()):
                    return
                time.sleep(0.05)
        log.warning("layer %s: not all servers of the group have followed yet", layer)

    def _members(self) -> list[dict[str, int]]:
        """What the other servers have made, of those that are alive."""
        names = [member for member in self._call("SMEMBERS", f"group:{{{self._name}}}:members") if member != self._id]
        return [json.loads(said) for name in names if (said := self._call("GET", self._member(name))) is not None]

    def _member(self, name: str) -> str:
        return f"group:{{{self._name}}}:member:{name}"

    def announce(self) -> None:
        """Say that this server is alive, and what it has made. Raises redis errors."""
        self._call("SADD", f"group:{{{self._name}}}:members", self._id)
        self._call("SET", self._member(self._id), json.dumps(self.numbers), "EX", ALIVE_SECONDS)

    def watch(self, look: Callable[[], None]) -> None:
        """Call `look` in a thread of its own whenever a layer may have changed."""
        self._watcher = threading.Thread(target=self._watch, args=(look,), name="group", daemon=True)
        self._watcher.start()

    def _watch(self, look: Callable[[], None]) -> None:
        while not self._closing.is_set():
            try:
                with self._client.subscription(self._channel) as messages:
                    while not self._closing.is_set():
                        look()
                        self.announce()
                        messages.get_message(timeout=LOOK_SECONDS)
            except (redis.RedisError, OSError) as error:
                if self._closing.is_set():
                    return
                log.warning("the group's Redis does not answer, layers stay as they are: %s", error)
                self._closing.wait(LOOK_SECONDS)
            except Exception:  # such as a file that cannot be written: it is tried again
                log.exception("what the group has changed cannot be made here")
                self._closing.wait(LOOK_SECONDS)

    def close(self) -> None:
        """Leave the group."""
        self._closing.set()
        self._leases.close()
        with suppress(redis.RedisError):
            self._call("SREM", f"group:{{{self._name}}}:members", self._id)

    def _call(self, *command: str | bytes | int) -> Any:
        answer = self._client.call(*command)
        return _text(answer)


def _text(answer: object) -> Any:
    if isinstance(answer, bytes):
        return answer.decode()
    return [_text(each) for each in answer] if isinstance(answer, (list, set, tuple)) else answer


@contextmanager
def answering() -> Iterator[None]:
    """Raises NotReadyError in the place of redis errors."""
    try:
        yield
    except redis.RedisError:
        raise NotReadyError("the Redis of this group of servers does not answer; try again when it does") from None


def take_over(group: Group, data_dir: DataDir, layers: Iterable[str]) -> dict[str, State]:
    """Before the layers are opened: have the state of the group's in the data directory. May block.

    Returns the states, by layer. A Redis that does not answer is no reason not to start.
    """
    found = {}
    try:
        for layer in layers:
            newer = group.newer(layer)
            if newer is None:
                continue
            group.numbers[layer], state = newer
            for part, path in files_of(data_dir, layer).items():
                text = getattr(state, part)
                if text is not None:
                    write_atomically(path, text.encode())
                else:
                    path.unlink(missing_ok=True)
            found[layer] = state
    except redis.RedisError as error:
        log.warning("the group's Redis does not answer, layers are as they were here: %s", error)
    return found


@asynccontextmanager
async def together(
    group: Group | None,
    layer: str,
    changing: asyncio.Lock,
    follow: Callable[[str], Awaitable[None]],
    state: Callable[[str], State],
) -> AsyncIterator[None]:
    """A change of a layer that the other servers of the group make, too: after what they have changed before, and told
    to them at its end. changing: held while it is made, but not while others are waited for, because these may wait for
    this server to follow. follow: makes what is newer. state: gives what there is after the change.

    Raises NotReadyError if the group cannot be reached: nothing has been changed then.
    """
    if group is None:
        async with changing:
            yield
        return
    release = await asyncio.to_thread(group.turn, layer)
    try:
        problem: PurgeError | None = None
        async with changing:
            await follow(layer)
            try:
                yield
            except PurgeError as error:  # it is made all the same
                problem = error
        await asyncio.to_thread(_tell, group, layer, state)
        if problem is not None:
            raise problem
    finally:
        await asyncio.to_thread(release)


def _tell(group: Group, layer: str, state: Callable[[str], State]) -> None:
    for _ in range(int(TURN_SECONDS)):
        try:
            group.write(layer, state(layer))
            break
        except redis.RedisError as error:
            log.warning("layer %s: the change is not known to the group yet: %s", layer, error)
            time.sleep(1.0)
    else:
        raise NotReadyError("the change was made here, but the other servers could not be told; make it once more")
    group.wait_for_others(layer)
