"""What generating costs: `python -m benchmarks.generate SCENE [--zoom 17]`. Prints Markdown tables.

Everything is included but HTTP: reading imagery and references, all stages, PNG, storing in memory and on disk.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import mercantile
from mercantile import Tile

from tilecascade.app.service import Service
from tilecascade.app.settings import LayerSettings, Settings
from tilecascade.app.tiles.resolver import TileResolver
from tilecascade.app.tiles.work import Work
from tilecascade.model.engine import Priority
from tilecascade.model.sgdm.config import LATENT_STRIDE, SGDMConfig


def ideal_cost(config: SGDMConfig, span: int) -> float:
    """(denoised latent area x steps + decoded pixels) per stored pixel, over the same without any overlap.

    Latents count by their own area; a contiguous area, every window generated once.
    """
    core = 256 << span
    steps = config.diffusion.steps
    denoised = ((core + 2 * config.windows.denoise) / core) ** 2
    decoded = ((core + 2 * config.windows.decode) / core) ** 2
    per_pixel = steps / LATENT_STRIDE**2
    return (denoised * per_pixel + decoded) / (per_pixel + 1)


async def blocks_of_16(resolver: TileResolver, zoom: int, edge: int) -> list[float]:
    """Milliseconds per tile for each group of 4 x 4 tiles whose parents are cached."""
    west, south, east, north = resolver.layer.imagery.bounds
    middle = mercantile.tile((west + east) / 2, (south + north) / 2, zoom)
    left, top = (middle.x - edge // 2) // 4 * 4, (middle.y - edge // 2) // 4 * 4
    groups = [
        [Tile(left + i + x, top + j + y, zoom) for y in range(4) for x in range(4)]
        for i in range(0, edge, 4)
        for j in range(0, edge, 4)
    ]
    for group in groups:
        for block in {resolver.layer.ladder.block(tile) for tile in group}:
            await resolver.generator.references(block, Work(Priority.INTERACTIVE))
    times = []
    for group in groups:
        began = time.perf_counter()
        await asyncio.gather(*(resolver.find(tile) for tile in group))
        times.append((time.perf_counter() - began) / len(group) * 1000)
    return times


async def cold_tile(scene: Path, settings: Settings, zoom: int) -> tuple[float, int]:
    """Seconds and blocks of one tile from an empty cache."""
    async with Service.running(settings, [LayerSettings(scenes=[scene], max_zoom=zoom)]) as service:
        resolver = service.resolver(None)
        west, south, east, north = resolver.layer.imagery.bounds
        began = time.perf_counter()
        await resolver.find(mercantile.tile((west + east) / 2, (south + north) / 2, zoom))
        return time.perf_counter() - began, resolver.generator.blocks_generated


async def warm_tiles(scene: Path, settings: Settings, zoom: int) -> tuple[list[float], int]:
    """`blocks_of_16` of a scene, and how many blocks were generated side by side."""
    async with Service.running(settings, [LayerSettings(scenes=[scene], max_zoom=zoom)]) as service:
        times = await blocks_of_16(service.resolver(None), zoom, 8)
        return times, service.engine.state().concurrency if service.engine else 0


def main() -> None:
    """Run all parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scene", type=Path)
    parser.add_argument("--zoom", type=int, default=17)
    parser.add_argument("--weights", type=Path)
    given = parser.parse_args()
    extra = {"weights": given.weights} if given.weights else {}

    def settings(folder: str) -> Settings:
        return Settings(data_dir=Path(folder), redis_url="none", **extra)  # type: ignore[arg-type]

    with tempfile.TemporaryDirectory() as folder:
        times, concurrency = asyncio.run(warm_tiles(given.scene, settings(folder), given.zoom))
    print(f"| z{given.zoom}, {concurrency} blocks side by side | blocks of 16 | median ms a tile | best | worst |")
    print("|---|---|---|---|---|")
    print(f"| | {len(times)} | {statistics.median(times):.0f} | {min(times):.0f} | {max(times):.0f} |\n")
    from tilecascade.model.sgdm.network import load_network

    cost = ideal_cost(load_network(Settings(**extra).weights).config, 1)  # type: ignore[arg-type]
    print(f"denoising and decoding cost {cost:.2f} times what they would without overlap\n")
    print("| one cold tile at | seconds | blocks generated |\n|---|---|---|")
    for zoom in range(14, given.zoom + 1):
        with tempfile.TemporaryDirectory() as folder:
            seconds, blocks = asyncio.run(cold_tile(given.scene, settings(folder), zoom))
        print(f"| z{zoom} | {seconds:.1f} | {blocks} |")


if __name__ == "__main__":
    main()
