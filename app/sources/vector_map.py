"""A map drawn of vectors: a GeoJSON file with OpenStreetMap's tags, in the default map style or in colours of its own.

Features are drawn as OpenStreetMap's standard style draws them, without letters: areas from the largest to the
smallest, buildings over them, roads by rank with their casings. A feature's own `fill`, `stroke` and `stroke-width`
(simplestyle) come before its tags, so that a file can bring another style.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import mercantile
import numpy as np
import shapely
from mercantile import Tile
from PIL import Image, ImageColor, ImageDraw
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry
from shapely.ops import substring

from tilecascade.app.errors import SceneError
from tilecascade.model.cascade import TILE_SIZE, Mask, Pixels, Window, tile_window
from tilecascade.model.palette import PALETTE

FINER = 4
"""Drawn so many times larger and averaged: smooth edges."""

BEYOND = 16
"""Pixels drawn beyond a tile: half the widest line and its casing."""

KNOWN = 0.1
"""Share of a file's extent, by side, that its map may be beyond the outermost feature: maps end in fields."""

FIRST_OUTLINE = 16
OUTLINE = 0.75
"""The first zoom at which areas have outlines, and how many pixels wide."""

RGB = tuple[int, int, int]

COLOUR = {name: colour for name, colour, _ in PALETTE}

AREAS = {
    "landuse": {
        "residential": "residential", "industrial": "industrial", "railway": "industrial", "commercial": "commercial",
        "retail": "retail", "garages": "garages", "forest": "forest", "grass": "grass", "meadow": "grass",
        "village_green": "grass", "recreation_ground": "grass", "allotments": "allotments", "cemetery": "cemetery",
        "farmland": "farmland", "farm": "farmland", "orchard": "allotments", "reservoir": "water", "basin": "water",
    },
    "natural": {
        "wood": "forest", "scrub": "scrub", "heath": "scrub", "grassland": "grass", "wetland": "wetland",
        "water": "water", "bay": "water",
    },
    "leisure": {"park": "park", "garden": "grass", "pitch": "pitch", "playground": "pitch"},
    "amenity": {"parking": "parking", "grave_yard": "cemetery"},
    "water": {},
    "waterway": {"riverbank": "water", "dock": "water"},
}  # fmt: skip
"""The palette's colour of an area, by OpenStreetMap's tag."""

ROADS = {
    "motorway": ("trunk road", (6, 10, 10, 18, 21)), "trunk": ("trunk road", (6, 10, 10, 18, 21)),
    "primary": ("primary road", (5, 10, 10, 18, 21)), "secondary": ("secondary road", (5, 9, 10, 18, 21)),
    "tertiary": ("road", (5, 9, 10, 18, 21)), "unclassified": ("road", (3, 5, 6, 12, 13)),
    "residential": ("road", (3, 5, 6, 12, 13)), "living_street": ("road", (3, 5, 6, 12, 13)),
    "road": ("road", (3, 5, 6, 12, 13)), "pedestrian": ("road", (0, 5, 6, 12, 13)),
    "service": ("road", (1.5, 2, 3.5, 7, 8.5)), "track": ("track", (0, 1, 1.2, 1.5, 1.5)),
    "footway": ("path", (0, 1, 1, 1, 1.3)), "path": ("path", (0, 1, 1, 1, 1.3)), "steps": ("path", (0, 0, 2, 3, 3)),
    "cycleway": ("path", (0, 1, 1, 1, 1.3)),
}  # fmt: skip
"""The palette's colour of a road and its width in pixels at z14 to z18; from the highest rank to the lowest."""

WATERWAYS = {"river": (4, 6, 6, 10, 12), "canal": (3, 5, 5, 9, 10), "stream": (0.7, 2, 2, 2.5, 2.5)}
RAILWAY = (1, 2, 2, 3, 3)
DASHES = {"path": 4.0, "track": 6.0}
"""Pixels of a dash, and two thirds of a gap, by colour."""

TOP = 40
"""Rank of what is drawn last."""

CASED = 2.5
"""Narrower lines have no casing."""

FIRST_WIDTH = 14
LEAST_BUILDING = {14: 150.0, 15: 60.0}
"""Square metres that a building needs to be drawn, by zoom; at coarser zooms there are none."""


@dataclass(frozen=True)
class Look:
    """How a feature is drawn.

    rank: what is drawn later lies above. stroke: an area's outline, or a line's casing. widths: of a line at z14 to
    z18, in pixels; 0 is not drawn. dash: its dashes' length in pixels; 0 for none.
    """

    rank: int
    fill: RGB
    stroke: RGB | None = None
    widths: tuple[float, ...] = (0,)
    building: bool = False
    dash: float = 0.0


