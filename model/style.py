"""The map style, OSM Carto's widths and zooms without labels as in the supplied pairs, and the canvas that draws it.

What appears when: land use from z12, buildings over 150 m2 from z14, over 60 m2 and paths from z15, all buildings with
outlines and parking from z16; roads widen with the zoom.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import aggdraw
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tilecascade.model.cascade import Pixels
from tilecascade.model.palette import PALETTE

Floats = NDArray[np.floating]
Colour = tuple[int, int, int]

COLOUR = {name: colour for name, colour, _ in PALETTE}
CASING = (187, 187, 187)

FIRST_ROAD_ZOOM, CASED = 8, 13
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
"""Square metres of the smallest building that is shown at a zoom."""


def road_width(kind: str, zoom: int) -> float:
    """Pixels of a road of a class; those of the last zoom in the table double with each further one."""
    widths = WIDTH[kind]
    beyond = zoom - FIRST_ROAD_ZOOM - (len(widths) - 1)
    return float(widths[zoom - FIRST_ROAD_ZOOM]) if beyond <= 0 else float(widths[-1] * 2**beyond)


def road_filling(kind: str, zoom: int) -> float:
    """Pixels of a road between its casings."""
    width = road_width(kind, zoom)
    return width if zoom < CASED or not width else max(width - 1.6, 0.8)


def _flat(points: Floats) -> list[float]:
    return [float(value) for value in points.ravel()]


def dashes(points: Floats, on: float, off: float) -> list[NDArray[np.float64]]:
    """Pieces of a line (pixels), `on` long, `off` apart."""
    steps = np.hypot(*np.diff(points, axis=0).T)
    along = np.concatenate([[0], np.cumsum(steps)])
    starts = np.arange(0, along[-1], on + off)
    return [
        np.stack([np.interp([s, min(s + on, along[-1])], along, points[:, axis]) for axis in (0, 1)], axis=1)
        for s in starts
    ]


class MapCanvas:
    """An anti-aliased map over a ground, H x W x 3 uint8. Coordinates are pixels, N x 2, (0, 0) the corner at the top
    left."""

    def __init__(self, ground: Pixels, zoom: int) -> None:
        self.zoom = zoom
        self._image = Image.fromarray(ground)
        self._draw = aggdraw.Draw(self._image)
        self._draw.setantialias(True)

    def finish(self) -> Pixels:
        """The picture so far."""
        self._draw.flush()
        return np.asarray(self._image)

    def area(self, corners: Floats, colour: Colour, outline: Colour | None = None) -> None:
        """A filled polygon."""
        pen = None if outline is None else aggdraw.Pen(outline, 1)
        self._draw.polygon(_flat(corners), pen, aggdraw.Brush(colour))

    def line(self, points: Floats, colour: Colour, width: float) -> None:
        """A line of a width."""
        self._draw.line(_flat(points), aggdraw.Pen(colour, width))

    def building(self, corners: Floats) -> None:
        """A building, with its outline where the zoom has outlines."""
        outline = COLOUR["building outline"] if self.zoom >= OUTLINES else None
        self.area(corners, COLOUR["building"], outline)

    def railway(self, points: Floats) -> None:
        """A railway, if the zoom has any."""
        if self.zoom < RAILWAY:
            return
        self.line(points, COLOUR["railway"], 1.0 if self.zoom < CASED else 3.0)
        if self.zoom >= CASED:
            for piece in dashes(points, 8, 8):
                self.line(piece, (255, 255, 255), 1.5)

    def path(self, points: Floats, kind: str = "path") -> None:
        """A path or a track, dashed, if the zoom has any."""
        if self.zoom >= PATHS:
            for piece in dashes(points, 3, 3):
                self.line(piece, COLOUR[kind], 1.2)

    def roads(self, lines: Mapping[str, Sequence[Floats]]) -> None:
        """Roads by class. All casings first, so that crossings are open."""
        if self.zoom < FIRST_ROAD_ZOOM:
            return
        for casing in (True, False):
            for kind in ORDER:
                width = road_width(kind, self.zoom)
                if not width or (casing and self.zoom < CASED):
                    continue
                colour = CASING if casing else COLOUR[ROAD_COLOUR.get(kind, "road")]
                thick = width if casing else road_filling(kind, self.zoom)
                for points in lines.get(kind, ()):
                    self.line(points, colour, thick)
                    if thick > 2.5:
                        self._knot(points[0], colour, thick)
                        self._knot(points[-1], colour, thick)

    def _knot(self, point: Floats, colour: Colour, width: float) -> None:
        """A round end, where streets meet."""
        x, y, r = float(point[0]), float(point[1]), width / 2
        self._draw.ellipse((x - r, y - r, x + r, y + r), None, aggdraw.Brush(colour))
