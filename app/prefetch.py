"""`tilecascade prefetch`: ask a running server for every tile of an area, coarse zooms first."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import httpx
import mercantile
from mercantile import Tile
from tqdm import tqdm

from app.settings import SettingsError

Bounds = tuple[float, float, float, float]


def area_tiles(bbox: Bounds, zooms: range) -> Iterator[Tile]:
    """Every tile that touches the area, zoom by zoom."""
    for zoom in zooms:
        yield from mercantile.tiles(*bbox, zooms=zoom)


async def _server_layer(client: httpx.AsyncClient, layer: str | None) -> dict[str, object]:
    path = f"/tiles/{layer}/tilejson.json" if layer else "/tilejson.json"
    for _ in range(120):
        try:
            answer = await client.get(path)
        except httpx.HTTPError as error:
            raise SettingsError(f"no server answers at {client.base_url}: {error or type(error).__name__}") from None
        if answer.status_code != 503:
            break
        await asyncio.sleep(1)
    if answer.status_code != 200:
        raise SettingsError(f"{client.base_url}{path.lstrip('/')}: {_detail(answer)}")
    described: dict[str, object] = answer.json()
    return described


def _detail(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"status {answer.status_code}"


async def run_prefetch(bbox: Bounds, zooms: range, url: str, layer: str | None, parallel: int, wait: float) -> int:
    """Fetch; prints a progress bar and a summary. Returns 0, or 1 if any tile failed.

    A tile that exists is skipped (HEAD). A tile without imagery is not a failure; a placeholder or an error is.
    Raises SettingsError if there is no such server or layer, or the zooms lie outside the layer's.
    """
    counts = {"drawn": 0, "there already": 0, "without imagery": 0, "failed": 0}
    problems: list[str] = []
    limits = httpx.Limits(max_connections=parallel)
    headers = {"Priority": "u=6"}
    async with httpx.AsyncClient(base_url=url, timeout=wait + 30, limits=limits, headers=headers) as client:
        described = await _server_layer(client, layer)
        low, high = int(str(described["minzoom"])), int(str(described["maxzoom"]))
        if zooms[-1] > high or zooms[0] < low:
            raise SettingsError(f"layer {described['name']} has zooms {low}-{high}; --zooms asks for more")
        west, south, east, north = (float(edge) for edge in described["bounds"])  # type: ignore[attr-defined]
        inside = (max(bbox[0], west), max(bbox[1], south), min(bbox[2], east), min(bbox[3], north))
        if inside[0] >= inside[2] or inside[1] >= inside[3]:
            raise SettingsError(f"--bbox lies outside the layer's imagery, which spans {west},{south},{east},{north}")

        async def fetch(tile: Tile) -> None:
            path = f"/tiles/{described['name']}/{tile.z}/{tile.x}/{tile.y}.png"
            try:
                if (await client.head(path)).status_code == 200:
                    counts["there already"] += 1
                    return
                answer = await client.get(path, params={"wait": wait})
            except httpx.HTTPError as error:
                outcome = f"{type(error).__name__}: {error}"
            else:
                state = answer.headers.get("x-tile-state", "")
                if answer.status_code == 200 and state in ("generated", "cached"):
                    counts["drawn"] += 1
                    return
                if answer.status_code == 404:
                    counts["without imagery"] += 1
                    return
                outcome = f"only a {state}" if answer.status_code == 200 else _detail(answer)
            counts["failed"] += 1
            problems.append(f"{tile.z}/{tile.x}/{tile.y}: {outcome}")

        for zoom in zooms:  # parents before children
            tiles = area_tiles(inside, range(zoom, zoom + 1))
            total = sum(1 for _ in area_tiles(inside, range(zoom, zoom + 1)))
            with tqdm(total=total, desc=f"zoom {zoom}", unit="tile") as bar:

                async def worker(bar: tqdm = bar, tiles: Iterator[Tile] = tiles) -> None:
                    for tile in tiles:
                        await fetch(tile)
                        bar.update()

                await asyncio.gather(*(worker() for _ in range(parallel)))
    print(", ".join(f"{count} {name}" for name, count in counts.items()))
    for problem in problems[:20]:
        print(problem)
    return 1 if problems else 0
