"""Map objects in global pixels <-> GeoJSON features in degrees."""

from __future__ import annotations

import hashlib
from typing import Any

import mercantile
import numpy as np
import shapely
from mercantile import Tile
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from tilecascade.model.cartography.objects import MapObject, Theme
from tilecascade.model.cartography.parts import GRID
from tilecascade.model.cascade import TILE_SIZE, tile_window

Feature = dict[str, Any]

DIGITS = 9
"""Decimals of degrees: fine enough to find the pixels' grid again."""

LAYERS: dict[Theme, str] = {"cover": "landcover", "building": "building", "road": "road"}
"""The themes of objects, and the names of the layers they come in."""


def degrees_of(geometry: BaseGeometry, zoom: int) -> BaseGeometry:
    """Global pixels -> longitude and latitude."""
    world = TILE_SIZE << zoom

    def degrees(points: NDArray[np.float64]) -> NDArray[np.float64]:
        longitude = points[:, 0] / world * 360 - 180
        latitude = np.degrees(np.arctan(np.sinh(np.pi * (1 - 2 * points[:, 1] / world))))
        return np.stack([longitude, latitude], axis=1).round(DIGITS)

    return shapely.transform(geometry, degrees)


def pixels_of(geometry: BaseGeometry, zoom: int) -> BaseGeometry:
    """Inverse of `degrees_of`."""
    world = TILE_SIZE << zoom

    def pixels(points: NDArray[np.float64]) -> NDArray[np.float64]:
        x = (points[:, 0] + 180) / 360 * world
        y = (1 - np.arcsinh(np.tan(np.radians(points[:, 1]))) / np.pi) / 2 * world
        return np.stack([x, y], axis=1)

    return shapely.transform(geometry, lambda points: (pixels(points) / GRID).round() * GRID)


def metres_per_pixel(geometry: BaseGeometry, zoom: int) -> float:
    """On the ground, at the latitude of a geometry in degrees."""
    latitude = geometry.centroid.y
    return float(mercantile.CE / (TILE_SIZE << zoom) * np.cos(np.radians(latitude)))


def feature(each: MapObject, zoom: int, more: dict[str, Any]) -> Feature:
    """An object in global pixels as a feature, with more properties."""
    place = degrees_of(each.geometry, zoom)
    properties: dict[str, Any] = {"layer": LAYERS[each.theme], "class": each.kind}
    properties |= {"confidence": round(each.confidence, 3)} | more
    if each.theme == "road":
        properties["width_m"] = round(each.width * metres_per_pixel(place, zoom), 2)
    if not each.whole:
        properties["partial"] = True
    if each.reviewed:
        properties["reviewed"] = True
    name = hashlib.blake2b(each.kind.encode() + shapely.to_wkb(each.geometry), digest_size=8).hexdigest()
    return {"type": "Feature", "id": name, "properties": properties, "geometry": shapely.geometry.mapping(place)}


def box_of(tile: Tile) -> shapely.Polygon:
    """A tile in global pixels of its zoom."""
    window = tile_window(tile)
    return shapely.box(window.left, window.top, window.left + window.width, window.top + window.height)


def box_of_children(tile: Tile) -> shapely.Polygon:
    """A tile in global pixels of the next finer zoom."""
    left, top, right, bottom = box_of(tile).bounds
    return shapely.box(2 * left, 2 * top, 2 * right, 2 * bottom)


def tile_at(each: MapObject, zoom: int) -> Tile:
    """The tile that a point of an object in global pixels lies in."""
    x, y = shapely.get_coordinates(shapely.point_on_surface(each.geometry))[0]
    return Tile(int(x) // TILE_SIZE, int(y) // TILE_SIZE, zoom)


def object_of(given: Feature) -> MapObject:
    """Inverse of `feature`. Raises KeyError or ValueError for what no server of ours has made."""
    properties = given["properties"]
    theme = next(theme for theme, name in LAYERS.items() if name == properties["layer"])
    place, zoom = shapely.geometry.shape(given["geometry"]), properties["zoom"]
    width = properties.get("width_m", 0.0) / metres_per_pixel(place, zoom)
    geometry = pixels_of(place, zoom)
    return MapObject(theme, properties["class"], geometry, properties["confidence"], width, "partial" not in properties)
