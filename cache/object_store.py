"""An object store (S3, Google Cloud Storage, Azure, a folder) as a tier that several servers share.

An object is written once: whoever is first wins, without a lock. It never changes afterwards, because its name has the
revision of what it was made from, so that a web server or a CDN may keep it for ever.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import from_url

log = logging.getLogger(__name__)

TIMEOUT = timedelta(seconds=5)
"""How long one call may take."""

PAUSE = 2.0
"""Seconds for which a store that does not answer is not asked again."""

TYPES = {".png": "image/png", ".webp": "image/webp", ".jpg": "image/jpeg"}
"""Content types by the end of a key."""

FOR_EVER = "public, max-age=31536000, immutable"


class ObjectStore:
    """Bytes in objects. Thread-safe.

    url: s3://, gs://, az:// or file:// with a bucket and a prefix; keys and endpoint come from the environment as the
    provider's own tools have it (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL and so on). placed: gives the name of a key's
    object, which must change when its bytes do. intact: tells whole contents from broken ones; a broken object is
    deleted and counts as a miss. Raises ValueError for an address that is none.
    """

    name = "object store"

    def __init__(self, url: str, placed: Callable[[str], str] = str, intact: Callable[[bytes], bool] = bool) -> None:
        options: dict[str, Any] = {}
        if not url.startswith("file:"):
            options["client_options"] = {"timeout": TIMEOUT, "connect_timeout": TIMEOUT / 2, "allow_http": True}
            options["retry_config"] = {"max_retries": 1, "retry_timeout": TIMEOUT}
        else:
            options["mkdir"] = True
        try:
            self._store = from_url(url, **options)
        except BaseError as error:
            raise ValueError(_first_line(error)) from None
        self._attributes = not url.startswith("file:")
        self._placed, self._intact = placed, intact
        self._unavailable_until = 0.0

    def get(self, key: str) -> bytes | None:
        """See Store."""
        name = self._placed(key)
        try:
            value = bytes(self._asked(obstore.get, name).bytes())
        except FileNotFoundError:
            return None
        if self._intact(value):
            return value
        log.warning("broken object %s: deleted, will be made again", name)
        self._asked(obstore.delete, name)
        return None

    def put(self, key: str, value: bytes) -> bytes | None:
        """See Store. What was there before stays, and is returned."""
        name = self._placed(key)
        attributes = {"Content-Type": TYPES.get(name[name.rfind(".") :], "application/octet-stream")}
        more = {"attributes": attributes | {"Cache-Control": FOR_EVER}} if self._attributes else {}
        try:
            self._asked(obstore.put, name, value, mode="create", **more)
        except FileExistsError:
            return self.get(key)
        return None

    def purge(self, folder: str, outdated: Callable[[str], bool]) -> None:
        """See Store. Does nothing, so that no bucket is listed: what is changed has another name from then on."""

    def check(self) -> None:
        """See Store."""
        with suppress(FileNotFoundError):
            self._asked(obstore.head, ".check")

    def groups(self, depth: int) -> Iterator[str]:
        """The prefixes of so many parts that objects have, such as `map/1a2b3c` for two."""
        found = [""]
        for _ in range(depth):
            listed = [self._asked(obstore.list_with_delimiter, outer) for outer in found]
            found = [inner for each in listed for inner in each["common_prefixes"]]
        yield from found

    def newest(self, prefix: str) -> datetime:
        """When the newest object below a prefix was written. Lists them all."""
        return max((each["last_modified"] for each in self._all(prefix)), default=datetime.now(UTC))

    def remove(self, prefix: str) -> int:
        """Delete all objects below a prefix; returns how many there were."""
        paths = [each["path"] for each in self._all(prefix)]
        self._asked(obstore.delete, paths)
        return len(paths)

    def _all(self, prefix: str) -> Iterator[Any]:
        for chunk in self._asked(obstore.list, prefix):
            yield from chunk

    def _asked(self, call: Callable[..., Any], *arguments: object, **options: object) -> Any:
        """What the store answers. Raises FileNotFoundError, FileExistsError, or another OSError when it does not work:
        then every call fails at once for PAUSE seconds."""
        if time.monotonic() < self._unavailable_until:
            raise OSError("the object store failed a moment ago and is left alone")
        try:
            return call(self._store, *arguments, **options)
        except AlreadyExistsError:
            raise FileExistsError from None
        except FileNotFoundError:
            raise
        except (BaseError, OSError) as error:
            self._unavailable_until = time.monotonic() + PAUSE
            raise OSError(_first_line(error)) from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
