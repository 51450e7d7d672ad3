"""What an evaluation says: metrics per zoom and method, paired differences with intervals, a table, a contact sheet."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tilecascade.model.data.alignment import Area, offset_of, shift
from tilecascade.model.data.pairs import Pair, Pixels
from tilecascade.model.evaluation.features import (
    FeatureNetwork,
    InceptionFeatures,
    frechet_distance,
    kernel_distance,
    offline_network,
)
from tilecascade.model.evaluation.likeness import COMPARED, Likeness, measures
from tilecascade.model.evaluation.metrics import Scores, agreement, class_iou
from tilecascade.model.evaluation.perception import Perception

SHEET_ROWS = 8
RESAMPLES = 2000
COLUMNS = ("n", "PSNR_Y", "SSIM_Y", "mIoU", "building", "road", "water", "vegetation", "building outlines",
           "road outlines", "KID x 1000")  # fmt: skip


@dataclass(frozen=True)
class Compared:
    """One truth tile, and what each method gives for it (256 x 256 x 3 uint8). The first method is `generated`."""

    pair: Pair
    images: dict[str, Pixels]


@dataclass(frozen=True)
class PerceptualMetrics:
    """Pretrained networks that look at maps, where there are any: features for KID and FID, and MFP's transformer."""

    features: FeatureNetwork | None = None
    perception: Perception | None = None


def load_perceptual_metrics(inception: Path | None = None, dino: Path | None = None) -> PerceptualMetrics:
    """The user's networks; without Inception the offline one. Raises ValueError for a file that is not the network."""
    features = offline_network() if inception is None else InceptionFeatures(inception)
    return PerceptualMetrics(features, None if dino is None else Perception(dino))


def add_earlier(compared: list[Compared], folders: Iterable[Path]) -> None:
    """Add what earlier evaluations drew as methods, named after their folders.

    Raises ValueError if one has not generated the same tiles, or has another's name.
    """
    for folder in folders:
        for item in compared:
            if folder.name in item.images:
                raise ValueError(f"there is a method {folder.name} already; rename the folder {folder}")
            try:
                with Image.open(tile_path(folder, item.pair)) as image:
                    item.images[folder.name] = np.asarray(image.convert("RGB"))
            except OSError as error:
                raise ValueError(f"{folder} is not an evaluation of the same tiles: {error}") from None


def tile_path(folder: Path, pair: Pair) -> Path:
    """Where an evaluation keeps what it drew for a pair."""
    return folder / "tiles" / f"{pair.zoom}-{pair.x}-{pair.y}.png"


def median_tile(pair: Pair) -> Pixels:
    """The baseline that knows nothing but the true tile's median colour."""
    colour = np.median(pair.map.reshape(-1, 3), axis=0).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(colour, pair.map.shape))


