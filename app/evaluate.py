"""`tilecascade evaluate --scene`: the cascade as served, from imagery alone, against true map tiles.

Truth and imagery are offset against each other (model/data/alignment.py); each comparison moves the drawn tile by
its area's estimated offset and leaves out the border that the move uncovers. Offsets come from imagery and truth
only, never from what was drawn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from mercantile import Tile
from tqdm import tqdm

from app import tile_image
from app.imagery import tile_window
from app.resolver import NoTileError, TileResolver
from app.service import Service
from app.settings import LayerSettings, Settings, SettingsError
from model.cascade import Pixels
from model.data.alignment import estimate_offsets
from model.data.pairs import Pair, read_pairs
from model.evaluation.baselines import Drawer
from model.evaluation.report import Compared, Judges, add_earlier, median_tile, score, table, write_report
from model.palette import LAND


def _over_land(rgba: Pixels) -> Pixels:
    known = rgba[..., 3:] > 127
    return np.where(known, rgba[..., :3], np.array(LAND, dtype=np.uint8)).astype(np.uint8)


CONTEXT = 64
"""Pixels of imagery around a tile that the baselines see, as the cascade sees more than the tile."""


async def _draw(resolver: TileResolver, pair: Pair, baselines: Mapping[str, Drawer]) -> Compared | None:
    """What is served for one truth tile, the root tile enlarged, and the baselines that need no reference; None where
    the layer has nothing."""
    tile = Tile(pair.x, pair.y, pair.zoom)
    root = resolver.layer.ladder.root
    levels = tile.z - root
    try:
        drawn = tile_image.decode((await resolver.tile(tile)).png)
        top = tile_image.decode((await resolver.tile(Tile(tile.x >> levels, tile.y >> levels, root))).png)
    except NoTileError:
        return None
    enlarged = top if levels == 0 else tile_image.enlarge_part(top, tile, levels)
    images = {"drawn": _over_land(drawn), "root_enlarged": _over_land(enlarged), "median": median_tile(pair)}
    seen, _ = await asyncio.to_thread(resolver.layer.imagery.read, tile_window(tile).grown(CONTEXT))
    inner = slice(CONTEXT, -CONTEXT)
    for name, draw in baselines.items():
        if name != "sharpener":
            images[name] = (await asyncio.to_thread(draw, seen, None, tile.z))[inner, inner]
    return Compared(pair, images)


async def run_evaluation(
    settings: Settings,
    scenes: list[Path],
    truth: Path,
    source: str,
    split: str,
    zooms: range,
    span: Literal[0, 1, 2],
    out: Path,
    baselines: Mapping[str, Drawer] = MappingProxyType({}),
    earlier: Iterable[Path] = (),
    judges: Judges | None = None,
) -> dict[str, Any]:
    """Evaluate and write metrics.json, metrics.md and sheet.png to `out`. Returns the metrics.

    earlier: folders of earlier evaluations to compare with. Raises SettingsError if nothing can be compared.
    """
    try:
        pairs = read_pairs(truth, source, split, range(14, max(zooms[-1], 17) + 1))
    except ValueError as error:
        raise SettingsError(str(error)) from None
    offsets = estimate_offsets(pairs)
    service = Service(settings, [LayerSettings(name=f"scene{i}", scenes=[s], span=span) for i, s in enumerate(scenes)])
    await asyncio.to_thread(service.start)
    compared: list[Compared] = []
    try:
        with tqdm(total=len(pairs), unit="tile", desc="draw") as bar:

            async def one(pair: Pair) -> None:
                for resolver in service.resolvers.values():
                    within = resolver.layer.ladder.root <= pair.zoom <= resolver.layer.max_zoom
                    result = await _draw(resolver, pair, baselines) if within and pair.zoom in zooms else None
                    if result is not None:
                        compared.append(result)
                        break
                bar.update()

            for zoom in sorted({pair.zoom for pair in pairs}):
                await asyncio.gather(*(one(pair) for pair in pairs if pair.zoom == zoom))
    finally:
        await asyncio.to_thread(service.close)
    if not compared:
        raise SettingsError("no truth tile lies on these scenes; check --scene, --truth and --split")
    compared.sort(key=lambda c: (c.pair.zoom, c.pair.x, c.pair.y))
    try:
        add_earlier(compared, earlier)
    except ValueError as error:
        raise SettingsError(str(error)) from None
    metrics = score("as served", compared, offsets, judges)
    await asyncio.to_thread(write_report, out, metrics, compared)
    print(table(metrics))
    return metrics
