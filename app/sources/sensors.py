"""Colours of imagery that no camera has taken: the shipped stems, loaded when they are first needed."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tilecascade.app.errors import SceneError
from tilecascade.model.cascade import Pixels
from tilecascade.model.sensors.modality import MODALITIES, Sensor
from tilecascade.model.sensors.stem import Stem, colours, load_stem
from tilecascade.model.sgdm.config import WEIGHTS_DIR

STEMS = WEIGHTS_DIR / "sensors"


@lru_cache(maxsize=len(MODALITIES))
def _stem(sensor: Sensor) -> Stem:
    try:
        return load_stem(STEMS, sensor)
    except (OSError, ValueError) as error:
        raise SceneError(f"imagery of this sensor cannot be read: {error}") from None


def colours_of(sensor: Sensor, levels: NDArray[np.floating]) -> Pixels:
    """The colours of a window: B x H x W of 0 to 255 -> H x W x 3 uint8 (see `model.sensors.stem.colours`).

    Raises SceneError if there is no stem for the sensor.
    """
    return colours(_stem(sensor), (levels / 255).astype(np.float32))


@lru_cache(maxsize=1)
def stems_id() -> str:
    """Names the stems: tiles of other sensors' imagery depend on them."""
    file = STEMS.with_suffix(".safetensors")
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12] if file.is_file() else "none"


def sensors_notice(sensors: list[Sensor]) -> str | None:
    """What tiles say of the sensors of their imagery; None if a camera has taken all of it."""
    others = [f"{sensor} ({MODALITIES[sensor].says})" for sensor in sorted(set(sensors)) if sensor != "rgb"]
    if not others:
        return None
    return f"{', '.join(others)}; its colours are guessed by a network trained on simulated pairs"
