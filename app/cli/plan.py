"""`tilecascade plan`: what a map of an area would take."""

from __future__ import annotations

import json
from pathlib import Path

import click

from tilecascade.app.api.schemas import parse_bbox
from tilecascade.app.cli.options import DATA_DIR, parse_zooms


@click.command()
@click.option("--bbox", help="W,S,E,N in degrees.")
@click.option("--area", "area_file", type=click.Path(path_type=Path), help="GeoJSON polygons, instead of --bbox.")
@click.option("--zooms", required=True, help="A-B.")
@click.option("--url", help="A running server that is asked what a tile costs and where there is imagery.")
@click.option("--layer", help="Layer name; the server's default layer unless given.")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), help="Of a device for a tile, instead.")
@click.option("--kilobytes", type=click.FloatRange(0, min_open=True), help="Of a tile, instead.")
@click.option("--replicas", default=1, show_default=True, type=click.IntRange(1), help="Devices side by side.")
@click.option("--price", type=click.FloatRange(0), help="Of a device for an hour.")
@click.option("--data-dir", **DATA_DIR, help="The server's data directory, where its key is.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def plan(
    bbox: str | None, area_file: Path | None, zooms: str, url: str | None, layer: str | None, seconds: float | None,
    kilobytes: float | None, replicas: int, price: float | None, data_dir: Path, as_json: bool,
) -> None:  # fmt: skip
    """Say what a map of an area would take: tiles, bytes, hours of devices, time, price.

    Counted by geometry; what a tile costs a running server says, or you do, because there may be none yet.
    """
    import httpx

    from tilecascade.app.client.connection import Key
    from tilecascade.app.client.jobs import read_area
    from tilecascade.app.client.plan import PlanClient, area_of
    from tilecascade.app.client.plan import plan as make_plan

    wanted = area_of(parse_bbox(bbox, "--bbox") if bbox else None, read_area(area_file) if area_file else None)
    client = None
    if url is not None:
        client = PlanClient(httpx.Client(base_url=url, timeout=60), layer, Key(data_dir))
    found = make_plan(wanted, parse_zooms(zooms), client, seconds, kilobytes, replicas, price)
    click.echo(json.dumps(found.to_dict(), indent=1) if as_json else "\n".join(found.lines()))
