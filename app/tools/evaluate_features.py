"""`tilecascade evaluate features`: the map objects of a layer against ground truth, by their confidence."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import shapely.affinity
from mercantile import Tile
from tqdm import tqdm

from tilecascade.app.errors import NoTileError, SettingsError
from tilecascade.app.service import Service
from tilecascade.app.settings import LayerSettings, Settings
from tilecascade.app.tiles.resolver import TileResolver
from tilecascade.model.cartography.objects import MapObject
from tilecascade.model.cascade import metres_per_pixel, tile_window
from tilecascade.model.data.alignment import estimate_offsets, offset_of
from tilecascade.model.data.pairs import read_pairs
from tilecascade.model.engine import Priority
from tilecascade.model.evaluation.object_matching import ObjectMatches


async def run_feature_evaluation(
    settings: Settings, scenes: tuple[Path, ...], truth: Path, source: str, split: str, zoom: int, out: Path
) -> dict[str, Any]:
    """Generate the objects of all tiles of the ground truth, compare them, write features.json and features.md to
    `out`. Raises SettingsError if nothing can be compared."""
    try:
        pairs = read_pairs(truth, source, split)
    except ValueError as error:
        raise SettingsError(str(error)) from None
    offsets, matches, compared = estimate_offsets(pairs), ObjectMatches(), 0
    layers = [LayerSettings(name=f"scene{i}", scenes=[scene]) for i, scene in enumerate(scenes)]
    async with Service.running(settings, layers) as service:
        for pair in tqdm([pair for pair in pairs if pair.zoom == zoom], unit="tile"):
            for resolver in service.resolvers.values():
                found = await _objects(resolver, Tile(pair.x, pair.y, zoom))
                if found is not None:
                    dx, dy = offset_of(pair, offsets)
                    matches.add(_shifted(found, -dx, -dy), pair.map, metres_per_pixel(zoom, pair.y))
                    compared += 1
                    break
    if not compared:
        raise SettingsError(f"no truth tile of zoom {zoom} lies on these scenes; check SCENES, --truth and --split")
    result = {"zoom": zoom, "tiles": compared} | matches.summary()
    await asyncio.to_thread(_write, result, out)
    return result


def _write(result: dict[str, Any], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "features.json").write_text(json.dumps(result, indent=2) + "\n")
    (out / "features.md").write_text(table(result))


async def _objects(resolver: TileResolver, tile: Tile) -> list[MapObject] | None:
    """What a tile has, in its pixels; None where there is no tile."""
    try:
        found = await resolver.features.of_tile(tile, Priority.INTERACTIVE)
    except NoTileError:
        return None
    place = tile_window(tile)
    return _shifted([each for each in found if each.own], -place.left, -place.top)


def _shifted(found: list[MapObject], right: float, down: float) -> list[MapObject]:
    return [replace(each, geometry=shapely.affinity.translate(each.geometry, right, down)) for each in found]


def table(result: dict[str, Any]) -> str:
    """The result as Markdown: by tenths of the objects, the surest last."""
    lines = [
        f"Zoom {result['zoom']}, {result['tiles']} tiles. By tenths of the objects, the surest last.",
        "",
        f"| tenth | {' | '.join(str(i + 1) for i in range(10))} | all | found of the true ones |",
        "|---" * 13 + "|",
    ]
    for name in ("buildings", "roads"):
        of = result[name]
        for row, key, more in (
            (f"{name}, from confidence", "from_confidence", ("", "")),
            ("right", "right", (of["precision"], of["recall"])),
        ):
            cells = [str(tenth[key]) for tenth in of["tenths"]] + [""] * (10 - len(of["tenths"]))
            lines.append(f"| {row} | {' | '.join(cells)} | {more[0]} | {more[1]} |")
    return "\n".join(lines) + "\n"
