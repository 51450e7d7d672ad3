"""What the stored tiles were made from: the scenes of a layer, written down before and after each change.

The record is the journal, too: between `begin` and `finish` it names both the old and the new scenes, and whoever
starts next finishes the purge between the two before anything is served.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from app.imagery import Scene


@dataclass(frozen=True)
class Record:
    """scenes: what the stored tiles were made from; pending: what a purge that has not ended makes of it."""

    scenes: list[Scene]
    pending: list[Scene] | None = None


class Registry:
    """The record of one layer's tiles, in a file that survives a power cut."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Record | None:
        """The record; None if there is none. Raises ValueError for a file that is none of ours."""
        try:
            data = json.loads(self._path.read_text())
        except FileNotFoundError:
            return None
        try:
            pending = data["pending"]
            return Record(scenes_from(data["scenes"]), None if pending is None else scenes_from(pending))
        except (KeyError, TypeError) as error:
            raise ValueError(f"{self._path} is not a record of scenes: {error}") from None

    def begin(self, old: Sequence[Scene], new: Sequence[Scene]) -> None:
        """Before the first old tile is removed."""
        self._write(Record(list(old), list(new)))

    def finish(self, scenes: Sequence[Scene]) -> None:
        """After the last one."""
        self._write(Record(list(scenes)))

    def _write(self, record: Record) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._path.with_name(f".{self._path.name}-{os.getpid()}")
        with fresh.open("w") as file:
            json.dump(asdict(record), file, default=str, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def scenes_from(rows: list[dict[str, object]]) -> list[Scene]:
    """Scenes as `asdict` and JSON leave them."""
    return [Scene(**_tuples(row)) for row in rows]  # type: ignore[arg-type]


def _tuples(row: dict[str, object]) -> dict[str, object]:
    """JSON has no tuples and no paths."""
    out: dict[str, object] = {k: _tuple(v) for k, v in row.items()}
    return out | {"path": Path(str(row["path"]))}


def _tuple(value: object) -> object:
    return tuple(_tuple(part) for part in value) if isinstance(value, list) else value
