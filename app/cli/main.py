"""The `tilecascade` command. Wrong input: one line on stderr and exit code 2."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tilecascade.app.api.request_log import set_up
from tilecascade.app.api.schemas import parse_bbox
from tilecascade.app.cli.dataset import dataset
from tilecascade.app.cli.model import calibrate, evaluate, finetune, train
from tilecascade.app.cli.model_files import model
from tilecascade.app.cli.options import DATA_DIR, layers_to_serve, parse_zooms, renamed, server_options
from tilecascade.app.cli.plan import plan
from tilecascade.app.cli.setup import doctor, info, init, keys
from tilecascade.app.cli.territory import territory
from tilecascade.app.errors import SettingsError, TilecascadeError
from tilecascade.app.settings import DataDir, load_configuration

if TYPE_CHECKING:
    from tilecascade.app.client.jobs import JobClient
    from tilecascade.app.client.scenes import SceneClient


class Commands(click.Group):
    """Turns the errors that are the user's into one line and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand."""
        try:
            return super().invoke(ctx)
        except TilecascadeError as error:
            click.echo(f"tilecascade: {error}", err=True)
            sys.exit(2)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tilecascade", message="tilecascade %(version)s")
def main() -> None:
    """Serve map tiles that a diffusion cascade generates from imagery."""
    set_up("text")


@main.command()
@click.argument("scenes", nargs=-1, type=click.Path(path_type=Path))
@click.option("--host", help="Address to listen on; 127.0.0.1 unless given.")
@click.option("--port", type=int, help="Port; 8000 unless given.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where all state is kept.")
@click.option("--layers", "layers_file", type=click.Path(path_type=Path), help="TOML file describing several layers.")
@click.option(
    "--model", "--weights", "weights", type=click.Path(path_type=Path),
    help="Model folder, or .safetensors file with its .json beside it, instead of the shipped network.",
)  # fmt: skip
@click.option(
    "--workers", type=int, help="Processes that answer finished tiles, beside the one that generates; 1 unless given."
)
@click.option("--engine", help="local, or ray://HOST:6379 for replicas on a Ray cluster; local unless given.")
def serve(
    scenes: tuple[Path, ...],
    host: str | None,
    port: int | None,
    data_dir: Path | None,
    layers_file: Path | None,
    weights: Path | None,
    workers: int | None,
    engine: str | None,
) -> None:
    """Serve the map of one or many GeoTIFF SCENES, or of a folder that `tilecascade territory new` has written; without
    any, of a fictional country."""
    if layers_file is None and [place.is_dir() for place in scenes] == [True]:
        layers_file, scenes = Path(scenes[0], "layers.toml"), ()
    settings, layers = load_configuration(
        host=host, port=port, data_dir=data_dir, layers_file=layers_file, weights=weights, workers=workers,
        engine=engine,
    )  # fmt: skip
    set_up(settings.log_format)
    layers = layers_to_serve(scenes, layers)
    from tilecascade.app.server.serve import run_server

    sys.exit(run_server(settings, layers))


@main.command()
@click.option("--bbox", help="W,S,E,N in degrees.")
@click.option("--area", type=click.Path(path_type=Path), help="GeoJSON file of polygons, instead of --bbox.")
@click.option("--zooms", required=True, help="A-B, such as 14-17.")
@click.option("--layer", help="Layer name; the server's default layer unless given.")
@click.option("--rate", default=0.0, type=click.FloatRange(0), help="Tiles generated per second at most; 0: no limit.")
@click.option("--dry-run", is_flag=True, help="Only say how many tiles, bytes and seconds it would take.")
@click.option("--yes", is_flag=True, help="Even if it is more tiles than the server takes without asking.")
@server_options
def prefetch(
    bbox: str | None,
    area: Path | None,
    zooms: str,
    layer: str | None,
    rate: float,
    dry_run: bool,
    yes: bool,
    url: str,
    data_dir: Path,
) -> None:
    """Have a running server generate every tile of an area, coarse zooms first, and watch.

    The job belongs to the server, so that it goes on when this is stopped, and after a restart. Exit code 1 if any tile
    failed.
    """
    from tilecascade.app.api.schemas import JobRequest
    from tilecascade.app.client.connection import Key
    from tilecascade.app.client.jobs import JobClient, read_area

    if (bbox is None) == (area is None):
        raise SettingsError("give --bbox or --area, and not both")
    wanted = parse_zooms(zooms)
    order = JobRequest(
        layer=layer,
        bbox=None if bbox is None else parse_bbox(bbox, "--bbox"),
        area=None if area is None else read_area(area),
        zooms=(wanted[0], wanted[-1]),
        rate=rate,
        confirm=yes,
    )
    client = JobClient(url, Key(data_dir))
    if dry_run:
        click.echo(client.estimate(order))
    else:
        sys.exit(client.run(order))


@main.group(invoke_without_command=True)
@server_options
@click.pass_context
def jobs(ctx: click.Context, url: str, data_dir: Path) -> None:
    """Show a running server's prefetch jobs, or end one."""
    from tilecascade.app.client.connection import Key
    from tilecascade.app.client.jobs import JobClient

    ctx.obj = JobClient(url, Key(data_dir))
    if ctx.invoked_subcommand is None:
        click.echo(ctx.obj.show())


@jobs.command("cancel")
@click.argument("id")
@click.pass_obj
def cancel_job(client: JobClient, id: str) -> None:
    """End a job; tiles that are finished stay."""
    click.echo(client.cancel(id))


