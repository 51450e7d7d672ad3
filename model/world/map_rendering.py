"""The country as a map: the palette's colours and OSM Carto's generalisation, as in the supplied pairs.

What appears when: land use from z12, buildings over 150 m2 from z14, over 60 m2 and paths from z15, all buildings with
outlines and parking from z16; roads widen with the zoom.
"""

from __future__ import annotations

import aggdraw
import numpy as np
from PIL import Image

from tilecascade.model.cascade import Pixels, Window
from tilecascade.model.palette import PALETTE
from tilecascade.model.world.blocks import Building, Street
from tilecascade.model.world.features import Features, Frame, gather
from tilecascade.model.world.land import Cover, ground
from tilecascade.model.world.lattice import Floats
from tilecascade.model.world.places import Link

COLOUR = {name: colour for name, colour, _ in PALETTE}
CASING = (187, 187, 187)

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

FIRST_ROAD_ZOOM = 8
# pixels of the whole line at z8, z9, ... z19; 0: not rendered
WIDTH = {
    "primary": (1, 1, 1.5, 2, 3.5, 5, 6, 10, 10, 17, 20, 26),
    "secondary": (0, 0, 1, 1.5, 2.5, 4, 5, 8.5, 9, 15, 18, 25),
    "tertiary": (0, 0, 0, 0.8, 1.6, 3, 4.5, 7, 8, 13, 16, 23),
    "residential": (0, 0, 0, 0, 0.6, 1.8, 3, 4.5, 6, 11, 13, 17),
    "service": (0, 0, 0, 0, 0, 0, 0, 2, 3.5, 6.5, 8.5, 11),
}
ROAD_COLOUR = {"primary": "primary road", "secondary": "secondary road"}
ORDER = ("service", "residential", "tertiary", "secondary", "primary")

BUILDINGS, SMALL_BUILDINGS, OUTLINES = 14, 15, 16
PATHS, LAND_USE, RAILWAY = 15, 12, 10
LEAST_AREA = {BUILDINGS: 150.0, SMALL_BUILDINGS: 60.0}


def render_map(seed: int, window: Window) -> Pixels:
    """The map of a window, H x W x 3 uint8. Raises ValueError above the country's zoom."""
    frame = Frame.of(window)
    features = gather(seed, frame, detail=window.zoom >= LAND_USE)
    canvas = _Canvas(_ground(seed, frame), frame, window.zoom)
    canvas.land_use(features)
    canvas.rivers(features)
    canvas.buildings(features)
    canvas.railways(features)
    canvas.roads(features)
    canvas.paths(features)
    return canvas.finish()


def _ground(seed: int, frame: Frame) -> Image.Image:
    """Natural cover, two samples a pixel each way."""
    table = np.array([COLOUR[COVER_COLOUR[cover]] for cover in Cover], dtype=np.float32)
    fine = table[ground(seed, *frame.axes(2)).cover]
    mean = fine.reshape(frame.height, 2, frame.width, 2, 3).mean(axis=(1, 3))
    return Image.fromarray(mean.round().astype(np.uint8))


def _flat(points: Floats) -> list[float]:
    return [float(value) for value in points.ravel()]


def dashes(points: Floats, on: float, off: float) -> list[Floats]:
    """Pieces of a line (pixels), `on` long, `off` apart."""
    steps = np.hypot(*np.diff(points, axis=0).T)
    along = np.concatenate([[0], np.cumsum(steps)])
    starts = np.arange(0, along[-1], on + off)
    return [
        np.stack([np.interp([s, min(s + on, along[-1])], along, points[:, axis]) for axis in (0, 1)], axis=1)
        for s in starts
    ]


