"""`tilecascade calibrate`: what the uncertainty of a network means, measured on scenes whose true map is known.

The cascade runs as served, and a pixel is wrong if its class differs from the ground truth's. The uncertainty is
compared with plain edge strength, averaged over as large a neighbourhood: a confidence that ranks pixels no better is
worthless.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mercantile import Tile
from numpy.typing import NDArray
from tqdm import tqdm

from tilecascade.app.errors import NoTileError, SettingsError
from tilecascade.app.service import Service
from tilecascade.app.settings import LayerSettings, Settings
from tilecascade.app.tiles import image
from tilecascade.app.tiles.resolver import TileResolver
from tilecascade.model.cascade import Pixels
from tilecascade.model.confidence import Calibration, calibrate, edge_strength, expected_error, ranking
from tilecascade.model.data.alignment import estimate_offsets, offset_of, shift
from tilecascade.model.data.pairs import Pair, read_pairs
from tilecascade.model.palette import classify
from tilecascade.model.pipeline import Uncertainty


@dataclass(frozen=True, eq=False)
class Part:
    """One tile of ground truth, all H x W: the pipeline's uncertainty about it, the edge strength of the generated
    tile, and where its class is wrong."""

    pair: Pair
    uncertainty: Uncertainty
    edges: NDArray[np.float32]
    wrong: NDArray[np.bool_]


async def run_calibration(
    settings: Settings, scenes: list[Path], truth: Path, source: str, split: str, zooms: range, out: Path, store: bool
) -> dict[str, Any]:
    """Measure, write confidence.json and confidence.svg to `out`, and with `store` the calibration into the weights'
    description. Raises SettingsError if nothing can be compared."""
    try:
        pairs = [pair for pair in read_pairs(truth, source, split) if pair.zoom in zooms]
    except ValueError as error:
        raise SettingsError(str(error)) from None
    offsets = estimate_offsets(read_pairs(truth, source, split))
    parts: list[Part] = []
    layers = [LayerSettings(name=f"scene{i}", scenes=[scene]) for i, scene in enumerate(scenes)]
    async with Service.running(settings, layers) as service:
        for pair in tqdm(pairs, unit="tile"):
            for resolver in service.resolvers.values():
                found = await _generate(resolver, Tile(pair.x, pair.y, pair.zoom))
                if found is None:
                    continue
                dx, dy = offset_of(pair, offsets)
                inner = slice(abs(dy), 256 - abs(dy)), slice(abs(dx), 256 - abs(dx))
                generated, disagreement, classes = (shift(image, dx, dy)[inner] for image in found)
                wrong = classify(generated) != classify(pair.map[inner])
                parts.append(Part(pair, Uncertainty(disagreement, classes), edge_strength(generated), wrong))
                break
    if not parts:
        raise SettingsError("no truth tile lies on these scenes; check --scene, --truth and --split")
    result = await asyncio.to_thread(_measure, parts)
    await asyncio.to_thread(_write, result, out, settings.weights.with_suffix(".json") if store else None)
    return result


def _write(result: dict[str, Any], out: Path, description: Path | None) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "confidence.json").write_text(json.dumps(result, indent=2) + "\n")
    (out / "confidence.svg").write_text(figure(result))
    if description is not None:
        described = json.loads(description.read_text()) | {"calibration": result["calibration"]}
        description.write_text(json.dumps(described, indent=2) + "\n")


async def _generate(resolver: TileResolver, tile: Tile) -> tuple[Pixels, Pixels, Pixels] | None:
    """A tile's colours as served, and the disagreement and classes of its uncertainty; None where there is no tile."""
    layer = resolver.layer
    if not layer.ladder.root <= tile.z <= layer.max_zoom or not layer.imagery.covers(tile):
        return None
    try:
        generated = image.decode((await resolver.find(tile)).data)[..., :3]
    except NoTileError:
        return None
    block = layer.ladder.block(tile)
    output = (await resolver.confidence.uncertainty(block)).output
    return generated, block.cut(output.disagreement)[tile], block.cut(output.classes)[tile]


