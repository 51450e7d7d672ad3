"""Weather and light on imagery: fog, low light and snow, by simple physics and the same at the same place.

After MMM-RS (Luo et al. 2024): fog by the atmospheric scattering model as there; low light and snow, for which it has
trained networks, by rules: exposure and a sensor's noise, and what snow covers.
Patches depend on a seed and the place only, so that windows of one image agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tilecascade.model.cascade import Pixels
from tilecascade.model.world.lattice import Floats, fractal, hashed

Kind = Literal["fog", "low light", "snow"]
KINDS: tuple[Kind, ...] = get_args(Kind)

LIGHTS: dict[str, float] = {"dusk": 0.4, "night": 1.0}
"""Other names of low light, and how strong they are."""

MARGIN = 32
"""Pixels around a window that its weather depends on: snow keeps the shading of what is under it."""

PATCH = 900.0
"""Metres from one bank of fog, or patch of snow, to the next."""

FOG_STREAM, SNOW_STREAM, GRAIN_STREAM = 80, 81, 82
"""Streams of noise (see `lattice`)."""

THICKEST = 2.4
"""Optical depth of fog of strength 1 on low ground: a tenth of the light comes through."""

FOG_HEIGHT = 60.0
"""Metres in which fog thins to a third of its depth."""

AIRLIGHT = np.array([0.80, 0.83, 0.86])
"""Colour of endless fog."""

DARKEST = 0.05
"""Share of the light that is left at strength 1."""

MOONLIGHT = np.array([0.80, 0.92, 1.12])
GAMMA = 2.2

SHOT, READ = 0.004, 0.004
"""Variance of a sensor's noise by signal, and its deviation without any, of full scale."""

SNOW = np.array([0.92, 0.945, 0.97])
SHADE = 8.0
"""Pixels over which shading is told from the brightness of the ground."""

DARK_GROUND, CANOPY_COVER = 0.33, 0.35
"""Below this brightness green is trees, of which snow covers a part, and all else is water or shadow."""


@dataclass(frozen=True)
class Weather:
    """What is added. strength: 0 (nothing) to 1. seed: another one has other patches."""

    kind: Kind
    strength: float = 0.6
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"weather is one of {', '.join(KINDS)}, not {self.kind!r}")
        if not 0 <= self.strength <= 1:
            raise ValueError(f"the strength of weather is 0 to 1, not {self.strength}")


def weather_named(name: str) -> tuple[Kind, float | None]:
    """The kind of weather of a name, and its strength if the name says it. Raises ValueError for other names."""
    plain = name.lower().replace("-", " ").replace("_", " ").strip()
    if plain in LIGHTS:
        return "low light", LIGHTS[plain]
    for kind in KINDS:
        if plain == kind:
            return kind, None
    raise ValueError(f"weather is one of {', '.join((*KINDS, *LIGHTS))}, not {name!r}")


def weathered(
    colours: Pixels, xs: Floats, ys: Floats, weather: Weather, heights: NDArray[np.floating] | None = None
) -> Pixels:
    """Imagery with weather: H x W x 3 uint8 of the same shape.

    xs, ys: metres east and south of the pixels, W and H, rising by equal steps. heights: H x W, metres above the lowest
    ground, in which fog lies low. What is MARGIN pixels from the edge is the same in any window.
    """
    image = colours.astype(np.float64) / 255
    if weather.kind == "fog":
        made = _fog(image, xs, ys, weather, heights)
    elif weather.kind == "low light":
        made = _low_light(image, xs, ys, weather)
    else:
        made = _snow(image, xs, ys, weather)
    return np.asarray((made * 255).round().clip(0, 255), dtype=np.uint8)


def _fog(image: Floats, xs: Floats, ys: Floats, weather: Weather, heights: NDArray[np.floating] | None) -> Floats:
    """I = J t + A (1 - t), with the transmission t = exp(-depth)."""
    depth = THICKEST * weather.strength * (1 + 0.45 * fractal(weather.seed, FOG_STREAM, xs, ys, PATCH, 5))
    if heights is not None:
        depth = depth * np.exp(-np.asarray(heights, dtype=np.float64) / FOG_HEIGHT)
    through = np.exp(-depth.clip(0, None))[..., None]
    return image * through + AIRLIGHT * (1 - through)


def _low_light(image: Floats, xs: Floats, ys: Floats, weather: Weather) -> Floats:
    """Less light, of the moon's colour, on a sensor with noise."""
    left = DARKEST**weather.strength
    light = image**GAMMA * left * (1 + weather.strength * (MOONLIGHT - 1))
    pixel = float(xs[1] - xs[0])
    columns, rows = np.floor(xs / pixel).astype(np.int64), np.floor(ys / pixel).astype(np.int64)
    uniform = [
        hashed(weather.seed, GRAIN_STREAM, rows[:, None, None], columns[None, :, None], np.arange(3) + 3 * part)
        for part in range(4)
    ]
    grain = (np.sum(uniform, axis=0) - 2) * np.sqrt(3)  # about normal, of deviation 1
    noisy = light + weather.strength * grain * np.sqrt(SHOT * light + READ**2)
    return np.asarray(noisy.clip(0, 1) ** (1 / GAMMA))


def _snow(image: Floats, xs: Floats, ys: Floats, weather: Weather) -> Floats:
    """White where snow lies: open ground and roofs, a part of trees, no water; what is under it shades it still."""
    bright = image.mean(axis=2)
    around = ndimage.gaussian_filter(bright, SHADE, truncate=MARGIN / SHADE)
    dark = np.clip((DARK_GROUND - around) / 0.08, 0, 1)
    green = np.clip((image[..., 1] - image[..., 2] - 0.01) / 0.03, 0, 1)
    green = ndimage.gaussian_filter(green, 2.0, truncate=4.0)
    lies = (1 - dark) + dark * green * CANOPY_COVER
    patches = fractal(weather.seed, SNOW_STREAM, xs, ys, PATCH / 2, 7)
    cover = (np.clip(1.7 * weather.strength - 0.25 + 0.3 * patches, 0, 1) * (weather.strength > 0) * lies)[..., None]
    shading = np.clip(bright / np.maximum(around, 0.05), 0.6, 1.2)[..., None]
    return image * (1 - cover) + SNOW * shading * cover
