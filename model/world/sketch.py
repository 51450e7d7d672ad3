"""A territory that does not exist, from a hand-painted picture of its land cover: imagery with grain, and a map of it.

Each pixel of the picture is a kind of ground. Between the pixels, borders wander as coasts and woods do: places are
looked up in the picture a little beside where they are, by a smooth noise of a few of its pixels. What is rendered
depends on the seed and the place only, so any window of any zoom shows the same territory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from tilecascade.model.cascade import EQUATOR, TILE_SIZE, Mask, Pixels, Window
from tilecascade.model.palette import PALETTE
from tilecascade.model.style import MapCanvas
from tilecascade.model.world.ground import CROPS, crowns_at, fields_at
from tilecascade.model.world.lattice import Floats, fractal
from tilecascade.model.world.roads import roads_between
from tilecascade.model.world.town import imagery_of_town, map_of_town

Colour = tuple[int, int, int]
Kinds = NDArray[np.uint8]

WANDER_X, WANDER_Y, ROUGH, PATCHES, RELIEF = 60, 61, 62, 63, 65
"""Streams of noise (see `lattice`)."""

HEIGHTS = ".npy"
"""How the file of a territory's heights ends."""

STEEP = 10.0
"""A road up a slope of one costs so many times more than on the flat."""

WANDER = 0.9
"""How far borders wander, in pixels of the picture."""

_MAP = {name: colour for name, colour, _ in PALETTE}


@dataclass(frozen=True)
class LandCover:
    """One kind of ground.

    paint: its colour in a picture without a legend. first, second: what its imagery varies between; rough: by how much
    its brightness varies. shown: its colour on the map. crossing: what a road over it costs; 1 over grass.
    """

    name: str
    paint: Colour
    first: Colour
    second: Colour
    rough: float
    shown: str
    crossing: float = 1.0


COVERS: tuple[LandCover, ...] = (
    LandCover("water", (60, 110, 190), (24, 40, 48), (30, 50, 56), 0.03, "water"),
    LandCover("forest", (30, 90, 40), (44, 62, 38), (62, 76, 44), 0.16, "forest", 1.8),
    LandCover("scrub", (140, 150, 70), (92, 97, 60), (112, 106, 70), 0.14, "scrub", 1.2),
    LandCover("farmland", (220, 200, 110), (128, 118, 82), (108, 120, 70), 0.05, "farmland"),
    LandCover("grass", (130, 190, 80), (128, 138, 84), (142, 142, 96), 0.06, "grass"),
    LandCover("wetland", (90, 150, 140), (70, 80, 56), (50, 62, 54), 0.12, "wetland", 6.0),
    LandCover("sand", (240, 225, 170), (196, 180, 144), (182, 160, 122), 0.08, "land", 1.5),
    LandCover("rock", (150, 145, 140), (138, 130, 120), (112, 106, 98), 0.16, "land", 3.0),
    LandCover("town", (200, 70, 60), (132, 126, 118), (104, 104, 88), 0.10, "residential"),
    LandCover("snow", (250, 250, 250), (226, 230, 236), (206, 212, 222), 0.05, "land", 8.0),
)

NUMBER = {cover.name: number for number, cover in enumerate(COVERS)}
FLAT_COLOURS, FLAT_SHARE = 24, 0.9
"""A picture of so few colours on so many of its pixels is painted, and not a photograph."""


def is_painted(picture: Pixels) -> bool:
    """Whether a picture is of flat colours, as a hand paints land cover."""
    coarse = (picture >> 3).astype(np.int32) @ (1024, 32, 1)
    counts = np.sort(np.unique(coarse, return_counts=True)[1])[::-1]
    return bool(counts[:FLAT_COLOURS].sum() >= FLAT_SHARE * counts.sum())


