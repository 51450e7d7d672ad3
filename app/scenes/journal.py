"""What the stored tiles of a layer were made from: its scenes, its areas and its reviews, written down before and after
each change.

From `begin` until `finish` a journal names the old ones and the new ones; further changes in between add theirs.
Whoever starts next finishes removing the tiles that differ between any of them and what is there at that time before
anything is served.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from tilecascade.app.errors import BadRequestError
from tilecascade.app.sources.areas import Area, area_of
from tilecascade.app.sources.scene import Scene
from tilecascade.app.storage.atomic import write_atomically
from tilecascade.app.tiles.reviews import Review, review_of

Item = TypeVar("Item")
Row = dict[str, Any]


@dataclass(frozen=True)
class Entry(Generic[Item]):
    """items: what the stored tiles were made from. pending: the items of each change since whose outdated tiles may not
    all have been removed, the oldest first."""

    items: list[Item]
    pending: list[list[Item]] = field(default_factory=list)


class Journal(Generic[Item]):
    """A journal of one kind of items, in a file that survives a power cut.

    kind: what the file calls them. write, read: an item as JSON, and back; `read` raises KeyError, TypeError or
    ValueError.
    """

    def __init__(self, path: Path, kind: str, write: Callable[[Item], Row], read: Callable[[Row], Item]) -> None:
        self._path, self._kind = path, kind
        self._to_row, self._from_row = write, read

    def read(self) -> Entry[Item] | None:
        """The last entry; None if there is no file. Raises ValueError if the file is not a journal."""
        try:
            data = json.loads(self._path.read_text())
        except FileNotFoundError:
            return None
        try:
            pending = data["pending"] or []
            if pending and isinstance(pending[0], dict):  # version 0.1 names the scenes of one change
                pending = [pending]
            items, *changes = ([self._from_row(row) for row in rows] for rows in (data[self._kind], *pending))
            return Entry(items, changes)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{self._path} is not a record of {self._kind}: {error}") from None

    def begin(self, old: Sequence[Item], new: Sequence[Item]) -> None:
        """To be called before the first outdated tile is removed.

        old: the items until now. They are recorded only if no earlier change is unfinished. Raises ValueError like
        `read`.
        """
        entry = self.read() or Entry(list(old))
        if entry.pending:
            self._write(Entry(entry.items, [*entry.pending, list(new)]))
        else:
            self._write(Entry(list(old), [list(new)]))

    def finish(self, items: Sequence[Item]) -> None:
        """To be called after the last one is removed."""
        self._write(Entry(list(items)))

    def _write(self, entry: Entry[Item]) -> None:
        items, *pending = ([self._to_row(item) for item in some] for some in (entry.items, *entry.pending))
        text = json.dumps({self._kind: items, "pending": pending}, default=str, indent=1)
        write_atomically(self._path, text.encode())


RENAMED = {"taken": "acquired", "black_is_missing": "black_is_nodata"}
"""Fields of a scene that files of version 0.1 have under another name."""


def scene_of(row: Row) -> Scene:
    """A scene as `asdict` and JSON leave it: without tuples and paths. Raises TypeError for anything else."""
    fields: Row = {RENAMED.get(name, name): _tuple(value) for name, value in row.items()}
    return Scene(**fields | {"path": Path(str(row["path"]))})


def _tuple(value: object) -> object:
    return tuple(_tuple(part) for part in value) if isinstance(value, list) else value


def scene_journal(path: Path) -> Journal[Scene]:
    """The journal of the scenes that a layer's stored tiles were made from."""
    return Journal(path, "scenes", asdict, scene_of)


def area_journal(path: Path) -> Journal[Area]:
    """The journal of the areas that a layer's stored tiles were made with."""
    return Journal(path, "areas", Area.feature, _remembered)


def _remembered(row: Row) -> Area:
    """An area of a journal: where it was, if what was said of it is refused by now, so that its tiles are removed."""
    try:
        return area_of(row)
    except BadRequestError:
        return Area(row["geometry"], {})


def review_journal(path: Path) -> Journal[Review]:
    """The journal of the reviews that are in a layer's stored tiles."""
    return Journal(path, "reviews", Review.feature, review_of)
