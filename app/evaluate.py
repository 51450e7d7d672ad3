"""`tilecascade evaluate`: the cascade as served, from imagery alone, against true map tiles.

Truth and imagery are offset against each other (model/data/alignment.py); each comparison moves the drawn tile by
its area's estimated offset and leaves out the border that the move uncovers. Offsets come from imagery and truth
only, never from what was drawn.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mercantile import Tile
from PIL import Image
from tqdm import tqdm

from app import tile_image
from app.resolver import NoTileError, TileResolver
from app.service import Service
from app.settings import LayerSettings, Settings, SettingsError
from model.cascade import Pixels
from model.data.alignment import estimate_offsets, offset_of, shift
from model.data.pairs import Pair, read_pairs
from model.evaluation.metrics import Scores
from model.palette import LAND

METHODS = ("drawn", "root_enlarged", "median")
SHEET_ROWS = 8


@dataclass(frozen=True)
class Compared:
    """One truth tile with what was drawn for it (RGB, 256 x 256)."""

    pair: Pair
    drawn: Pixels
    root_enlarged: Pixels


def _over_land(rgba: Pixels) -> Pixels:
    known = rgba[..., 3:] > 127
    return np.where(known, rgba[..., :3], np.array(LAND, dtype=np.uint8)).astype(np.uint8)


async def _draw(resolver: TileResolver, pair: Pair) -> Compared | None:
    tile = Tile(pair.x, pair.y, pair.zoom)
    root = resolver.layer.ladder.root
    levels = tile.z - root
    try:
        drawn = tile_image.decode((await resolver.tile(tile)).png)
        top = tile_image.decode((await resolver.tile(Tile(tile.x >> levels, tile.y >> levels, root))).png)
    except NoTileError:
        return None
    enlarged = top if levels == 0 else tile_image.enlarge_part(top, tile, levels)
    return Compared(pair, _over_land(drawn), _over_land(enlarged))


async def run_evaluation(
    settings: Settings, scenes: list[Path], truth: Path, source: str, split: str, zooms: range, out: Path
) -> dict[str, object]:
    """Evaluate and write metrics.json, metrics.md and sheet.png to `out`. Returns the metrics.

    Raises SettingsError if nothing can be compared.
    """
    try:
        pairs = read_pairs(truth, source, split, range(14, max(zooms[-1], 17) + 1))
    except ValueError as error:
        raise SettingsError(str(error)) from None
    offsets = estimate_offsets(pairs)
    service = Service(settings, [LayerSettings(name=f"scene{i}", scenes=[s]) for i, s in enumerate(scenes)])
    await asyncio.to_thread(service.start)
    compared: list[Compared] = []
    try:
        with tqdm(total=len(pairs), unit="tile", desc="draw") as bar:

            async def one(pair: Pair) -> None:
                for resolver in service.resolvers.values():
                    within = resolver.layer.ladder.root <= pair.zoom <= resolver.layer.max_zoom
                    result = await _draw(resolver, pair) if within and pair.zoom in zooms else None
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
    metrics = score(compared, offsets)
    await asyncio.to_thread(write_report, out, metrics, compared)
    print(table(metrics))
    return metrics


def write_report(out: Path, metrics: dict[str, object], compared: list[Compared]) -> None:
    """metrics.json, metrics.md and the contact sheet."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    (out / "metrics.md").write_text(table(metrics))
    Image.fromarray(sheet(compared)).save(out / "sheet.png")


def score(compared: list[Compared], offsets: dict[tuple[str, int, int], tuple[int, int]]) -> dict[str, object]:
    """Metrics per zoom for what was drawn and for the baselines."""
    scores = {method: {c.pair.zoom: Scores() for c in compared} for method in METHODS}
    for item in compared:
        dx, dy = offset_of(item.pair, offsets)
        inner = slice(abs(dy), 256 - abs(dy)), slice(abs(dx), 256 - abs(dx))
        truth = item.pair.map[inner]
        median = np.median(item.pair.map.reshape(-1, 3), axis=0).astype(np.uint8)
        candidates = {
            "drawn": shift(item.drawn, dx, dy)[inner],
            "root_enlarged": shift(item.root_enlarged, dx, dy)[inner],
            "median": np.broadcast_to(median, truth.shape),
        }
        for method, image in candidates.items():
            scores[method][item.pair.zoom].add(image, truth)
    summaries = {m: {str(z): s.summary() for z, s in zooms.items()} for m, zooms in scores.items()}
    return {
        "mode": "as served",
        "zooms": summaries["drawn"],
        "baselines": {method: summaries[method] for method in METHODS if method != "drawn"},
    }


def table(metrics: dict[str, object]) -> str:
    """The metrics as a Markdown table."""
    lines = [
        "| zoom | method | n | PSNR_Y | SSIM_Y | mIoU | building | road | water | vegetation |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    methods = {"drawn": metrics["zooms"], **metrics["baselines"]}  # type: ignore[dict-item]
    for zoom in metrics["zooms"]:  # type: ignore[attr-defined]
        for name, zooms in methods.items():
            s = zooms[zoom]  # type: ignore[index]
            classes = " | ".join(
                f"{s['iou'].get(c, float('nan')):.3f}" for c in ("building", "road", "water", "vegetation")
            )
            lines.append(
                f"| {zoom} | {name} | {s['n']} | {s['psnr_y']:.2f} | {s['ssim_y']:.3f} | {s['miou']:.3f} | {classes} |"
            )
    return "\n".join(lines) + "\n"


def sheet(compared: list[Compared]) -> Pixels:
    """Contact sheet, a few tiles of each zoom: imagery | root enlarged | drawn | truth."""
    chosen: list[Compared] = []
    for zoom in sorted({c.pair.zoom for c in compared}):
        of_zoom = [c for c in compared if c.pair.zoom == zoom]
        chosen += of_zoom[:: max(1, len(of_zoom) // SHEET_ROWS)][:SHEET_ROWS]
    rows = [np.concatenate([c.pair.imagery, c.root_enlarged, c.drawn, c.pair.map], axis=1) for c in chosen]
    if len(rows) % 2:
        rows.append(np.zeros_like(rows[0]))
    half = len(rows) // 2
    return np.concatenate([np.concatenate(rows[:half]), np.concatenate(rows[half:])], axis=1)