def _expected(part: Part, table: Calibration) -> NDArray[np.float32]:
    return expected_error(part.uncertainty.disagreement, part.uncertainty.classes, table)


def _measure(parts: list[Part]) -> dict[str, Any]:
    """Rankings and calibration.

    `confidence` is what a calibration made without an area expects of it, `fitted` what the stored one does.
    """
    wrong = np.concatenate([part.wrong.ravel() for part in parts])
    expected, left_out = [], []
    for place in sorted({part.pair.area for part in parts}):
        rest, here = ([part for part in parts if (part.pair.area == place) == own] for own in (False, True))
        table = _calibrate(rest or here)
        expected += [(part, _expected(part, table)) for part in here]
        expected_share, wrong_share = (
            float(np.concatenate([x.ravel() for x in some]).mean())
            for some in ([error for part, error in expected if part.pair.area == place], [part.wrong for part in here])
        )
        left_out.append({"expected": round(expected_share, 4), "wrong": round(wrong_share, 4)})
    ordered = {id(part): error for part, error in expected}
    whole = _calibrate(parts)
    signals = {
        "fitted": np.concatenate([_expected(part, whole).ravel() for part in parts]),
        "confidence": np.concatenate([ordered[id(part)].ravel() for part in parts]),
        "uncertainty": np.concatenate([part.uncertainty.disagreement.ravel() for part in parts]).astype(np.float32),
        "edges": np.concatenate([part.edges.ravel() for part in parts]),
    }
    result: dict[str, Any] = {"tiles": len(parts), "wrong": round(float(wrong.mean()), 4), "left_out": left_out}
    for name, signal in signals.items():
        area, deciles = ranking(signal, wrong)
        result[name] = {"auc": area, "wrong_by_decile": deciles}
    return result | {"calibration": whole}


def _calibrate(parts: list[Part]) -> list[list[float]]:
    disagreement = np.concatenate([part.uncertainty.disagreement.ravel() for part in parts])
    classes = np.concatenate([part.uncertainty.classes.ravel() for part in parts])
    return calibrate(disagreement, classes, np.concatenate([part.wrong.ravel() for part in parts]))


def figure(result: dict[str, Any]) -> str:
    """The share of wrong pixels by decile of the expected error and of edge strength, as SVG. The expected error twice:
    calibrated on these areas, and on the others."""
    width, height, left, bottom = 560, 300, 50, 250
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"',
        ' font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    curves = (
        ("fitted", "#1a6fd6", "", "expected error"),
        ("confidence", "#1a6fd6", ' stroke-dasharray="5 4"', "the same, calibrated on other areas"),
        ("edges", "#999", "", "edge strength"),
    )
    top = max(max(result[name]["wrong_by_decile"]) for name, *_ in curves)
    step = 0.1 if top <= 0.8 else 0.2
    for tick in np.arange(0, top + step, step):
        y = bottom - tick / (top + step / 2) * 220
        lines.append(f'<path d="M{left} {y:.1f}H540" stroke="#ddd"/><text x="12" y="{y + 4:.1f}">{tick:.0%}</text>')
    for decile in range(10):
        lines.append(f'<text x="{left + 22 + decile * 48}" y="{bottom + 18}" text-anchor="middle">{decile + 1}</text>')
    for place, (name, colour, dash, label) in enumerate(curves):
        places = [
            (left + 22 + i * 48, bottom - value / (top + step / 2) * 220)
            for i, value in enumerate(result[name]["wrong_by_decile"])
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        lines.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5"{dash}/>')
        y = 24 + 18 * place
        lines.append(f'<path d="M66 {y - 4}h24" stroke="{colour}" stroke-width="2.5"{dash}/>')
        lines.append(f'<text x="96" y="{y}" fill="{colour}">{label} (AUC {result[name]["auc"]:.2f})</text>')
    lines.append(f'<text x="{width / 2}" y="{height - 8}" text-anchor="middle">decile of the signal; share of wrongly ')
    lines.append(f"classed pixels, {result['tiles']} validation tiles as served</text></svg>")
    return "\n".join(lines) + "\n"
