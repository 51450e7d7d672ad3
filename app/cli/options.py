"""Options and arguments that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from tilecascade.app.errors import SettingsError
from tilecascade.app.settings import ENVIRONMENT, LayerSettings

DATA_DIR: dict[str, Any] = {
    "default": "tilecascade-data",
    "envvar": f"{ENVIRONMENT}DATA_DIR",
    "show_default": True,
    "type": click.Path(path_type=Path),
}
"""What the option --data-dir of all commands has in common."""


def server_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Where the running server is, and its key."""
    folder = click.option("--data-dir", **DATA_DIR, help="The server's, for its key.")
    return click.option("--url", default="http://127.0.0.1:8000", show_default=True, help="The running server.")(
        folder(command)
    )


def renamed(now: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    """The callback of a hidden option of the last release. now: what to use instead, which it says when it is used."""

    def refuse(context: click.Context, option: click.Parameter, value: Any) -> None:
        if value:
            raise SettingsError(f"{option.opts[0]} is {now} since version 0.2")

    return refuse


def layers_to_serve(scenes: tuple[Path, ...], layers: list[LayerSettings]) -> list[LayerSettings]:
    """The layers of a layers file, or one of the scenes; without either the fictional country. Raises SettingsError."""
    if scenes and layers:
        raise SettingsError("give scenes or a layers file, not both")
    return layers or [LayerSettings(scenes=list(scenes)) if scenes else LayerSettings(country=1)]


def parse_zooms(text: str) -> range:
    """A-B, or one zoom. Raises SettingsError."""
    first, _, last = text.partition("-")
    if not (first.isdigit() and (last or first).isdigit()):
        raise SettingsError(f"--zooms wants A-B, such as 14-17, not {text!r}")
    low, high = int(first), int(last or first)
    if not low <= high <= 24:
        raise SettingsError(f"--zooms wants a rising range within 0-24, not {text!r}")
    return range(low, high + 1)
