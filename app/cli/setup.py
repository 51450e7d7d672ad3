"""Commands for setting a server up: init, doctor, info, keys."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from tilecascade.app.cli.options import DATA_DIR, layers_to_serve
from tilecascade.app.errors import SettingsError
from tilecascade.app.settings import DataDir, load_configuration

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


@click.group()
def keys() -> None:
    """Keys for others than the owner: with roles, an end, and a number of tiles a day.

    They are kept, as hashes, in the server's data directory; a running server knows of changes at once.
    """


@keys.command("add")
@click.argument("name")
@click.option(
    "--role",
    "roles",
    multiple=True,
    required=True,
    type=click.Choice(["read", "prefetch", "review", "scenes", "admin"]),
    help="What the key may do; may be given several times.",
)
@click.option("--days", type=click.FloatRange(min=0, min_open=True), help="Days until it expires; never unless given.")
@click.option("--tiles-per-day", default=0, type=click.IntRange(0), help="Tiles generated a day at most; 0: no limit.")
@click.option("--data-dir", **DATA_DIR, help="The server's.")
def add(name: str, roles: tuple[str, ...], days: float | None, tiles_per_day: int, data_dir: Path) -> None:
    """Make a key called NAME and print it: it is shown this once."""
    from tilecascade.app.storage.keys import add_key

    expires = None if days is None else datetime.now(UTC) + timedelta(days=days)
    click.echo(add_key(DataDir(data_dir).keys, name, roles, expires, tiles_per_day))


@keys.command("list")
@click.option("--data-dir", **DATA_DIR, help="The server's.")
def list_keys(data_dir: Path) -> None:
    """List the keys, without their secrets."""
    from tilecascade.app.storage.keys import read_keys

    for key in read_keys(DataDir(data_dir).keys):
        limit = f"{key.tiles_per_day} tiles a day" if key.tiles_per_day else "no limit"
        until = "expired" if key.expired else f"until {key.expires}" if key.expires else "never expires"
        click.echo(f"{key.name}  {', '.join(key.roles)}  {until}  {limit}")


@keys.command("remove")
@click.argument("name")
@click.option("--data-dir", **DATA_DIR, help="The server's.")
def remove(name: str, data_dir: Path) -> None:
    """Take the key called NAME back."""
    from tilecascade.app.storage.keys import remove_key

    remove_key(DataDir(data_dir).keys, name)
