"""Commands for models: import, export, info, use."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from tilecascade.app.cli.options import server_options
from tilecascade.app.errors import SettingsError

PATH = click.Path(path_type=Path)


@click.group()
def model() -> None:
    """Models of others as ours, ours in one file, and what is in a model."""


@model.command("import")
@click.argument("source", type=PATH)
@click.option("--out", required=True, type=PATH, help="Folder of the model, for `tilecascade serve --model`.")
@click.option("--sampler", type=click.Choice(["ddpm", "ddim", "dpmpp"]), help="Instead of the published one, ddpm.")
@click.option("--steps", type=click.IntRange(1, 1000), help="Steps of the sampler instead of the published 50.")
@click.option(
    "--head-dim", default=64, show_default=True, type=click.IntRange(1), help="Channels of an attention head."
)
@click.option("--half", is_flag=True, help="Store as float16: half the size, no longer bit by bit the same.")
def import_(
    source: Path,
    out: Path,
    sampler: Literal["ddim", "ddpm", "dpmpp"] | None,
    steps: int | None,
    head_dim: int,
    half: bool,
) -> None:
    """Make a model of SOURCE: the authors' checkpoint, a diffusers folder of Stable Diffusion 2.1, or a model of ours.

    No code of a file is run. A folder of Stable Diffusion has no encoder and adapter: they are new and must be trained.
    """
    from tilecascade.app.tools.model_files import ImportOptions, import_model

    click.echo(import_model(source, out, ImportOptions(sampler, steps, head_dim, half)))


@model.command()
@click.argument("folder", type=PATH)
@click.option("--out", required=True, type=PATH, help="The .safetensors file.")
def export(folder: Path, out: Path) -> None:
    """Write the model in FOLDER as one file with its configuration in it."""
    from tilecascade.app.tools.model_files import export_model

    click.echo(export_model(folder, out))


@model.command()
@click.argument("folder", type=PATH)
def info(folder: Path) -> None:
    """Say what is in the model in FOLDER."""
    from tilecascade.app.tools.model_files import describe

    click.echo(describe(folder))


@model.command()
@click.argument("folder", type=PATH, required=False)
@click.option("--back", is_flag=True, help="The model that was in use before.")
@server_options
def use(folder: Path | None, back: bool, url: str, data_dir: Path) -> None:
    """Have a running server generate with the model in FOLDER, without stopping it.

    Each layer has another version then. Tiles of the one before are shown until they are generated anew, and are all
    there again after `--back`. The choice outlasts a restart with the same --model.
    """
    from tilecascade.app.client.connection import Key
    from tilecascade.app.client.models import ModelClient

    if (folder is None) != back:
        raise SettingsError("give the folder of a model or --back, and not both")
    client = ModelClient(url, Key(data_dir))
    click.echo(client.back() if folder is None else client.use(folder))
