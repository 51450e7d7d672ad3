"""`tilecascade scenes`: show and change the scenes of a running server."""

from __future__ import annotations

from pathlib import Path

import httpx

from tilecascade.app.api.schemas import SceneAnswer, ScenesAnswer
from tilecascade.app.client.connection import Key, ask
from tilecascade.app.errors import SettingsError


class SceneClient:
    """Asks one server. Raises SettingsError with the server's sentence for what it refuses."""

    def __init__(self, url: str, layer: str | None, key: Key) -> None:
        # copying a large scene takes the server as long as TILECASCADE_SCENE_SECONDS says
        timeout = httpx.Timeout(60, read=None, write=None)
        self._client = httpx.Client(base_url=url, params={"layer": layer} if layer else {}, timeout=timeout)
        self._key = key

    def show(self) -> str:
        """A line per scene, topmost first."""
        found = ScenesAnswer.model_validate_json(ask(self._client, "GET", "/scenes"))
        lines = [f"layer {found.layer}, revision {found.revision}"]
        for scene in found.scenes:
            west, south, east, north = scene.bounds
            lines.append(
                f"{scene.id}  acquired {scene.acquired}  zooms {scene.zooms[0]}-{scene.zooms[1]}  "
                f"{west:.5f},{south:.5f},{east:.5f},{north:.5f}  {scene.attribution}".rstrip()
            )
            lines += [f"              {note}" for note in scene.notes]
        return "\n".join(lines)

    def add(self, path: Path, acquired: str | None, attribution: str, sensor: str | None = None) -> str:
        """Upload a file; returns the scene's id."""
        given = {"attribution": attribution, "acquired": acquired, "sensor": sensor}
        params = {name: value for name, value in given.items() if value is not None}
        try:
            with path.open("rb") as file:
                answer = ask(self._client, "POST", "/scenes", params=params, content=file, auth=self._key)
        except OSError as error:
            raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
        return SceneAnswer.model_validate_json(answer).id

    def remove(self, id: str) -> None:
        """Remove a scene."""
        ask(self._client, "DELETE", f"/scenes/{id}", auth=self._key)

    def order(self, ids: list[str]) -> None:
        """Put the scenes in this order, topmost first; newest first again if empty."""
        ask(self._client, "PUT", "/scenes/order", json={"ids": ids}, auth=self._key)