def read_features(path: Path) -> list[dict[str, Any]]:
    """The features of a GeoJSON file, in metres of Web Mercator, with their properties.

    Raises OSError, and ValueError (or what else Python raises for wrong members) for what is no GeoJSON.
    """
    data = json.loads(path.read_text())
    found = data["features"] if data.get("type") == "FeatureCollection" else [data]
    found = [each if "geometry" in each else {"geometry": each, "properties": {}} for each in found]
    return [
        {"geometry": projected(each["geometry"]), "properties": each.get("properties") or {}}
        for each in found
        if (each.get("geometry") or {}).get("coordinates")
    ]


def projected(geometry: dict[str, Any]) -> dict[str, Any]:
    """A geometry in degrees -> in metres of Web Mercator."""

    def each(value: Any) -> Any:
        if not isinstance(value, list):
            raise ValueError(f"coordinates are numbers, not {value!r}")
        if value and isinstance(value[0], (int, float)):
            return list(mercantile.xy(float(value[0]), float(value[1])))
        return [each(part) for part in value]

    return {"type": geometry["type"], "coordinates": each(geometry["coordinates"])}


def look_of(tags: dict[str, Any], is_area: bool) -> Look | None:
    """How a feature is drawn; None if it is not."""
    own = next((tags[name] for name in (("fill", "stroke") if is_area else ("stroke",)) if tags.get(name)), None)
    if own is not None:
        width = float(tags.get("stroke-width") or 2)
        stroke = _colour(tags["stroke"]) if is_area and tags.get("stroke") else None
        return Look((2 if tags.get("building") else 0) if is_area else TOP, _colour(own), stroke, (width,))
    if is_area:
        if tags.get("building"):
            return Look(2, COLOUR["building"], COLOUR["building outline"], building=True)
        for key, names in AREAS.items():
            if tags.get(key) in names:
                name = names[tags[key]]
                return Look(1 if name == "water" else 0, COLOUR[name])
        return None
    if tags.get("highway") in ROADS:
        name, widths = ROADS[tags["highway"]]
        order = list(ROADS).index(tags["highway"])
        return Look(TOP - order, COLOUR[name], COLOUR["building outline"], widths, dash=DASHES.get(name, 0.0))
    if tags.get("waterway") in WATERWAYS:
        return Look(3, COLOUR["water"], None, WATERWAYS[tags["waterway"]])
    return Look(4, COLOUR["railway"], None, RAILWAY) if tags.get("railway") == "rail" else None


def _colour(text: Any) -> RGB:
    """A colour as CSS writes it. Raises ValueError."""
    return ImageColor.getrgb(str(text))[:3]


class VectorMap:
    """A GeoJSON file as tiles of a map: the `has` and `tile` of a map to learn from."""

    def __init__(self, path: Path) -> None:
        """Raises SceneError with a sentence."""
        try:
            features = read_features(path)
            drawn = []
            for each in features:
                is_area = "Polygon" in each["geometry"]["type"]
                look = look_of(each["properties"], is_area)
                if look is not None and each["geometry"]["type"] not in ("Point", "MultiPoint"):
                    drawn.append((shape(each["geometry"]), look))
        except OSError as error:
            raise SceneError(f"{path} cannot be read: {error.strerror}") from None
        except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            raise SceneError(f"{path} is no GeoJSON of a map: {error}") from None
        if not drawn:
            raise SceneError(
                f"{path} has no feature that can be drawn: tags such as highway, building, landuse, natural are "
                "needed, or fill and stroke"
            )
        drawn.sort(key=lambda each: (each[1].rank, -each[0].area))
        self._shapes = [each for each, _ in drawn]
        self._looks = [look for _, look in drawn]
        self._tree = shapely.STRtree(self._shapes)
        west, south, east, north = shapely.total_bounds(np.array(self._shapes, dtype=object))
        dx, dy = KNOWN * (east - west), KNOWN * (north - south)
        self._box = (west - dx, south - dy, east + dx, north + dy)

    def has(self, tile: Tile) -> bool:
        """Whether all of the tile lies in the file's extent."""
        west, south, east, north = self._box
        place = mercantile.xy_bounds(tile)
        return west <= place.left and place.right <= east and south <= place.bottom and place.top <= north

    def tile(self, tile: Tile) -> tuple[Pixels, Mask] | None:
        """256 x 256 x 3 and a mask that is true; None if there is no such tile."""
        if not self.has(tile):
            return None
        return self.draw(tile_window(tile)), np.ones((TILE_SIZE, TILE_SIZE), dtype=np.bool_)

    def draw(self, window: Window) -> Pixels:
        """The map of a window, H x W x 3 uint8."""
        place = Place(window)
        image = Image.new("RGB", (window.width * FINER, window.height * FINER), COLOUR["land"])
        found = sorted(self._tree.query(place.box, predicate="intersects").tolist())
        shown = [(self._looks[n], self._shapes[n]) for n in found if self._is_shown(n, place)]
        for look, form in shown:
            for polygon in _parts(form, "Polygon"):
                _fill(image, place, polygon, look)
        pen = ImageDraw.Draw(image)
        for cased in (True, False):
            for look, form in shown:
                for line in _parts(form, "LineString"):
                    _draw_line(pen, place, line, look, cased)
        return np.asarray(image.resize((window.width, window.height), Image.Resampling.BOX))

    def _is_shown(self, number: int, place: Place) -> bool:
        """Whether a feature is drawn at the place's zoom."""
        if not self._looks[number].building or place.zoom > max(LEAST_BUILDING):
            return True
        least = LEAST_BUILDING.get(place.zoom)
        return least is not None and self._shapes[number].area * place.shrink**2 >= least


