"""`tilecascade dataset build`: pairs from any imagery and any map, in the layout of CSCMG and with our manifest.

    OUT/manifest.csv
    OUT/{train,val}/rs_256, map_256, ref_scale_2_256, ref_scale_4_256 / {z}_{x}_{y}.png
    OUT/{train,val}/tilelist_{max}_{min}.csv        column tilename

Only whole pairs are written. Train and val are disjoint by area: a z14 tile goes to one of them with all below it.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import mercantile
import numpy as np
from mercantile import Tile
from PIL import Image
from tqdm import tqdm

from tilecascade.app.errors import SceneError
from tilecascade.app.sources.base_map import ArchiveMap
from tilecascade.app.sources.mosaic import SceneMosaic
from tilecascade.app.sources.scene import open_scene
from tilecascade.app.sources.vector_map import VectorMap
from tilecascade.app.storage.archives import ARCHIVES
from tilecascade.app.tiles.loaded_model import IMAGERY
from tilecascade.model.cascade import TILE_SIZE, Mask, Pixels, enlarge_part, tile_window
from tilecascade.model.data.pairs import read_image
from tilecascade.model.data.standardize import Standard, images_below, nested, sliced, standardize
from tilecascade.model.imagery.network import OctaveNet
from tilecascade.model.imagery.painter import load_octaves
from tilecascade.model.imagery.super_resolution import enlarged

AREA_ZOOM = 14
COLUMNS = ("source", "split", "id", "zoom", "x", "y", "rs", "map", "parent_map")
SUFFIXES = (".png", ".webp", ".jpg", ".jpeg")


class TileFolder:
    """Tiles as files {z}/{x}/{y}.png (or webp, jpg) below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def tile(self, tile: Tile) -> tuple[Pixels, Mask] | None:
        """256 x 256 x 3 and where it is known; None if there is no such tile."""
        for suffix in SUFFIXES:
            path = self.root / str(tile.z) / str(tile.x) / f"{tile.y}{suffix}"
            if path.is_file():
                return as_tile(read_image(path))
        return None

    def has(self, tile: Tile) -> bool:
        """Whether there is such a tile."""
        return any((self.root / str(tile.z) / str(tile.x) / f"{tile.y}{suffix}").is_file() for suffix in SUFFIXES)

    def tiles(self, zoom: int) -> set[Tile]:
        """All tiles of a zoom."""
        found = (self.root / str(zoom)).glob("*/*")
        names = [(p.parent.name, p.stem) for p in found if p.suffix in SUFFIXES]
        return {Tile(int(x), int(y), zoom) for x, y in names if x.isdigit() and y.isdigit()}


class Archive:
    """Tiles in an .mbtiles or .pmtiles file."""

    def __init__(self, path: Path) -> None:
        self._map = ArchiveMap(path)

    def has(self, tile: Tile) -> bool:
        """Whether there is such a tile."""
        return self._map.get(tile) is not None

    def tile(self, tile: Tile) -> tuple[Pixels, Mask] | None:
        """256 x 256 x 3 and where it is known; None if there is no such tile."""
        data = self._map.get(tile)
        return None if data is None else as_tile(read_image(io.BytesIO(data)))


class Raster:
    """A GeoTIFF cut into tiles."""

    def __init__(self, path: Path, sensor: str | None = None) -> None:
        self.imagery = SceneMosaic([open_scene(path, sensor=sensor)])

    def tile(self, tile: Tile) -> tuple[Pixels, Mask] | None:
        """256 x 256 x 3 and where it is known; None if nothing is."""
        if not self.imagery.covers(tile):
            return None
        return self.imagery.read(tile_window(tile))

    def has(self, tile: Tile) -> bool:
        """Whether anything of the tile is known."""
        return self.imagery.covers(tile)

    def tiles(self, zoom: int) -> set[Tile]:
        """All tiles of a zoom that may have pixels."""
        return set(mercantile.tiles(*self.imagery.bounds, zooms=[zoom]))


def as_tile(image: Pixels) -> tuple[Pixels, Mask]:
    """A whole tile at the size of tiles."""
    if image.shape != (TILE_SIZE, TILE_SIZE, 3):
        image = np.asarray(Image.fromarray(image).resize((TILE_SIZE, TILE_SIZE), Image.Resampling.BOX))
    return image, np.ones((TILE_SIZE, TILE_SIZE), dtype=np.bool_)


def open_source(path: Path, sensor: str | None = None) -> TileFolder | Raster:
    """A folder of XYZ tiles or a raster file. sensor: what has taken it, if its metadata do not say.

    Raises SceneError with a sentence for anything else.
    """
    if path.is_dir():
        if not any((path / str(zoom)).is_dir() for zoom in range(25)):
            raise SceneError(f"{path} holds no folders 0 to 24: tiles are looked for at {path}/z/x/y.png")
        return TileFolder(path)
    return Raster(path, sensor)


