"""The `tilecascade` command. Wrong input: one line on stderr and exit code 2."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from app.imagery import SceneError
from app.logs import set_up
from app.settings import LayerSettings, SettingsError, load_settings, read_layers

if TYPE_CHECKING:
    from app.scene_client import SceneClient


class Commands(click.Group):
    """Turns the errors that are the user's into one line and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand."""
        try:
            return super().invoke(ctx)
        except (SettingsError, SceneError) as error:
            click.echo(f"tilecascade: {error}", err=True)
            sys.exit(2)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tilecascade")
def main() -> None:
    """Serve map tiles that a diffusion cascade draws from imagery."""
    set_up("text")


def _parse_bbox(text: str) -> tuple[float, float, float, float]:
    try:
        west, south, east, north = (float(part) for part in text.split(","))
    except ValueError:
        raise SettingsError(f"--bbox wants W,S,E,N in degrees, not {text!r}") from None
    if not (-180 <= west < east <= 180 and -90 <= south < north <= 90):
        raise SettingsError(f"--bbox wants west < east and south < north, within the world, not {text!r}")
    return west, south, east, north


def _parse_zooms(text: str) -> range:
    first, _, last = text.partition("-")
    if not (first.isdigit() and (last or first).isdigit()):
        raise SettingsError(f"--zooms wants A-B, such as 14-17, not {text!r}")
    low, high = int(first), int(last or first)
    if not low <= high <= 24:
        raise SettingsError(f"--zooms wants a rising range within 0-24, not {text!r}")
    return range(low, high + 1)


@main.command()
@click.argument("scenes", nargs=-1, type=click.Path(path_type=Path))
@click.option("--host", help="Address to listen on; 127.0.0.1 unless told otherwise.")
@click.option("--port", type=int, help="Port; 8000 unless told otherwise.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where all state is kept.")
@click.option("--layers", "layers_file", type=click.Path(path_type=Path), help="TOML file describing several layers.")
@click.option("--weights", type=click.Path(path_type=Path), help="Network to use instead of the shipped one.")
@click.option(
    "--workers", type=int, help="Processes that answer finished tiles; one more draws. 0 unless told otherwise."
)
def serve(
    scenes: tuple[Path, ...],
    host: str | None,
    port: int | None,
    data_dir: Path | None,
    layers_file: Path | None,
    weights: Path | None,
    workers: int | None,
) -> None:
    """Serve the map of one or many GeoTIFF SCENES; without any, of a fictional country."""
    settings = load_settings(
        host=host, port=port, data_dir=data_dir, layers_file=layers_file, weights=weights, workers=workers
    )
    set_up(settings.log_format)
    if scenes and settings.layers_file:
        raise SettingsError("give scenes or a layers file, not both")
    if settings.layers_file:
        layers = read_layers(settings.layers_file)
    else:
        layers = [LayerSettings(scenes=list(scenes)) if scenes else LayerSettings(country=1)]
    from app.serve import run_server

    sys.exit(run_server(settings, layers))


@main.command()
@click.option("--bbox", required=True, help="W,S,E,N in degrees.")
@click.option("--zooms", required=True, help="A-B, such as 14-17.")
@click.option("--url", default="http://127.0.0.1:8000", show_default=True, help="The running server.")
@click.option("--layer", help="Layer name; the server's default layer unless given.")
@click.option("--parallel", default=8, show_default=True, type=click.IntRange(1, 64), help="Requests at once.")
@click.option("--wait", default=300.0, show_default=True, type=click.FloatRange(1), help="Seconds to wait for a tile.")
def prefetch(bbox: str, zooms: str, url: str, layer: str | None, parallel: int, wait: float) -> None:
    """Have a running server draw every tile of an area, coarse zooms first. Exit code 1 if any tile failed."""
    from app.prefetch import run_prefetch

    sys.exit(asyncio.run(run_prefetch(_parse_bbox(bbox), _parse_zooms(zooms), url, layer, parallel, wait)))


@main.group()
@click.option("--url", default="http://127.0.0.1:8000", show_default=True, help="The running server.")
@click.option("--layer", help="Layer name; the server's default layer unless given.")
@click.option(
    "--data-dir", default="tilecascade-data", type=click.Path(path_type=Path), help="The server's, for its key."
)
@click.pass_context
def scenes(ctx: click.Context, url: str, layer: str | None, data_dir: Path) -> None:
    """Show and change the scenes that a running server draws from.

    Changing needs the server's key: TILECASCADE_API_KEY, or the file api-key in its data directory.
    """
    from app.scene_client import SceneClient, find_key

    key = "" if ctx.invoked_subcommand == "list" else find_key(data_dir)
    ctx.obj = SceneClient(url, layer, key)


