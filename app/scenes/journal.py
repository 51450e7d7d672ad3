"""What the stored tiles of a layer were made from: its scenes, written down before and after each change.

Between `begin` and `finish` the journal names both the old and the new scenes. Whoever starts next finishes removing
the tiles that differ between the two before anything is served.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tilecascade.app.sources.scene import Scene
from tilecascade.app.storage.atomic import write_atomically


@dataclass(frozen=True)
class Entry:
    """scenes: what the stored tiles were made from. pending: the scenes of a change that has not ended."""

    scenes: list[Scene]
    pending: list[Scene] | None = None


class SceneJournal:
    """The journal of one layer's tiles, in a file that survives a power cut."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Entry | None:
        """The last entry; None if there is no file. Raises ValueError if the file is not a journal."""
        try:
            data = json.loads(self._path.read_text())
        except FileNotFoundError:
            return None
        try:
            pending = data["pending"]
            return Entry(scenes_from(data["scenes"]), None if pending is None else scenes_from(pending))
        except (KeyError, TypeError) as error:
            raise ValueError(f"{self._path} is not a record of scenes: {error}") from None

    def begin(self, old: Sequence[Scene], new: Sequence[Scene]) -> None:
        """To be called before the first outdated tile is removed."""
        self._write(Entry(list(old), list(new)))

    def finish(self, scenes: Sequence[Scene]) -> None:
        """To be called after the last one is removed."""
        self._write(Entry(list(scenes)))

    def _write(self, entry: Entry) -> None:
        write_atomically(self._path, json.dumps(asdict(entry), default=str, indent=1).encode())


RENAMED = {"taken": "acquired", "black_is_missing": "black_is_nodata"}
"""Fields of a scene that files of version 0.1 have under another name."""


def scenes_from(rows: list[dict[str, object]]) -> list[Scene]:
    """Scenes as `asdict` and JSON leave them: without tuples and paths. Raises TypeError for anything else."""
    scenes = []
    for row in rows:
        fields = {RENAMED.get(name, name): _tuple(value) for name, value in row.items()}
        scenes.append(Scene(**fields | {"path": Path(str(row["path"]))}))  # type: ignore[arg-type]
    return scenes


def _tuple(value: object) -> object:
    return tuple(_tuple(part) for part in value) if isinstance(value, list) else value
