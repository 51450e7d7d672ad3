"""What other programs see of the layers: links in the tile directory for web servers, a file for worker processes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from tilecascade.app.tiles.layer import Layer
from tilecascade.app.tiles.layer_info import write_layer_info

CURRENT = "current"
"""Name of the link in a layer's directory to the version that is served."""

LAYER_INFO_FILE = "layers.json"


class Publication:
    """Keeps the links below the tile directory, and LAYER_INFO_FILE in the workers' directory if there are workers."""

    def __init__(self, tiles_dir: Path, workers_dir: Path | None) -> None:
        self._tiles_dir = tiles_dir
        self._workers_dir = workers_dir

    def publish(self, layer: Layer) -> None:
        """Point <layer>/current and <layer>/<revision> at the version served, each atomically.

        Web servers that answer finished tiles by themselves follow these links. The links of superseded revisions are
        removed: for their addresses a web server has to ask the application.
        """
        folder = self._tiles_dir / layer.name
        folder.mkdir(parents=True, exist_ok=True)
        for link in folder.iterdir():
            if link.is_symlink() and link.name not in (CURRENT, layer.revision):
                link.unlink(missing_ok=True)
        for name in (CURRENT, layer.revision):
            if (folder / name).is_symlink() and os.readlink(folder / name) == layer.version:
                continue  # a read-only directory is served from as it was published
            temporary = folder / f".{name}-{os.getpid()}"
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(layer.version)
            os.replace(temporary, folder / name)

    def withdraw(self, layer: Layer) -> None:
        """Web servers no longer answer for the address of this revision by themselves."""
        (self._tiles_dir / layer.name / layer.revision).unlink(missing_ok=True)

    def inform_workers(self, layers: Iterable[Layer]) -> None:
        """Write what workers need to know of all layers, the default one first."""
        if self._workers_dir is not None:
            write_layer_info([layer.info for layer in layers], self._workers_dir / LAYER_INFO_FILE)
