"""Commands that make training data: dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tilecascade.app.cli.options import parse_zooms
from tilecascade.app.errors import SettingsError

PATH = click.Path(path_type=Path)


@click.group()
def dataset() -> None:
    """Make training data."""


@dataset.command()
@click.option("--seed", "seeds", multiple=True, type=click.IntRange(0, 2**32 - 1), help="Country; repeatable.")
@click.option("--count", default=200, show_default=True, type=click.IntRange(1), help="Pairs of each country.")
@click.option("--zooms", help="A-B, each as often; 14-18, the middle ones more often, unless given.")
@click.option("--split", default="train", show_default=True, help="Split to list them under.")
@click.option("--out", required=True, type=PATH, help="Folder; manifest.csv is appended to.")
def country(seeds: tuple[int, ...], count: int, zooms: str | None, split: str, out: Path) -> None:
    """Render pairs of imagery and map of fictional countries."""
    from tilecascade.model.world.features import PLACE
    from tilecascade.model.world.pairs import ZOOMS, write_pairs

    wanted = [] if zooms is None else list(parse_zooms(zooms))
    if wanted and not PLACE[2] < wanted[-1]:
        raise SettingsError(f"a country is one tile of zoom {PLACE[2]}; give finer zooms than {zooms}")
    shares = {zoom: 1 / len(wanted) for zoom in wanted} or ZOOMS
    for seed in seeds or (1,):
        write_pairs(out, seed, count, split, shares)


@dataset.command("generate")
@click.argument("territory", type=PATH)
@click.option("--zooms", default="14-17", show_default=True, help="A-B, each as often.")
@click.option("--count", default=400, show_default=True, type=click.IntRange(1), help="Tiles.")
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0, 2**32 - 1), help="Another one: other ones."
)
@click.option("--val-share", default=0.15, show_default=True, type=click.FloatRange(0, 1), help="Areas listed as val.")
@click.option("--out", required=True, type=PATH, help="Folder; manifest.csv is appended to.")
def generate(territory: Path, zooms: str, count: int, seed: int, val_share: float, out: Path) -> None:
    """Write imagery, map and classes of a TERRITORY that does not exist, for training other networks."""
    from tilecascade.app.tools.generate_pairs import WantedPairs, generate_pairs

    counts = generate_pairs(WantedPairs(territory, parse_zooms(zooms), count, out, seed, val_share))
    click.echo(", ".join(f"{split}: {found} pairs" for split, found in counts.items()))


@dataset.command()
@click.argument("folder", type=PATH)
@click.option("--out", required=True, type=PATH, help="JSON file to write.")
def captions(folder: Path, out: Path) -> None:
    """Say in words what each pair of FOLDER shows: scene, relations, elements, computed from its map."""
    from tilecascade.app.tools.captions import write_captions

    counts = write_captions(folder, out)
    skipped = f"; {counts.pop('')} of another style left out" if "" in counts else ""
    kinds = ", ".join(f"{scene} {count}" for scene, count in counts.most_common())
    click.echo(f"{counts.total()} captions ({kinds}){skipped}")


@dataset.command("check-captions")
@click.argument("file", type=PATH)
@click.option("--budget", default=75, show_default=True, type=click.IntRange(1), help="Tokens of the text tower.")
def check(file: Path, budget: int) -> None:
    """Check that the captions or prompts of a JSON FILE (AAAAD, MMM-RS) can be told to a generator."""
    from tilecascade.app.tools.captions import check_captions

    click.echo(f"{check_captions(file, budget)} captions, all can be used")


@dataset.command()
@click.argument("scene", type=PATH)
@click.option("--kind", required=True, type=click.Choice(["fog", "low light", "snow"]), help="What is added.")
@click.option("--strength", default=0.6, show_default=True, type=click.FloatRange(0, 1), help="1: as much as there is.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**32 - 1), help="Another one: elsewhere.")
@click.option("--height", type=PATH, help="Raster of metres above the sea, one band: fog lies low.")
@click.option("--out", required=True, type=PATH, help="GeoTIFF to write.")
def weather(scene: Path, kind: Any, strength: float, seed: int, height: Path | None, out: Path) -> None:
    """Put fog, low light or snow on a GeoTIFF SCENE; its metadata say so."""
    from tilecascade.app.tools.weather import add_weather
    from tilecascade.model.imagery.weather import Weather

    add_weather(scene, Weather(kind, strength, seed), out, height)
    click.echo(f"{out} is written: {scene} with {kind}")


@dataset.command()
@click.argument("scene", type=PATH)
@click.option("--sensor", required=True, help="rgb, pan, nir or sar.")
@click.option("--map", "map_source", required=True, type=PATH, help="Map of it: GeoTIFF, folder z/x/y.png, .geojson.")
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0, 2**32 - 1), help="Another one: other noise."
)
@click.option("--out", required=True, type=PATH, help="GeoTIFF to write.")
def sensor(scene: Path, sensor: str, map_source: Path, seed: int, out: Path) -> None:
    """Simulate what radar, near infrared or a panchromatic camera would have seen of a GeoTIFF SCENE."""
    from tilecascade.app.tools.sensor import write_sensor
    from tilecascade.model.sensors.modality import sensor_named

    try:
        chosen = sensor_named(sensor)
    except ValueError as error:
        raise SettingsError(str(error)) from None
    zoom = write_sensor(scene, chosen, map_source, seed, out)
    click.echo(f"{out} is written: {scene} as {chosen} would have seen it, pixels of zoom {zoom}")


@dataset.command()
@click.option("--imagery", required=True, type=PATH, help="GeoTIFF, or a folder z/x/y.png.")
@click.option("--map", "map_source", required=True, type=PATH, help="The same, or .mbtiles, .geojson.")
@click.option("--zooms", default="14-18", show_default=True)
@click.option("--source", default="own", show_default=True, help="Name in the manifest.")
@click.option("--val-share", default=0.1, show_default=True, type=click.FloatRange(0, 1), help="Share of z14 areas.")
@click.option("--out", required=True, type=PATH, help="Folder to write.")
def build(imagery: Path, map_source: Path, zooms: str, source: str, val_share: float, out: Path) -> None:
    """Cut pairs out of imagery and a map (CSCMG layout, and a manifest)."""
    from tilecascade.app.tools.dataset import build as build_dataset

    counts = build_dataset(imagery, map_source, parse_zooms(zooms), out, source, val_share)
    click.echo(", ".join(f"{split}: {count} pairs" for split, count in counts.items()))


@dataset.command()
@click.option("--zooms", default="16-17", show_default=True, help="A-B.")
@click.option("--split", default="train", show_default=True, help="Split to list them under.")
@click.option("--out", required=True, type=PATH, help="Folder; its manifest.csv is appended to.")
@click.option("--url", default="http://127.0.0.1:8000", show_default=True, help="The running server.")
@click.option("--layer", help="Layer name; the server's default layer unless given.")
def reviews(zooms: str, split: str, out: Path, url: str, layer: str | None) -> None:
    """Write pairs of what was reviewed on a running server, for fine-tuning: reading = "reviewed"."""
    from tilecascade.app.client.review_pairs import write_review_pairs

    counts = write_review_pairs(out, parse_zooms(zooms), split, url, layer)
    click.echo(f"{counts.pairs} pairs of {counts.reviews} reviews")


@dataset.command()
@click.argument("folder", type=PATH)
@click.option(
    "--max-blank",
    "most",
    default=0.05,
    show_default=True,
    type=click.FloatRange(0, 100),
    help="Percent of blank pixels.",
)
def clean(folder: Path, most: float) -> None:
    """Take pairs whose imagery has black or white holes out of FOLDER/manifest.csv (into dropped.csv)."""
    from tilecascade.model.data.clean import clean_manifest

    try:
        kept, dropped = clean_manifest(folder / "manifest.csv", most / 100)
    except ValueError as error:
        raise SettingsError(str(error)) from None
    click.echo(f"kept {kept}, dropped {dropped}")


@dataset.command()
@click.argument("folder", type=PATH)
@click.option("--gsd", required=True, type=click.FloatRange(min=0, min_open=True), help="Metres per pixel.")
@click.option(
    "--rule", default="mmm-rs", show_default=True, type=click.Choice(["mmm-rs", "bicubic", "captions", "nested"]),
    help="mmm-rs: small images are doubled by a network; bicubic: without; captions: slice, crop or pad; nested: "
    "centred crops of 4096 to 512 pixels.",
)  # fmt: skip
@click.option("--out", required=True, type=PATH, help="Folder for 512 x 512 images and gsd.csv.")
def standardize(folder: Path, gsd: float, rule: str, out: Path) -> None:
    """Bring the images of FOLDER to 512 x 512 with a stated resolution."""
    from tilecascade.app.tools.dataset import standardize_folder

    try:
        made, skipped = standardize_folder(folder, gsd, rule, out)
    except ValueError as error:
        raise SettingsError(str(error)) from None
    for line in skipped:
        click.echo(f"skipped {line}", err=True)
    click.echo(f"wrote {made} images")


@dataset.command()
@click.option("--pairs", multiple=True, type=PATH, help="Folder of pairs, of whose maps they are made; repeatable.")
@click.option("--country", "countries", multiple=True, type=click.IntRange(0, 2**32 - 1), help="Seed; repeatable.")
@click.option("--count", default=400, show_default=True, type=click.IntRange(1), help="Tiles of each country.")
@click.option("--variants", default=8, show_default=True, type=click.IntRange(1, 8), help="Parts of each tile.")
@click.option("--out", required=True, type=PATH, help="Folder to write layouts.npz to.")
def layouts(pairs: tuple[Path, ...], countries: tuple[int, ...], count: int, variants: int, out: Path) -> None:
    """Write small pictures of what lies where on maps, with captions, for training the generator of layouts."""
    from tilecascade.app.tools.layouts import write_layouts

    counts = write_layouts(list(pairs), list(countries), count, variants, out)
    click.echo(f"{counts.total()} layouts ({', '.join(f'{scene} {n}' for scene, n in counts.most_common())})")
