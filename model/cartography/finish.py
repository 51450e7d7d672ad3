"""The cartographic finish: class field -> objects -> a map drawn in the style."""

from __future__ import annotations

from collections import defaultdict
from importlib.metadata import version

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import Polygon
from shapely.geometry.base import BaseGeometry

from tilecascade.model.cartography.areas import areas
from tilecascade.model.cartography.buildings import buildings
from tilecascade.model.cartography.field import ClassField
from tilecascade.model.cartography.objects import MapObject
from tilecascade.model.cartography.roads import roads
from tilecascade.model.cascade import Pixels
from tilecascade.model.style import COLOUR, MapCanvas


def libraries() -> str:
    """The libraries whose versions a finished map's pixels depend on."""
    return ", ".join(f"{name} {version(name)}" for name in ("shapely", "scikit-image", "scipy", "aggdraw"))


def objects(field: ClassField) -> list[MapObject]:
    """All objects of a field, in its pixels."""
    return [*areas(field), *buildings(field), *roads(field)]


def draw(found: list[MapObject], shape: tuple[int, int], zoom: int) -> Pixels:
    """Objects -> H x W x 3 uint8."""
    canvas = MapCanvas(np.full((*shape, 3), COLOUR["land"], dtype=np.uint8), zoom)
    cover = [each for each in found if each.theme == "cover"]
    # an area's holes are filled by the areas in them, which are smaller than its outline
    for each in sorted(cover, key=lambda each: -Polygon(_outline(each.geometry)).area):
        canvas.area(_outline(each.geometry), COLOUR[each.kind])
    lines: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
    for each in found:
        if each.theme == "road":
            lines[each.kind].append(shapely.get_coordinates(each.geometry))
    for each in found:
        if each.theme == "building":
            canvas.building(_outline(each.geometry))
    canvas.roads(lines)
    return canvas.finish()


def _outline(geometry: BaseGeometry) -> NDArray[np.float64]:
    return shapely.get_coordinates(shapely.get_exterior_ring(geometry))
