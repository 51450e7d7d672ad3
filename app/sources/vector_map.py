"""A map drawn of vectors: a GeoJSON file with OpenStreetMap's tags, in the default map style or in colours of its own.

Features are drawn as OpenStreetMap's standard style draws them, without letters: areas from the largest to the
smallest, buildings over them, roads by rank with their casings. A feature's own `fill`, `stroke` and `stroke-width`
(simplestyle) come before its tags, so that a file can bring another style.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mercantile
import numpy as np
import shapely
from mercantile import Tile
from PIL import Image, ImageColor, ImageDraw
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from tilecascade.app.errors import SceneError
from tilecascade.model.cascade import TILE_SIZE, Mask, Pixels, Window, tile_window
from tilecascade.model.style import BUILDINGS, COLOUR, LEAST_AREA, WIDTH, Floats, MapCanvas

FINER = 4
"""Areas are drawn so many times larger and averaged: smooth edges."""

BEYOND = 16
"""Pixels drawn beyond a tile: half the widest line and its casing."""

KNOWN = 0.1
"""How far the map is taken to reach beyond its outermost features, in parts of its extent: maps end in fields."""

RGB = tuple[int, int, int]

OUTLINE = 1.0
"""Pixels of an outline of its own."""

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
    "waterway": {"riverbank": "water", "dock": "water"},
}  # fmt: skip
"""The palette's colour of an area, by OpenStreetMap's tag."""

ROADS = {
    "motorway": "primary", "trunk": "primary", "primary": "primary", "secondary": "secondary", "tertiary": "tertiary",
    "unclassified": "residential", "residential": "residential", "living_street": "residential", "road": "residential",
    "pedestrian": "residential", "service": "service",
}  # fmt: skip
"""The map style's class of a road by OpenStreetMap's `highway`."""

PATHS = {"path": "path", "footway": "path", "cycleway": "path", "steps": "path", "track": "track"}
WATERWAYS = {"river": (4, 6, 6, 10, 12), "canal": (3, 5, 5, 9, 10), "stream": (0.7, 2, 2, 2.5, 2.5)}
"""Pixels of a waterway at z14 to z18."""

FIRST_WIDTH = 14


@dataclass(frozen=True)
class Look:
    """How a feature is drawn.

    kind: "area", "building", "line", "rail", a class of roads, or "path" or "track". widths: of a line, in pixels at
    z14 to z18.
    """

    kind: str
    fill: RGB
    widths: tuple[float, ...] = ()
    stroke: RGB | None = None


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
    if is_area and tags.get("fill"):
        return Look("area", _colour(tags["fill"]), stroke=_colour(tags["stroke"]) if tags.get("stroke") else None)
    if not is_area and tags.get("stroke"):
        return Look("line", _colour(tags["stroke"]), (float(tags.get("stroke-width") or 2),))
    if is_area:
        if tags.get("building") not in (None, "", "no"):
            return Look("building", COLOUR["building"])
        names = (names[tags[key]] for key, names in AREAS.items() if tags.get(key) in names)
        name = next(names, None)
        return None if name is None else Look("area", COLOUR[name])
    if tags.get("highway") in ROADS:
        return Look(ROADS[tags["highway"]], COLOUR["road"])
    if tags.get("highway") in PATHS:
        return Look(PATHS[tags["highway"]], COLOUR["path"])
    if tags.get("waterway") in WATERWAYS:
        return Look("line", COLOUR["water"], WATERWAYS[tags["waterway"]])
    return Look("rail", COLOUR["railway"]) if tags.get("railway") == "rail" else None


def _colour(text: Any) -> RGB:
    """A colour as CSS writes it. Raises ValueError."""
    return ImageColor.getrgb(str(text))[:3]


def least_building(zoom: int) -> float:
    """Square metres that a building needs to be on the map of a zoom."""
    return math.inf if zoom < BUILDINGS else LEAST_AREA.get(zoom, 0.0)


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
        drawn.sort(key=lambda each: (each[1].fill == COLOUR["water"], -each[0].area))
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
        ground = Image.new("RGB", (window.width * FINER, window.height * FINER), COLOUR["land"])
        found = sorted(self._tree.query(place.box, predicate="intersects").tolist())
        shown = [(self._looks[n], self._shapes[n]) for n in found]
        for look, form in shown:
            if look.kind == "area":
                for polygon in _parts(form.intersection(place.box), "Polygon"):
                    _fill(ground, place, polygon, look.fill)
        canvas = MapCanvas(np.asarray(ground.resize((window.width, window.height), Image.Resampling.BOX)), window.zoom)
        roads: dict[str, list[Floats]] = {}
        for look, form in shown:
            for polygon in _parts(form, "Polygon"):
                if look.kind == "building" and form.area * place.shrink**2 >= least_building(window.zoom):
                    canvas.building(place.points(polygon.exterior))
                elif look.stroke is not None:
                    canvas.line(place.points(polygon.exterior), look.stroke, OUTLINE)
            for line in _parts(form, "LineString"):
                points = place.points(line)
                if look.kind in WIDTH:
                    roads.setdefault(look.kind, []).append(points)
                elif look.kind == "rail":
                    canvas.railway(points)
                elif look.kind in ("path", "track"):
                    canvas.path(points, look.kind)
                else:
                    level = min(max(0, window.zoom - FIRST_WIDTH), len(look.widths) - 1)
                    canvas.line(points, look.fill, look.widths[level] * 0.5 ** max(0, FIRST_WIDTH - window.zoom))
        canvas.roads(roads)
        return canvas.finish()


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

    def points(self, part: Any) -> Floats:
        """The points of a line or ring in pixels, N x 2, (0, 0) the corner at the top left."""
        metres = np.asarray(part.coords)[:, :2] - (self._left, self._top)
        return np.asarray(metres * (1, -1) / self.resolution)


def _parts(form: BaseGeometry, kind: str) -> list[Any]:
    """The polygons or lines that a geometry is of."""
    return [part for part in getattr(form, "geoms", [form]) if part.geom_type == kind and not part.is_empty]


def _fill(image: Image.Image, place: Place, polygon: Any, colour: RGB) -> None:
    """Fill a polygon but for its holes, in a picture FINER times as large."""
    mask = Image.new("1", image.size)
    pen = ImageDraw.Draw(mask)
    for number, ring in enumerate((polygon.exterior, *polygon.interiors)):
        pen.polygon([(float(x), float(y)) for x, y in FINER * place.points(ring)], fill=0 if number else 1)
    image.paste(colour, mask=mask)
