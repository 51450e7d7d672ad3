"""The scenes that were added, hidden and ordered since the configuration was written."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from tilecascade.app.errors import ImageryUnavailableError, SceneError
from tilecascade.app.scenes.journal import scene_of
from tilecascade.app.sources.mosaic import newest_first
from tilecascade.app.sources.scene import Scene
from tilecascade.app.storage.atomic import write_atomically

log = logging.getLogger(__name__)


@dataclass
class SceneSet:
    """Scenes added, hidden and ordered by hand, in a file that survives a power cut. Immutable in use: changes are
    copies.

    path: of the file. added: scenes beside the configured ones. hidden: ids that are not shown. order: ids, topmost
    first; empty for the newest first.
    """

    path: Path
    added: list[Scene] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    order: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> SceneSet:
        """The set in a file; an empty one if there is none. Raises SceneError for a file that is none of ours."""
        try:
            data = json.loads(path.read_text())
            return cls(path, [scene_of(row) for row in data["added"]], list(data["hidden"]), list(data["order"]))
        except FileNotFoundError:
            return cls(path)
        except (ValueError, KeyError, TypeError) as error:
            raise SceneError(f"{path} is not a set of scenes: {error}") from None

    def verified(self) -> SceneSet:
        """With the stamps of all added files that still are what was added; reads them whole."""
        scenes = []
        for scene in self.added:
            try:
                scenes.append(scene.verified())
            except ImageryUnavailableError as error:
                log.warning("%s", error)
                scenes.append(replace(scene, stamp=()))
        return replace(self, added=scenes)

    def write(self) -> None:
        """Replace the file."""
        data = {"added": [asdict(scene) for scene in self.added], "hidden": self.hidden, "order": self.order}
        write_atomically(self.path, json.dumps(data, default=str, indent=1).encode())

    def effective(self, configured: Sequence[Scene]) -> list[Scene]:
        """The scenes shown, topmost first: as ordered by hand, else newest first.

        A scene whose file is gone or has changed is one of them: its tiles stay what they are, and new ones are refused
        until the file is back or the scene is removed.
        """
        scenes = {scene.id: scene for scene in (*configured, *self.added) if scene.id not in self.hidden}
        place = {id: index for index, id in enumerate(self.order)}
        newest = newest_first(list(scenes.values()))
        return sorted(newest, key=lambda scene: place.get(scene.id, -1 if not place else len(place)))

    def add(self, scene: Scene) -> SceneSet:
        """With one more scene, or a hidden one shown again; by hand ordered ones stay below a new one."""
        order = [scene.id, *(id for id in self.order if id != scene.id)] if self.order else []
        return replace(
            self,
            added=[*(s for s in self.added if s.id != scene.id), scene],
            hidden=[id for id in self.hidden if id != scene.id],
            order=order,
        )

    def remove(self, id: str) -> SceneSet:
        """Without a scene."""
        return replace(
            self,
            added=[scene for scene in self.added if scene.id != id],
            hidden=[*self.hidden, id],
            order=[other for other in self.order if other != id],
        )
