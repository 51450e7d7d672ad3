"""The country as a map, in the style of `model.style`."""

from __future__ import annotations

import numpy as np

from tilecascade.model.cascade import Pixels, Window
from tilecascade.model.style import (
    BUILDINGS,
    COLOUR,
    LAND_USE,
    LEAST_AREA,
    ORDER,
    OUTLINES,
    MapCanvas,
)
from tilecascade.model.world.blocks import Building, Street
from tilecascade.model.world.features import Features, Frame, gather
from tilecascade.model.world.land import Cover, ground
from tilecascade.model.world.lattice import Floats
from tilecascade.model.world.places import Link

COVER_COLOUR = {
    Cover.LAND: "land",
    Cover.WATER: "water",
    Cover.FOREST: "forest",
    Cover.SCRUB: "scrub",
    Cover.FARMLAND: "farmland",
    Cover.GRASS: "grass",
    Cover.WETLAND: "wetland",
    Cover.BEACH: "land",
    Cover.ROCK: "land",
}


def render_map(seed: int, window: Window) -> Pixels:
    """The map of a window, H x W x 3 uint8. Raises ValueError above the country's zoom."""
    frame = Frame.of(window)
    features = gather(seed, frame, detail=window.zoom >= LAND_USE)
    canvas = MapCanvas(_ground(seed, frame), window.zoom)
    _land_use(canvas, features, frame)
    _rivers(canvas, features, frame)
    for block in features.blocks:
        for building in block.buildings:
            if _shown(building, window.zoom):
                canvas.building(frame.to_pixels(building.corners))
    for link in features.links:
        if link.kind == "rail":
            canvas.railway(frame.to_pixels(link.points))
    canvas.roads(_roads(features, frame))
    for block in features.blocks:
        for street in block.streets:
            if street.kind == "path":
                canvas.path(frame.to_pixels(street.points))
    return canvas.finish()


def _ground(seed: int, frame: Frame) -> Pixels:
    """Natural cover, two samples a pixel each way."""
    table = np.array([COLOUR[COVER_COLOUR[cover]] for cover in Cover], dtype=np.float32)
    fine = table[ground(seed, *frame.axes(2)).cover]
    mean = fine.reshape(frame.height, 2, frame.width, 2, 3).mean(axis=(1, 3))
    return np.asarray(mean.round().astype(np.uint8))


def _land_use(canvas: MapCanvas, features: Features, frame: Frame) -> None:
    for block in features.blocks:
        canvas.area(frame.to_pixels(block.corners), COLOUR[block.kind])
    for block in features.blocks:
        for area in block.areas:
            if area.kind != "parking" or canvas.zoom >= OUTLINES:
                canvas.area(frame.to_pixels(area.corners), COLOUR[area.kind])


def _rivers(canvas: MapCanvas, features: Features, frame: Frame) -> None:
    for river in features.rivers:
        width = max(river.width / frame.pixel, 1.0 if river.width > 25 or canvas.zoom >= 13 else 0)
        if width:
            canvas.line(frame.to_pixels(river.points), COLOUR["water"], width)


def _shown(building: Building, zoom: int) -> bool:
    if zoom < BUILDINGS:
        return False
    a, b, _, d = building.corners[:4]
    return bool(np.hypot(*(b - a)) * np.hypot(*(d - a)) >= LEAST_AREA.get(zoom, 0))


def _roads(features: Features, frame: Frame) -> dict[str, list[Floats]]:
    lines: dict[str, list[Floats]] = {kind: [] for kind in ORDER}
    inner = [street for block in features.blocks for street in block.streets]
    ways: list[Street | Link] = [*features.streets, *inner, *features.links]
    for item in ways:
        if item.kind in lines:
            lines[item.kind].append(frame.to_pixels(item.points))
    return lines