@scenes.command("list")
@click.pass_obj
def list_scenes(client: SceneClient) -> None:
    """Show the scenes, topmost first."""
    click.echo(client.show())


@scenes.command("add")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--taken", help="Capture time, ISO 8601; the file's own unless given.")
@click.option("--attribution", default="", help="Who made it.")
@click.pass_obj
def add_scene(client: SceneClient, path: Path, taken: str | None, attribution: str) -> None:
    """Upload a GeoTIFF. Tiles that it reaches are drawn anew, no others."""
    click.echo(client.add(path, taken, attribution))


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
@click.option("--bbox", required=True, help="W,S,E,N in degrees.")
@click.option("--zooms", required=True, help="A-B, such as 14-17; one number for a picture.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="FILE.mbtiles, .pmtiles, .tif or .png.")
@click.option("--url", default="http://127.0.0.1:8000", show_default=True, help="The running server.")
@click.option("--layer", help="Layer name; the server's default layer unless given.")
@click.option("--parallel", default=8, show_default=True, type=click.IntRange(1, 64), help="Requests at once.")
@click.option("--wait", default=300.0, show_default=True, type=click.FloatRange(1), help="Seconds to wait for a tile.")
def export(bbox: str, zooms: str, out: Path, url: str, layer: str | None, parallel: int, wait: float) -> None:
    """Write an area of a running server's layer, drawn where need be, into one file.

    MBTiles and PMTiles take many zooms; a GeoTIFF (cloud-optimised, EPSG:3857) and a PNG are the mosaic of one.
    Exit code 1, and no file, if a tile failed.
    """
    from app.export import run_export

    sys.exit(asyncio.run(run_export(_parse_bbox(bbox), _parse_zooms(zooms), out, url, layer, parallel, wait)))


@main.command()
@click.option("--scene", multiple=True, type=click.Path(path_type=Path), help="GeoTIFF to draw as served; repeatable.")
@click.option("--truth", type=click.Path(path_type=Path), help="Folder of pairs to compare scenes with.")
@click.option("--pairs", type=click.Path(path_type=Path), help="Folder of pairs to draw with true references.")
@click.option("--split", help="Split of the manifest.")
@click.option("--source", default="snezhinsk_osm", show_default=True, help="Source of the manifest.")
@click.option("--span", default=1, show_default=True, type=click.IntRange(1, 2), help="With --pairs: 1 = 2X, 2 = 4X.")
@click.option("--seams", is_flag=True, help="Look for borders in a mosaic of the scenes; needs no truth.")
@click.option("--edge", default=16, show_default=True, type=click.IntRange(2, 64), help="Mosaic's edge in tiles.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for metrics and pictures.")
@click.option("--weights", type=click.Path(path_type=Path), help="Network to use instead of the shipped one.")
@click.option("--baselines", type=click.Path(path_type=Path), help="Folder of trained baselines to compare with.")
@click.option("--zooms", help="Zooms to compare, or to draw mosaics of; 14-17, with --pairs 14-18.")
def evaluate(
    scene: tuple[Path, ...],
    truth: Path | None,
    pairs: Path | None,
    split: str | None,
    source: str,
    span: int,
    seams: bool,
    edge: int,
    out: Path,
    weights: Path | None,
    baselines: Path | None,
    zooms: str | None,
) -> None:
    """Measure what a network draws, in one of three ways.

    \b
    --scene S --truth DIR --split NAME   as served: the whole cascade from imagery alone, against true map tiles
    --pairs DIR --split NAME             teacher-forced: each pair with its true reference
    --scene S --seams                    ranks of tile, block and window borders among all other places of a mosaic,
                                         a shifted lattice, drift of colours; zooms may exceed the imagery's own
    """
    settings = load_settings(weights=weights, data_dir=out / "data", redis_url="none")
    wanted = _parse_zooms(zooms or ("14-18" if pairs else "14-17"))
    drawers: dict[str, Any] = {}
    if baselines is not None:
        from model.evaluation.baselines import load_baselines

        try:
            drawers = load_baselines(baselines)
        except ValueError as error:
            raise SettingsError(str(error)) from None
    if pairs is not None and split is not None and not scene:
        from model.evaluation.forced import run_forced

        try:
            run_forced(settings.weights, pairs, source, split, wanted, span, out, drawers)
        except (ValueError, FileNotFoundError) as error:
            raise SettingsError(str(error)) from None
    elif scene and seams:
        from app.seams import run_seams

        asyncio.run(run_seams(settings, list(scene), wanted, edge, out))
    elif scene and truth is not None and split is not None:
        from app.evaluate import run_evaluation

        asyncio.run(run_evaluation(settings, list(scene), truth, source, split, wanted, out, drawers))
    else:
        raise SettingsError("give --scene with --truth and --split, or --scene with --seams, or --pairs with --split")


@main.group()
def dataset() -> None:
    """Make training data."""


@dataset.command()
@click.option("--seed", "seeds", multiple=True, type=click.IntRange(0, 2**32 - 1), help="Country; repeatable.")
@click.option("--count", default=200, show_default=True, type=click.IntRange(1), help="Pairs of each country.")
@click.option("--split", default="train", show_default=True, help="Split to list them under.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder; manifest.csv is appended to.")
def country(seeds: tuple[int, ...], count: int, split: str, out: Path) -> None:
    """Draw pairs of imagery and map of fictional countries."""
    from model.world.pairs import write_pairs

    for seed in seeds or (1,):
        write_pairs(out, seed, count, split)


@dataset.command()
@click.option("--imagery", required=True, type=click.Path(path_type=Path), help="GeoTIFF, or a folder z/x/y.png.")
@click.option("--map", "map_source", required=True, type=click.Path(path_type=Path), help="The same, of the map.")
@click.option("--zooms", default="14-18", show_default=True)
@click.option("--source", default="own", show_default=True, help="Name in the manifest.")
@click.option("--val-share", default=0.1, show_default=True, type=click.FloatRange(0, 1), help="Share of z14 areas.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write.")
def build(imagery: Path, map_source: Path, zooms: str, source: str, val_share: float, out: Path) -> None:
    """Cut pairs out of imagery and a map (CSCMG layout, and a manifest)."""
    from app.dataset import build as build_dataset

    counts = build_dataset(imagery, map_source, _parse_zooms(zooms), out, source, val_share)
    click.echo(", ".join(f"{split}: {count} pairs" for split, count in counts.items()))


@dataset.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--most", default=0.05, show_default=True, type=click.FloatRange(0, 100), help="Percent of blank pixels.")
def clean(folder: Path, most: float) -> None:
    """Take pairs whose imagery has black or white holes out of FOLDER/manifest.csv (into dropped.csv)."""
    from model.data.clean import clean_manifest

    try:
        kept, dropped = clean_manifest(folder / "manifest.csv", most / 100)
    except ValueError as error:
        raise SettingsError(str(error)) from None
    click.echo(f"kept {kept}, dropped {dropped}")


@dataset.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--gsd", required=True, type=click.FloatRange(min=0, min_open=True), help="Metres per pixel.")
@click.option("--nested", "as_nested", is_flag=True, help="Centred crops of 4096 to 512 pixels instead.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for 512 x 512 images and gsd.csv.")
def standardize(folder: Path, gsd: float, as_nested: bool, out: Path) -> None:
    """Bring the images of FOLDER to 512 x 512 with a stated resolution (MMM-RS rules)."""
    from app.dataset import standardize_folder

    try:
        made, skipped = standardize_folder(folder, gsd, as_nested, out)
    except ValueError as error:
        raise SettingsError(str(error)) from None
    for line in skipped:
        click.echo(f"skipped {line}", err=True)
    click.echo(f"wrote {made} images")


@main.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--stage", help="Run only this stage; the others are taken from their checkpoints.")
def train(config: Path, stage: str | None) -> None:
    """Train a network as CONFIG (TOML) says. Interrupted runs go on where they stopped."""
    try:
        from model.training.baselines import train_baselines
        from model.training.config import BASELINE_PRESET, read_config
        from model.training.run import train as run_training
    except ImportError as error:
        raise SettingsError(f"training needs the extra packages: pip install 'tilecascade[train]' ({error})") from None
    if not config.is_file():
        raise SettingsError(f"{config} does not exist; an example is model/training/default.toml")
    try:
        parsed = read_config(config)
        if parsed.preset == BASELINE_PRESET:
            click.echo(f"baselines: {train_baselines(parsed)}")
        else:
            click.echo(f"network: {run_training(parsed, stage)}.safetensors")
    except ValueError as error:
        raise SettingsError(str(error)) from None


if __name__ == "__main__":
    main()
