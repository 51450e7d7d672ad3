"""One server owns a data directory: what one changes about its scenes, another one would not know."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from pathlib import Path

from tilecascade.app.errors import SettingsError

LOCK_FILE = "server.lock"


class Ownership:
    """The lock of a data directory, from construction to `release` or the end of the process, however that ends.

    Raises SettingsError if another process has it. Of a read-only directory there is no owner, because nothing changes.
    """

    def __init__(self, data_dir: Path) -> None:
        self._handle: int | None = None
        path = data_dir / LOCK_FILE
        try:
            handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        except OSError:
            return
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise SettingsError(
                f"data directory {data_dir} is in use by {_described(path)}; stop that server, or give this one a "
                "directory of its own (--data-dir) and, to share finished tiles, the same Redis"
            ) from None
        except OSError:  # a file system without locks
            os.close(handle)
            return
        os.truncate(handle, 0)
        os.write(handle, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
        self._handle = handle

    def release(self) -> None:
        """Let another process have it."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def _described(path: Path) -> str:
    try:
        owner = json.loads(path.read_text())
        return f"process {owner['pid']} on {owner['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
