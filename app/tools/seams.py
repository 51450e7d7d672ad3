"""`tilecascade evaluate seams`: a mosaic as served, searched for its lattice, and beside it the area tile by tile."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import mercantile
import numpy as np
from mercantile import Tile
from PIL import Image
from tqdm import tqdm

from tilecascade.app.errors import NoTileError, SettingsError
from tilecascade.app.service import Service
from tilecascade.app.settings import LayerSettings, Settings
from tilecascade.app.tiles import image
from tilecascade.app.tiles.references import References, read_conditions
from tilecascade.app.tiles.resolver import TileResolver
from tilecascade.model.cascade import TILE_SIZE, Mask, Pixels, Window, WindowConfig, enlarge_part, tile_window
from tilecascade.model.conditions import Conditions, Stage
from tilecascade.model.engine import Generated, LocalEngine, Priority
from tilecascade.model.evaluation.seams import border_ranks, difference, inside_band, style_drift
from tilecascade.model.pipeline import CascadePipeline
from tilecascade.model.sgdm.network import load_network

SHIFTED_BLOCKS = 16
"""Blocks that the shift test generates again, half a block away."""

CROP = 2048
"""Edge of the pictures written, in pixels."""


@dataclass(frozen=True)
class Mosaic:
    """Tiles side by side: their rectangle (columns and rows of tiles), colours and where they are known."""

    zoom: int
    columns: range
    rows: range
    colours: Pixels
    known: Mask


def area(resolver: TileResolver, zoom: int, edge: int) -> tuple[range, range]:
    """The middle `edge` x `edge` tiles of the layer's bounds (or fewer), beginning at an even tile."""
    west, south, east, north = resolver.layer.imagery.bounds
    low, high = mercantile.tile(west, north, zoom), mercantile.tile(east, south, zoom)
    spans = []
    for first, last in ((low.x, high.x), (low.y, high.y)):
        middle = (first + last + 1) // 2
        begin = max(first, middle - edge // 2) // 2 * 2
        spans.append(range(begin, min(last + 1, begin + edge)))
    return spans[0], spans[1]


async def generate_mosaic(resolver: TileResolver, zoom: int, edge: int) -> Mosaic:
    """The mosaic as served."""
    columns, rows = area(resolver, zoom, edge)
    canvas = np.zeros((len(rows) * TILE_SIZE, len(columns) * TILE_SIZE, 4), dtype=np.uint8)
    with tqdm(total=len(rows) * len(columns), unit="tile", desc=f"z{zoom}") as bar:

        async def one(tile: Tile) -> None:
            try:
                top, left = (tile.y - rows[0]) * TILE_SIZE, (tile.x - columns[0]) * TILE_SIZE
                png = (await resolver.find(tile)).data
                canvas[top : top + TILE_SIZE, left : left + TILE_SIZE] = image.decode(png)
            except NoTileError:
                pass
            bar.update()

        await asyncio.gather(*(one(Tile(x, y, zoom)) for y in rows for x in columns))
    return Mosaic(zoom, columns, rows, canvas[..., :3], canvas[..., 3] > 127)


async def generate_naive(resolver: TileResolver, engine: LocalEngine, like: Mosaic) -> Mosaic:
    """The same tiles, each generated from nothing but its own imagery and its own part of its parent."""
    colours = np.zeros_like(like.colours)
    reference_zoom = resolver.layer.ladder.reference_zoom(like.zoom)
    layer = resolver.layer
    stage = Stage(like.zoom, reference_zoom, TILE_SIZE, layer.seed, layer.revision, 0, layer.finish)

    async def one(tile: Tile) -> None:
        window = tile_window(tile)
        imagery, known = await asyncio.to_thread(resolver.layer.imagery.read, window)
        if not known.any():
            return
        reference = mask = None
        if reference_zoom is not None:
            levels = tile.z - reference_zoom
            parent = await resolver.find(mercantile.parent(tile, zoom=reference_zoom))
            part = enlarge_part(image.decode(parent.data), tile, levels)
            reference, mask = part[..., :3], part[..., 3] > 127
        conditions = Conditions(window, imagery, known, reference, mask)
        result = await asyncio.wrap_future(engine.submit(stage, lambda: conditions))
        assert isinstance(result, Generated)
        top, left = (tile.y - like.rows[0]) * TILE_SIZE, (tile.x - like.columns[0]) * TILE_SIZE
        colours[top : top + TILE_SIZE, left : left + TILE_SIZE] = result.output.pixels

    for y in like.rows:
        await asyncio.gather(*(one(Tile(x, y, like.zoom)) for x in like.columns))
    return replace(like, colours=colours)


async def neighbouring_fields(resolver: TileResolver, window: Window) -> References:
    """The reference of a window that is no block's: the fields of the reference zoom's blocks that it meets."""
    ladder = resolver.layer.ladder
    reference = ladder.reference_window(window)
    if reference is None:
        return References()
    covers = resolver.layer.imagery.covers
    blocks = {ladder.block(tile) for tile in reference.tiles() if covers(tile)}
    fields = {}
    for block in sorted(blocks, key=str):
        with suppress(NoTileError):
            fields[ladder.field(block)] = await resolver.generator.field(block, Priority.PREFETCH)
    return References(fields)


async def shift_test(resolver: TileResolver, engine: Any, mosaic: Mosaic) -> dict[str, float]:
    """Generate blocks on a lattice moved by half a block and compare them with the mosaic."""
    ladder = resolver.layer.ladder
    block = ladder.block(Tile(mosaic.columns[0], mosaic.rows[0], mosaic.zoom))
    size = block.footprint().width
    side = round(SHIFTED_BLOCKS**0.5)
    generated, there, known = [], [], []
    for i in range(side):
        for j in range(side):
            top = (mosaic.colours.shape[0] // size - 1) * i // side * size + size // 2
            left = (mosaic.colours.shape[1] // size - 1) * j // side * size + size // 2
            footprint = Window(
                mosaic.zoom, mosaic.columns[0] * TILE_SIZE + left, mosaic.rows[0] * TILE_SIZE + top, size, size
            )
            box = (slice(top, top + size), slice(left, left + size))
            if mosaic.colours[box].shape[:2] != (size, size) or not mosaic.known[box].any():
                continue
            window = footprint.grown(ladder.windows.margin)
            references = await neighbouring_fields(resolver, window)
            prepare = partial(read_conditions, resolver.layer, window, references)
            stage = replace(resolver.generator.stage(block), fields=f"{resolver.layer.version} shifted", ring=0)
            result = await asyncio.wrap_future(engine.submit(stage, prepare))
            assert isinstance(result, Generated)
            generated.append(result.output.pixels)
            there.append(mosaic.colours[box])
            known.append(mosaic.known[box])
    if not generated:
        return {}
    return difference(np.concatenate(generated), np.concatenate(there), np.concatenate(known))


async def run_seams(settings: Settings, scenes: list[Path], zooms: range, edge: int, out: Path) -> dict[str, object]:
    """Measure and write seams.json and pictures to `out`. Returns the measurements by zoom.

    Raises SettingsError for zooms that the layer does not have.
    """
    layer = LayerSettings(name="seams", scenes=scenes, max_zoom=zooms[-1])
    results: dict[str, object] = {}
    async with Service.running(settings, [layer]) as service:
        resolver = service.resolver(None)
        if zooms[0] < resolver.layer.ladder.root:
            raise SettingsError(f"zooms begin at {resolver.layer.ladder.root}, not at {zooms[0]}")
        network = load_network(settings.weights)
        network.config = replace(network.config, windows=WindowConfig(encode=0, denoise=0, decode=0, blend=False))
        alone = LocalEngine(CascadePipeline(network))
        for zoom in zooms:
            mosaic = await generate_mosaic(resolver, zoom, edge)
            naive = await generate_naive(resolver, alone, mosaic)
            results[str(zoom)] = await measure(resolver, service.engine, mosaic, naive)
            print(json.dumps({zoom: results[str(zoom)]}))
            await asyncio.to_thread(write, out, results, mosaic, naive)
        alone.close()
    return results


def write(out: Path, results: dict[str, object], mosaic: Mosaic, naive: Mosaic) -> None:
    """seams.json so far, and the middle of both mosaics as pictures."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "seams.json").write_text(json.dumps(results, indent=2) + "\n")
    for name, picture in (("mosaic", mosaic.colours), ("naive", naive.colours)):
        top, left = (max(0, (side - CROP) // 2) for side in picture.shape[:2])
        Image.fromarray(picture[top : top + CROP, left : left + CROP]).save(out / f"{name}-z{mosaic.zoom}.png")


async def measure(resolver: TileResolver, engine: Any, mosaic: Mosaic, naive: Mosaic) -> dict[str, object]:
    """All figures of one zoom."""
    ladder = resolver.layer.ladder
    block = ladder.block(Tile(mosaic.columns[0], mosaic.rows[0], mosaic.zoom)).footprint().width
    windows = ladder.windows
    halos = (windows.decode, windows.denoise, windows.encode)
    ranks = border_ranks(mosaic.colours, mosaic.known, TILE_SIZE, block, halos)
    alone = border_ranks(naive.colours, naive.known, TILE_SIZE, TILE_SIZE, ())
    return {
        "tiles": [len(mosaic.columns), len(mosaic.rows)],
        "ranks": ranks,
        "inside_band": inside_band(ranks),
        "naive_tile_rank": alone["tile"],
        "shift": await shift_test(resolver, engine, mosaic),
        "drift": style_drift(mosaic.colours, mosaic.known, TILE_SIZE),
        "naive_drift": style_drift(naive.colours, naive.known, TILE_SIZE),
    }