def score(
    mode: str,
    compared: list[Compared],
    offsets: dict[Area, tuple[int, int]],
    perceptual: PerceptualMetrics | None = None,
) -> dict[str, Any]:
    """Metrics of every method by zoom; paired differences of `generated` to the others.

    offsets: of imagery against truth by area; generated tiles are moved by them and the border that this uncovers is
    left out, for all methods alike. perceptual: for KID, FID and MFP's parts; what is not there is left out.
    """
    network, perception = (None, None) if perceptual is None else (perceptual.features, perceptual.perception)
    methods = list(compared[0].images)
    by_zoom: dict[int, list[Compared]] = {}
    for item in compared:
        by_zoom.setdefault(item.pair.zoom, []).append(item)
    tallies = {method: {zoom: Scores() for zoom in by_zoom} for method in methods}
    summaries: dict[str, dict[str, Any]] = {method: {} for method in methods}
    paired: dict[str, dict[str, Any]] = {method: {} for method in methods[1:]}
    for zoom, items in sorted(by_zoom.items()):
        moved = {method: [_moved(item, item.images[method], offsets) for item in items] for method in methods}
        truth = None if network is None else network([item.pair.map for item in items])
        for method in methods:
            for image, true in moved[method]:
                tallies[method][zoom].add(image, true)
            likeness = Likeness()
            for image, true in moved[method]:
                likeness.add(image, true)
            summary = tallies[method][zoom].summary() | {"likeness": likeness.summary()}
            summary["likeness_intervals"] = likeness_intervals(likeness, [item.pair.area for item in items])
            if network is not None and truth is not None:
                generated = network([item.images[method] for item in items])
                summary["kid"] = round(kernel_distance(generated, truth), 5)
                summary["fid"] = round(frechet_distance(generated, truth), 3)
            if perception is not None:
                alike, apart = perception([i.images[method] for i in items], [i.pair.map for i in items])
                summary |= {"mfp_global": round(alike, 4), "mfp_structure": round(apart, 4)}
            steady = consistency(compared, method, zoom)
            summaries[method][str(zoom)] = summary | ({} if steady is None else {"consistency": steady})
        areas = [item.pair.area for item in items]
        for method in methods[1:]:
            a, b = tallies[methods[0]][zoom], tallies[method][zoom]
            paired[method][str(zoom)] = {
                "psnr_y": interval(np.subtract(a.psnr_y, b.psnr_y), areas),
                "ssim_y": interval(np.subtract(a.ssim_y, b.ssim_y), areas),
                "miou": pooled_interval(a, b, areas),
            }
    result = {
        "mode": mode,
        "zooms": summaries[methods[0]],
        "baselines": {method: summaries[method] for method in methods[1:]},
        "paired": paired,
        "overall": {method: Scores.pooled(list(tallies[method].values())).summary() for method in methods},
    }
    if network is not None:
        result["features"] = network.description
    if perception is not None:
        result["perception"] = perception.description
    return result


def consistency(compared: list[Compared], method: str, zoom: int) -> float | None:
    """Mean agreement of a method's tiles with its own parents, where both were generated."""
    generated = {(c.pair.zoom, c.pair.x, c.pair.y): c.images[method] for c in compared}
    values = [
        agreement(image, generated[z - 1, x >> 1, y >> 1], x, y)
        for (z, x, y), image in generated.items()
        if z == zoom and (z - 1, x >> 1, y >> 1) in generated
    ]
    return round(float(np.mean(values)), 4) if values else None


def _moved(item: Compared, image: Pixels, offsets: dict[Area, tuple[int, int]]) -> tuple[Pixels, Pixels]:
    dx, dy = offset_of(item.pair, offsets)
    inner = slice(abs(dy), 256 - abs(dy)), slice(abs(dx), 256 - abs(dx))
    return shift(image, dx, dy)[inner], item.pair.map[inner]


def _resampled(groups: int) -> NDArray[np.int64]:
    return np.random.default_rng(0).integers(0, groups, (RESAMPLES, groups))


