"""Old versions of layers on disk: tiles of another network, seed or library version, which are no longer served."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tilecascade.app.settings import DataDir
from tilecascade.app.storage.publication import CURRENT


@dataclass(frozen=True)
class OldVersion:
    """A directory of tiles that its layer does not point at. age: days since anything was added to it."""

    path: Path
    tiles: int
    size: int
    age: float

    def __str__(self) -> str:
        return (
            f"{self.path.parent.name}/{self.path.name}: {self.tiles} tiles, {self.size} bytes, {self.age:.0f} days old"
        )


def old_versions(tiles_dir: Path) -> Iterator[OldVersion]:
    """All of them. A layer that has never been served has no current version and is left alone."""
    for layer in sorted(path for path in tiles_dir.glob("*") if path.is_dir()):
        current = layer / CURRENT
        if not current.is_symlink():
            continue
        for version in sorted(layer.iterdir()):
            if version.is_symlink() or not version.is_dir() or version.name == current.readlink().name:
                continue
            files = [path.stat() for path in version.rglob("*") if path.is_file()]
            newest = max([stat.st_mtime for stat in files], default=version.stat().st_mtime)
            age = max(0.0, time.time() - newest) / 86400
            yield OldVersion(version, len(files), sum(stat.st_size for stat in files), age)


def remove(old: OldVersion, data_dir: DataDir) -> None:
    """Delete an old version's tiles, and the record of what they were made from."""
    shutil.rmtree(old.path, ignore_errors=True)
    for journal in (data_dir.scene_journal, data_dir.area_journal, data_dir.review_journal, data_dir.revisions):
        journal(old.path.parent.name, old.path.name).unlink(missing_ok=True)