class _Canvas:
    """An anti-aliased rendering over the ground."""

    def __init__(self, image: Image.Image, frame: Frame, zoom: int) -> None:
        self.image, self.frame, self.zoom = image, frame, zoom
        self.draw = aggdraw.Draw(image)
        self.draw.setantialias(True)

    def finish(self) -> Pixels:
        """The picture so far."""
        self.draw.flush()
        return np.asarray(self.image)

    def area(self, corners: Floats, colour: tuple[int, int, int], outline: tuple[int, int, int] | None = None) -> None:
        pen = None if outline is None else aggdraw.Pen(outline, 1)
        self.draw.polygon(_flat(self.frame.to_pixels(corners)), pen, aggdraw.Brush(colour))

    def line(self, points: Floats, colour: tuple[int, int, int], width: float) -> None:
        self.draw.line(_flat(points), aggdraw.Pen(colour, width))

    def knot(self, point: Floats, colour: tuple[int, int, int], width: float) -> None:
        """A round end, where streets meet."""
        x, y, r = float(point[0]), float(point[1]), width / 2
        self.draw.ellipse((x - r, y - r, x + r, y + r), None, aggdraw.Brush(colour))

    def land_use(self, features: Features) -> None:
        for block in features.blocks:
            self.area(block.corners, COLOUR[block.kind])
        for block in features.blocks:
            for area in block.areas:
                if area.kind != "parking" or self.zoom >= OUTLINES:
                    self.area(area.corners, COLOUR[area.kind])

    def rivers(self, features: Features) -> None:
        for river in features.rivers:
            width = max(river.width / self.frame.pixel, 1.0 if river.width > 25 or self.zoom >= 13 else 0)
            if width:
                self.line(self.frame.to_pixels(river.points), COLOUR["water"], width)

    def shown(self, building: Building) -> bool:
        if self.zoom < BUILDINGS:
            return False
        a, b, _, d = building.corners[:4]
        return bool(np.hypot(*(b - a)) * np.hypot(*(d - a)) >= LEAST_AREA.get(self.zoom, 0))

    def buildings(self, features: Features) -> None:
        outline = COLOUR["building outline"] if self.zoom >= OUTLINES else None
        for block in features.blocks:
            for building in filter(self.shown, block.buildings):
                self.area(building.corners, COLOUR["building"], outline)

    def railways(self, features: Features) -> None:
        if self.zoom < RAILWAY:
            return
        for link in features.links:
            if link.kind == "rail":
                points = self.frame.to_pixels(link.points)
                self.line(points, COLOUR["railway"], 1.0 if self.zoom < 13 else 3.0)
                if self.zoom >= 13:
                    for piece in dashes(points, 8, 8):
                        self.line(piece, (255, 255, 255), 1.5)

    def roads(self, features: Features) -> None:
        """All casings first, so that crossings are open."""
        lines: dict[str, list[Floats]] = {kind: [] for kind in ORDER}
        inner = [street for block in features.blocks for street in block.streets]
        ways: list[Street | Link] = [*features.streets, *inner, *features.links]
        for item in ways:
            if item.kind in lines:
                lines[item.kind].append(self.frame.to_pixels(item.points))
        widths = {kind: WIDTH[kind][self.zoom - FIRST_ROAD_ZOOM] for kind in ORDER}
        cased = 13
        for casing in (True, False):
            for kind in ORDER:
                width = widths[kind]
                if not width or (casing and self.zoom < cased):
                    continue
                colour = CASING if casing else COLOUR[ROAD_COLOUR.get(kind, "road")]
                thick = width if casing or self.zoom < cased else max(width - 1.6, 0.8)
                for points in lines[kind]:
                    self.line(points, colour, thick)
                    if thick > 2.5:
                        self.knot(points[0], colour, thick)
                        self.knot(points[-1], colour, thick)

    def paths(self, features: Features) -> None:
        if self.zoom < PATHS:
            return
        for block in features.blocks:
            for street in block.streets:
                if street.kind == "path":
                    for piece in dashes(self.frame.to_pixels(street.points), 3, 3):
                        self.line(piece, COLOUR["path"], 1.2)
