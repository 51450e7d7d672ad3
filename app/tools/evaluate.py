"""`tilecascade evaluate scene`: the cascade as served, from imagery alone, against ground truth.

Ground truth and imagery are offset against each other (model/data/alignment.py). Each comparison moves the generated
tile by its area's estimated offset and leaves out the border that the move uncovers. Offsets come from imagery and
ground truth only, never from what was generated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from mercantile import Tile
from tqdm import tqdm

from tilecascade.app.errors import NoTileError, SettingsError
from tilecascade.app.service import Service
from tilecascade.app.settings import LayerSettings, Settings
from tilecascade.app.tiles import image
from tilecascade.app.tiles.resolver import TileResolver
from tilecascade.model.cascade import Pixels, enlarge_part, tile_window
from tilecascade.model.data.alignment import estimate_offsets
from tilecascade.model.data.pairs import Pair, read_pairs
from tilecascade.model.evaluation.baselines import Baseline
from tilecascade.model.evaluation.report import (
    Compared,
    PerceptualMetrics,
    add_earlier,
    median_tile,
    score,
    table,
    write_report,
)
from tilecascade.model.palette import LAND


def _over_land(rgba: Pixels) -> Pixels:
    known = rgba[..., 3:] > 127
    return np.where(known, rgba[..., :3], np.array(LAND, dtype=np.uint8)).astype(np.uint8)


CONTEXT = 64
"""Pixels of imagery around a tile that the baselines see, as the cascade sees more than the tile."""


@dataclass(frozen=True)
class SceneEvaluation:
    """What to evaluate.

    scenes: GeoTIFFs, each a layer of its own. truth, source, split: the pairs that are the ground truth. zooms: those
    compared. span: see `Ladder`. out: folder of the report. baselines: other networks, by name. earlier: folders of
    earlier evaluations to compare with.
    """

    scenes: Sequence[Path]
    truth: Path
    source: str
    split: str
    zooms: range
    out: Path
    span: Literal[0, 1, 2] = 1
    baselines: Mapping[str, Baseline] = field(default_factory=dict)
    earlier: Sequence[Path] = ()
    perceptual: PerceptualMetrics | None = None


async def _compare(resolver: TileResolver, pair: Pair, baselines: Mapping[str, Baseline]) -> Compared | None:
    """For one tile of ground truth: what is served, the root tile enlarged, and the baselines that need no reference.

    None where the layer has no tile.
    """
    tile = Tile(pair.x, pair.y, pair.zoom)
    root = resolver.layer.ladder.root
    levels = tile.z - root
    try:
        generated = image.decode((await resolver.find(tile)).data)
        top = image.decode((await resolver.find(Tile(tile.x >> levels, tile.y >> levels, root))).data)
    except NoTileError:
        return None
    enlarged = top if levels == 0 else enlarge_part(top, tile, levels)
    images = {"generated": _over_land(generated), "root_enlarged": _over_land(enlarged), "median": median_tile(pair)}
    seen, _ = await asyncio.to_thread(resolver.layer.imagery.read, tile_window(tile).grown(CONTEXT))
    inner = slice(CONTEXT, -CONTEXT)
    for name, baseline in baselines.items():
        if name != "sharpener":
            images[name] = (await asyncio.to_thread(baseline, seen, None, tile.z))[inner, inner]
    return Compared(pair, images)


async def run_evaluation(settings: Settings, wanted: SceneEvaluation) -> dict[str, Any]:
    """Evaluate, and write metrics.json, metrics.md and sheet.png. Returns the metrics.

    Raises SettingsError if nothing can be compared.
    """
    zooms = wanted.zooms
    try:
        pairs = read_pairs(wanted.truth, wanted.source, wanted.split, range(14, max(zooms[-1], 17) + 1))
    except ValueError as error:
        raise SettingsError(str(error)) from None
    offsets = estimate_offsets(pairs)
    compared: list[Compared] = []
    layers = [LayerSettings(name=f"scene{i}", scenes=[s], span=wanted.span) for i, s in enumerate(wanted.scenes)]
    async with Service.running(settings, layers) as service:
        with tqdm(total=len(pairs), unit="tile", desc="generate") as bar:

            async def one(pair: Pair) -> None:
                for resolver in service.resolvers.values():
                    served = resolver.layer.ladder.root <= pair.zoom <= resolver.layer.max_zoom
                    result = await _compare(resolver, pair, wanted.baselines) if served and pair.zoom in zooms else None
                    if result is not None:
                        compared.append(result)
                        break
                bar.update()

            for zoom in sorted({pair.zoom for pair in pairs}):
                await asyncio.gather(*(one(pair) for pair in pairs if pair.zoom == zoom))
    if not compared:
        raise SettingsError("no truth tile lies on these scenes; check --scene, --truth and --split")
    compared.sort(key=lambda c: (c.pair.zoom, c.pair.x, c.pair.y))
    try:
        add_earlier(compared, wanted.earlier)
    except ValueError as error:
        raise SettingsError(str(error)) from None
    metrics = score("as served", compared, offsets, wanted.perceptual)
    await asyncio.to_thread(write_report, wanted.out, metrics, compared)
    print(table(metrics))
    return metrics
