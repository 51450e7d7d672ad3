"""`tilecascade plan`: what a map of an area would take: tiles, bytes, hours of devices, time, price.

Counted, not guessed, where that is possible: tiles by geometry; what is empty, by asking a running server of some tiles
of each zoom; bytes and seconds of a tile as that server has measured them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import httpx

from tilecascade.app.api.schemas import JobEstimate, JobRequest
from tilecascade.app.client.connection import Key, ask
from tilecascade.app.errors import AreaError, SettingsError
from tilecascade.app.jobs.area import Area

EFFICIENCY = 0.9
"""Of several replicas, each does this part of what it would do alone."""


@dataclass(frozen=True)
class Measured:
    """What a tile costs on one device. seconds: of the device. bytes: of its file."""

    seconds: float
    bytes: float


@dataclass(frozen=True)
class ZoomPlan:
    """One zoom. empty: the share of tiles without imagery."""

    zoom: int
    tiles: int
    empty: float

    @property
    def wanted(self) -> int:
        """Tiles that are generated."""
        return round(self.tiles * (1 - self.empty))


@dataclass(frozen=True)
class Plan:
    """A map of an area. replicas: devices side by side. price: of a device for an hour, in any currency."""

    zooms: tuple[ZoomPlan, ...]
    measured: Measured
    replicas: int = 1
    price: float | None = None

    @property
    def tiles(self) -> int:
        """Tiles that are generated."""
        return sum(zoom.wanted for zoom in self.zooms)

    @property
    def device_hours(self) -> float:
        """Hours of one device for all of them."""
        return self.tiles * self.measured.seconds / 3600

    @property
    def hours(self) -> float:
        """Hours until all are there."""
        return self.device_hours / (1 if self.replicas == 1 else self.replicas * EFFICIENCY)

    @property
    def gigabytes(self) -> float:
        """On disk."""
        return self.tiles * self.measured.bytes / 1e9

    def lines(self) -> list[str]:
        """What to say, a line for each zoom and some for all."""
        said = [
            f"zoom {z.zoom}: {z.tiles} tiles, {z.empty:.0%} without imagery, {z.wanted} generated" for z in self.zooms
        ]
        said.append(f"all: {self.tiles} tiles, {self.gigabytes:.3g} GB at {self.measured.bytes / 1000:.1f} kB each")
        said.append(f"devices: {self.device_hours:.3g} hours at {self.measured.seconds * 1000:.0f} ms a tile")
        several = f" ({EFFICIENCY:.0%} of {self.replicas} times one)" if self.replicas > 1 else ""
        said.append(f"time on {self.replicas}: {self.hours:.3g} hours{several}")
        if self.price is not None:
            said.append(f"price: {self.device_hours * self.price:.2f} at {self.price:g} an hour of a device")
        return said

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON."""
        zooms = [asdict(zoom) | {"generated": zoom.wanted} for zoom in self.zooms]
        return {
            "zooms": zooms,
            "tiles": self.tiles,
            "bytes": round(self.tiles * self.measured.bytes),
            "seconds_per_tile": self.measured.seconds,
            "device_hours": self.device_hours,
            "replicas": self.replicas,
            "hours": self.hours,
            "price": None if self.price is None else self.device_hours * self.price,
        }


def area_of(bbox: tuple[float, float, float, float] | None, geojson: dict[str, Any] | None) -> Area:
    """The area that is wanted. Raises SettingsError."""
    try:
        if geojson is not None:
            return Area.of_geojson(geojson)
        if bbox is not None:
            return Area.of_box(bbox)
    except AreaError as error:
        raise SettingsError(str(error)) from None
    raise SettingsError("give --bbox W,S,E,N or --area FILE")


def count(area: Area, zooms: range) -> dict[int, int]:
    """Tiles of each zoom. Raises SettingsError for far too many."""
    try:
        return {zoom: area.count(zoom) for zoom in zooms}
    except AreaError as error:
        raise SettingsError(str(error)) from None


class PlanClient:
    """Asks a running server what it has measured, and where there is imagery. Raises SettingsError."""

    def __init__(self, client: httpx.Client, layer: str | None, key: Key | None) -> None:
        self._client, self._layer, self._key = client, layer, key

    def measured(self, area: Area, zooms: range, seconds: float | None) -> tuple[Measured, dict[int, float]]:
        """What a tile costs, and the share of tiles without imagery at each zoom. seconds: of a device, instead of what
        the server has measured."""
        wanted = JobRequest(layer=self._layer, **_said(area), zooms=(zooms[0], zooms[-1]), dry_run=True)
        answer = ask(self._client, "POST", "/jobs", json=wanted.model_dump(mode="json"), auth=self._key)
        found = JobEstimate.model_validate_json(answer)
        new = found.tiles - found.stored
        if not new:
            raise SettingsError("all tiles of this area are stored already")
        if seconds is None:
            if found.seconds is None:
                raise SettingsError("the server has generated no tile yet: ask for one, or give --seconds of a tile")
            seconds = found.seconds / new
        return Measured(seconds, found.bytes / new), found.empty or {}


def _said(area: Area) -> dict[str, Any]:
    """An area as a request has it."""
    if not area.polygons:
        return {"bbox": area.bounds}
    features = [{"type": "Feature", "properties": {}, "geometry": json.loads(text)} for text in area.polygons]
    return {"area": {"type": "FeatureCollection", "features": features}}


def plan(
    area: Area,
    zooms: range,
    client: PlanClient | None,
    seconds: float | None,
    kilobytes: float | None,
    replicas: int = 1,
    price: float | None = None,
) -> Plan:
    """The plan of an area. Takes six arguments because each is one that a user gives. Raises SettingsError.

    client: None without a server; then seconds and kilobytes of a tile have to be given, and nothing counts as empty.
    """
    counts = count(area, zooms)
    if client is None:
        if seconds is None or kilobytes is None:
            raise SettingsError("without a server give --seconds and --kilobytes of a tile")
        shares, measured = dict.fromkeys(counts, 0.0), Measured(seconds, kilobytes * 1000)
    else:
        measured, shares = client.measured(area, zooms, seconds)
        measured = measured if kilobytes is None else Measured(measured.seconds, kilobytes * 1000)
    found = tuple(ZoomPlan(zoom, counts[zoom], shares.get(zoom, 0.0)) for zoom in zooms)
    return Plan(found, measured, replicas, price)
