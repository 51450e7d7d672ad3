"""The territories that are made while the server runs: each is a layer of its name, kept below the data directory."""

from __future__ import annotations

import json
import logging
import shutil
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tilecascade.app.errors import BadRequestError, NotFoundError, SettingsError, StorageError
from tilecascade.app.settings import LayerSettings, read_configuration
from tilecascade.app.storage.atomic import reason
from tilecascade.app.tools.territory import Bounds, NewTerritory, new_territory

log = logging.getLogger(__name__)

MOST = 16
"""Territories that a server keeps; each holds some megabytes of memory."""

SKETCH, REQUEST, LAYERS = "sketch", "request.json", "layers.toml"
"""Files of a territory: the picture as it was sent, what it was made with, and what `territory new` has written."""


@dataclass(frozen=True)
class TerritoryRequest:
    """What a territory is made with: its bounds in degrees, its seed, and the last zoom of its imagery."""

    bounds: Bounds
    seed: int = 0
    painted_zoom: int = 18


class Territories:
    """The folder of them. Its methods may block, and must not be called at the same time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def tidy(self) -> None:
        """Remove what a killed server was making; what it was replacing comes back."""
        for left in self._folder.glob(".old-*/*"):
            if not (self._folder / left.name).exists():
                left.rename(self._folder / left.name)
        for left in self._folder.glob(".*"):
            shutil.rmtree(left, ignore_errors=True)

    def names(self) -> list[str]:
        """All of them."""
        return sorted(path.name for path in self._folder.glob("[!.]*") if (path / LAYERS).is_file())

    def marks(self) -> dict[str, str]:
        """All of them, and of each what changes when it is made anew."""
        found = {}
        for name in self.names():
            with suppress(FileNotFoundError):
                stat = (self._folder / name / LAYERS).stat()
                found[name] = f"{stat.st_ino}-{stat.st_mtime_ns}"
        return found

    def layers(self) -> Iterator[LayerSettings]:
        """The layer of each. One that cannot be read is left alone."""
        for name in self.names():
            try:
                yield self.layer(name)
            except SettingsError as error:
                log.warning("territory %s is not served: %s", name, error)

    def layer(self, name: str) -> LayerSettings:
        """The layer of one. Raises SettingsError."""
        _, (layer,) = read_configuration(self._folder / name / LAYERS)
        return LayerSettings.model_validate(layer.model_dump() | {"name": name})

    def request(self, name: str) -> TerritoryRequest:
        """What one was made with. Raises NotFoundError."""
        try:
            stored = json.loads((self._folder / name / REQUEST).read_text())
        except (OSError, ValueError):
            raise NotFoundError(f"there is no territory {name[:40]!r}") from None
        return TerritoryRequest(tuple(stored["bounds"]), stored["seed"], stored["painted_zoom"])

    def sketch(self, name: str) -> bytes:
        """The picture that one was made of. Raises NotFoundError."""
        self.request(name)
        return (self._folder / name / SKETCH).read_bytes()

    def make(self, name: str, picture: bytes, wanted: TerritoryRequest) -> str:
        """Make or replace one; returns what to say of it. Raises BadRequestError or StorageError, and all stays."""
        if name not in self.names() and len(self.names()) >= MOST:
            raise BadRequestError(f"a server keeps {MOST} territories at most; remove one first")
        begun = self._folder / f".incoming-{uuid.uuid4().hex}"
        sketch = begun / SKETCH
        try:
            begun.mkdir(parents=True)
            sketch.write_bytes(picture)
            order = NewTerritory(sketch, wanted.bounds, begun / name, wanted.seed, painted_zoom=wanted.painted_zoom)
            said = new_territory(order).splitlines()[0]
            sketch.rename(begun / name / SKETCH)
            stored = {"bounds": wanted.bounds, "seed": wanted.seed, "painted_zoom": wanted.painted_zoom}
            (begun / name / REQUEST).write_text(json.dumps(stored))
            self._put_aside(name)
            (begun / name).rename(self._folder / name)
        except SettingsError as error:
            raise BadRequestError(str(error).replace(str(sketch), "the sketch").replace("--bounds", "bounds")) from None
        except OSError as error:
            raise StorageError(f"the territory cannot be kept: {reason(error)}") from None
        finally:
            shutil.rmtree(begun, ignore_errors=True)
        return said

    def settle(self, name: str, kept: bool) -> None:
        """The one that was made is served, or it was not `kept`, and the one before comes back."""
        if not kept:
            shutil.rmtree(self._folder / name, ignore_errors=True)
        self.tidy()

    def remove(self, name: str) -> None:
        """Delete one. Raises NotFoundError."""
        self.request(name)
        shutil.rmtree(self._folder / name, ignore_errors=True)

    def _put_aside(self, name: str) -> None:
        if (self._folder / name).exists():
            aside = self._folder / f".old-{uuid.uuid4().hex}"
            aside.mkdir()
            (self._folder / name).rename(aside / name)
