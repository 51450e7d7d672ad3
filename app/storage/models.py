"""The networks that a server was given, and which of them it uses; below the data directory."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from tilecascade.app.errors import ModelError, NotFoundError, StorageError
from tilecascade.app.settings import DataDir, Settings
from tilecascade.app.storage.atomic import reason, write_atomically
from tilecascade.model.sgdm.config import STEM
from tilecascade.model.sgdm.network import load_network, unpack_network, weights_hash


@dataclass(frozen=True)
class Choice:
    """Which network is used instead of the one that the settings name.

    instead_of: what the settings named when it was chosen; with others the choice is void. stem: of its files. before:
    of the network that was used before it. batch: blocks generated at once; 0 as the settings say.
    """

    instead_of: str
    stem: str
    before: str
    batch: int = 0


class ModelShelf:
    """Networks by their id: the one that the settings name, and those that were given to the server."""

    def __init__(self, settings: Settings, data_dir: DataDir) -> None:
        self._named = settings.weights
        self._folder, self._record = data_dir.models, data_dir.model
        self._ids: dict[Path, str] = {}

    def choice(self) -> Choice:
        """What is to be used: as chosen, if that still counts, or as the settings say."""
        try:
            choice = Choice(**json.loads(self._record.read_text()))
        except (OSError, ValueError, TypeError):
            choice = Choice("", "", "")
        stem = Path(choice.stem)
        if choice.instead_of != str(self._named) or not stem.with_suffix(".safetensors").is_file():
            return Choice(str(self._named), str(self._named), str(self._named))
        return choice

    def choose(self, stem: Path, batch: int) -> None:
        """Use this network from now on, after a restart, too; what is neither used nor the one before goes.

        Raises StorageError.
        """
        before = self.choice()
        kept = before.before if Path(before.stem) == stem else before.stem
        choice = Choice(str(self._named), str(stem), kept, batch)
        write_atomically(self._record, json.dumps(asdict(choice)).encode())
        for folder in self._folder.glob("[!.]*"):
            if folder not in (stem.parent, Path(kept).parent):
                shutil.rmtree(folder, ignore_errors=True)

    def tidy(self) -> None:
        """Remove what a killed server was receiving."""
        for left in self._folder.glob(".incoming-*"):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)

    def id_before(self) -> str | None:
        """The id of the network that was used before the present one, if there was one. May block the first time."""
        with suppress(NotFoundError):
            stem = self.before()
            if stem not in self._ids:
                self._ids[stem] = weights_hash(stem)
            return self._ids[stem]
        return None

    def before(self) -> Path:
        """The network that was used before the present one. Raises NotFoundError if there was none."""
        choice = self.choice()
        if choice.before == choice.stem or not Path(choice.before).with_suffix(".safetensors").is_file():
            raise NotFoundError("there is no model to go back to: this one was not chosen in place of another")
        return Path(choice.before)

    @contextmanager
    def incoming(self) -> Iterator[Path]:
        """A place for a file that is being received; it is removed at the end."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f".incoming-{uuid.uuid4().hex}.safetensors"
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def keep(self, file: Path) -> Path:
        """Unpack a file as `tilecascade model export` writes it, check it, and return where it is kept.

        May block. Raises ModelError.
        """
        begun = file.with_suffix("")
        try:
            if not unpack_network(file, begun / STEM):
                raise ModelError("this file has no configuration in it: `tilecascade model export` writes one that has")
            load_network(begun / STEM)  # all of it fits
            place = self._folder / weights_hash(begun / STEM)
            if not place.exists():
                begun.rename(place)
        except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
            first = (str(error).strip().splitlines() or ["it cannot be read"])[0]
            raise ModelError(f"the model cannot be used: {first[:300]}") from None
        except OSError as error:
            raise StorageError(f"the model cannot be kept: {reason(error)}") from None
        finally:
            shutil.rmtree(begun, ignore_errors=True)
        return place / STEM
