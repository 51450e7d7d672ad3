"""What goes over the wire as JSON: requests and answers, as the server sends them and the client commands read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, model_validator

from tilecascade.app.errors import AreaError

Bounds = tuple[float, float, float, float]
"""West, south, east, north in degrees."""


def parse_bbox(text: str, name: str = "bbox") -> Bounds:
    """W,S,E,N in degrees. name: what the user has called it. Raises AreaError."""
    try:
        west, south, east, north = (float(part) for part in text.split(","))
    except ValueError:
        raise AreaError(f"{name} wants W,S,E,N in degrees, not {text[:60]!r}") from None
    if not (-180 <= west < east <= 180 and -90 <= south < north <= 90):
        raise AreaError(f"{name} wants west < east and south < north, within the world, not {text[:60]!r}")
    return west, south, east, north


JobState = Literal["queued", "running", "done", "failed", "cancelled"]


class HealthAnswer(BaseModel):
    """The state of the server. `degraded`: a cache does not work, tiles still come."""

    state: Literal["starting", "ready", "degraded", "failed"]
    version: str
    caches: dict[str, Literal["ok", "slow", "unavailable"]]
    layers: list[str]
    problem: str | None = None


class TileJSON(BaseModel):
    """TileJSON 3.0.0, with what is generated and from which revision."""

    tilejson: str = "3.0.0"
    name: str
    description: str
    version: str = "1.0.0"
    scheme: str = "xyz"
    tiles: list[str]
    minzoom: int
    maxzoom: int
    bounds: Bounds
    center: tuple[float, float, int]
    attribution: str
    generated: bool = True
    tilecascade_revision: str


class VectorTileJSON(TileJSON):
    """TileJSON of vector tiles."""

    vector_layers: list[dict[str, Any]]


class SceneAnswer(BaseModel):
    """A scene, with the zooms that are generated from it. acquired: when its imagery was taken."""

    id: str
    bounds: Bounds
    acquired: str
    attribution: str
    zooms: tuple[int, int]
    notes: list[str]


class ScenesAnswer(BaseModel):
    """All scenes of a layer, topmost first."""

    layer: str
    revision: str
    scenes: list[SceneAnswer]


class TerritoryAnswer(BaseModel):
    """A country that does not exist. map, imagery: addresses of the tiles of its two layers. says: what was found in
    its sketch."""

    name: str
    bounds: Bounds
    seed: int
    zooms: tuple[int, int]
    revision: str
    map: str
    imagery: str
    says: str = ""


class AreasAnswer(BaseModel):
    """The areas of a territory after a change. revision: of its map. notes: what of them is not used, and why."""

    areas: int
    revision: str
    notes: list[str]


class ModelAnswer(BaseModel):
    """The network that generates.

    id: of its weights and configuration. before: the id of the one that `POST /model/back` returns to; none without.
    versions: of each layer, by name.
    """

    id: str
    name: str
    device: str
    batch: int
    before: str | None
    versions: dict[str, str]


class NamedScene(BaseModel, extra="forbid"):
    """A scene that is named instead of uploaded: by one of path, url and stac."""

    path: Path | None = None
    url: str | None = Field(default=None, max_length=2000)
    stac: str | None = Field(default=None, max_length=2000)
    acquired: str | None = None
    attribution: str = Field(default="", max_length=500)
    sensor: str | None = Field(default=None, max_length=20)

    @model_validator(mode="before")
    @classmethod
    def _renamed(cls, data: Any) -> Any:
        if isinstance(data, dict) and "taken" in data:
            raise ValueError("taken is called acquired since version 0.2")
        return data

    @model_validator(mode="after")
    def _one_place(self) -> NamedScene:
        if sum(place is not None for place in (self.path, self.url, self.stac)) != 1:
            raise ValueError("name a scene by one of path, url and stac")
        return self


class ReviewRequest(BaseModel, extra="forbid"):
    """What somebody says of an object, as GeoJSON geometries in degrees.

    verdict: accepted: it is there; rejected: it is not; redrawn: it looks like `there`, or was missing. layer, class:
    as the features have them. seen: the geometry of the feature; none if the object was missing. zoom: of the feature.
    """

    verdict: Literal["accepted", "rejected", "redrawn"]
    layer: Literal["building", "road", "landcover"]
    kind: str = Field(alias="class", max_length=40)
    zoom: int = Field(ge=0, le=32)
    seen: dict[str, Any] | None = None
    there: dict[str, Any] | None = None
    note: str = Field(default="", max_length=500)

    @model_validator(mode="after")
    def _complete(self) -> ReviewRequest:
        if (self.verdict == "redrawn") != (self.there is not None):
            raise ValueError("there is what is drawn: with the verdict redrawn, and only with it")
        if self.verdict != "redrawn" and self.seen is None:
            raise ValueError(f"what is {self.verdict} was seen: give its geometry as seen")
        return self


class SceneOrder(BaseModel, extra="forbid"):
    """Scene ids, topmost first; an empty list goes back to the newest first."""

    ids: list[str] = Field(max_length=10_000)


class JobRequest(BaseModel, extra="forbid"):
    """What to generate: an area as `bbox` (west, south, east, north) or `area` (GeoJSON polygons), and the zooms."""

    layer: str | None = None
    bbox: Bounds | None = None
    area: dict[str, Any] | None = None
    zooms: tuple[int, int]
    rate: float = Field(default=0, ge=0, le=10_000, description="tiles generated per second at most; 0: no limit")
    max_failures: int = Field(default=20, ge=0, description="with more failed tiles the job ends as failed")
    dry_run: bool = False
    confirm: bool = Field(default=False, description="for more tiles than the server accepts without")

    @model_validator(mode="before")
    @classmethod
    def _renamed(cls, data: Any) -> Any:
        if isinstance(data, dict) and "most_failures" in data:
            raise ValueError("most_failures is called max_failures since version 0.2")
        return data

    @model_validator(mode="after")
    def _one_area(self) -> JobRequest:
        if (self.bbox is None) == (self.area is None):
            raise ValueError("give bbox or area, and not both")
        if self.zooms[0] > self.zooms[1]:
            raise ValueError("zooms are the first and the last: [14, 17]")
        return self


class JobEstimate(BaseModel):
    """What a job would take. seconds: None before the first tile was generated. fits: into `disk_bytes`. empty, with
    `dry_run`: the share of tiles without imagery at each zoom of the whole area, of a sample."""

    layer: str
    tiles: int
    by_zoom: dict[int, int]
    stored: int
    bytes: int
    seconds: float | None
    fits: bool
    empty: dict[int, float] | None = None


class JobAnswer(BaseModel):
    """A job and how far it is: tiles `finished` (stored now), of these `generated` by the job, and so on."""

    id: str
    layer: str
    state: JobState
    zooms: tuple[int, int]
    bounds: Bounds
    total: int
    finished: int
    generated: int
    without_imagery: int
    failed: int
    zoom: int | None
    problems: list[str]
    estimate: JobEstimate | None = None
