"""What other programs see of the layers: links below the tile directory for web servers, facts for workers."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from app.hits import write_facts
from app.layer import Layer

CURRENT = "current"
"""Name of the link in a layer's directory to the version that is served."""

FACTS_FILE = "layers.json"


class Published:
    """Links in `tiles`, and FACTS_FILE in `workers` if there are worker processes."""

    def __init__(self, tiles: Path, workers: Path | None) -> None:
        self._tiles = tiles
        self._workers = workers

    def point(self, layer: Layer) -> None:
        """Aim <layer>/current and <layer>/<revision> at the version served, for web servers that answer hits.

        Each atomically. What the address of a superseded revision shows, they must ask.
        """
        folder = self._tiles / layer.name
        folder.mkdir(parents=True, exist_ok=True)
        for link in folder.iterdir():
            if link.is_symlink() and link.name not in (CURRENT, layer.revision):
                link.unlink(missing_ok=True)
        for name in (CURRENT, layer.revision):
            fresh = folder / f".{name}-{os.getpid()}"
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(layer.version)
            os.replace(fresh, folder / name)

    def unpoint(self, layer: Layer) -> None:
        """What is cached by the address of this revision is no longer answered by web servers themselves."""
        (self._tiles / layer.name / layer.revision).unlink(missing_ok=True)

    def tell(self, layers: Iterable[Layer]) -> None:
        """Write what workers need to know of all layers, the default one first."""
        if self._workers is not None:
            write_facts([layer.facts for layer in layers], self._workers / FACTS_FILE)
