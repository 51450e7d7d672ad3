"""Training pairs of what people have reviewed: imagery, and the map where somebody has said what is there."""

from __future__ import annotations

import asyncio
import csv
import io
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import mercantile
import numpy as np
import shapely
from mercantile import Tile
from numpy.typing import NDArray
from PIL import Image
from rasterio.features import rasterize
from shapely.affinity import translate
from shapely.geometry.base import BaseGeometry

from tilecascade.app.client.connection import connect
from tilecascade.app.errors import SettingsError
from tilecascade.app.tiles.geojson import pixels_of
from tilecascade.app.tiles.reviews import Review, review_of
from tilecascade.model.cascade import TILE_SIZE
from tilecascade.model.data.labels import UNREVIEWED
from tilecascade.model.world.pairs import COLUMNS

SOURCE = "reviews"
"""Name in the manifest."""

AROUND = 8.0
"""Pixels around a reviewed object that were looked at with it."""

PARALLEL, WAIT = 4, 300.0


@dataclass(frozen=True)
class Counts:
    """What was written."""

    pairs: int
    reviews: int


def write_review_pairs(out: Path, zooms: range, split: str, url: str, layer: str | None) -> Counts:
    """Write a pair for every tile that a review touches, with UNREVIEWED where no review speaks.

    The map is the served tile, because it shows every review. A tile that is listed already is written anew. Raises
    SettingsError for what is wrong with the arguments or the server, and TileFailedError.
    """
    reviews, images = asyncio.run(_fetch(zooms, url, layer))
    places = reviewed_places(reviews, zooms)
    out.mkdir(parents=True, exist_ok=True)
    rows = [_write_pair(out, split, tile, *files, places[tile]) for tile, files in images.items()]
    _append(out / "manifest.csv", rows)
    return Counts(len(rows), len(reviews))


async def _fetch(zooms: range, url: str, layer: str | None) -> tuple[list[Review], dict[Tile, tuple[bytes, bytes]]]:
    """The reviews, and the imagery and the map of every tile that one touches and that has imagery."""
    async with connect(url, layer, PARALLEL, WAIT) as served:
        if zooms[0] < served.zooms[0] or zooms[-1] > served.zooms[-1]:
            raise SettingsError(f"layer {served.name} has zooms {served.zooms[0]}-{served.zooms[-1]}")
        answer = await served.client.get(f"/reviews/{served.name}")
        if answer.status_code != 200:
            raise SettingsError(f"{url} does not tell its reviews: status {answer.status_code}")
        reviews = [review_of(feature) for feature in answer.json()["features"]]
        images = {}
        async for tile, drawn in served.in_order(reviewed_places(reviews, zooms), served.fetch):
            imagery = await served.client.get(f"/imagery/{served.name}/{tile.z}/{tile.x}/{tile.y}.png")
            if drawn is not None and imagery.status_code == 200:
                images[tile] = imagery.content, drawn
        return reviews, images


def reviewed_places(reviews: list[Review], zooms: range) -> dict[Tile, list[BaseGeometry]]:
    """The tiles that reviews touch, and what was looked at there, in pixels of the tile."""
    places: dict[Tile, list[BaseGeometry]] = defaultdict(list)
    for review in reviews:
        for zoom in zooms:
            outline = pixels_of(review.outline, zoom).buffer(AROUND)
            for tile in mercantile.tiles(*review.outline.bounds, zooms=zoom):
                inside = translate(outline, -tile.x * TILE_SIZE, -tile.y * TILE_SIZE)
                if inside.intersects(shapely.box(0, 0, TILE_SIZE, TILE_SIZE)):
                    places[tile].append(inside)
    return places


def _write_pair(
    out: Path, split: str, tile: Tile, imagery: bytes, drawn: bytes, outlines: list[BaseGeometry]
) -> dict[str, object]:
    """Write a pair; returns the manifest's row."""
    name = f"{split}_{tile.z}_{tile.x}_{tile.y}"
    pixels = _rgb(drawn).copy()
    known = rasterize(outlines, out_shape=pixels.shape[:2], fill=0, default_value=1).astype(bool)
    pixels[~known] = UNREVIEWED
    Image.fromarray(_rgb(imagery)).save(out / f"{name}.rs.png")
    Image.fromarray(pixels).save(out / f"{name}.map.png")
    row = (SOURCE, split, name, tile.z, tile.x, tile.y, f"{name}.rs.png", f"{name}.map.png", "")
    return dict(zip(COLUMNS, row, strict=True))


def _rgb(data: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def _append(manifest: Path, rows: list[dict[str, object]]) -> None:
    """Add rows to a manifest; those that are there already stay once."""
    listed: list[dict[str, object]] = []
    if manifest.is_file():
        with manifest.open(newline="") as lines:
            listed = list(csv.DictReader(lines))
    names = {row["map"] for row in rows}
    with manifest.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows([row for row in listed if row["map"] not in names] + rows)
