"""A territory as it is served: `python -m benchmarks.territory FOLDER --place LNG,LAT`. Prints Markdown.

FOLDER is what `tilecascade territory new` has written. Memory while a client scrolls from coast to coast; whether
anything happens at the borders of tiles and blocks; whether painted tiles are their parents on average; how much detail
each zoom adds; and what another seed changes.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import shutil
import tempfile
import time
from pathlib import Path

import httpx
import mercantile
import numpy as np
import psutil
import torch
from mercantile import Tile
from PIL import Image

from benchmarks.server import Server, head, machine, row
from tilecascade.app.sources.territory import NATIVE_ZOOM, TerritorySource
from tilecascade.app.tiles.loaded_model import IMAGERY
from tilecascade.model.cascade import TILE_SIZE, Pixels, Window
from tilecascade.model.engine.device import choose_dtype
from tilecascade.model.evaluation.seams import inside_band, phase_steps, rank
from tilecascade.model.imagery.octave import split
from tilecascade.model.imagery.painter import ImageryCascade, OctavePainter, load_octaves

LAYERS = {"imagery": "map-imagery", "map": "map"}
SUFFIXES = {"imagery": "webp", "map": "png"}
BLOCK = 2 * TILE_SIZE


def say(*cells: object) -> None:
    """Print a row now."""
    print(row(*cells), flush=True)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Of values in 0 to 255."""
    return float(10 * np.log10(255**2 / max(1e-9, np.mean((a.astype(float) - b) ** 2))))


def halved(image: np.ndarray, times: int = 1) -> np.ndarray:
    """Means of 2 x 2 pixels."""
    for _ in range(times):
        height, width = image.shape[0] // 2, image.shape[1] // 2
        image = image[: 2 * height, : 2 * width].reshape(height, 2, width, 2, 3).astype(float).mean((1, 3))
    return image


async def fetch(client: httpx.AsyncClient, layer: str, tile: Tile) -> tuple[Pixels, np.ndarray]:
    """A tile's colours and mask; nothing is known where there is no tile."""
    answer = await client.get(f"/tiles/{LAYERS[layer]}/{tile.z}/{tile.x}/{tile.y}.{SUFFIXES[layer]}?wait=600")
    if answer.status_code == 404:
        return np.zeros((TILE_SIZE, TILE_SIZE, 3), np.uint8), np.zeros((TILE_SIZE, TILE_SIZE), np.bool_)
    answer.raise_for_status()
    pixels = np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGBA"))
    return pixels[..., :3], pixels[..., 3] > 127


async def mosaic(client: httpx.AsyncClient, layer: str, first: Tile, edge: int) -> tuple[Pixels, np.ndarray]:
    """edge x edge tiles from a first one."""
    tiles = [Tile(first.x + i, first.y + j, first.z) for j in range(edge) for i in range(edge)]
    parts = await asyncio.gather(*(fetch(client, layer, tile) for tile in tiles))
    colours, known = (
        np.stack([part[i] for part in parts]).reshape(edge, edge, TILE_SIZE, TILE_SIZE, -1) for i in (0, 1)
    )
    size = edge * TILE_SIZE
    return colours.swapaxes(1, 2).reshape(size, size, 3), known.swapaxes(1, 2).reshape(size, size)


def memory(server: Server) -> float:
    """MiB of the program and its processes."""
    program = psutil.Process(server.process.pid)
    return sum(each.memory_info().rss for each in [program, *program.children(recursive=True)]) / 2**20


