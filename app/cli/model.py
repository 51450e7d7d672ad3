"""Commands for those who make networks: evaluate, calibrate, train, finetune."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import click

from tilecascade.app.cli.options import parse_zooms, renamed
from tilecascade.app.errors import SettingsError
from tilecascade.app.settings import load_settings

PATH = click.Path(path_type=Path)


def common_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What both comparisons with ground truth take."""
    options = (
        click.option("--split", required=True, help="Split of the manifest."),
        click.option("--source", default="snezhinsk_osm", show_default=True, help="Source of the manifest."),
        click.option(
            "--span", default=1, show_default=True, type=click.IntRange(0, 2), help="1 = 2X, 2 = 4X, 0 = no reference."
        ),
        click.option("--out", required=True, type=PATH, help="Folder for metrics and pictures."),
        click.option("--weights", type=PATH, help="Network to use instead of the shipped one."),
        click.option("--baselines", type=PATH, help="Folder of trained baselines to compare with."),
        click.option("--against", multiple=True, type=PATH, help="Folder of an earlier evaluation; repeatable."),
        click.option("--inception", type=PATH, help="Weights of FID's Inception v3, for KID and FID."),
        click.option("--dino", type=PATH, help="Weights of a DINO ViT-S or ViT-B, for MFP's two parts."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def comparison(
    baselines: Path | None, against: tuple[Path, ...], inception: Path | None, dino: Path | None
) -> dict[str, Any]:
    """What generated tiles are compared by and with. Raises SettingsError."""
    from tilecascade.model.evaluation.baselines import load_baselines
    from tilecascade.model.evaluation.report import load_perceptual_metrics

    try:
        return {
            "baselines": {} if baselines is None else load_baselines(baselines),
            "perceptual": load_perceptual_metrics(inception, dino),
            "earlier": against,
        }
    except ValueError as error:
        raise SettingsError(str(error)) from None


@click.group()
@click.option("--scene", hidden=True, callback=renamed("the command `evaluate scene`"))
@click.option("--pairs", hidden=True, callback=renamed("the command `evaluate pairs`"))
@click.option("--seams", hidden=True, is_flag=True, callback=renamed("the command `evaluate seams`"))
def evaluate(scene: None, pairs: None, seams: None) -> None:
    """Measure what a network generates."""


@evaluate.command("scene")
@click.argument("scenes", nargs=-1, required=True, type=PATH)
@click.option("--truth", required=True, type=PATH, help="Folder of pairs: the ground truth.")
@click.option("--zooms", default="14-17", show_default=True, help="Zooms to compare.")
@common_options
def evaluate_scene(
    scenes: tuple[Path, ...], truth: Path, zooms: str, split: str, source: str, span: Literal[0, 1, 2], out: Path,
    weights: Path | None, **compared: Any,
) -> None:  # fmt: skip
    """As served: the whole cascade over GeoTIFF SCENES, from imagery alone, against ground truth."""
    from tilecascade.app.tools.evaluate import SceneEvaluation, run_evaluation

    settings = load_settings(weights=weights, data_dir=out / "data", redis_url="none")
    wanted = SceneEvaluation(scenes, truth, source, split, parse_zooms(zooms), out, span=span, **comparison(**compared))
    asyncio.run(run_evaluation(settings, wanted))


@evaluate.command("features")
@click.argument("scenes", nargs=-1, required=True, type=PATH)
@click.option("--truth", required=True, type=PATH, help="Folder of pairs: the ground truth.")
@click.option("--split", required=True, help="Split of the manifest.")
@click.option("--source", default="snezhinsk_osm", show_default=True, help="Source of the manifest.")
@click.option("--zoom", default=17, show_default=True, type=click.IntRange(0, 22), help="Zoom of the objects.")
@click.option("--out", required=True, type=PATH, help="Folder for the figures.")
@click.option("--weights", type=PATH, help="Network to use instead of the shipped one.")
def evaluate_features(
    scenes: tuple[Path, ...], truth: Path, split: str, source: str, zoom: int, out: Path, weights: Path | None
) -> None:
    """Buildings and roads over GeoTIFF SCENES against ground truth, by how sure the network is of them."""
    from tilecascade.app.tools.evaluate_features import run_feature_evaluation, table

    settings = load_settings(weights=weights, data_dir=out / "data", redis_url="none")
    result = asyncio.run(run_feature_evaluation(settings, scenes, truth, source, split, zoom, out))
    click.echo(table(result))


@evaluate.command("pairs")
@click.argument("pairs", type=PATH)
@click.option("--zooms", default="14-18", show_default=True, help="Zooms to compare.")
@click.option("--mismatched-imagery", "mismatched", is_flag=True, help="Once more with the imagery of other places.")
@click.option("--untrusted", is_flag=True, help="Let the network take the true references for its own.")
@common_options
def evaluate_pairs(
    pairs: Path, zooms: str, mismatched: bool, untrusted: bool, split: str, source: str, span: int, out: Path,
    weights: Path | None, **compared: Any,
) -> None:  # fmt: skip
    """Teacher-forced, because each pair of the folder PAIRS is given its true reference."""
    from tilecascade.model.evaluation.teacher_forced import PairEvaluation, run_teacher_forced

    settings = load_settings(weights=weights)
    wanted = PairEvaluation(
        pairs,
        source,
        split,
        parse_zooms(zooms),
        out,
        span=span,
        mismatched=mismatched,
        trusted=not untrusted,
        **comparison(**compared),
    )
    try:
        run_teacher_forced(settings.weights, wanted)
    except (ValueError, FileNotFoundError) as error:
        raise SettingsError(str(error)) from None


@evaluate.command("seams")
@click.argument("scenes", nargs=-1, required=True, type=PATH)
@click.option("--zooms", default="14-17", show_default=True, help="Zooms; they may exceed the imagery's own.")
@click.option("--edge", default=16, show_default=True, type=click.IntRange(2, 64), help="Mosaic's edge in tiles.")
@click.option("--out", required=True, type=PATH, help="Folder for metrics and pictures.")
@click.option("--weights", type=PATH, help="Network to use instead of the shipped one.")
def evaluate_seams(scenes: tuple[Path, ...], zooms: str, edge: int, out: Path, weights: Path | None) -> None:
    """Look for borders in mosaics of GeoTIFF SCENES; needs no ground truth.

    Ranks of tile, block and window borders among all other places of a mosaic, a shifted lattice, drift of colours.
    """
    from tilecascade.app.tools.seams import run_seams

    settings = load_settings(weights=weights, data_dir=out / "data", redis_url="none")
    asyncio.run(run_seams(settings, list(scenes), parse_zooms(zooms), edge, out))


@click.command()
@click.option("--scene", required=True, multiple=True, type=PATH, help="GeoTIFF; repeatable.")
@click.option("--truth", required=True, type=PATH, help="Folder of pairs to compare with.")
@click.option("--split", required=True, help="Split of the manifest.")
@click.option("--source", default="snezhinsk_osm", show_default=True, help="Source of the manifest.")
@click.option("--zooms", default="15-17", show_default=True)
@click.option("--weights", type=PATH, help="Network to use instead of the shipped one.")
@click.option("--store", is_flag=True, help="Write the calibration into the weights' description.")
@click.option("--out", required=True, type=PATH, help="Folder for the figures.")
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
    """Measure what a network's uncertainty means, for the confidence tiles."""
    from tilecascade.app.tools.calibrate import run_calibration

    settings = load_settings(weights=weights, data_dir=out / "data", redis_url="none")
    result = asyncio.run(run_calibration(settings, list(scene), truth, source, split, parse_zooms(zooms), out, store))
    for name in ("confidence", "fitted", "uncertainty", "edges"):
        click.echo(f"{name}: AUC {result[name]['auc']}, wrong by decile {result[name]['wrong_by_decile']}")


@evaluate.command("captions")
@click.argument("captions", type=PATH)
@click.option("--folder", required=True, type=PATH, help="Folder of the images that CAPTIONS names.")
@click.option("--truth", type=PATH, help="Ground truth of the imagery under the same names, for --perceptual.")
@click.option("--clip", type=(str, PATH), help="open_clip model and its file, for CLIPScore: ViT-B-32 weights.pt.")
@click.option("--classifier", type=PATH, help="TorchScript classifier, such as Inception v3, for the Inception Score.")
@click.option("--perceptual", type=PATH, help="TorchScript distance of two images, such as LPIPS.")
def caption_scores(
    captions: Path, folder: Path, truth: Path | None, clip: tuple[str, Path] | None, classifier: Path | None,
    perceptual: Path | None,
) -> None:  # fmt: skip
    """Score whether tiles show what their CAPTIONS (JSON of `tilecascade dataset captions`) say.

    Maps by geometry and by a tower of our own (does a tile match its caption better than 15 others?); imagery by
    weights that you give.
    """
    from tilecascade.app.tools.evaluate_captions import CaptionScores, score_captions

    wanted = CaptionScores(captions, folder, truth, clip, classifier, perceptual)
    click.echo(", ".join(f"{name} {value}" for name, value in score_captions(wanted).items()))


@click.command()
@click.argument("config", type=PATH)
@click.option("--stage", help="Run only this stage; the others are taken from their checkpoints.")
def train(config: Path, stage: str | None) -> None:
    """Train a network as CONFIG (TOML) says. Interrupted runs go on where they stopped."""
    try:
        from tilecascade.model.training.baselines import train_baselines
        from tilecascade.model.training.config import (
            BASELINE_PRESET,
            IMAGERY_PRESET,
            LAYOUT_PRESET,
            PUBLISHED_PRESET,
            STEMS_PRESET,
            read_config,
        )
        from tilecascade.model.training.layouts import train_layouts
        from tilecascade.model.training.octaves import train_octaves
        from tilecascade.model.training.published import train_published
        from tilecascade.model.training.run import train as run_training
        from tilecascade.model.training.stems import train_stems
    except ImportError as error:
        raise SettingsError(f"training needs the extra packages: pip install 'tilecascade[train]' ({error})") from None
    if not config.is_file():
        raise SettingsError(f"{config} does not exist; an example is model/training/default.toml")
    try:
        parsed = read_config(config)
        if parsed.preset == BASELINE_PRESET:
            click.echo(f"baselines: {train_baselines(parsed)}")
        elif parsed.preset == IMAGERY_PRESET:
            click.echo(f"network: {train_octaves(parsed)}.safetensors")
        elif parsed.preset == LAYOUT_PRESET:
            click.echo(f"network: {train_layouts(parsed)}.safetensors")
        elif parsed.preset == STEMS_PRESET:
            click.echo(f"stems: {train_stems(parsed)}.safetensors")
        elif parsed.preset == PUBLISHED_PRESET:
            click.echo(f"network: {train_published(parsed)}.safetensors")
        else:
            click.echo(f"network: {run_training(parsed, stage)}.safetensors")
    except ValueError as error:
        raise SettingsError(str(error)) from None


@click.command()
@click.option("--scene", type=PATH, help="GeoTIFF, or a folder z/x/y.png.")
@click.option("--map", "map_source", type=PATH, help="Map of some of it: GeoTIFF, .mbtiles, .geojson, or z/x/y.png.")
@click.option("--zooms", default="14-17", show_default=True, help="Zooms to cut --scene and --map at.")
@click.option("--val-share", default=0.15, show_default=True, type=click.FloatRange(0.01, 0.9), help="Held-out areas.")
@click.option("--pairs", type=PATH, help="Folder of pairs, instead of --scene and --map.")
@click.option("--source", default="own", show_default=True, help="Source in the manifest of --pairs.")
@click.option("--minutes", default=30.0, show_default=True, type=click.FloatRange(0.1, 10000), help="To train.")
@click.option("--weights", type=PATH, help="Model to begin with; the shipped one unless given.")
@click.option("--out", required=True, type=PATH, help="Model folder to write.")
def finetune(
    scene: Path | None, map_source: Path | None, zooms: str, val_share: float, pairs: Path | None, source: str,
    minutes: float, weights: Path | None, out: Path,
) -> None:  # fmt: skip
    """Teach the network another area and another map style, one after the other cut, train, measure.

    The style's colours are learned from the map. Run it again to go on where it was interrupted. Then: tilecascade
    serve --model OUT, or for a running server tilecascade model use OUT.
    """
    try:
        from tilecascade.app.tools.finetune import FineTuning, cut_pairs
        from tilecascade.app.tools.finetune import finetune as run
    except ImportError as error:
        raise SettingsError(f"training needs the extra packages: pip install 'tilecascade[train]' ({error})") from None
    if (pairs is None) == (scene is None) or (scene is None) != (map_source is None):
        raise SettingsError("give --scene and --map, or --pairs")
    if (out / "report.json").is_file():
        raise SettingsError(f"{out} holds a model already; choose another folder for --out")
    try:
        if scene is not None and map_source is not None:
            pairs, source = cut_pairs(scene, map_source, parse_zooms(zooms), val_share, out), "own"
        assert pairs is not None
        run(FineTuning(pairs, source, load_settings(weights=weights).weights, minutes, out))
    except (ValueError, FileNotFoundError) as error:
        raise SettingsError(str(error)) from None
