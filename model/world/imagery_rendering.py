"""The country as a camera above sees it: the same features as on the map, with texture, roofs, shadows and weather."""

from __future__ import annotations

from dataclasses import dataclass

import aggdraw
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tilecascade.model.cascade import Pixels, Window
from tilecascade.model.world.blocks import Building
from tilecascade.model.world.features import Features, Frame, gather
from tilecascade.model.world.land import Cover, Ground, ground
from tilecascade.model.world.lattice import Floats, fractal, hashed, noise

TEXTURE, CROWNS, STRIPES, SENSOR = 40, 41, 42, 43

Colour = tuple[float, float, float]

BARE, LAWN, PAVED, ASPHALT = (140.0, 124.0, 98.0), (104.0, 116.0, 66.0), (142.0, 139.0, 133.0), (104.0, 103.0, 102.0)

COVER_COLOUR: dict[Cover, Colour] = {
    Cover.LAND: (124, 121, 84),
    Cover.WATER: (26, 42, 50),
    Cover.FOREST: (50, 66, 40),
    Cover.SCRUB: (92, 97, 60),
    Cover.FARMLAND: (130, 120, 84),
    Cover.GRASS: (106, 121, 66),
    Cover.WETLAND: (80, 88, 60),
    Cover.BEACH: (196, 184, 150),
    Cover.ROCK: (138, 132, 122),
}
CROPS = np.array([(150, 128, 96), (122, 128, 72), (166, 152, 98), (92, 114, 60), (112, 95, 72), (140, 132, 88)], float)

# block kind: (colours that its ground varies between, share of trees)
BLOCK_GROUND: dict[str, tuple[Colour, Colour, float]] = {
    "residential": (LAWN, BARE, 0.22),
    "commercial": (PAVED, LAWN, 0.05),
    "retail": (PAVED, ASPHALT, 0.03),
    "industrial": (PAVED, BARE, 0.03),
    "garages": (BARE, PAVED, 0.02),
    "parking": (ASPHALT, PAVED, 0.02),
    "park": (LAWN, (88.0, 104.0, 58.0), 0.3),
    "forest": ((70.0, 84.0, 48.0), (60.0, 74.0, 44.0), 0.8),
    "grass": (LAWN, (118.0, 122.0, 72.0), 0.06),
    "pitch": ((96.0, 122.0, 64.0), (110.0, 126.0, 70.0), 0.0),
    "allotments": (LAWN, BARE, 0.2),
    "cemetery": (LAWN, PAVED, 0.3),
}
KINDS = tuple(BLOCK_GROUND)

ROAD_METRES = {
    "primary": 15.0,
    "secondary": 11.0,
    "tertiary": 9.5,
    "residential": 7.0,
    "service": 4.5,
    "path": 2.0,
    "rail": 5.5,
}

ROOFS: dict[str, tuple[Colour, ...]] = {
    "gabled": (
        (128, 84, 66),
        (140, 140, 142),
        (96, 110, 96),
        (92, 74, 66),
        (150, 96, 70),
        (98, 112, 140),
        (170, 160, 146),
    ),
    "flat": ((120, 118, 116), (168, 166, 162), (92, 92, 94), (206, 204, 200), (150, 132, 118), (112, 126, 146)),
}


@dataclass(frozen=True)
class Look:
    """When and how the picture was taken.

    sun: degrees clockwise from north; low: metres of shadow per metre of height. tint: what the ground's and plants'
    colours are multiplied by. snow: share of the ground under snow. haze: share of white. bare: 0 to 1, leaves fallen.
    noise: levels.
    """

    sun: float = 150.0
    low: float = 0.8
    tint: Colour = (1.0, 1.0, 1.0)
    snow: float = 0.0
    haze: float = 0.03
    bare: float = 0.0
    noise: float = 2.0
    gain: float = 1.0


CLIMATES: dict[str, Colour] = {
    "temperate": (1.0, 1.0, 1.0),
    "boreal": (0.86, 0.92, 0.95),
    "arid": (1.36, 1.16, 1.0),
    "tropical": (0.95, 1.08, 0.82),
}


def any_look(rng: np.random.Generator) -> Look:
    """One of many climates, seasons, hours and cameras."""
    tint = np.array(CLIMATES[str(rng.choice(list(CLIMATES)))]) * rng.normal(1, 0.06, 3)
    winter = rng.random() < 0.1
    return Look(
        sun=float(rng.uniform(90, 270)),
        low=float(rng.uniform(0.3, 2.0)),
        tint=(float(tint[0]), float(tint[1]), float(tint[2])),
        snow=float(rng.uniform(0.5, 1)) if winter else 0.0,
        haze=float(rng.uniform(0, 0.15)),
        bare=float(rng.random()) if winter or rng.random() < 0.25 else 0.0,
        noise=float(rng.uniform(0, 5)),
        gain=float(np.exp(rng.normal(0, 0.2))),
    )