@main.group()
@click.option("--layer", help="Layer name; the server's default layer unless given.")
@server_options
@click.pass_context
def scenes(ctx: click.Context, layer: str | None, url: str, data_dir: Path) -> None:
    """Show and change the scenes of a running server.

    Changing needs the server's key: TILECASCADE_API_KEY, or the file api-key in its data directory.
    """
    from tilecascade.app.client.connection import Key
    from tilecascade.app.client.scenes import SceneClient

    ctx.obj = SceneClient(url, layer, Key(data_dir))


@scenes.command("list")
@click.pass_obj
def list_scenes(client: SceneClient) -> None:
    """Show the scenes, topmost first."""
    click.echo(client.show())


@scenes.command("add")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--acquired", help="Capture time, ISO 8601; the file's own unless given.")
@click.option("--attribution", default="", help="Who made it.")
@click.option("--sensor", help="What took it: rgb, pan, nir, sar; told by its bands unless given.")
@click.option("--taken", hidden=True, callback=renamed("--acquired"))
@click.pass_obj
def add_scene(
    client: SceneClient, path: Path, acquired: str | None, attribution: str, sensor: str | None, taken: None
) -> None:
    """Upload a GeoTIFF. The tiles that it affects are generated again, and no others."""
    click.echo(client.add(path, acquired, attribution, sensor))


@scenes.command("remove")
@click.argument("id")
@click.pass_obj
def remove_scene(client: SceneClient, id: str) -> None:
    """Remove a scene, and every tile that shows something of it."""
    client.remove(id)


@scenes.command("order")
@click.argument("ids", nargs=-1)
@click.pass_obj
def order_scenes(client: SceneClient, ids: tuple[str, ...]) -> None:
    """Put the scenes in this order, topmost first; without IDS the newest are on top again."""
    client.order(list(ids))


@main.command()
@click.option("--bbox", help="W,S,E,N in degrees; that of --clip unless given.")
@click.option("--clip", type=click.Path(path_type=Path), help="GeoJSON of areas: what lies outside is transparent.")
@click.option("--imagery", is_flag=True, help="The imagery instead of the map.")
@click.option("--zooms", required=True, help="A-B, such as 14-17; one number for a picture.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="FILE.mbtiles, .pmtiles, .tif or .png.")
@click.option("--url", default="http://127.0.0.1:8000", show_default=True, help="The running server.")
@click.option("--layer", help="Layer name; the server's default layer unless given.")
@click.option("--parallel", default=8, show_default=True, type=click.IntRange(1, 64), help="Requests at once.")
@click.option("--wait", default=300.0, show_default=True, type=click.FloatRange(1), help="Seconds to wait for a tile.")
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    help="A map that exists (.geojson, .gpkg, .fgb, .osm, .osm.pbf): features are marked new, changed, same or gone.",
)
def export(
    bbox: str | None, clip: Path | None, imagery: bool, zooms: str, out: Path, url: str, layer: str | None,
    parallel: int, wait: float, against: Path | None,
) -> None:  # fmt: skip
    """Write an area of a running server's layer, generated where need be, into one file.

    Tiles: .mbtiles, .pmtiles and .sqlitedb (OsmAnd) take many zooms; .tif (cloud-optimised, EPSG:3857) and .png are the
    mosaic of one. Map objects: .geojson, .gpkg, .fgb, .osm and .osm.pbf take one zoom. Exit code 1, and no file, if a
    tile failed, because a file with holes would look whole.
    """
    from tilecascade.app.client.export import Export, run_export
    from tilecascade.app.client.export_features import export_features
    from tilecascade.app.client.feature_files import FEATURE_WRITERS

    area, levels = None if bbox is None else parse_bbox(bbox, "--bbox"), parse_zooms(zooms)
    if out.suffix in FEATURE_WRITERS:
        if area is None or imagery or clip is not None:
            raise SettingsError("map objects are of the map and of a --bbox, without --imagery and --clip")
        sys.exit(asyncio.run(export_features(area, levels, out, url, layer, parallel, wait, against)))
    if against is not None:
        raise SettingsError(f"--against is for map objects: --out ends in one of {', '.join(FEATURE_WRITERS)}")
    sys.exit(asyncio.run(run_export(Export(levels, out, area, imagery, clip), url, layer, parallel, wait)))


@main.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--data-dir", **DATA_DIR, help="The cache to fill.")
def import_tiles(file: Path, data_dir: Path) -> None:
    """Put the tiles of an exported .mbtiles or .pmtiles FILE into a cache that would generate the same."""
    from tilecascade.app.storage.import_tiles import import_file

    added, present = import_file(file, data_dir)
    click.echo(f"{added} tiles added, {present} present already")


@main.command()
@click.option("--data-dir", **DATA_DIR, help="The cache to clean.")
@click.option(
    "--older", default=0.0, type=click.FloatRange(0), help="Only versions to which nothing was added for so many days."
)
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
def clean(data_dir: Path, older: float, dry_run: bool) -> None:
    """Remove tiles of layer versions that are no longer served: of another network, seed or machine."""
    from tilecascade.app.storage.versions import old_versions, remove

    for old in old_versions(DataDir(data_dir).tiles):
        if old.age >= older:
            click.echo(f"{'would remove' if dry_run else 'removed'} {old}")
            if not dry_run:
                remove(old, DataDir(data_dir))


for command in (init, doctor, info, keys, evaluate, calibrate, dataset, train, finetune, model, plan, territory):
    main.add_command(command)
