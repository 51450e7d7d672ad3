"""`tilecascade export` of map objects: the features of an area, each once and whole, in one file."""

from __future__ import annotations

import os
from pathlib import Path

import shapely
from mercantile import Tile
from tqdm import tqdm

from tilecascade.app.client.conflation import conflate, read_existing
from tilecascade.app.client.connection import Bounds, ServedLayer, connect
from tilecascade.app.client.export import put_in_place
from tilecascade.app.client.feature_files import FEATURE_WRITERS
from tilecascade.app.errors import SettingsError, TileFailedError
from tilecascade.app.jobs.area import Area
from tilecascade.app.tiles.geojson import Feature, box_of, feature, object_of, pixels_of, tile_at
from tilecascade.model.cartography.parts import Part, assemble

COMMON = ("generated", "source", "version", "zoom")
"""Properties that all features of one layer share."""


async def export_features(
    bbox: Bounds, zooms: range, out: Path, url: str, layer: str | None, parallel: int, wait: float, against: Path | None
) -> int:
    """Write the file; prints progress and a summary. Returns 0, or 1 if a tile failed, and then leaves no file.

    Raises SettingsError for what is wrong with the arguments or the server. Has this many parameters because these are
    the options of the command.
    """
    if len(zooms) > 1:
        raise SettingsError("features are of one zoom, the finest for most uses: give --zooms as one number")
    if not out.parent.is_dir():
        raise SettingsError(f"there is no directory {out.parent}")
    temporary = out.with_name(f".{os.getpid()}-{out.name}")
    try:
        async with connect(url, layer, parallel, wait) as served:
            area = served.clip(bbox, zooms)
            existing = None if against is None else read_existing(against, area)
            found = await fetch_features(served, area, zooms[0])
        if existing is not None:
            found = conflate(found, existing)
        about = {"attribution": served.attribution, "version": served.revision, "bbox": list(area)}
        FEATURE_WRITERS[out.suffix](temporary, found, about)
        size = put_in_place(temporary, out)
    except TileFailedError as error:
        print(f"{error}; nothing was written")
        return 1
    finally:
        temporary.unlink(missing_ok=True)
    print(f"{out}: {summary(found)}, {size} bytes")
    return 0


def summary(found: list[Feature]) -> str:
    """How many features of each kind there are, and of each change."""
    counts: dict[str, int] = {}
    for each in found:
        name = " ".join([each["properties"].get("change", ""), each["properties"]["layer"]]).strip()
        counts[name] = counts.get(name, 0) + 1
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


async def fetch_features(served: ServedLayer, area: Bounds, zoom: int) -> list[Feature]:
    """All features of an area. Raises TileFailedError, or SettingsError if there are none."""
    tiles = list(Area.of_box(area).tiles(zoom))
    parts: list[Part] = []
    common: dict[str, object] = {}
    captured: dict[Tile, object] = {}
    with tqdm(total=len(tiles), unit="tile") as bar:
        async for tile, some in served.in_order(tiles, served.fetch_features):
            bar.update()
            if some:
                parts.append((box_of(tile), [object_of(each) for each in some]))
                common = {name: some[0]["properties"][name] for name in COMMON}
                captured[tile] = some[0]["properties"]["captured"]
    if not parts:
        raise SettingsError("there is nothing in that area but unmapped ground or places without imagery")
    box = pixels_of(shapely.box(*area), zoom)
    return [
        feature(each, zoom, common | {"captured": captured.get(tile_at(each, zoom))})
        for each in assemble(parts)
        if each.geometry.intersects(box)
    ]
