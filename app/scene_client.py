"""`tilecascade scenes`: show and change what a running server draws from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import httpx

from app.client import detail
from app.settings import SettingsError

KEY_VARIABLE = "TILECASCADE_API_KEY"


def find_key(data_dir: Path) -> str:
    """The server's key: from the environment, else from the file in its data directory. Raises SettingsError."""
    if KEY_VARIABLE in os.environ:
        return os.environ[KEY_VARIABLE]
    try:
        return (data_dir / "api-key").read_text().strip()
    except OSError:
        raise SettingsError(
            f"no key: set {KEY_VARIABLE}, or name the server's data directory with --data-dir (it holds api-key)"
        ) from None


class SceneClient:
    """Asks one server. Raises SettingsError with the server's sentence for what it refuses."""

    def __init__(self, url: str, layer: str | None, key: str = "") -> None:
        self._url = url
        self._params = {"layer": layer} if layer else {}
        self._headers = {"X-API-Key": key} if key else {}

    def _ask(self, method: str, path: str, params: dict[str, str] | None = None, **body: Any) -> dict[str, Any]:
        try:
            answer = httpx.request(
                method,
                self._url + path,
                params=self._params | (params or {}),
                headers=self._headers,
                timeout=600,
                **body,
            )
        except httpx.HTTPError as error:
            raise SettingsError(f"no server answers at {self._url}: {error or type(error).__name__}") from None
        if answer.status_code >= 400:
            raise SettingsError(detail(answer))
        told: dict[str, Any] = answer.json()
        return told

    def show(self) -> str:
        """A line per scene, topmost first."""
        told = self._ask("GET", "/scenes")
        lines = [f"layer {told['layer']}, revision {told['revision']}"]
        for scene in told["scenes"]:
            west, south, east, north = scene["bounds"]
            lines.append(
                f"{scene['id']}  taken {scene['taken']}  zooms {scene['zooms'][0]}-{scene['zooms'][1]}  "
                f"{west:.5f},{south:.5f},{east:.5f},{north:.5f}  {scene['attribution']}".rstrip()
            )
            lines += [f"              {note}" for note in scene["notes"]]
        return "\n".join(lines)

    def add(self, path: Path, taken: str | None, attribution: str) -> str:
        """Upload a file; returns the scene's id."""
        params = {"attribution": attribution} | ({"taken": taken} if taken else {})
        try:
            with path.open("rb") as file:
                return str(self._ask("POST", "/scenes", params, content=file)["id"])
        except OSError as error:
            raise SettingsError(f"{path} cannot be read: {error.strerror}") from None

    def remove(self, id: str) -> None:
        """Remove a scene."""
        self._ask("DELETE", f"/scenes/{id}")

    def order(self, ids: list[str]) -> None:
        """Put the scenes in this order, topmost first; newest first again if empty."""
        self._ask("PUT", "/scenes/order", json={"ids": ids})
