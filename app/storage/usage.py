"""How many tiles were generated for each key today, in a file, so that a restart does not give them once more."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from tilecascade.app.errors import StorageError
from tilecascade.app.storage.atomic import write_atomically


class Usage:
    """Counts of one day, in UTC. For one thread; the file is written by another, in order, because a disk may be slow.

    A power cut may lose the last counts, and a disk that cannot be written all of them: quotas are no security.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="usage")
        self._day, self._used = "", dict[str, int]()
        with suppress(OSError, ValueError, KeyError, TypeError):
            kept = json.loads(path.read_text())
            self._day, self._used = str(kept["day"]), {str(name): int(count) for name, count in kept["used"].items()}

    def today(self, name: str, day: str) -> int:
        """What a key has used on a day; what was used on others is forgotten."""
        if day != self._day:
            self._day, self._used = day, {}
        return self._used.get(name, 0)

    def add(self, name: str, day: str, tiles: int) -> None:
        """Count tiles."""
        self._used[name] = self.today(name, day) + tiles
        self._writer.submit(self._write, json.dumps({"day": self._day, "used": self._used}).encode())

    def _write(self, data: bytes) -> None:
        with suppress(StorageError):
            write_atomically(self._path, data, sync=False)

    def close(self) -> None:
        """Wait for the last write."""
        self._writer.shutdown()