class Place:
    """Where a window lies, and its points in the pixels that are drawn.

    resolution: Web Mercator's metres per pixel. shrink: true metres per metre of Web Mercator. box: the window and what
    is drawn beyond it.
    """

    def __init__(self, window: Window) -> None:
        self.zoom = window.zoom
        self.resolution = mercantile.CE / (TILE_SIZE << window.zoom)
        self._left = window.left * self.resolution - mercantile.CE / 2
        self._top = mercantile.CE / 2 - window.top * self.resolution
        self.shrink = math.cos(math.radians(mercantile.lnglat(self._left, self._top).lat))
        reach = BEYOND * self.resolution
        right = self._left + window.width * self.resolution
        bottom = self._top - window.height * self.resolution
        self.box = shapely.box(self._left - reach, bottom - reach, right + reach, self._top + reach)

    def points(self, part: Any) -> list[tuple[float, float]]:
        """The points of a line or ring."""
        metres = np.asarray(part.coords)[:, :2] - (self._left, self._top)
        pixels = metres * (FINER, -FINER) / self.resolution
        return [(float(x), float(y)) for x, y in pixels]


def dashes(line: Any, length: float) -> list[Any]:
    """The dashes of a line, counted from its beginning; the line itself for a length of 0."""
    if not length:
        return [line]
    return [substring(line, at, at + length) for at in np.arange(0, line.length, 1.6 * length)]


def _parts(form: BaseGeometry, kind: str) -> list[Any]:
    """The polygons or lines that a geometry is of."""
    return [part for part in getattr(form, "geoms", [form]) if part.geom_type == kind and not part.is_empty]


def _fill(image: Image.Image, place: Place, polygon: Any, look: Look) -> None:
    """Fill a polygon but for its holes."""
    for part in _parts(polygon.intersection(place.box), "Polygon"):
        mask = Image.new("1", image.size)
        pen = ImageDraw.Draw(mask)
        rings = [place.points(ring) for ring in (part.exterior, *part.interiors)]
        for number, ring in enumerate(rings):
            pen.polygon(ring, fill=0 if number else 1)
        image.paste(look.fill, mask=mask)
        if look.stroke is not None and place.zoom >= FIRST_OUTLINE:
            for ring in rings:
                _stroke(ImageDraw.Draw(image), ring, look.stroke, OUTLINE * FINER)


def _draw_line(pen: ImageDraw.ImageDraw, place: Place, line: Any, look: Look, cased: bool) -> None:
    """A line's casing, or what lies in it; each only if there is one."""
    width = look.widths[min(max(0, place.zoom - FIRST_WIDTH), len(look.widths) - 1)]
    width *= 0.5 ** max(0, FIRST_WIDTH - place.zoom)
    has_casing = look.stroke is not None and width > CASED
    if not width or (cased and not has_casing):
        return
    colour = look.stroke if cased and look.stroke is not None else look.fill
    drawn = width + (0.6 if cased else -1.0 if has_casing else 0.0)
    for part in dashes(line, look.dash * place.resolution):
        _stroke(pen, place.points(part), colour, FINER * drawn)


def _stroke(pen: ImageDraw.ImageDraw, line: list[tuple[float, float]], colour: RGB, width: float) -> None:
    """A line with round joints and ends."""
    whole = max(1, round(width))
    for start, end in pairwise(line):
        pen.line([start, end], fill=colour, width=whole)
    if whole > 2:
        for x, y in line:
            pen.ellipse([x - width / 2, y - width / 2, x + width / 2, y + width / 2], fill=colour)
