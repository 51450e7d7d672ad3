"""The kinds of sensors whose imagery can be mapped, and what their bands are as a network sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Sensor = Literal["rgb", "pan", "nir", "sar"]
SENSORS: tuple[Sensor, ...] = get_args(Sensor)

Bands = NDArray[np.float32]
"""B x H x W."""

DARKEST, BRIGHTEST = -30.0, 8.0
"""Backscatter in decibels that becomes 0 and 1."""


@dataclass(frozen=True)
class Modality:
    """One kind of sensor. bands: how many it has. says: what it is, for people."""

    bands: int
    says: str


MODALITIES: dict[Sensor, Modality] = {
    "rgb": Modality(3, "red, green and blue"),
    "pan": Modality(1, "one panchromatic band"),
    "nir": Modality(4, "red, green, blue and near infrared"),
    "sar": Modality(1, "radar amplitude"),
}


def sensor_named(name: str) -> Sensor:
    """Raises ValueError with a sentence for a name that is none."""
    for sensor in SENSORS:
        if name.lower() == sensor:
            return sensor
    raise ValueError(f"a sensor is one of {', '.join(f'{s} ({MODALITIES[s].says})' for s in SENSORS)}, not {name!r}")


def of_decibels(level: NDArray[np.floating]) -> Bands:
    """Radar backscatter in decibels as a network sees it: 0 to 1, whatever is darker or brighter cut off."""
    return np.clip((level - DARKEST) / (BRIGHTEST - DARKEST), 0, 1).astype(np.float32)