async def scroll(server: Server, client: httpx.AsyncClient, bounds: tuple[float, ...], count: int) -> None:
    """Rows of z16 from west to east, both layers of each place, eight requests at once."""
    west, south, east, north = bounds
    first, last = mercantile.tile(west, north, 16), mercantile.tile(east, south, 16)
    places = [(x, y) for y in range(first.y, last.y + 1) for x in range(first.x, last.x + 1)][: count // 2]
    began, seen = time.perf_counter(), []
    for start in range(0, len(places), 4):
        some = [Tile(x, y, 16) for x, y in places[start : start + 4]]
        await asyncio.gather(*(fetch(client, layer, tile) for tile in some for layer in LAYERS))
        seen.append(memory(server))
    marks = [round(seen[int(share * (len(seen) - 1))]) for share in (0.1, 0.25, 0.5, 0.75, 1)]
    seconds = (time.perf_counter() - began) / (2 * len(places))
    say(
        f"scroll, {2 * len(places)} tiles of z16",
        f"{seconds * 1000:.0f} ms a tile; MiB after 10, 25, 50, 75, 100 %: {marks}",
    )


async def borders(client: httpx.AsyncClient, places: list[tuple[float, float]], edge: int) -> None:
    """Ranks of the steps at borders among all phases, over all places, and what painted tiles are on average."""
    above: dict[tuple[float, float], Pixels] = {}
    for zoom in (16, 17, 18):
        for layer in LAYERS:
            began, steps, means = time.perf_counter(), [], []
            for place in places:
                middle = mercantile.tile(*place, 16)
                first = Tile((middle.x - 1) << (zoom - 16), (middle.y - 1) << (zoom - 16), zoom)
                colours, known = await mosaic(client, layer, first, edge)
                steps.append(phase_steps(colours, known, BLOCK))
                if layer == "imagery":
                    half = edge * TILE_SIZE // 2
                    if place in above:
                        means.append(psnr(halved(colours), above[place][:half, :half]))
                    above[place] = colours
            # painted at half the resolution, in cells of four pixels there, so that every eighth line is alike
            every = 8 if layer == "imagery" and zoom > NATIVE_ZOOM else 1
            rate = rank(np.mean(steps, axis=0)[every - 1 :: every], BLOCK // every - 1)
            seconds = (time.perf_counter() - began) / edge**2 / len(places)
            verdict = "in" if inside_band({"": rate}) else "OUT OF"
            figures = f"rank {rate:.2f} ({verdict} 0.05 to 0.95); {seconds:.2f} s a tile"
            say(f"borders of blocks, {layer} z{zoom}", figures)
            if means:
                say(f"mean of z{zoom} and its parent", f"PSNR {min(means):.1f} dB")


async def detail(client: httpx.AsyncClient, place: tuple[float, float]) -> None:
    """Root mean square of what each zoom adds to the one above, in levels."""
    found = {}
    for zoom in range(8, 19):
        colours, _ = await fetch(client, "imagery", mercantile.tile(*place, zoom))
        pixels = torch.from_numpy(colours.copy()).permute(2, 0, 1)[None].float()
        found[zoom] = round(float(split(pixels)[1].square().mean().sqrt()), 2)
    say("detail of each zoom, levels", str(found))


def seeds(folder: Path, place: tuple[float, float]) -> None:
    """The same sketch with another seed: the ground, and painted detail alone."""
    net, gate = load_octaves(IMAGERY)
    paint = OctavePainter(lambda: (net, gate), dtype=choose_dtype("auto", "cpu"))
    source = TerritorySource(folder / "map")
    with tempfile.TemporaryDirectory() as other:
        for file in folder.glob("map.*"):
            shutil.copy(file, other)
        text = (Path(other) / "map.json").read_text()
        (Path(other) / "map.json").write_text(text.replace(f'"seed": {source.territory.seed}', '"seed": 987654'))
        sources = [source, TerritorySource(Path(other) / "map")]
    for zoom in (10, 12, 14, 16, 17, 18):
        middle = mercantile.tile(*place, zoom)
        window = Window(zoom, middle.x * TILE_SIZE, middle.y * TILE_SIZE, BLOCK, BLOCK)
        pairs = {"seed of all": [(sources[0], 1), (sources[1], 2)]}
        if zoom > NATIVE_ZOOM:
            pairs["seed of detail"] = [(sources[0], 1), (sources[0], 2)]
        for name, both in pairs.items():
            a, b = (ImageryCascade(s.read, NATIVE_ZOOM, paint, seed).read(window)[0] for s, seed in both)
            same = psnr(halved(a, 3), halved(b, 3))
            mae = np.abs(a.astype(float) - b).mean()
            say(f"another {name}, z{zoom}", f"mean absolute difference {mae:.1f} levels, PSNR at 1/8 {same:.1f} dB")


async def run(folder: Path, places: list[tuple[float, float]], count: int, edge: int) -> None:
    """All of it."""
    bounds = TerritorySource(folder / "map").bounds
    with Server(folder) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=700) as client:
            if count:
                await scroll(server, client, bounds, count)
            await detail(client, places[0])
            await borders(client, places, edge)
    seeds(folder, places[0])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--place", required=True, action="append", help="longitude,latitude to look at; some of them")
    parser.add_argument("--scroll", type=int, default=2000, help="tiles to scroll over; 0 for none")
    parser.add_argument("--edge", type=int, default=8, help="tiles along the mosaics whose borders are looked at")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(head(machine(), ""))
    points = [(float(x), float(y)) for x, y in (place.split(",") for place in given.place)]
    asyncio.run(run(given.folder, points, given.scroll, given.edge))
