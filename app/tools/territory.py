"""`tilecascade territory new`: a sketch of a country that does not exist becomes a folder to serve.

OUT/layers.toml            the layers
OUT/map.json, map.png      the sketch as land cover, of which imagery and, for coarse zooms, the map are drawn
OUT/after.*                the same with an event, if there is one
OUT/areas.geojson          areas with prompts, and the layouts of their captions, if there are any
OUT/territory.tif          instead of these, a sketch that is a picture from above
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mercantile
import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.features import rasterize
from rasterio.transform import from_bounds
from rasterio.vrt import WarpedVRT

from tilecascade.app.errors import BadRequestError, SettingsError, StorageError
from tilecascade.app.scenes.areas import with_layouts
from tilecascade.app.sources.areas import Areas
from tilecascade.app.sources.territory import NATIVE_ZOOM
from tilecascade.app.sources.vector_map import ROADS, read_features
from tilecascade.model.cascade import TILE_SIZE, Pixels
from tilecascade.model.sgdm.scale_text import MAX_TABLE_ZOOM
from tilecascade.model.world.sketch import COVERS, NUMBER, Line, Territory, is_painted, kinds_of, read_legend

Bounds = tuple[float, float, float, float]

AREAS = "areas.geojson"

MOST_PIXELS = 4096
"""Longest side of a sketch."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""What a sketch may be: others are read by programs that run what is in them, and it may come from a stranger."""

MOST_HEIGHTS = 512
"""Cells along a side of the heights that are kept."""

MOST_LATITUDE = 85.0
"""Degrees; Web Mercator goes a little farther."""


@dataclass(frozen=True)
class NewTerritory:
    """What is wanted.

    vectors: GeoJSON of lines (highway, waterway) and areas (cover: a name of COVERS) that the territory has. event: the
    same of areas that are another cover afterwards. height: raster of metres above the sea. areas: GeoJSON of polygons
    with prompts (see `app.sources.areas`). painted_zoom: the last zoom that can be had.
    """

    sketch: Path
    bounds: Bounds
    out: Path
    seed: int = 0
    legend: Path | None = None
    vectors: Path | None = None
    event: Path | None = None
    height: Path | None = None
    areas: Path | None = None
    painted_zoom: int = 18


def new_territory(wanted: NewTerritory) -> str:
    """Write the folder; returns what to say. Raises SettingsError with a sentence."""
    if max(abs(wanted.bounds[1]), abs(wanted.bounds[3])) > MOST_LATITUDE:
        raise SettingsError(f"web maps end at {MOST_LATITUDE} degrees north and south; --bounds goes beyond")
    if wanted.out.exists() and any(wanted.out.iterdir() if wanted.out.is_dir() else [wanted.out]):
        raise SettingsError(f"{wanted.out} exists already and is not empty; choose another folder for --out")
    picture = read_picture(wanted.sketch)
    prompted = None if wanted.areas is None else _prompted(wanted.areas)
    legend = None if wanted.legend is None else _tried(wanted.legend, legend_of)
    painted = legend is not None or is_painted(picture)
    wanted.out.mkdir(parents=True, exist_ok=True)
    name = wanted.out.resolve().name
    if not painted:
        if any(given is not None for given in (wanted.vectors, wanted.event, wanted.height, wanted.areas)):
            raise SettingsError(
                f"{wanted.sketch} is no painting of flat colours, so nothing is drawn into it: --vectors, --height, "
                "--areas and --event are for land cover; give a --legend if it is one"
            )
        zoom = write_picture(picture, wanted.bounds, wanted.out / "territory.tif")
        write_layers(wanted, name, [("map", 'scenes = ["territory.tif"]', None)])
        what = f"a picture: its colours stay as they are; its pixels are those of zoom {zoom}"
    else:
        territory, areas = territory_of(wanted, kinds_of(picture, legend))
        variants = {"map": territory}
        if wanted.event is not None:
            variants["after"] = with_areas(territory, areas_of(wanted.event))
            same = variants["after"].kinds
            if same.shape == territory.kinds.shape and (same == territory.kinds).all():
                raise SettingsError(f"{wanted.event} has no area with a cover; an event is made of such")
        source = 'territory = "{}.json"'
        if prompted is not None:
            try:
                laid_out = with_layouts(prompted, lambda: territory, Areas())
            except (BadRequestError, StorageError) as error:
                raise SettingsError(f"{wanted.areas}: {error}") from None
            laid_out.write(wanted.out / AREAS)
            source += f'\nareas = "{AREAS}"'
        for layer, variant in variants.items():
            variant.write(wanted.out / layer)
        write_layers(wanted, name, [(layer, source.format(layer), NATIVE_ZOOM) for layer in variants])
        shares = np.bincount(territory.kinds.ravel(), minlength=len(COVERS)) / territory.kinds.size
        kinds = ", ".join(f"{c.name} {share:.0%}" for c, share in zip(COVERS, shares, strict=True) if share >= 0.005)
        what = f"painted land cover ({kinds}; {areas} areas given, {len(territory.lines)} roads and rivers)"
    return f"{what}\npainted on to zoom {wanted.painted_zoom}\nserve it: tilecascade serve {wanted.out}"


