"""The reference of all settings, and an example of a layers file, both made from the settings themselves.

`python -m tilecascade.app.tools.configuration > docs/configuration.md` writes the reference.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ByteSize
from pydantic.fields import FieldInfo

from tilecascade.app.settings import ENVIRONMENT, LayerSettings, Settings
from tilecascade.model.sgdm.config import WEIGHTS_DIR

INTRODUCTION = """\
# Configuration

`tilecascade serve SCENE...` needs none of this. What a command line gives counts first, then the environment, then the
layers file's `[server]` table. Sizes may be written as `20GiB` or `500MB`. `tilecascade doctor` checks what it makes of
it all.

(Made from the code by `python -m tilecascade.app.tools.configuration`; a test compares.)
"""

LAYERS_FILE = """\
## A file of several layers

`tilecascade init` writes `layers.toml` with every key, commented; `tilecascade serve --layers layers.toml` serves it.
Paths in it are relative to the file.

    [server]                      # any setting of the table above, by its name in lower case
    data_dir = "state"
    disk_bytes = "50GiB"

    [[layer]]
    name = "town"
    scenes = ["mosaic.tif", "older.tif"]

    [[layer]]
    name = "exercise"
    country = 7
"""

EXAMPLE = """\
# Layers of a tilecascade server: tilecascade serve --layers {path}
# Paths are relative to this file. Lines that begin with # are the defaults.
"""


def default_of(field: FieldInfo) -> str:
    """A field's default as TOML; empty where it is not given."""
    value = field.default
    if value is None or value == "":
        return ""
    if isinstance(value, ByteSize):
        return f'"{value.human_readable(separator="")}"'.replace(".0", "")
    if value == WEIGHTS_DIR / "default":
        return '"the shipped one"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return json.dumps(value)
    return f'"{value}"' if isinstance(value, str | Path) else f"{value:g}" if isinstance(value, float) else str(value)


def rows(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """A Markdown table line for each field."""
    for name, field in model.model_fields.items():
        default = default_of(field)
        shown = f"`{default}`" if default else ""
        yield f"| `{prefix}{name.upper() if prefix else name}` | {shown} | {field.description} |"


def reference() -> str:
    """The page docs/configuration.md."""
    parts = [
        INTRODUCTION,
        "## Settings\n",
        "| environment variable | default | |\n|---|---|---|",
        *rows(Settings, ENVIRONMENT),
        "",
        LAYERS_FILE,
        "| key of `[[layer]]` | default | |\n|---|---|---|",
        *rows(LayerSettings),
    ]
    return "\n".join(parts) + "\n"


def example(path: Path) -> str:
    """A layers file with every setting, commented out but for one layer."""
    lines = [EXAMPLE.format(path=path), "[server]"]
    for name, field in Settings.model_fields.items():
        if name not in ("layers_file", "weights"):
            lines += [f"# {field.description}", f"# {name} = {default_of(field) or '...'}"]
    lines += ["", "[[layer]]", 'name = "map"', "# scenes, or the seed of a fictional country:", "country = 1"]
    lines += ['# scenes = ["mosaic.tif"]']
    for name, field in LayerSettings.model_fields.items():
        if name not in ("name", "scenes", "country"):
            lines += [f"# {field.description}", f"# {name} = {default_of(field) or '...'}"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(reference(), end="")
