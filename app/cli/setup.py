"""Commands for setting a server up: init, doctor, info."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from tilecascade.app.cli.options import layers_to_serve
from tilecascade.app.errors import SettingsError
from tilecascade.app.settings import load_configuration

PATH = click.Path(path_type=Path)


@click.command()
@click.argument("file", default="layers.toml", type=PATH)
def init(file: Path) -> None:
    """Write FILE (layers.toml), an example of a layers file with every setting in it, commented."""
    from tilecascade.app.tools.configuration import example

    try:
        with file.open("x") as out:
            out.write(example(file))
    except FileExistsError:
        raise SettingsError(f"{file} exists already and is left as it is") from None
    except OSError as error:
        raise SettingsError(f"{file} cannot be written: {error.strerror}") from None
    click.echo(f"{file} is written; next: tilecascade serve --layers {file}")


@click.command()
@click.argument("scenes", nargs=-1, type=PATH)
@click.option("--layers", "layers_file", type=PATH, help="TOML file describing several layers.")
@click.option("--data-dir", type=PATH, help="Where all state is kept.")
@click.option("--port", type=int, help="Port; 8000 unless given.")
def doctor(scenes: tuple[Path, ...], layers_file: Path | None, data_dir: Path | None, port: int | None) -> None:
    """Check device, weights, disk, Redis, address and SCENES as `serve` would find them.

    Exit code 1 if the server would not start.
    """
    settings, layers = load_configuration(layers_file=layers_file, data_dir=data_dir, port=port)
    layers = layers_to_serve(scenes, layers)
    from tilecascade.app.server.doctor import examine

    problems = 0
    for finding in examine(settings, layers):
        click.echo(finding)
        problems += finding.level == "problem"
    sys.exit(1 if problems else 0)


@click.command()
@click.option("--url", default="http://127.0.0.1:8000", show_default=True, help="The running server.")
def info(url: str) -> None:
    """Show what a running server serves, with addresses and boxes to paste."""
    from tilecascade.app.client.info import describe_server

    click.echo(describe_server(url))
