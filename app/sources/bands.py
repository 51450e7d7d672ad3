"""Which bands of a raster a map is generated from, and what sensor has taken them.

Apart, because the program that opens strangers' files needs it, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import rasterio
from rasterio.enums import ColorInterp

from tilecascade.model.sensors.modality import MODALITIES, Sensor, sensor_named

SENSOR_TAG = "TILECASCADE_SENSOR"
"""Tag of a GeoTIFF that says which sensor has taken it."""

POLARISATIONS = ("VV", "HH", "VH", "HV")
"""Descriptions of radar bands, the most useful first."""

INFRARED = ("nir", "near infrared", "infrared", "b8", "b08", "b8a")
"""Descriptions of bands of near infrared, in small letters."""


class NoColoursError(ValueError):
    """The raster has not the bands that it should. The message goes on after the raster's name."""


@dataclass(frozen=True)
class SensorBands:
    """What took a raster, and the numbers of its bands, from 1, in the order of `model.sensors.modality`."""

    sensor: Sensor
    indexes: tuple[int, ...]


def bands_of(dataset: rasterio.DatasetReader, sensor: str | None = None) -> SensorBands:
    """The sensor that is said, or that the file's metadata say, and its bands. Raises NoColoursError.

    Without metadata three bands or more are colours, and a single one is panchromatic; its descriptions tell radar
    (VV, VH, HH, HV) and near infrared.
    """
    said = sensor or dataset.tags().get(SENSOR_TAG)
    try:
        chosen = sensor_named(said) if said else _told(dataset)
    except ValueError as error:
        raise NoColoursError(f"cannot be read so: {error}") from None
    optical = [i + 1 for i, kind in enumerate(dataset.colorinterp) if kind != ColorInterp.alpha]
    if chosen == "rgb":
        return SensorBands(chosen, colour_bands(dataset))
    if not optical:
        raise NoColoursError("has no band of imagery")
    if chosen == "pan":
        return SensorBands(chosen, (optical[0],))
    if chosen == "sar":
        described = _described(dataset)
        radar = [described[name.lower()] for name in POLARISATIONS if name.lower() in described]
        return SensorBands(chosen, (radar[0] if radar else optical[0],))
    infrared = _infrared(dataset)
    if infrared is None and len(optical) == MODALITIES["nir"].bands:
        infrared = next((i for i in reversed(optical) if i not in colour_bands(dataset)), None)
    if infrared is None:
        raise NoColoursError(
            f"has {len(optical)} band(s) and none of near infrared; say which it is by its description (NIR), or give "
            "another sensor"
        )
    return SensorBands(chosen, (*colour_bands(dataset, infrared), infrared))


def _told(dataset: rasterio.DatasetReader) -> Sensor:
    """The sensor by what a file says of its bands."""
    optical = sum(kind != ColorInterp.alpha for kind in dataset.colorinterp)
    if ColorInterp.palette in dataset.colorinterp:
        raise ValueError("its values are numbers of colours in a palette; expand them (gdal_translate -expand rgb)")
    if any(name.lower() in _described(dataset) for name in POLARISATIONS):
        return "sar"
    if optical == 1:
        return "pan"
    return "nir" if optical >= MODALITIES["nir"].bands and _infrared(dataset) is not None else "rgb"


def _described(dataset: rasterio.DatasetReader) -> dict[str, int]:
    """The numbers of bands by their description."""
    return {(text or "").lower().strip(): i for i, text in reversed(list(enumerate(dataset.descriptions, 1)))}


def _infrared(dataset: rasterio.DatasetReader) -> int | None:
    """The band of near infrared, if the file says so."""
    described = _described(dataset)
    return next((described[name] for name in INFRARED if name in described), None)


def colour_bands(dataset: rasterio.DatasetReader, infrared: int | None = None) -> tuple[int, int, int]:
    """The numbers, from 1, of red, green and blue: by their colour interpretation, else the first three others than
    near infrared. Raises NoColoursError."""
    kinds = list(dataset.colorinterp)
    wanted = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
    if all(kind in kinds for kind in wanted):
        red, green, blue = (kinds.index(kind) + 1 for kind in wanted)
        return red, green, blue
    optical = [i + 1 for i, kind in enumerate(kinds) if kind != ColorInterp.alpha and i + 1 != infrared]
    if len(optical) < 3:
        raise NoColoursError(
            f"has {len(optical)} colour band(s); imagery of a camera needs red, green and blue: say what took it "
            "(sensor: pan, sar)"
        )
    return optical[0], optical[1], optical[2]
