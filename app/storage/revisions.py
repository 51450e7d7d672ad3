"""Under which revision of its layer each tile is kept where several servers share it: in Redis and in an object store.

There nothing is ever outdated and nothing is removed when imagery changes: a tile is kept under the last revision that
has changed it, so that its name is another one from then on, and all other tiles keep theirs.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mercantile import Tile

from tilecascade.app.storage.atomic import write_atomically
from tilecascade.app.tiles.invalidation import AffectedTiles, TileRectangle
from tilecascade.app.tiles.layer import Layer, tile_of_key

MOST_STEPS = 64
"""Changes of a layer that are remembered: beyond them, older tiles are made again."""


@dataclass(frozen=True)
class Step:
    """One revision of a layer. areas: the tiles that differ from those of the revision before, by zoom; empty for the
    first one."""

    revision: str
    areas: Mapping[int, tuple[TileRectangle, ...]]

    def changes(self, tile: Tile) -> bool:
        """Whether a tile is another one since."""
        return any(tile in area for area in self.areas.get(tile.z, ()))

    def as_row(self) -> list[Any]:
        """As JSON has it."""
        return [self.revision, [list(area) for areas in self.areas.values() for area in areas]]

    @classmethod
    def of_row(cls, row: list[Any]) -> Step:
        """The inverse. Raises ValueError, TypeError or IndexError."""
        areas: dict[int, tuple[TileRectangle, ...]] = {}
        for rectangle in (TileRectangle(*map(int, numbers)) for numbers in row[1]):
            areas[rectangle.zoom] = (*areas.get(rectangle.zoom, ()), rectangle)
        return cls(str(row[0]), areas)


class Revisions:
    """The history of every layer. Thread-safe."""

    def __init__(self) -> None:
        self._steps: dict[str, tuple[Step, ...]] = {}
        self._files: dict[str, Path] = {}
        self._lock = threading.Lock()

    def begin(self, layer: Layer, file: Path) -> None:
        """A layer is served from now on. file: where its history is kept; one that leads elsewhere is not used."""
        try:
            steps = tuple(Step.of_row(row) for row in json.loads(file.read_text()))
        except (OSError, ValueError, TypeError, IndexError):
            steps = ()
        self._files[layer.folder] = file
        self._adopt(layer, steps)

    def change(self, layer: Layer, affected: AffectedTiles) -> None:
        """A layer has become this one, whose affected tiles are other ones than before."""
        areas = {zoom: tuple(rectangles) for zoom, rectangles in affected.by_zoom.items() if rectangles}
        with self._lock:
            steps = (*self._steps.get(layer.folder, ()), Step(layer.revision, areas))[-MOST_STEPS:]
            self._steps[layer.folder] = steps
        self._write(layer.folder, steps)

    def _adopt(self, layer: Layer, steps: tuple[Step, ...]) -> None:
        if not steps or steps[-1].revision != layer.revision:
            steps = (Step(layer.revision, {}),)
        with self._lock:
            self._steps[layer.folder] = steps
        self._write(layer.folder, steps)

    def rows(self, layer: Layer) -> list[list[Any]]:
        """A layer's history as JSON has it."""
        return [step.as_row() for step in self._steps.get(layer.folder, ())]

    def take(self, layer: Layer, rows: list[list[Any]]) -> None:
        """Have the history that another server has of the same revision, if it is longer."""
        steps = tuple(Step.of_row(row) for row in rows)
        if len(steps) > len(self._steps.get(layer.folder, ())):
            self._adopt(layer, steps)

    def shared_name(self, key: str) -> str:
        """The name of a key such as `map/VERSION/16/1/2.png` where servers share it: `map/REVISION/16/1/2.png`.

        A revision is of one version only.
        """
        name, version, rest = key.split("/", 2)
        tile, steps = tile_of_key(key), self._steps.get(f"{name}/{version}", ())
        if tile is None or not steps:
            return key
        step = next((step for step in reversed(steps[1:]) if step.changes(tile)), steps[0])
        return f"{name}/{step.revision}/{rest}"

    def in_use(self) -> set[str]:
        """What the names of all tiles that are served begin with."""
        with self._lock:
            return {
                f"{folder.split('/')[0]}/{step.revision}" for folder, steps in self._steps.items() for step in steps
            }

    def _write(self, folder: str, steps: tuple[Step, ...]) -> None:
        if len(steps) > 1 or self._files[folder].exists():
            write_atomically(self._files[folder], json.dumps([step.as_row() for step in steps]).encode())
