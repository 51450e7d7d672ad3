"""Commands for countries that do not exist: territory new."""

from __future__ import annotations

from pathlib import Path

import click

from tilecascade.app.api.schemas import parse_bbox

PATH = click.Path(path_type=Path)


@click.group()
def territory() -> None:
    """Countries that do not exist, from sketches."""


@territory.command()
@click.option("--sketch", required=True, type=PATH, help="Picture: land cover in flat colours, or as from above.")
@click.option("--bounds", required=True, help="W,S,E,N in degrees: where the picture lies.")
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0, 2**32 - 1), help="Another one: other detail."
)
@click.option("--legend", type=PATH, help='JSON, colour to land cover: {"#1e5a28": "forest", ...}.')
@click.option("--vectors", type=PATH, help="GeoJSON of roads, rivers (lines) and land cover (areas) that are there.")
@click.option("--height", type=PATH, help="Raster of metres above the sea (one band): hills and where roads go.")
@click.option("--areas", type=PATH, help="GeoJSON of polygons with a prompt, a caption or weather.")
@click.option("--event", type=PATH, help="GeoJSON of areas that change, such as a flood: a second layer, `after`.")
@click.option("--painted-zoom", default=18, show_default=True, type=click.IntRange(14, 19), help="Finest zoom.")
@click.option("--out", required=True, type=PATH, help="Folder to write, for `tilecascade serve`.")
def new(
    sketch: Path, bounds: str, seed: int, legend: Path | None, vectors: Path | None, height: Path | None,
    areas: Path | None, event: Path | None, painted_zoom: int, out: Path,
) -> None:  # fmt: skip
    """Make a territory of a sketch, so that `tilecascade serve OUT` shows it as imagery and as map.

    Without a legend: water #3c6ebe, forest #1e5a28, scrub #8c9646, farmland #dcc86e, grass #82be50, wetland #5a968c,
    sand #f0e1aa, rock #96918c, town #c8463c, snow #fafafa.
    """
    from tilecascade.app.tools.territory import NewTerritory, new_territory

    box = parse_bbox(bounds, "--bounds")
    wanted = NewTerritory(sketch, box, out, seed, legend, vectors, event, height, areas, painted_zoom)
    click.echo(new_territory(wanted))
