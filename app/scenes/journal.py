"""What the stored tiles of a layer were made from: its scenes, written down before and after each change.

From `begin` until `finish` the journal names the old scenes and the new ones; further changes in between add theirs.
Whoever starts next finishes removing the tiles that differ between any of them and the scenes of that time before
anything is served.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tilecascade.app.sources.scene import Scene
from tilecascade.app.storage.atomic import write_atomically


@dataclass(frozen=True)
class Entry:
    """scenes: what the stored tiles were made from. pending: the scenes of each change since whose outdated tiles may
    not all have been removed, the oldest first."""

    scenes: list[Scene]
    pending: list[list[Scene]] = field(default_factory=list)


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
            pending = data["pending"] or []
            if pending and isinstance(pending[0], dict):  # version 0.1 names the scenes of one change
                pending = [pending]
            return Entry(scenes_from(data["scenes"]), [scenes_from(change) for change in pending])
        except (KeyError, TypeError) as error:
            raise ValueError(f"{self._path} is not a record of scenes: {error}") from None

    def begin(self, old: Sequence[Scene], new: Sequence[Scene]) -> None:
        """To be called before the first outdated tile is removed.

        old: the scenes until now. They are recorded only if no earlier change is unfinished. Raises ValueError like
        `read`.
        """
        entry = self.read() or Entry(list(old))
        if entry.pending:
            self._write(Entry(entry.scenes, [*entry.pending, list(new)]))
        else:
            self._write(Entry(list(old), [list(new)]))

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