def open_map(path: Path) -> TileFolder | Raster | Archive | VectorMap:
    """A map: tiles, an archive of tiles, a raster file, or vectors. Raises SceneError with a sentence."""
    if path.suffix in (".geojson", ".json"):
        return VectorMap(path)
    return Archive(path) if path.suffix in ARCHIVES else open_source(path, "rgb")


def split_of(tile: Tile, val_share: float) -> str:
    """The split of a tile's area; the same for every tile below one z14 tile."""
    levels = tile.z - AREA_ZOOM
    area = f"{tile.x >> levels}/{tile.y >> levels}" if levels >= 0 else f"{tile}"
    value = int.from_bytes(hashlib.sha256(area.encode()).digest()[:4], "big") / 2**32
    return "val" if value < val_share else "train"


def build(imagery: Path, map_source: Path, zooms: range, out: Path, source: str, val_share: float) -> dict[str, int]:
    """Write the dataset; returns the number of pairs by split. Raises SceneError with a sentence."""
    seen = open_source(imagery)
    maps = open_map(map_source)
    tiles = sorted(t for z in zooms for t in seen.tiles(z) if z >= AREA_ZOOM and maps.has(t))
    names: dict[str, list[str]] = {"train": [], "val": []}
    rows = []
    for tile in tqdm(tiles, unit="tile"):
        pair = [whole(one.tile(tile)) for one in (seen, maps)]
        if pair[0] is None or pair[1] is None:
            continue
        split, name = split_of(tile, val_share), f"{tile.z}_{tile.x}_{tile.y}.png"
        folder = out / split
        _save(folder / "rs_256" / name, pair[0])
        _save(folder / "map_256" / name, pair[1])
        for span in (1, 2):
            above = whole(maps.tile(mercantile.parent(tile, zoom=tile.z - span)))
            if above is not None:
                _save(folder / f"ref_scale_{2**span}_256" / name, enlarge_part(above, tile, span))
        coarser = mercantile.parent(tile)
        parent = f"{split}/map_256/{coarser.z}_{coarser.x}_{coarser.y}.png"
        paths = [f"{split}/rs_256/{name}", f"{split}/map_256/{name}", parent if (out / parent).exists() else ""]
        rows.append([source, split, name.removesuffix(".png"), tile.z, tile.x, tile.y, *paths])
        names[split].append(name)
    if not rows:
        raise SceneError(f"{imagery} and {map_source} share no whole tile at z{zooms[0]} to z{zooms[-1]}")
    with (out / "manifest.csv").open("w", newline="") as lines:
        csv.writer(lines).writerows([COLUMNS, *rows])
    for split, listed in names.items():
        if listed:
            with (out / split / f"tilelist_{zooms[-1]}_{zooms[0]}.csv").open("w", newline="") as lines:
                csv.writer(lines).writerows([["tilename"], *([name] for name in listed)])
    return {split: len(listed) for split, listed in names.items()}


def whole(tile: tuple[Pixels, Mask] | None) -> Pixels | None:
    """A tile's pixels if all of them are known."""
    return tile[0] if tile is not None and tile[1].all() else None


def _save(path: Path, image: Pixels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def _enlarged(image: Pixels, gsd: float) -> Pixels:
    return enlarged(_octaves(), image, gsd)


@lru_cache(maxsize=1)
def _octaves() -> OctaveNet:
    return load_octaves(IMAGERY)[0].eval()


RULES: dict[str, Callable[[Pixels, float], list[Standard]]] = {
    "mmm-rs": partial(standardize, enlarge=_enlarged),
    "bicubic": standardize,
    "captions": sliced,
    "nested": nested,
}
"""How images are brought to 512 x 512: by the rule of MMM-RS, by it without a network, by that of the captions paper,
or as centred crops of several resolutions."""


def standardize_folder(folder: Path, gsd: float, rule: str, out: Path) -> tuple[int, list[str]]:
    """Write every image's standard images and gsd.csv; returns their number, and what was skipped and why.

    rule: a key of RULES. Raises ValueError if the folder holds no image.
    """
    rows: list[list[object]] = []
    skipped: list[str] = []
    for path in tqdm(list(images_below(folder)), unit="image"):
        try:
            made = RULES[rule](read_image(path), gsd)
        except (ValueError, OSError) as error:
            skipped.append(f"{path}: {error}")
            continue
        for item in made:
            name = f"{path.stem}_{item.part}.png"
            _save(out / name, item.image)
            rows.append([name, round(item.gsd, 6)])
    out.mkdir(parents=True, exist_ok=True)
    with (out / "gsd.csv").open("w", newline="") as lines:
        csv.writer(lines).writerows([["name", "gsd_m"], *rows])
    return len(rows), skipped
