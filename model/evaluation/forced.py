"""Teacher-forced drawing of pairs: the reference is the *true* ancestor map, the imagery that of the pairs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
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
from model.evaluation.report import Compared, Judges, add_earlier, median_tile, score, table, write_report
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
    strange: bool = False,
    surveyed: bool = True,
) -> list[Compared]:
    """Draw every pair that has a true reference `span` levels up (at the root, and with span 0, all, without one).

    Imagery is aligned by `offsets` first. Neighbouring pairs are each other's context; where there is none, the window
    is unknown. strange: draw them once more with the imagery of other places, as method `strange_imagery`. surveyed:
    tell the network that the references are; else it takes them for its own drawings.
    """
    ladder = Ladder(ROOT_ZOOM, span, pipeline.windows)
    imagery = {Tile(p.x, p.y, p.zoom): opaque(shift(p.imagery, *offset_of(p, offsets))) for p in pairs}
    maps = {Tile(p.x, p.y, p.zoom): opaque(p.map) for p in pairs}
    maps |= {Tile(p.x >> 1, p.y >> 1, p.zoom - 1): opaque(p.parent) for p in pairs if p.parent is not None}
    drawn = _draw_all(pipeline, ladder, imagery, maps, f"{2**span}X" if span else "imagery alone", surveyed)
    elsewhere = {}
    if strange:
        elsewhere = _draw_all(pipeline, ladder, strange_imagery(imagery), maps, "strange imagery", surveyed)
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
        if strange:
            images["strange_imagery"] = elsewhere[tile]
        seen = np.ascontiguousarray(imagery[tile][..., :3])
        images |= {name: draw(seen, enlarged, pair.zoom) for name, draw in baselines.items()}
        compared.append(Compared(pair, images | {"median": median_tile(pair)}))
    return compared


def _draw_all(
    pipeline: CascadePipeline,
    ladder: Ladder,
    imagery: dict[Tile, Pixels],
    maps: dict[Tile, Pixels],
    name: str,
    surveyed: bool,
) -> dict[Tile, Pixels]:
    """All blocks whose reference is known. name: of the imagery, so that nothing drawn of another is used again."""

    def draw(block: Block) -> dict[Tile, Pixels]:
        conditions = _conditions(ladder, block, imagery, maps, surveyed)
        if conditions is None:
            return {}
        stage = Stage(block.zoom, ladder.reference_zoom(block.zoom), block.footprint().width, fields=name)
        return block.cut(pipeline(stage, [conditions])[0])

    drawn: dict[Tile, Pixels] = {}
    blocks = sorted({ladder.block(tile) for tile in imagery}, key=str)
    with ThreadPoolExecutor(os.cpu_count()) as cores:
        for tiles in tqdm(cores.map(draw, blocks), total=len(blocks), unit="block", desc=name):
            drawn |= tiles
    return drawn


def strange_imagery(imagery: Mapping[Tile, Pixels]) -> dict[Tile, Pixels]:
    """To each tile the imagery of the same corner of the next z14 area; of any corner, if that is not there.

    Raises ValueError if all tiles are of one area.
    """

    def area(tile: Tile) -> tuple[int, int]:
        return tile.x >> (tile.z - ROOT_ZOOM), tile.y >> (tile.z - ROOT_ZOOM)

    strange: dict[Tile, Pixels] = {}
    for zoom in {tile.z for tile in imagery}:
        here = sorted(tile for tile in imagery if tile.z == zoom)
        areas = sorted({area(tile) for tile in here})
        if len(areas) < 2:
            raise ValueError(f"at zoom {zoom} all pairs are of one place: there is no other imagery to draw them with")
        following = dict(zip(areas, areas[1:] + areas[:1], strict=True))
        size = 1 << (zoom - ROOT_ZOOM)
        for index, tile in enumerate(here):
            column, row = following[area(tile)]
            same = Tile(column * size + tile.x % size, row * size + tile.y % size, zoom)
            others = [other for other in here if area(other) == (column, row)]
            strange[tile] = imagery[same if same in imagery else others[index % len(others)]]
    return strange


def _conditions(
    ladder: Ladder, block: Block, imagery: dict[Tile, Pixels], maps: dict[Tile, Pixels], surveyed: bool
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
    return Conditions(window, seen, known, reference, reference_known, reference_known if surveyed else None)


def run_forced(
    weights: Path,
    root: Path,
    source: str,
    split: str,
    zooms: range,
    span: int,
    out: Path,
    baselines: Mapping[str, Drawer] = MappingProxyType({}),
    strange: bool = False,
    earlier: Iterable[Path] = (),
    judges: Judges | None = None,
    surveyed: bool = True,
) -> dict[str, Any]:
    """Evaluate a network on pairs and write the report. Raises ValueError or FileNotFoundError with a sentence."""
    pairs = read_pairs(root, source, split, zooms)
    pipeline = CascadePipeline(load_network(weights))
    compared = draw_forced(pipeline, pairs, estimate_offsets(pairs), span, baselines, strange, surveyed)
    if not compared:
        raise ValueError(f"no pair of zooms {zooms[0]} to {zooms[-1]} has a true map {span} levels up")
    add_earlier(compared, earlier)
    metrics = score(f"teacher-forced {2**span}X" if span else "imagery alone", compared, {}, judges)
    write_report(out, metrics, compared)
    print(table(metrics))
    return metrics