def render_imagery(seed: int, window: Window, look: Look | None = None) -> Pixels:
    """The picture of a window, H x W x 3 uint8. Raises ValueError above the country's zoom."""
    look = Look() if look is None else look
    frame = Frame.of(window)
    features = gather(seed, frame)
    xs, ys = frame.axes()
    land = ground(seed, xs, ys)
    sun = np.radians(look.sun)
    towards = (float(np.sin(sun)), -float(np.cos(sun)))
    colours, trees = _ground_colours(seed, frame, features, land, look)
    colours = _ways(colours, frame, features, look)
    colours = _crowns(seed, colours, trees, xs, ys, towards, look)
    colours *= (
        1
        + 40
        * (np.gradient(land.height, axis=1) * towards[0] + np.gradient(land.height, axis=0) * towards[1])
        / frame.pixel
        * 8
    ).clip(0.6, 1.3)[..., None]
    colours = _buildings(colours, frame, features, towards, look)
    return _camera(seed, colours, window, look)


def _ground_colours(seed: int, frame: Frame, features: Features, land: Ground, look: Look) -> tuple[Floats, Floats]:
    """Colours of what lies flat (H x W x 3), and how much of it is under trees (H x W)."""
    xs, ys = frame.axes()
    table = np.array([COVER_COLOUR[cover] for cover in Cover])
    colours = table[land.cover]
    crop = CROPS[(land.field * 997 % 1 * len(CROPS)).astype(int)]
    stripes = 1 + 0.06 * np.sin(land.across * 2 * np.pi / (4 + 8 * (land.field * 31 % 1))) * (frame.pixel < 2)
    farmed = land.cover == Cover.FARMLAND
    colours = np.where(farmed[..., None], crop * stripes[..., None], colours)
    trees = np.select([land.cover == Cover.FOREST, land.cover == Cover.SCRUB], [0.92, 0.35], 0.004)
    trees[np.isin(land.cover, (Cover.WATER, Cover.BEACH))] = 0
    rough = fractal(seed, TEXTURE, xs, ys, 70, 6, 0.7)
    kinds = _block_kinds(frame, features)
    for index, kind in enumerate(KINDS, start=1):
        first, second, share = BLOCK_GROUND[kind]
        here = kinds == index
        if here.any():
            mix = (0.5 + 0.5 * rough[here]).clip(0, 1)[:, None]
            colours[here] = (1 - mix) * np.array(first) + mix * np.array(second)
            trees[here] = share
    trees *= 1 - 0.9 * _clear(frame, features)
    water = land.cover == Cover.WATER
    colours *= (1 + np.where(water, 0.02, 0.11) * rough)[..., None]
    colours *= np.where(water[..., None], 1, np.array(look.tint))
    canvas = Image.fromarray(colours.clip(0, 255).astype(np.uint8))
    draw = aggdraw.Draw(canvas)
    for river in features.rivers:
        _line(draw, frame, river.points, (38, 52, 56), river.width)
    draw.flush()
    return np.asarray(canvas, dtype=np.float64), trees


def _block_kinds(frame: Frame, features: Features) -> NDArray[np.uint8]:
    """What kind of block each pixel is in: 0 for none, else 1 + index into KINDS."""
    image = Image.new("L", (frame.width, frame.height))
    draw = ImageDraw.Draw(image)
    for block in features.blocks:
        for kind, corners in ((block.kind, block.corners), *((a.kind, a.corners) for a in block.areas)):
            draw.polygon([(float(x), float(y)) for x, y in frame.to_pixels(corners)], fill=1 + KINDS.index(kind))
    return np.asarray(image)


def _clear(frame: Frame, features: Features) -> Floats:
    """Where roads and rivers keep trees away, 0 to 1."""
    mask = Image.new("L", (frame.width, frame.height))
    draw = aggdraw.Draw(mask)
    ways = [(link.points, ROAD_METRES[link.kind] + 8) for link in features.links]
    ways += [(street.points, ROAD_METRES[street.kind]) for street in features.streets]
    ways += [(river.points, river.width) for river in features.rivers]
    for points, metres in ways:
        pen = aggdraw.Pen(255, max(metres / frame.pixel, 0.4))
        draw.line([float(v) for v in frame.to_pixels(points).ravel()], pen)
    draw.flush()
    return np.asarray(mask, dtype=np.float64) / 255


def _line(draw: aggdraw.Render, frame: Frame, points: Floats, colour: Colour, metres: float) -> None:
    pixels = metres / frame.pixel
    if pixels < 0.15:
        return
    pen = aggdraw.Pen(tuple(int(c) for c in colour), max(pixels, 0.4))
    draw.line([float(v) for v in frame.to_pixels(points).ravel()], pen)


def _ways(colours: Floats, frame: Frame, features: Features, look: Look) -> Floats:
    """Streets, roads, railways and paths."""
    canvas = Image.fromarray(colours.clip(0, 255).astype(np.uint8))
    draw = aggdraw.Draw(canvas)
    draw.setantialias(True)
    inner = [street for block in features.blocks for street in block.streets]
    ways = [(s.kind, s.points) for s in (*inner, *features.streets)] + [(k.kind, k.points) for k in features.links]
    surface = {"path": (150.0, 136.0, 112.0), "rail": (112.0, 102.0, 94.0), "service": (126.0, 122.0, 116.0)}
    grey = np.array([112.0, 111.0, 109.0]) * (0.85 + 0.15 * np.array(look.tint))
    for verge in (True, False):
        for kind, points in ways:
            width = ROAD_METRES[kind]
            if verge and kind in ("primary", "secondary", "tertiary"):
                _line(draw, frame, points, (128, 120, 96), width + 5)
            elif not verge:
                _line(draw, frame, points, surface.get(kind, tuple(grey)), width)
                if kind == "primary" and frame.pixel < 1:
                    _line(draw, frame, points, (190, 190, 186), 0.5)
    draw.flush()
    return np.asarray(canvas, dtype=np.float64)


