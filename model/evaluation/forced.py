"""Teacher-forced drawing of pairs: the reference is the *true* ancestor map, the imagery that of the pairs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from mercantile import Tile
from tqdm import tqdm

from model.cascade import Block, Ladder, Pixels, assemble, enlarge
from model.data.alignment import Area, estimate_offsets, offset_of, shift
from model.data.pairs import Pair, quadrant, read_pairs
from model.evaluation.baselines import Drawer
from model.evaluation.features import offline_network
from model.evaluation.report import Compared, median_tile, score, table, write_report
from model.palette import LAND
from model.pipeline import CascadePipeline, Conditions, Stage
from model.sgdm.network import load_network

ROOT_ZOOM = 14


def opaque(image: Pixels) -> Pixels:
    """256 x 256 x 3 -> RGBA without holes."""
    return np.dstack([image, np.full(image.shape[:2], 255, dtype=np.uint8)])


def draw_forced(
    pipeline: CascadePipeline,
    pairs: list[Pair],
    offsets: dict[Area, tuple[int, int]],
    span: int,
    baselines: Mapping[str, Drawer] = MappingProxyType({}),
) -> list[Compared]:
    """Draw every pair that has a true reference `span` levels up (all of them at the root, without one).

    Imagery is aligned by `offsets` first. Neighbouring pairs are each other's context; where there is none, the window
    is unknown.
    """
    ladder = Ladder(ROOT_ZOOM, span, pipeline.windows)
    imagery = {Tile(p.x, p.y, p.zoom): opaque(shift(p.imagery, *offset_of(p, offsets))) for p in pairs}
    maps = {Tile(p.x, p.y, p.zoom): opaque(p.map) for p in pairs}
    maps |= {Tile(p.x >> 1, p.y >> 1, p.zoom - 1): opaque(p.parent) for p in pairs if p.parent is not None}
    drawn: dict[Tile, Pixels] = {}
    for block in tqdm(sorted({ladder.block(tile) for tile in imagery}, key=str), unit="block", desc=f"{2**span}X"):
        conditions = _conditions(ladder, block, imagery, maps)
        if conditions is not None:
            stage = Stage(block.zoom, ladder.reference_zoom(block.zoom), block.footprint().width)
            drawn |= block.cut(pipeline(stage, [conditions])[0])
    compared = []
    for pair in pairs:
        tile = Tile(pair.x, pair.y, pair.zoom)
        reference = ladder.reference_zoom(pair.zoom)
        if tile not in drawn:
            continue
        enlarged = None
        if reference is not None:
            levels = pair.zoom - reference
            parent = maps[Tile(pair.x >> levels, pair.y >> levels, reference)][..., :3]
            enlarged = quadrant(np.ascontiguousarray(parent), pair.x, pair.y, levels)
        images = {"drawn": drawn[tile], "copy_parent": median_tile(pair) if enlarged is None else enlarged}
        seen = np.ascontiguousarray(imagery[tile][..., :3])
        images |= {name: draw(seen, enlarged, pair.zoom) for name, draw in baselines.items()}
        compared.append(Compared(pair, images | {"median": median_tile(pair)}))
    return compared


def _conditions(
    ladder: Ladder, block: Block, imagery: dict[Tile, Pixels], maps: dict[Tile, Pixels]
) -> Conditions | None:
    window = ladder.window(block)
    seen, known = assemble(window, imagery)
    field = ladder.reference_window(window)
    if field is None:
        return Conditions(window, seen, known, None, None)
    parent = Tile(block.column, block.row, field.zoom)
    if parent not in maps:
        return None
    reference, reference_known = enlarge(*assemble(field, maps), window.zoom - field.zoom, LAND)
    return Conditions(window, seen, known, reference, reference_known, reference_known)


def run_forced(
    weights: Path,
    root: Path,
    source: str,
    split: str,
    zooms: range,
    span: int,
    out: Path,
    baselines: Mapping[str, Drawer] = MappingProxyType({}),
) -> dict[str, Any]:
    """Evaluate a network on pairs and write the report. Raises ValueError or FileNotFoundError with a sentence."""
    pairs = read_pairs(root, source, split, zooms)
    compared = draw_forced(CascadePipeline(load_network(weights)), pairs, estimate_offsets(pairs), span, baselines)
    if not compared:
        raise ValueError(f"no pair of zooms {zooms[0]} to {zooms[-1]} has a true map {span} levels up")
    metrics = score(f"teacher-forced {2**span}X", compared, {}, offline_network())
    write_report(out, metrics, compared)
    print(table(metrics))
    return metrics