def interval(differences: NDArray[np.float64], areas: list[Area]) -> list[float]:
    """Mean difference and its 95 % bootstrap interval; areas are resampled, not tiles, as tiles of one are alike."""
    groups = [differences[[a == area for a in areas]] for area in sorted(set(areas))]
    sums, counts = np.array([g.sum() for g in groups]), np.array([len(g) for g in groups])
    chosen = _resampled(len(groups))
    means = sums[chosen].sum(axis=1) / counts[chosen].sum(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return [round(float(value), 4) for value in (differences.mean(), low, high)]


def pooled_interval(ours: Scores, theirs: Scores, areas: list[Area]) -> list[float]:
    """The same of the difference in mIoU, which is pooled over the tiles of each resample; over the classes that count
    for both."""
    names = sorted(set(areas))
    member = np.array([[area == name for area in areas] for name in names], dtype=np.int64)
    a, b = (np.tensordot(member, np.stack(scores.counts), axes=1) for scores in (ours, theirs))

    def difference(rows: NDArray[np.int64]) -> float:
        one, other = class_iou(a[rows].sum(0)), class_iou(b[rows].sum(0))
        shared = one.keys() & other.keys()
        return sum(one[name] - other[name] for name in shared) / max(1, len(shared))

    low, high = np.percentile([difference(rows) for rows in _resampled(len(names))], (2.5, 97.5))
    return [round(float(value), 4) for value in (difference(np.arange(len(names))), low, high)]


def likeness_intervals(likeness: Likeness, areas: list[Area]) -> dict[str, list[float]]:
    """95 % bootstrap intervals of what is COMPARED, over areas."""
    names, counts = sorted(set(areas)), likeness.counts
    sums = np.stack([counts[[area == name for area in areas]].sum(axis=0) for name in names])
    resampled = measures(sums[_resampled(len(names))].sum(axis=1))
    return {name: [round(float(v), 3) for v in np.percentile(resampled[name], (2.5, 97.5))] for name in COMPARED}


def table(metrics: dict[str, Any]) -> str:
    """The metrics as a Markdown table."""
    lines = [f"| zoom | method | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 2) + "|"]
    by_method = {"generated": metrics["zooms"], **metrics["baselines"]}
    for zoom in [*metrics["zooms"], "all"]:
        for name, zooms in by_method.items():
            s = metrics["overall"][name] if zoom == "all" else zooms[zoom]
            values = [f"{s['psnr_y']:.2f}", f"{s['ssim_y']:.3f}", f"{s['miou']:.3f}"]
            values += [f"{s['iou'].get(c, float('nan')):.3f}" for c in ("building", "road", "water", "vegetation")]
            values += [f"{value:.3f}" for value in s["boundary_f"].values()]
            values.append(f"{s['kid'] * 1000:.1f}" if "kid" in s else "")
            lines.append(f"| {zoom} | {name} | {s['n']} | {' | '.join(values)} |")
    return "\n".join([*lines, "", *_likeness_table(metrics)]) + "\n"


def _likeness_table(metrics: dict[str, Any]) -> list[str]:
    """How much each method's maps look like drawn ones, and the true maps measured alike."""
    lines = [f"| zoom | method | {' | '.join(COMPARED)} |", "|---" * (len(COMPARED) + 2) + "|"]
    for zoom, generated in metrics["zooms"].items():
        rows = {"generated": generated} | {name: zooms[zoom] for name, zooms in metrics["baselines"].items()}
        for name, summary in rows.items():
            values = [f"{summary['likeness'][column]:g}" for column in COMPARED]
            for i, column in enumerate(COMPARED):
                low, high = summary["likeness_intervals"][column]
                values[i] += f" ({low:.2g} to {high:.2g})"
            lines.append(f"| {zoom} | {name} | {' | '.join(values)} |")
        true = [f"{generated['likeness'].get(f'true_{column}', 1):g}" for column in COMPARED]
        lines.append(f"| {zoom} | the truth itself | {' | '.join(true)} |")
    return lines


def sheet(compared: list[Compared]) -> Pixels:
    """Contact sheet, a few tiles of each zoom: imagery | first baseline | generated | truth."""
    chosen: list[Compared] = []
    for zoom in sorted({c.pair.zoom for c in compared}):
        of_zoom = [c for c in compared if c.pair.zoom == zoom]
        chosen += of_zoom[:: max(1, len(of_zoom) // SHEET_ROWS)][:SHEET_ROWS]
    rows = []
    for item in chosen:
        generated, baseline = list(item.images.values())[:2]
        rows.append(np.concatenate([item.pair.imagery, baseline, generated, item.pair.map], axis=1))
    if len(rows) % 2:
        rows.append(np.zeros_like(rows[0]))
    half = len(rows) // 2
    return np.concatenate([np.concatenate(rows[:half]), np.concatenate(rows[half:])], axis=1)


def write_report(out: Path, metrics: dict[str, Any], compared: list[Compared]) -> None:
    """metrics.json, metrics.md, sheet.png, and the generated tiles for `add_earlier`."""
    (out / "tiles").mkdir(parents=True, exist_ok=True)
    for item in compared:
        Image.fromarray(item.images["generated"]).save(tile_path(out, item.pair))
    (out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    (out / "metrics.md").write_text(table(metrics))
    Image.fromarray(sheet(compared)).save(out / "sheet.png")
