"""Replacing a file as a whole: readers see the old content or the new one, never a part."""

from __future__ import annotations

import errno
import os
import uuid
from contextlib import suppress
from pathlib import Path

from tilecascade.app.errors import StorageError


def write_atomically(path: Path, data: bytes, sync: bool = True, mode: int = 0o666) -> None:
    """Replace a file, and make its folder if need be. Raises StorageError.

    sync: the content and the file's name survive a power cut once this returns. Without it, a power cut may leave the
    old file or an empty one. mode: of the file, less what the process's umask takes away.
    """
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode), "wb") as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
        if sync:
            sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise StorageError(f"{path.name} cannot be written: {reason(error)}") from error


def reason(error: OSError) -> str:
    """What an error of the disk means for people."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; make room, or set TILECASCADE_DISK_BYTES lower"
    if error.errno == errno.EROFS:
        return "the disk is read-only"
    return (error.strerror or type(error).__name__).lower()


def sync_folder(folder: Path) -> None:
    """Make the names of a folder's files survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
