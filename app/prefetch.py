"""`tilecascade prefetch`: ask a running server for every tile of an area, coarse zooms first."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from mercantile import Tile
from tqdm import tqdm

from app.client import Bounds, TileFailedError, area_tiles, connect


async def run_prefetch(bbox: Bounds, zooms: range, url: str, layer: str | None, parallel: int, wait: float) -> int:
    """Fetch; prints a progress bar and a summary. Returns 0, or 1 if any tile failed.

    A tile that exists is skipped (HEAD). A tile without imagery is not a failure; a placeholder or an error is.
    Raises SettingsError if there is no such server or layer, or the zooms lie outside the layer's.
    """
    counts = {"drawn": 0, "there already": 0, "without imagery": 0, "failed": 0}
    problems: list[str] = []
    async with connect(url, layer, parallel, wait) as served:
        inside = served.clip(bbox, zooms)

        async def fetch(tile: Tile) -> str:
            try:
                if await served.has(tile):
                    return "there already"
                return "without imagery" if await served.fetch(tile) is None else "drawn"
            except TileFailedError as error:
                problems.append(str(error))
                return "failed"

        for zoom in zooms:  # parents before children
            tiles = area_tiles(inside, [zoom])
            with tqdm(total=sum(1 for _ in area_tiles(inside, [zoom])), desc=f"zoom {zoom}", unit="tile") as bar:

                async def worker(bar: tqdm = bar, tiles: Iterator[Tile] = tiles) -> None:
                    for tile in tiles:
                        counts[await fetch(tile)] += 1
                        bar.update()

                await asyncio.gather(*(worker() for _ in range(parallel)))
    print(", ".join(f"{count} {name}" for name, count in counts.items()))
    for problem in problems[:20]:
        print(problem)
    return 1 if problems else 0
