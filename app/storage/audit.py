"""The audit log: one line of JSON for every change that somebody has asked for, kept in the data directory."""

from __future__ import annotations

import json
import logging
import os
import threading
from datetime import UTC, datetime
from pathlib import Path

log = logging.getLogger(__name__)


class AuditLog:
    """Appends lines to a file. Thread-safe. A line that cannot be written goes to the server's log instead."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def write(self, **fields: object) -> None:
        """Add a line, with the time. May block."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now} | fields, ensure_ascii=True)
        with self._lock:
            try:
                handle = os.open(self._path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
                with os.fdopen(handle, "a", encoding="ascii") as file:
                    file.write(line + "\n")
            except OSError as error:
                log.error("the audit log cannot be written (%s): %s", error.strerror, line)