def _crowns(
    seed: int, colours: Floats, trees: Floats, xs: Floats, ys: Floats, towards: tuple[float, float], look: Look
) -> Floats:
    """Trees: bumps of noise over the ground, lit from the sun's side. Below their size only their share shows."""
    pixel = xs[1] - xs[0]
    share = trees
    leaf = np.array(COVER_COLOUR[Cover.FOREST]) * look.tint * (1 - look.bare) + np.array([96.0, 84.0, 72.0]) * look.bare
    if pixel < 5:
        bumps = noise(seed, CROWNS, xs, ys, 11) + (0.6 * noise(seed, CROWNS + 50, xs, ys, 6) if pixel < 3 else 0)
        # the share of places above a level of a normal variate
        level = 1.6 * (0.5 - trees) * 2.2
        share = np.where(trees > 0, 1 / (1 + np.exp((level - bumps) * 6)), 0)
        slope = np.gradient(bumps, axis=1) * -towards[0] + np.gradient(bumps, axis=0) * -towards[1]
        light = (1 - 0.35 * slope * min(1.0, 2 / pixel)).clip(0.45, 1.6)
        shade = np.roll(share, (round(-3 * towards[1] / pixel), round(-3 * towards[0] / pixel)), (0, 1)) * (1 - share)
        colours = colours * (1 - 0.4 * shade * (1 - 0.6 * look.bare))[..., None]
    else:
        light = np.full(trees.shape, 0.94)
    cover = (share * (1 - 0.45 * look.bare))[..., None]
    return np.asarray(colours * (1 - cover) + leaf * light[..., None] * cover)


def _buildings(colours: Floats, frame: Frame, features: Features, towards: tuple[float, float], look: Look) -> Floats:
    """Shadows, then roofs."""
    buildings = [building for block in features.blocks for building in block.buildings]
    if not buildings or frame.pixel > 12:
        return colours
    mask = Image.new("L", (frame.width, frame.height))
    shadow = aggdraw.Draw(mask)
    black = aggdraw.Brush(255)
    for building in buildings:
        far = np.array([-towards[0], -towards[1]]) * building.height * look.low
        for part in (0.33, 0.66, 1.0):
            shadow.polygon([float(v) for v in frame.to_pixels(building.corners + part * far).ravel()], None, black)
    shadow.flush()
    canvas = Image.fromarray(
        (colours * (1 - 0.6 * np.asarray(mask, dtype=np.float64)[..., None] / 255)).clip(0, 255).astype(np.uint8)
    )
    draw = aggdraw.Draw(canvas)
    for building in buildings:
        _roof(draw, frame, building, towards)
    draw.flush()
    return np.asarray(canvas, dtype=np.float64)


def _roof(draw: aggdraw.Render, frame: Frame, building: Building, towards: tuple[float, float]) -> None:
    choices = ROOFS["gabled" if building.gabled else "flat"]
    base = np.array(choices[int(building.roof * len(choices))]) * (0.85 + 0.3 * (building.roof * 71 % 1))
    a, b, c, d = building.corners
    parts: list[tuple[Floats, float]] = [(building.corners, 1.0)]
    if building.gabled:
        parts, left, right = [], (a + d) / 2, (b + c) / 2
        for near, other, half in ((a, d, (a, b, right, left)), (d, a, (left, right, c, d))):
            out = near - other
            facing = float(out @ np.array(towards)) / max(float(np.hypot(*out)), 1e-6)
            parts.append((np.stack(half), 1 + 0.22 * facing))
    for corners, light in parts:
        colour = tuple(int(v) for v in (base * light).clip(0, 255))
        draw.polygon([float(v) for v in frame.to_pixels(corners).ravel()], None, aggdraw.Brush(colour))


def _camera(seed: int, colours: Floats, window: Window, look: Look) -> Pixels:
    """Snow, haze, exposure and noise."""
    if look.snow:
        bright = colours.mean(axis=2, keepdims=True)
        white = look.snow * (bright / 90 - 0.35).clip(0, 1)
        colours = colours * (1 - white) + np.array([228.0, 232.0, 238.0]) * white
    colours = (colours * (1 - look.haze) + 205 * look.haze) * look.gain
    if look.noise:
        row = np.arange(window.top, window.top + window.height)[:, None]
        column = np.arange(window.left, window.left + window.width)[None, :]
        grain = hashed(seed, SENSOR, row, column, window.zoom) - 0.5
        colours = colours + look.noise * 3.4 * grain[..., None]
    return colours.clip(0, 255).round().astype(np.uint8)