def read_legend(legend: Mapping[str, str]) -> dict[Colour, int]:
    """A legend, colour "#rrggbb" -> name of a cover, as numbers. Raises ValueError naming what is wrong."""
    found = {}
    for text, name in legend.items():
        digits = text.removeprefix("#")
        if len(digits) != 6 or any(digit not in "0123456789abcdefABCDEF" for digit in digits):
            raise ValueError(f"{text!r} in the legend is no colour such as #1e5a28")
        if name not in NUMBER:
            raise ValueError(f"{name!r} in the legend is none of {', '.join(NUMBER)}")
        red, green, blue = (int(digits[place : place + 2], 16) for place in (0, 2, 4))
        found[red, green, blue] = NUMBER[name]
    if not found:
        raise ValueError("the legend is empty")
    return found


def kinds_of(picture: Pixels, legend: Mapping[Colour, int] | None = None) -> Kinds:
    """The cover of each pixel of a painted picture, H x W uint8 into COVERS: of the nearest colour of the legend.

    What is mixed where two colours meet, and would be a third one, takes the cover that is most around it.
    """
    table = legend or {cover.paint: number for number, cover in enumerate(COVERS)}
    nearest = np.zeros(picture.shape[:2], dtype=np.uint8)
    least = np.full(picture.shape[:2], np.iinfo(np.int32).max, dtype=np.int32)
    for colour, number in table.items():
        distance = ((picture.astype(np.int32) - np.array(colour, dtype=np.int32)) ** 2).sum(axis=2, dtype=np.int32)
        closer = distance < least
        nearest[closer], least[closer] = number, distance[closer]
    clear = least <= 30**2
    votes = [ndimage.uniform_filter(((nearest == n) & clear).astype(np.float32), 5) for n in range(len(COVERS))]
    # where nothing around is clear, the picture is painted in other colours
    clear |= np.max(votes, axis=0) < 1e-6
    return np.where(clear, nearest, np.argmax(votes, axis=0)).astype(np.uint8)


@dataclass(frozen=True)
class Line:
    """A road or river that is given. kind: a class of road, or "river". points: N x 2 metres of Web Mercator."""

    kind: str
    points: Floats


