"""Weather on imagery: what it does to light and ground, and that windows of one image agree."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import picture
from tilecascade.model.imagery.weather import AIRLIGHT, KINDS, MARGIN, Weather, weathered

PIXEL = 0.6
IMAGE = picture(320, 2)
AXIS = 5_000_000.0 + (np.arange(320) + 0.5) * PIXEL


def add(weather: Weather, image: np.ndarray = IMAGE, **given: object) -> np.ndarray:
    return weathered(image, AXIS, AXIS, weather, **given).astype(float)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_windows_agree_and_no_strength_is_no_weather(kind: str) -> None:
    weather = Weather(kind, 0.7, 3)  # type: ignore[arg-type]
    whole = add(weather)
    part = slice(100, 260)
    window = weathered(IMAGE[part, part], AXIS[part], AXIS[part], weather)
    inner = slice(100 + MARGIN, 260 - MARGIN)
    assert (window[MARGIN:-MARGIN, MARGIN:-MARGIN] == whole[inner, inner]).all()
    assert np.abs(add(Weather(kind, 0.0, 3)) - IMAGE).max() <= 1  # type: ignore[arg-type]
    other = add(Weather(kind, 0.7, 4))  # type: ignore[arg-type]
    assert np.abs(other - whole).mean() > 0.3, "another seed has other patches"


def test_fog_is_light_that_is_scattered() -> None:
    """Two brightnesses at one place give the transmission, and with it the airlight is what is left."""
    dark, bright = (np.full((320, 320, 3), level, np.uint8) for level in (40, 200))
    first, second = add(Weather("fog", 0.5), dark), add(Weather("fog", 0.5), bright)
    through = (second - first) / 160
    assert 0.05 < through.mean() < 0.8
    assert through.std() > 0.005, "there are banks of fog"
    airlight = (first - 40 * through) / (1 - through) / 255
    assert np.abs(airlight.mean(axis=(0, 1)) - AIRLIGHT).max() < 0.02
    thick = add(Weather("fog", 1.0), bright) - add(Weather("fog", 1.0), dark)
    assert thick.mean() < (second - first).mean() / 2


def test_fog_lies_low() -> None:
    slope = np.linspace(0, 300, 320)[:, None].repeat(320, 1)
    change = np.abs(add(Weather("fog", 0.8), heights=slope) - IMAGE).mean(axis=(1, 2))
    assert change[:40].mean() > 5 * change[-40:].mean()


def test_low_light_is_dark_and_grainy() -> None:
    grey = np.full((320, 320, 3), 140, np.uint8)
    dusk, night = add(Weather("low light", 0.4), grey), add(Weather("low light", 1.0), grey)
    assert 30 < night.mean() < dusk.mean() < 120
    assert 0 < dusk.std(axis=(0, 1)).mean() < night.std(axis=(0, 1)).mean()


def test_snow_lies_on_open_ground_and_not_on_water() -> None:
    image = np.empty((320, 320, 3), np.uint8)
    image[:, :160], image[:, 160:] = (135, 125, 100), (25, 40, 55)
    snowy = add(Weather("snow", 0.9), image)
    assert snowy[:, :110].mean() > 200
    assert np.abs(snowy[:, 210:] - image[:, 210:]).mean() < 3
    wood = np.full((320, 320, 3), (40, 62, 30), np.uint8)
    assert 70 < add(Weather("snow", 0.9), wood).mean() < 160, "trees are white in part"


def test_what_is_no_weather_is_refused() -> None:
    with pytest.raises(ValueError, match="one of fog, low light, snow"):
        Weather("hail")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="0 to 1"):
        Weather("fog", 1.5)
