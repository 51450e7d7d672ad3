"""Tiles a second of a graphics processor: `python -m benchmarks.gpu [--network sd21]`. Prints Markdown tables.

For each number of steps and of windows at once: windows and tiles a second, peak memory, and the U-Net's share of what
the same card multiplies in bfloat16 in the same run. Weights are random: they cost what trained ones cost. `--dry-run`
runs the same commands with a tiny network on whatever there is, and counts the real one's work on the meta device.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from tilecascade.model.blending import SIDE, windows_over
from tilecascade.model.cascade import Block, Ladder, Window
from tilecascade.model.conditions import Conditions, Stage
from tilecascade.model.engine.device import choose_dtype
from tilecascade.model.pipeline import CascadePipeline
from tilecascade.model.sgdm.config import PRESETS, SGDMConfig
from tilecascade.model.sgdm.network import random_network
from tilecascade.model.sgdm.unet import InjectedUNet

MATRIX = 8192
"""Edge of the matrices whose product is taken for the card's best."""

TILES_OF_A_TOWN = 21
"""Edge of the paper's case in tiles: 441 tiles took it about nine minutes on two cards."""

SIXTY = 0.6
"""Share of the peak that is aimed at."""


def timed(work: Callable[[], object], device: str, repeats: int = 5) -> float:
    """The median of some runs, in seconds, after one that warms up."""
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def peak(device: str, dtype: torch.dtype, edge: int) -> float:
    """Floating-point operations a second of one large product."""
    a = torch.randn(edge, edge, device=device, dtype=dtype)
    return 2 * edge**3 / timed(lambda: a @ a, device)


def work_of(config: SGDMConfig) -> tuple[int, float]:
    """Parameters of the U-Net, and its operations for one window and step, on the meta device."""
    with torch.device("meta"):
        unet = InjectedUNet(config.unet, config.autoencoder.latent_channels)
        side = SIDE // 8
        latent = torch.zeros(1, config.autoencoder.latent_channels, side, side)
        text = torch.zeros(1, config.text.context_length, config.unet.context_dim)
        widths = config.unet.widths[config.unet.finer_levels :]
        features = [torch.zeros(1, widths[i], side >> i, side >> i) for i in range(3)]
        with FlopCounterMode(display=False) as counter:
            unet(latent, torch.zeros(1, dtype=torch.int64), text, features)
    return sum(p.numel() for p in unet.parameters()), float(counter.get_total_flops())


def conditions(config: SGDMConfig, count: int) -> tuple[Stage, list[Conditions]]:
    """Blocks of four tiles, side by side."""
    ladder, rng = Ladder(14, windows=config.windows), np.random.default_rng(0)
    batch = []
    for number in range(count):
        block = Block(17, 40_000 + number % 4, 20_000 + number // 4, 1)
        window = ladder.window(block)
        known = np.ones((window.height, window.width), dtype=np.bool_)
        image = rng.integers(0, 256, (window.height, window.width, 3), dtype=np.uint8)
        batch.append(Conditions(window, image, known, image, known))
    return Stage(17, 16, 512), batch


def anew(pipeline: CascadePipeline, stage: Stage, batch: list[Conditions], seeds: Iterator[int]) -> None:
    """Generate with another seed each time, so that no window is known already."""
    pipeline(replace(stage, seed=next(seeds)), batch)


def curve(config: SGDMConfig, device: str, steps: list[int], batches: list[int], dry: bool) -> list[str]:
    """A table row for each number of steps and of blocks at once."""
    dtype = choose_dtype("auto", device)
    best = peak(device, dtype, 512 if dry else MATRIX)
    _, operations = work_of(config)
    rows = [f"peak of one product: {best / 1e12:.3g} TFLOP/s ({dtype})", ""]
    rows += ["| steps | blocks at once | windows | s | tiles/s | share of the peak | GB |", "|" + "---|" * 7]
    for number in steps:
        diffusion = replace(config.diffusion, steps=number)
        pipeline = CascadePipeline(random_network(replace(config, diffusion=diffusion)), device, dtype)
        for count in batches:
            stage, batch = conditions(config, count)
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            try:
                before = pipeline.windows_generated
                seconds = timed(partial(anew, pipeline, stage, batch, iter(range(100))), device, 1 if dry else 3)
            except torch.cuda.OutOfMemoryError:
                rows.append(f"| {number} | {count} | out of memory | | | | |")
                torch.cuda.empty_cache()
                break
            windows = (pipeline.windows_generated - before) // (2 if dry else 4)
            area = windows if windows else count * ((512 + 2 * config.windows.denoise) / SIDE) ** 2
            share = area * number * operations / seconds / best
            memory = f"{torch.cuda.max_memory_allocated() / 1e9:.1f}" if device == "cuda" else "-"
            rows.append(
                f"| {number} | {count} | {windows or '-'} | {seconds:.2f} | {4 * count / seconds:.1f} | {share:.2f} "
                f"| {memory} |"
            )
    return rows


def town(config: SGDMConfig) -> int:
    """Windows of the paper's case of 441 tiles."""
    edge = TILES_OF_A_TOWN * 256
    return len(windows_over(Window(16, 0, 0, edge, edge)))


def main() -> None:
    """Print everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=sorted(PRESETS), default="default")
    parser.add_argument("--steps", default="", help="such as 50,20,8,4; the preset's own unless given")
    parser.add_argument("--blocks", default="1,2,4,8,16,32,64")
    parser.add_argument("--dry-run", action="store_true")
    given = parser.parse_args()
    config = PRESETS[given.network]()
    unet, operations = work_of(config)
    print(f"{given.network}: U-Net {unet / 1e6:.1f} M parameters, {operations / 1e9:.1f} GFLOP a window and step")
    print(f"441 tiles are {town(config)} windows where windows are blended; aimed at {SIXTY:.0%} of the peak\n")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if not given.dry_run and device == "cpu":
        parser.error("there is no CUDA device here; --dry-run tries the command")
    steps = [int(text) for text in given.steps.split(",") if text] or [config.diffusion.steps]
    blocks = [int(text) for text in given.blocks.split(",")]
    if given.dry_run:
        config, steps, blocks = replace(PRESETS["tiny"](), windows=config.windows), steps[:2], blocks[:2]
    print("\n".join(curve(config, device, steps, blocks, given.dry_run)))


if __name__ == "__main__":
    main()