@dataclass(frozen=True)
class Territory:
    """kinds: the painted picture, each of its pixels as `scale` x `scale` of them. box: left, bottom, right, top of it
    in metres of Web Mercator. lines: what is given besides. heights: metres above the sea over the box, H x W from its
    upper left, if they are given, too."""

    kinds: Kinds
    box: tuple[float, float, float, float]
    seed: int
    lines: Sequence[Line] = field(default=())
    scale: int = 1
    heights: NDArray[np.float32] | None = None

    @property
    def pixel(self) -> float:
        """Metres of a pixel of the picture."""
        return (self.box[2] - self.box[0]) / self.kinds.shape[1] * self.scale

    def axes(self, window: Window) -> tuple[Floats, Floats]:
        """The centres of a window's pixels: metres east of the projection's edge, and south of its other one."""
        metres = EQUATOR / (TILE_SIZE << window.zoom)
        xs = (window.left + 0.5 + np.arange(window.width, dtype=np.float64)) * metres
        return xs, (window.top + 0.5 + np.arange(window.height, dtype=np.float64)) * metres

    def cover(self, xs: Floats, ys: Floats) -> Kinds:
        """The cover at ys x xs, as far as the picture reaches and, beyond it, that of its edge."""
        reach = WANDER * self.pixel
        right, down = (
            reach * fractal(self.seed, stream, xs, ys, 3 * self.pixel, 8, 0.6) for stream in (WANDER_X, WANDER_Y)
        )
        left, bottom, east, top = self.box
        height, width = self.kinds.shape
        column = (xs[None, :] + right - EQUATOR / 2 - left) / ((east - left) / width)
        row = (ys[:, None] + down - (EQUATOR / 2 - top)) / ((top - bottom) / height)
        return self.kinds[row.astype(np.int64).clip(0, height - 1), column.astype(np.int64).clip(0, width - 1)]

    def inside(self, xs: Floats, ys: Floats) -> Mask:
        """Where the picture reaches, at ys x xs."""
        left, bottom, right, top = self.box
        x, y = xs - EQUATOR / 2, EQUATOR / 2 - ys
        return ((x > left) & (x < right))[None, :] & ((y > bottom) & (y < top))[:, None]

    @property
    def _is_island(self) -> bool:
        """Whether there is mostly water at the edge of the picture."""
        edge = np.concatenate([self.kinds[0], self.kinds[-1], self.kinds[:, 0], self.kinds[:, -1]])
        return bool((edge == NUMBER["water"]).mean() > 0.5)

    def imagery(self, window: Window) -> Pixels:
        """What a camera above would see, H x W x 3 uint8."""
        xs, ys = self.axes(window)
        cover = self.cover(xs, ys)
        patches = fractal(self.seed, PATCHES, xs, ys, 2_400, 7, 0.65)
        rough = fractal(self.seed, ROUGH, xs, ys, 420, 6, 0.8)
        mix = (0.5 + 0.4 * patches).clip(0, 1)[..., None]
        first, second = (np.array([getattr(each, name) for each in COVERS], float) for name in ("first", "second"))
        colours = (1 - mix) * first[cover] + mix * second[cover]
        farmed, meadow = cover == NUMBER["farmland"], cover == NUMBER["grass"]
        if farmed.any() or meadow.any():
            fields = fields_at(self.seed, xs, ys)
            colours[farmed] = fields[farmed]
            # meadows are parcels, too, more like each other
            colours[meadow] *= (0.8 + 0.2 * fields / CROPS.mean(axis=0))[meadow]
        built = cover == NUMBER["town"]
        if built.any():
            colours[built] = imagery_of_town(self.seed, xs, ys)[built]
        colours *= (1 + np.array([each.rough for each in COVERS])[cover] * rough)[..., None]
        colours *= self._light(xs, ys, cover)[..., None]
        share = np.select([cover == NUMBER["forest"], cover == NUMBER["scrub"]], [0.3, 0.18])
        colours *= crowns_at(self.seed, xs, ys, share, cover == NUMBER["grass"])[..., None]
        return self._with_lines(colours.clip(0, 255).round().astype(np.uint8), window, on_map=False)

    def _light(self, xs: Floats, ys: Floats, cover: Kinds) -> Floats:
        """Light and shade of hills; none on water."""
        high = self._relief(xs, ys)
        step = float(xs[1] - xs[0])
        slope = (np.gradient(high, axis=1) + np.gradient(high, axis=0)) / step
        steep = np.where(np.isin(cover, (NUMBER["rock"], NUMBER["snow"], NUMBER["forest"])), 2.2, 0.8)
        steep[np.isin(cover, (NUMBER["water"], NUMBER["town"]))] = 0.0
        return np.asarray((1 - steep * slope).clip(0.7, 1.25))

    def _relief(self, xs: Floats, ys: Floats) -> Floats:
        """Metres above the sea: as given, with some roughness between what is given."""
        if self._spline is None:
            return 160 * fractal(self.seed, RELIEF, xs, ys, 6_000, 9, 0.5)
        height, width = self._spline.shape
        left, bottom, right, top = self.box
        columns = (xs - EQUATOR / 2 - left) / (right - left) * width - 0.5
        rows = (ys - (EQUATOR / 2 - top)) / (top - bottom) * height - 0.5
        cell = (right - left) / width
        rows, columns = rows.clip(0, height - 1), columns.clip(0, width - 1)
        given = ndimage.map_coordinates(self._spline, np.meshgrid(rows, columns, indexing="ij"), prefilter=False)
        return np.asarray(given + 0.02 * cell * fractal(self.seed, RELIEF, xs, ys, 2 * cell, 7, 0.5))

    @cached_property
    def _spline(self) -> Floats | None:
        return None if self.heights is None else ndimage.spline_filter(self.heights.astype(np.float64))

    def map(self, window: Window) -> Pixels:
        """The map of it in the default style, H x W x 3 uint8."""
        fine = Window(window.zoom + 1, 2 * window.left, 2 * window.top, 2 * window.width, 2 * window.height)
        shown = np.array([_MAP[each.shown] for each in COVERS], dtype=np.uint8)
        xs, ys = self.axes(fine)
        cover = self.cover(xs, ys)
        colours = shown[cover]
        built = cover == NUMBER["town"]
        if built.any():
            colours[built] = map_of_town(self.seed, xs, ys, window.zoom)[built]
        colours[~self.inside(xs, ys)] = _MAP["water" if self._is_island else "land"]
        ground = np.asarray(Image.fromarray(colours).reduce(2))
        return self._with_lines(ground, window, on_map=True)

    def with_roads(self) -> Territory:
        """The territory with roads between its towns."""
        cost = np.array([each.crossing for each in COVERS])[self.kinds]
        if self.heights is not None:
            zoom = [own / given for own, given in zip(cost.shape, self.heights.shape, strict=True)]
            high = ndimage.zoom(self.heights.astype(np.float64), zoom, order=1, grid_mode=True, mode="nearest")
            slope = np.hypot(*np.gradient(high[: cost.shape[0], : cost.shape[1]])) / (self.pixel / self.scale)
            cost = cost * (1 + STEEP * slope)
        found = roads_between(self.kinds == NUMBER["town"], self.kinds == NUMBER["water"], cost, self.seed)
        left, bottom, right, top = self.box
        height, width = self.kinds.shape
        pixel = np.array([(right - left) / width, (bottom - top) / height])
        lines = [Line(road.kind, (left, top) + road.points * pixel) for road in found]
        return replace(self, lines=[*self.lines, *lines])

    def write(self, stem: Path) -> None:
        """Write `stem`.json, and the picture as `stem`.png."""
        Image.fromarray(self.kinds).save(stem.with_suffix(".png"))
        if self.heights is not None:
            np.save(stem.with_suffix(HEIGHTS), self.heights)
        lines = [{"kind": line.kind, "points": line.points.tolist()} for line in self.lines]
        stored: dict[str, object] = {
            "box": self.box,
            "seed": self.seed,
            "scale": self.scale,
            "covers": list(NUMBER),
            "lines": lines,
        }
        stored["heights"] = self.heights is not None
        stem.with_suffix(".json").write_text(json.dumps(stored) + "\n")

    @classmethod
    def read(cls, stem: Path) -> Territory:
        """What `write` wrote. Raises ValueError or OSError for anything else."""
        stored = json.loads(stem.with_suffix(".json").read_text())
        if stored.get("covers") != list(NUMBER):
            raise ValueError(
                f"{stem.with_suffix('.json')} is of another version: make the territory anew of its sketch"
            )
        with Image.open(stem.with_suffix(".png")) as image:
            kinds = np.asarray(image.convert("L"))
        lines = [Line(each["kind"], np.array(each["points"], dtype=np.float64)) for each in stored["lines"]]
        west, south, east, north = (float(edge) for edge in stored["box"])
        box = (west, south, east, north)
        heights = np.load(stem.with_suffix(HEIGHTS), allow_pickle=False) if stored.get("heights") else None
        kinds = np.minimum(kinds, len(COVERS) - 1)
        return cls(kinds, box, int(stored["seed"]), lines, int(stored["scale"]), heights)

    def _with_lines(self, ground: Pixels, window: Window, on_map: bool) -> Pixels:
        metres = EQUATOR / (TILE_SIZE << window.zoom)
        lines: dict[str, list[Floats]] = {}
        for line in self.lines:
            x = (line.points[:, 0] + EQUATOR / 2) / metres - window.left
            y = (EQUATOR / 2 - line.points[:, 1]) / metres - window.top
            if x.max() > -9 and y.max() > -9 and x.min() < window.width + 9 and y.min() < window.height + 9:
                lines.setdefault(line.kind, []).append(np.stack([x, y], axis=1))
        if not lines:
            return ground
        canvas = MapCanvas(ground, window.zoom)
        wet = _MAP["water"] if on_map else COVERS[NUMBER["water"]].second
        for points in lines.pop("river", ()):
            canvas.line(points, wet, max(1.0, 30 / metres))
        if on_map:
            canvas.roads(lines)
        else:
            for points in (each for some in lines.values() for each in some):
                canvas.line(points, (116, 113, 108), max(0.7, 12 / metres))
        return canvas.finish()