def _prompted(path: Path) -> Areas:
    """The areas with prompts of a file. Raises SettingsError."""
    if not path.is_file():
        raise SettingsError(f"{path} does not exist")
    return Areas.read(path)


def read_picture(path: Path) -> Pixels:
    """A picture file as H x W x 3. Raises SettingsError."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            if max(image.size) > MOST_PIXELS or min(image.size) < 16:
                raise SettingsError(
                    f"{path} has {image.size[0]} x {image.size[1]} pixels; 16 to {MOST_PIXELS} are possible"
                )
            if image.mode.startswith(("I", "F")):
                raise SettingsError(f"{path} has more than 8 bits a channel; save it with 8")
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise SettingsError(f"{path} does not exist") from None
    except Image.DecompressionBombError:
        raise SettingsError(f"{path} has too many pixels; {MOST_PIXELS} along each side are possible") from None
    except (UnidentifiedImageError, OSError) as error:
        raise SettingsError(f"{path} is no picture: {error}") from None


def _tried(path: Path, read: Callable[[Path], Any]) -> Any:
    """What is read of a file. Raises SettingsError with a sentence."""
    try:
        return read(path)
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise SettingsError(f"{path}: {error}") from None


def metres(bounds: Bounds) -> Bounds:
    """Bounds in degrees -> in metres of Web Mercator."""
    return (*mercantile.xy(bounds[0], bounds[1]), *mercantile.xy(bounds[2], bounds[3]))


def territory_of(wanted: NewTerritory, kinds: Any) -> tuple[Territory, int]:
    """The territory with what is given besides, and how many areas these are."""
    territory = Territory(kinds, metres(wanted.bounds), wanted.seed)
    if wanted.height is not None:
        territory = replace(territory, heights=heights_of(wanted.height, territory.box))
    if wanted.vectors is None:
        return territory.with_roads(), 0
    areas, lines = areas_of(wanted.vectors), lines_of(wanted.vectors)
    territory = replace(with_areas(territory, areas), lines=lines)
    has_roads = any(line.kind != "river" for line in lines)
    return territory if has_roads else territory.with_roads(), len(areas)


def heights_of(path: Path, box: Bounds) -> NDArray[np.float32]:
    """Metres above the sea over a box of Web Mercator: from where the raster says it lies, or stretched to the box.

    Raises SettingsError.
    """
    try:
        with warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning), rasterio.open(path) as raster:
            if raster.count != 1:
                raise SettingsError(f"{path} has {raster.count} bands; a height raster has one, of metres")
            shape = tuple(max(4, min(MOST_HEIGHTS, side)) for side in raster.shape)
            if raster.crs is None:
                found = raster.read(1, out_shape=shape, resampling=Resampling.bilinear, masked=True)
            else:
                place = from_bounds(*box, shape[1], shape[0])
                options = {"crs": "EPSG:3857", "transform": place, "height": shape[0], "width": shape[1]}
                with WarpedVRT(raster, resampling=Resampling.bilinear, add_alpha=False, **options) as warped:
                    found = warped.read(1, masked=True)
    except RasterioError as error:
        raise SettingsError(f"{path} is no height raster: {error}") from None
    heights = found.astype(np.float32)
    if heights.mask.all() or not np.isfinite(heights.compressed()).all():
        raise SettingsError(f"{path} has no heights within the bounds")
    return np.asarray(heights.filled(heights.min()))


def legend_of(path: Path) -> Any:
    """The legend in a JSON file. Raises what `_tried` turns into a sentence."""
    return read_legend(json.loads(path.read_text()))


def features_of(path: Path) -> list[dict[str, Any]]:
    """The features of a GeoJSON file, in metres of Web Mercator. Raises SettingsError."""
    features: list[dict[str, Any]] = _tried(path, read_features)
    return features


def areas_of(path: Path) -> list[tuple[dict[str, Any], int]]:
    """Areas and their cover. Raises SettingsError for one without."""
    found = []
    for feature in features_of(path):
        if "Polygon" in feature["geometry"]["type"]:
            name = feature["properties"].get("cover")
            if not isinstance(name, str) or name not in NUMBER:
                raise SettingsError(
                    f"{path}: an area needs a property cover, one of {', '.join(NUMBER)}; one has {name!r}"
                )
            found.append((feature["geometry"], NUMBER[name]))
    return found


def lines_of(path: Path) -> list[Line]:
    """Roads and rivers; other lines do not count."""
    found = []
    for feature in features_of(path):
        kind, tags = feature["geometry"]["type"], feature["properties"]
        if "LineString" in kind:
            road = ROADS.get(str(tags.get("highway"))) or ("river" if tags.get("waterway") else None)
            parts = feature["geometry"]["coordinates"]
            for part in [parts] if kind == "LineString" else parts:
                if road is not None and len(part) > 1:
                    found.append(Line(road, np.array(part, dtype=np.float64)[:, :2]))
    return found


def with_areas(territory: Territory, areas: list[tuple[dict[str, Any], int]]) -> Territory:
    """The territory with areas of another cover, at four times the picture's resolution at most."""
    if not areas:
        return territory
    kinds = territory.kinds
    scale = max(1, min(4 // territory.scale, MOST_PIXELS // max(kinds.shape)))
    fine = kinds.repeat(scale, 0).repeat(scale, 1)
    place = from_bounds(*territory.box, fine.shape[1], fine.shape[0])
    rasterize(areas, out=fine, transform=place)
    return replace(territory, kinds=fine, scale=territory.scale * scale)


def write_picture(picture: Pixels, bounds: Bounds, path: Path) -> int:
    """Write a picture with its place; returns the zoom of its own resolution."""
    height, width = picture.shape[:2]
    left, bottom, right, top = metres(bounds)
    place = from_bounds(left, bottom, right, top, width, height)
    with rasterio.open(
        path, "w", driver="GTiff", width=width, height=height, count=3, dtype="uint8", crs="EPSG:3857",
        transform=place, compress="deflate", photometric="RGB",
    ) as out:  # fmt: skip
        out.write(picture.transpose(2, 0, 1))
        out.update_tags(TIFFTAG_IMAGEDESCRIPTION="a sketch, neither surveyed nor real")
    return max(0, min(MAX_TABLE_ZOOM, round(math.log2(mercantile.CE / ((right - left) / width) / TILE_SIZE))))


def write_layers(wanted: NewTerritory, name: str, layers: list[tuple[str, str, int | None]]) -> None:
    """Write layers.toml: each layer's name, where its imagery comes from, and the last zoom of its drawn map."""
    lines = ["# made by tilecascade territory new; serve it with: tilecascade serve FOLDER", "[server]"]
    lines.append('data_dir = "state"')
    for layer, source, last in layers:
        lines += ["", "[[layer]]", f'name = "{layer}"', source]
        lines += [f"painted_zoom = {wanted.painted_zoom}", f"seed = {wanted.seed}"]
        lines.append(f"attribution = {json.dumps(f'{name}: a territory that does not exist')}")
        if last is not None:
            lines += [f'base_map = "{layer}.json"', "base_map_drawn = true", f"root_zoom = {last}"]
            lines.append('finish = "cartographic"')
    (wanted.out / "layers.toml").write_text("\n".join(lines) + "\n")
