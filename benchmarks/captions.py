"""Whether captions do what they say: `python -m benchmarks.captions LAYOUTS [--out FOLDER]`.

LAYOUTS: the folder that `tilecascade dataset layouts` wrote; its held-out captions are used. Prints how much each
segment changes when it is not told, and when in the denoising; how often a generated layout's own caption is found
among 16; and how often relations are as they are said, "a road along the north bank" among them.
"""

from __future__ import annotations

import argparse
import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tilecascade.app.scenes.areas import LAYOUTS
from tilecascade.app.tools.evaluate_captions import TOWER
from tilecascade.model.evaluation.captions import CaptionTower, agreement, load_tower, retrieval
from tilecascade.model.layout.layout import KINDS, Layout, caption_of, shown
from tilecascade.model.layout.network import mean_of, times
from tilecascade.model.layout.sampling import LayoutGenerator, Wanted, known_cells, load_layouts
from tilecascade.model.text.captions import Caption
from tilecascade.model.text.segments import SEGMENTS
from tilecascade.model.training.layouts import Layouts, sample_weights

BANK = Caption(
    "farmland",
    ("a river from west to east", "a road along the north bank of the river"),
    ("farmland", "water", "meadow", "road"),
)
"""What is asked for fifty times."""


def off(generator: LayoutGenerator, captions: list[Caption]) -> None:
    """The share of cells that are other ones without a segment, and the difference at each step."""
    whole = generator([Wanted(caption, seed) for seed, caption in enumerate(captions)])
    for name in SEGMENTS:
        without = generator([Wanted(caption, seed, off=(name,)) for seed, caption in enumerate(captions)])
        changed = np.mean([(one != other).mean() for one, other in zip(whole, without, strict=True)])
        print(f"without the {name}: {changed:.3f} of the cells are of another kind; {agreement(captions, without)}")
    print(f"told all: {agreement(captions, whole)}")


@torch.inference_mode()
def by_step(generator: LayoutGenerator, captions: list[Caption]) -> np.ndarray:
    """Mean absolute difference of the expected layout without each segment, by step: STEPS x SEGMENTS."""
    tokens = torch.stack([generator.vocabulary.tokens(caption) for caption in captions])
    known = torch.stack([known_cells(None, None)] * len(captions))
    said = torch.ones(len(captions), len(SEGMENTS), dtype=torch.bool)
    state = torch.randn(len(captions), len(KINDS), *known.shape[2:], generator=torch.Generator().manual_seed(1))
    strength, found = generator.config.guidance, []
    for time, after in itertools.pairwise([*times(generator.config.steps), 0.0]):
        mean = mean_of(generator.guided(state, known, time, tokens, said, strength))
        row = []
        for number in range(len(SEGMENTS)):
            less = said.clone()
            less[:, number] = False
            other = mean_of(generator.guided(state, known, time, tokens, less, strength))
            row.append(float((other - mean).abs().mean()))
        found.append(row)
        state = state + (after - time) * (state - mean) / time
    return np.array(found)


def plot(differences: np.ndarray, path: Path) -> None:
    """Each segment's differences, of their own sum, over the steps, as SVG."""
    share = differences / differences.sum(axis=0)
    height = 220 / share.max()
    colours = ("#1a6fd6", "#b04a00", "#2d7d32")
    lines = []
    for number, (name, colour) in enumerate(zip(SEGMENTS, colours, strict=True)):
        points = " ".join(f"{40 + 20 * i},{250 - height * value:.1f}" for i, value in enumerate(share[:, number]))
        lines.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        lines.append(f'<text x="{60 + 110 * number}" y="18" fill="{colour}">{name}</text>')
    width = 60 + 20 * len(share)
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="290" font-family="sans-serif" font-size="13">'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(lines)}<path d="M40 30V250H{width - 10}" fill="none" '
        'stroke="#888"/><text x="40" y="275">first step, only noise</text>'
        f'<text x="{width - 80}" y="275">last step</text></svg>\n'
    )


def scenes(generator: LayoutGenerator, tower: CaptionTower, captions: list[Caption], out: Path | None) -> None:
    """Retrieval of the captions of generated layouts, and of scenes alone."""
    made = generator([Wanted(caption, seed) for seed, caption in enumerate(captions)])
    print(f"retrieval@1 of 16, whole captions: {retrieval(tower, made, captions):.3f} (chance 0.063)")
    alone = [Caption(caption.scene, (), caption.elements) for caption in captions]
    made = generator([Wanted(caption, 1000 + seed) for seed, caption in enumerate(alone)])
    print(f"retrieval@1 of 16, scene and elements: {retrieval(tower, made, alone):.3f}")
    right = Counter(a.scene for a, b in zip(alone, made, strict=True) if caption_of(b).scene == a.scene)
    every = Counter(caption.scene for caption in alone)
    print("scenes as geometry tells: " + ", ".join(f"{name} {right[name]}/{count}" for name, count in every.items()))
    if out is not None:
        sheet([made[alone.index(caption)] for caption in {c.scene: c for c in alone}.values()], out / "scenes.png")


def bank(generator: LayoutGenerator, out: Path | None) -> None:
    """How often the road is along the north bank, of fifty, by the same geometry that captions are made by."""
    made = generator([Wanted(BANK, seed) for seed in range(50)])
    chosen = [generator.best(Wanted(BANK, seed)) for seed in range(50)]
    best = sum(BANK.relations[1] in caption_of(layout).relations for layout in chosen)
    print(f"a road along the north bank, the best of eight as areas have it: {best} of 50")
    right = [BANK.relations[1] in caption_of(layout).relations for layout in made]
    river = ["river" in " ".join(caption_of(layout).relations) for layout in made]
    print(f"a road along the north bank: {sum(right)} of 50; a river at all: {sum(river)} of 50")
    if out is not None:
        sheet([*made[:20], *chosen[:20]], out / "bank.png")


def sheet(layouts: list[Layout], path: Path) -> None:
    """Ten in a row."""
    rows = [layouts[i : i + 10] for i in range(0, len(layouts), 10)]
    blank = np.full_like(shown(layouts[0]), 255)
    pictures = [[shown(layout) for layout in row] + [blank] * (10 - len(row)) for row in rows]
    Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in pictures])).save(path)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("layouts", type=Path)
    parser.add_argument("--weights", type=Path, default=LAYOUTS)
    parser.add_argument("--tower", type=Path, default=TOWER)
    parser.add_argument("--count", type=int, default=128)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    generator, tower = load_layouts(given.weights), load_tower(given.tower)
    held_out = Layouts.read(given.layouts).part(True)
    chances = sample_weights(held_out.captions)
    count = min(given.count, len(chances))
    chosen = np.random.default_rng(7).choice(len(chances), count, replace=False, p=chances)
    captions = [held_out.captions[i] for i in chosen]
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
    true = [held_out.layouts[i] for i in chosen]
    print(f"true layouts, retrieval@1 of 16: {retrieval(tower, true, captions):.3f}")
    scenes(generator, tower, captions, given.out)
    off(generator, captions[: count // 2])
    differences = by_step(generator, captions[:16])
    centre = (differences * np.arange(len(differences))[:, None]).sum(0) / differences.sum(0)
    print("mean step of the difference: " + ", ".join(f"{n} {c:.1f}" for n, c in zip(SEGMENTS, centre, strict=True)))
    if given.out is not None:
        plot(differences, given.out / "segments.svg")
    bank(generator, given.out)


if __name__ == "__main__":
    main()
