"""`tilecascade model use`: another network for a running server."""

from __future__ import annotations

import tempfile
from pathlib import Path

import httpx

from tilecascade.app.api.schemas import ModelAnswer
from tilecascade.app.client.connection import Key, ask
from tilecascade.app.errors import SettingsError
from tilecascade.model.sgdm.config import stem_of
from tilecascade.model.sgdm.network import pack_network


class ModelClient:
    """Asks one server. Raises SettingsError with the server's sentence for what it refuses."""

    def __init__(self, url: str, key: Key) -> None:
        # a large network takes minutes to send and to load
        self._client = httpx.Client(base_url=url, timeout=httpx.Timeout(60, read=None, write=None))
        self._key = key

    def use(self, folder: Path) -> str:
        """Send the model in a folder; returns what to say."""
        with tempfile.TemporaryDirectory(prefix="tilecascade-model-") as place:
            packed = Path(place) / "model.safetensors"
            try:
                pack_network(stem_of(folder), packed)
                with packed.open("rb") as file:
                    return self._change("/model", file)
            except (FileNotFoundError, ValueError, TypeError) as error:
                raise SettingsError(str(error).splitlines()[0]) from None
            except OSError as error:
                raise SettingsError(f"{folder} cannot be sent: {error.strerror}") from None

    def back(self) -> str:
        """Return to the model before; returns what to say."""
        return self._change("/model/back", None)

    def _change(self, path: str, content: object) -> str:
        answer = ask(self._client, "POST", path, content=content, auth=self._key)
        now = ModelAnswer.model_validate_json(answer)
        versions = ", ".join(f"{layer} {version}" for layer, version in now.versions.items())
        back = f"; `--back` returns to {now.before}" if now.before else ""
        return f"model {now.id} ({now.name}) on {now.device}, versions: {versions}{back}"
