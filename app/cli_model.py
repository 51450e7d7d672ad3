"""Commands for those who make networks: evaluate, dataset, train."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Literal

import click

from app.cli_options import parse_zooms
from app.settings import SettingsError, load_settings


@click.command()
@click.option("--scene", multiple=True, type=click.Path(path_type=Path), help="GeoTIFF to draw as served; repeatable.")
@click.option("--truth", type=click.Path(path_type=Path), help="Folder of pairs to compare scenes with.")
@click.option("--pairs", type=click.Path(path_type=Path), help="Folder of pairs to draw with true references.")
@click.option("--split", help="Split of the manifest.")
@click.option("--source", default="snezhinsk_osm", show_default=True, help="Source of the manifest.")
@click.option(
    "--span", default=1, show_default=True, type=click.IntRange(0, 2), help="1 = 2X, 2 = 4X, 0 = no reference."
)
@click.option("--strange", is_flag=True, help="With --pairs: draw once more with the imagery of other places.")
@click.option("--unsurveyed", is_flag=True, help="With --pairs: let references pass for the network's own drawings.")
@click.option("--seams", is_flag=True, help="Look for borders in a mosaic of the scenes; needs no truth.")
@click.option("--edge", default=16, show_default=True, type=click.IntRange(2, 64), help="Mosaic's edge in tiles.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for metrics and pictures.")
@click.option("--weights", type=click.Path(path_type=Path), help="Network to use instead of the shipped one.")
@click.option("--baselines", type=click.Path(path_type=Path), help="Folder of trained baselines to compare with.")
@click.option(
    "--against", multiple=True, type=click.Path(path_type=Path), help="Folder of an earlier evaluation; repeatable."
)
@click.option("--inception", type=click.Path(path_type=Path), help="Weights of FID's Inception v3, for KID and FID.")
@click.option("--dino", type=click.Path(path_type=Path), help="Weights of a DINO ViT-S or ViT-B, for MFP's two parts.")
@click.option("--zooms", help="Zooms to compare, or to draw mosaics of; 14-17, with --pairs 14-18.")
def evaluate(
    scene: tuple[Path, ...],
    truth: Path | None,
    pairs: Path | None,
    split: str | None,
    source: str,
    span: Literal[0, 1, 2],
    strange: bool,
    unsurveyed: bool,
    seams: bool,
    edge: int,
    out: Path,
    weights: Path | None,
    baselines: Path | None,
    against: tuple[Path, ...],
    inception: Path | None,
    dino: Path | None,
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
    wanted = parse_zooms(zooms or ("14-18" if pairs else "14-17"))
    from model.evaluation.baselines import load_baselines
    from model.evaluation.report import find_judges

    try:
        drawers = {} if baselines is None else load_baselines(baselines)
        judges = None if seams else find_judges(inception, dino)
    except ValueError as error:
        raise SettingsError(str(error)) from None
    if pairs is not None and split is not None and not scene:
        from model.evaluation.forced import run_forced

        try:
            run_forced(
                settings.weights,
                pairs,
                source,
                split,
                wanted,
                span,
                out,
                drawers,
                strange,
                against,
                judges,
                not unsurveyed,
            )
        except (ValueError, FileNotFoundError) as error:
            raise SettingsError(str(error)) from None
    elif scene and seams:
        from app.seams import run_seams

        asyncio.run(run_seams(settings, list(scene), wanted, edge, out))
    elif scene and truth is not None and split is not None:
        from app.evaluate import run_evaluation

        asyncio.run(
            run_evaluation(settings, list(scene), truth, source, split, wanted, span, out, drawers, against, judges)
        )
    else:
        raise SettingsError("give --scene with --truth and --split, or --scene with --seams, or --pairs with --split")


@click.command()
@click.option("--scene", required=True, multiple=True, type=click.Path(path_type=Path), help="GeoTIFF; repeatable.")
@click.option("--truth", required=True, type=click.Path(path_type=Path), help="Folder of pairs to compare with.")
@click.option("--split", required=True, help="Split of the manifest.")
@click.option("--source", default="snezhinsk_osm", show_default=True, help="Source of the manifest.")
@click.option("--zooms", default="15-17", show_default=True)
@click.option("--weights", type=click.Path(path_type=Path), help="Network to use instead of the shipped one.")
@click.option("--store", is_flag=True, help="Write the calibration into the weights' description.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the figures.")
def calibrate(
    scene: tuple[Path, ...],
    truth: Path,
    split: str,
    source: str,
    zooms: str,
    weights: Path | None,
    store: bool,
    out: Path,
) -> None:
    """Measure what a network's doubt means, for the confidence tiles."""
    from app.calibrate import run_calibration

    settings = load_settings(weights=weights, data_dir=out / "data", redis_url="none")
    result = asyncio.run(run_calibration(settings, list(scene), truth, source, split, parse_zooms(zooms), out, store))
    for name in ("confidence", "fitted", "doubt", "edges"):
        click.echo(f"{name}: AUC {result[name]['auc']}, wrong by decile {result[name]['wrong_by_decile']}")


@click.group()
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

    counts = build_dataset(imagery, map_source, parse_zooms(zooms), out, source, val_share)
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


@click.command()
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
