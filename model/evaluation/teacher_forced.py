"""Teacher-forced evaluation of pairs: the reference is the true ancestor map, the imagery that of the pairs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mercantile import Tile
from tqdm import tqdm

from tilecascade.model.cascade import Block, Ladder, Pixels, assemble, enlarge_part, tile_window
from tilecascade.model.conditions import Conditions, Stage
from tilecascade.model.data.alignment import Area, estimate_offsets, offset_of, shift
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
from tilecascade.model.pipeline import CascadePipeline
from tilecascade.model.sgdm.network import load_network

ROOT_ZOOM = 14


def opaque(image: Pixels) -> Pixels:
    """256 x 256 x 3 -> RGBA without holes."""
    return np.dstack([image, np.full(image.shape[:2], 255, dtype=np.uint8)])


@dataclass(frozen=True)
class PairEvaluation:
    """What to evaluate.

    pairs, source, split, zooms: the pairs. span: levels up to the true reference (1 is 2X, 2 is 4X); 0: imagery alone.
    out: folder of the report. baselines: other networks, by name. mismatched: generate every pair once more with the
    imagery of other places, as method `mismatched_imagery`. trusted: whether the network knows that its references
    are ground truth; otherwise it takes them for its own. earlier: folders of earlier evaluations to compare with.
    """

    pairs: Path
    source: str
    split: str
    zooms: range
    out: Path
    span: int = 1
    baselines: Mapping[str, Baseline] = field(default_factory=dict)
    mismatched: bool = False
    trusted: bool = True
    earlier: Sequence[Path] = ()
    perceptual: PerceptualMetrics | None = None


def compare_pairs(
    pipeline: CascadePipeline, pairs: list[Pair], offsets: dict[Area, tuple[int, int]], wanted: PairEvaluation
) -> list[Compared]:
    """Generate every pair that has a true reference (at the root, and with span 0, every pair, without one).

    Imagery is aligned by `offsets` first. Neighbouring pairs are each other's context; where there is none, the window
    is unknown.
    """
    span = wanted.span
    ladder = Ladder(ROOT_ZOOM, span, pipeline.windows)
    imagery = {Tile(p.x, p.y, p.zoom): opaque(shift(p.imagery, *offset_of(p, offsets))) for p in pairs}
    maps = {Tile(p.x, p.y, p.zoom): opaque(p.map) for p in pairs}
    maps |= {Tile(p.x >> 1, p.y >> 1, p.zoom - 1): opaque(p.parent) for p in pairs if p.parent is not None}
    name = f"{2**span}X" if span else "imagery alone"
    generated = _generate_all(pipeline, ladder, imagery, maps, name, wanted.trusted)
    elsewhere = {}
    if wanted.mismatched:
        others = mismatched_imagery(imagery)
        elsewhere = _generate_all(pipeline, ladder, others, maps, "mismatched imagery", wanted.trusted)
    compared = []
    for pair in pairs:
        tile = Tile(pair.x, pair.y, pair.zoom)
        reference = ladder.reference_zoom(pair.zoom)
        if tile not in generated:
            continue
        enlarged = None
        if reference is not None:
            levels = pair.zoom - reference
            parent = maps[Tile(pair.x >> levels, pair.y >> levels, reference)][..., :3]
            enlarged = enlarge_part(parent, tile, levels)
        copy = median_tile(pair) if enlarged is None else enlarged
        images = {"generated": generated[tile], "copy_parent": copy}
        if wanted.mismatched:
            images["mismatched_imagery"] = elsewhere[tile]
        seen = np.ascontiguousarray(imagery[tile][..., :3])
        images |= {name: baseline(seen, enlarged, pair.zoom) for name, baseline in wanted.baselines.items()}
        compared.append(Compared(pair, images | {"median": median_tile(pair)}))
    return compared


def _generate_all(
    pipeline: CascadePipeline,
    ladder: Ladder,
    imagery: dict[Tile, Pixels],
    maps: dict[Tile, Pixels],
    name: str,
    trusted: bool,
) -> dict[Tile, Pixels]:
    """All blocks whose reference is known. name: of the imagery, which keeps the pipeline's caches apart."""

    def generate(block: Block) -> dict[Tile, Pixels]:
        conditions = _conditions(ladder, block, imagery, maps, trusted)
        if conditions is None:
            return {}
        stage = Stage(block.zoom, ladder.reference_zoom(block.zoom), block.footprint().width, fields=name)
        return block.cut(pipeline(stage, [conditions])[0].pixels)

    generated: dict[Tile, Pixels] = {}
    blocks = sorted({ladder.block(tile) for tile in imagery}, key=str)
    with ThreadPoolExecutor(os.cpu_count()) as cores:
        for tiles in tqdm(cores.map(generate, blocks), total=len(blocks), unit="block", desc=name):
            generated |= tiles
    return generated


def mismatched_imagery(imagery: Mapping[Tile, Pixels]) -> dict[Tile, Pixels]:
    """For each tile the imagery of the same corner of the next z14 area; of any corner, if that is not known.

    Raises ValueError if all tiles are of one area.
    """

    def area(tile: Tile) -> tuple[int, int]:
        return tile.x >> (tile.z - ROOT_ZOOM), tile.y >> (tile.z - ROOT_ZOOM)

    mismatched: dict[Tile, Pixels] = {}
    for zoom in {tile.z for tile in imagery}:
        here = sorted(tile for tile in imagery if tile.z == zoom)
        areas = sorted({area(tile) for tile in here})
        if len(areas) < 2:
            raise ValueError(f"at zoom {zoom} all pairs are of one place: there is no imagery of another place")
        following = dict(zip(areas, areas[1:] + areas[:1], strict=True))
        size = 1 << (zoom - ROOT_ZOOM)
        for index, tile in enumerate(here):
            column, row = following[area(tile)]
            same = Tile(column * size + tile.x % size, row * size + tile.y % size, zoom)
            others = [other for other in here if area(other) == (column, row)]
            mismatched[tile] = imagery[same if same in imagery else others[index % len(others)]]
    return mismatched


def _conditions(
    ladder: Ladder, block: Block, imagery: dict[Tile, Pixels], maps: dict[Tile, Pixels], trusted: bool
) -> Conditions | None:
    window = ladder.window(block)
    seen, known = assemble(window, imagery)
    field = ladder.reference_window(window)
    if field is None:
        return Conditions(window, seen, known, None, None)
    parent = Tile(block.column, block.row, field.zoom)
    if parent not in maps:
        return None
    reference, reference_known = ladder.enlarged_reference(
        window, {tile_window(tile): known for tile, known in maps.items()}
    )
    return Conditions(window, seen, known, reference, reference_known, reference_known if trusted else None)


def run_teacher_forced(weights: Path, wanted: PairEvaluation) -> dict[str, Any]:
    """Evaluate a network on pairs and write the report. Raises ValueError or FileNotFoundError with a sentence."""
    pairs = read_pairs(wanted.pairs, wanted.source, wanted.split, wanted.zooms)
    pipeline = CascadePipeline(load_network(weights))
    compared = compare_pairs(pipeline, pairs, estimate_offsets(pairs), wanted)
    span, zooms = wanted.span, wanted.zooms
    if not compared:
        raise ValueError(f"no pair of zooms {zooms[0]} to {zooms[-1]} has a true map {span} levels up")
    add_earlier(compared, wanted.earlier)
    kind = f"teacher-forced {2**span}X" if span else "imagery alone"
    metrics = score(kind, compared, {}, wanted.perceptual)
    write_report(wanted.out, metrics, compared)
    print(table(metrics))
    return metrics
