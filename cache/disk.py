"""Files under a root, path = key, so that a plain web server can answer hits by itself.

Writing is atomic (temporary file in the same tree, then `os.replace`), so no reader ever sees half a file. It is not
fsynced: after a power cut a file may be short, and a short file is a miss that heals. Reading takes no lock and works
on a read-only mount.
"""

from __future__ import annotations

import logging
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

log = logging.getLogger(__name__)

TEMPORARY = ".tmp-"
PROBE_BYTES = 64 << 10
LOW_WATER = 0.9
"""Eviction stops when this share of the limit is in use."""


class DiskStore:
    """Bytes in files below `root`.

    limit: bytes kept; beyond it the files written longest ago go first. intact: tells whole contents from broken
    ones; a file it refuses is removed and counts as a miss.
    """

    name = "disk"

    def __init__(self, root: Path, limit: int, intact: Callable[[bytes], bool] = bool) -> None:
        self.root = root
        self._limit = limit
        self._intact = intact
        self._lock = threading.Lock()
        self._used = 0
        self._evicting = False

    def _place(self, key: str) -> str:
        """The path of a key as text: pathlib costs a finished tile a few percent of its time."""
        for part in key.split("/"):
            if part in ("", ".", "..") or part.startswith(TEMPORARY):
                raise ValueError(f"not a key: {key!r}")
        return f"{self.root}/{key}"

    def _path(self, key: str) -> Path:
        return Path(self._place(key))

    def get(self, key: str) -> bytes | None:
        """See Store."""
        path = self._path(key)
        try:
            value = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        if self._intact(value):
            return value
        log.warning("broken file %s: removed, will be made again", path)
        try:
            self._remove(path)
        except OSError as error:  # a read-only mount: the file stays a miss
            log.warning("cannot remove %s: %s", path, error)
        return None

    def put(self, key: str, value: bytes) -> None:
        """See Store."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{uuid.uuid4().hex}")
        try:
            temporary.write_bytes(value)
            before = path.stat().st_size if path.exists() else 0
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        with self._lock:
            self._used += len(value) - before
            full = self._used > self._limit and not self._evicting
            self._evicting = self._evicting or full
        if full:
            self._evict()

    def check(self) -> None:
        """See Store. Writes a file of the size of a tile, because an empty one fits on a full disk."""
        probe = self.root / f"{TEMPORARY}check-{os.getpid()}-{uuid.uuid4().hex}"
        try:
            probe.write_bytes(bytes(PROBE_BYTES))
        finally:
            probe.unlink(missing_ok=True)

    def stat(self, key: str) -> os.stat_result | None:
        """Of the file that holds a value; None if there is none."""
        try:
            return os.stat(self._place(key))
        except OSError:
            return None

    def purge(self, folder: str, outdated: Callable[[str], bool]) -> None:
        """See Store."""
        start = len(str(self.root)) + 1
        # all are listed before the first is removed: a listing that changes under it may skip some
        for path in [entry.path for entry in self._files(self._place(folder))]:
            if not os.path.basename(path).startswith(TEMPORARY) and outdated(path[start:]):
                self._remove(Path(path))

    def _remove(self, path: Path) -> None:
        try:
            size = path.stat().st_size
            path.unlink()
        except (FileNotFoundError, NotADirectoryError):
            return
        with self._lock:
            self._used -= size

    def _files(self, folder: str | None = None) -> Iterator[os.DirEntry[str]]:
        pending = [folder or str(self.root)]
        while pending:
            try:
                with os.scandir(pending.pop()) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            pending.append(entry.path)
                        elif entry.is_file(follow_symlinks=False):
                            yield entry
            except (FileNotFoundError, NotADirectoryError):
                continue

    def scan(self) -> tuple[int, int]:
        """Count what is there; remove left-over temporary files and broken files. Returns (files kept, removed)."""
        kept = removed = used = 0
        for entry in self._files():
            path = Path(entry.path)
            try:
                broken = entry.name.startswith(TEMPORARY) or not self._intact(path.read_bytes())
            except FileNotFoundError:
                continue
            if broken:
                path.unlink(missing_ok=True)
                removed += 1
            else:
                used += entry.stat().st_size
                kept += 1
        with self._lock:
            self._used = used
        return kept, removed

    def _evict(self) -> None:
        files = []
        for entry in self._files():
            try:
                stat = entry.stat()
            except FileNotFoundError:
                continue
            files.append((stat.st_mtime_ns, stat.st_size, entry.path))
        used = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if used <= self._limit * LOW_WATER:
                break
            Path(path).unlink(missing_ok=True)
            used -= size
        with self._lock:
            self._used = used
            self._evicting = False
