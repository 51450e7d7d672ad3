"""The reviews of a layer: what people have said about its objects, in a GeoJSON file that any map program opens."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from tilecascade.app.errors import SettingsError
from tilecascade.app.sources.source import changed, digest
from tilecascade.app.storage.atomic import write_atomically
from tilecascade.app.tiles.geojson import LAYERS, Feature, degrees_of, pixels_of
from tilecascade.model.cartography.objects import Theme
from tilecascade.model.cartography.reviews import REACH, ReviewedObject
from tilecascade.model.cascade import Window

Verdict = Literal["accepted", "rejected", "redrawn"]
"""The object is there as it is; there is no such object; it looks as it was drawn, or was missing."""


@dataclass(frozen=True)
class Review:
    """One person's word about one object.

    layer: "building", "road" or "landcover"; kind: its class. seen: the geometry that was looked at, GeoJSON in
    degrees; None if the object was missing. there: what is there; None after a rejection. zoom: at which it was looked
    at. by: who, as the audit log names them. time: ISO 8601.
    """

    verdict: Verdict
    layer: str
    kind: str
    seen: dict[str, Any] | None
    there: dict[str, Any] | None
    zoom: int
    by: str = ""
    time: str = ""
    note: str = ""
    id: str = field(init=False)

    def __post_init__(self) -> None:
        described = json.dumps([self.verdict, self.layer, self.kind, self.seen, self.there, self.time])
        object.__setattr__(self, "id", hashlib.sha256(described.encode()).hexdigest()[:12])

    @property
    def theme(self) -> Theme:
        """As of the objects."""
        return next(theme for theme, name in LAYERS.items() if name == self.layer)

    @cached_property
    def outline(self) -> BaseGeometry:
        """All that the review speaks of, in degrees."""
        return shapely.union_all([shapely.geometry.shape(each) for each in (self.seen, self.there) if each is not None])

    def feature(self) -> Feature:
        """As GeoJSON: the geometry is what is there, or what is not."""
        properties = {"verdict": self.verdict, "layer": self.layer, "class": self.kind, "zoom": self.zoom}
        properties |= {"by": self.by, "time": self.time, "note": self.note}
        if self.verdict == "redrawn":
            properties["replaces"] = self.seen
        return {"type": "Feature", "id": self.id, "properties": properties, "geometry": self.there or self.seen}


def given_roads(
    kind: str, points: Sequence[tuple[float, float]], except_in: Sequence[tuple[float, float, float, float]] = ()
) -> list[Review]:
    """A road that is there for certain, without anybody having looked: its parts outside some boxes.

    points: longitude, latitude. except_in: west, south, east, north of where nothing is known of it.
    """
    outside = shapely.difference(
        shapely.LineString(points), shapely.union_all([shapely.box(*sides) for sides in except_in])
    )
    parts = [part for part in shapely.get_parts(outside) if not part.is_empty]
    return [Review("redrawn", LAYERS["road"], kind, None, shapely.geometry.mapping(part), 0) for part in parts]


def review_of(feature: Feature) -> Review:
    """Inverse of `Review.feature`. Raises KeyError or TypeError for anything else."""
    properties, geometry = feature["properties"], feature["geometry"]
    verdict = properties["verdict"]
    return Review(
        verdict=verdict,
        layer=properties["layer"],
        kind=properties["class"],
        seen=properties.get("replaces") if verdict == "redrawn" else geometry,
        there=None if verdict == "rejected" else geometry,
        zoom=properties["zoom"],
        by=properties.get("by", ""),
        time=properties.get("time", ""),
        note=properties.get("note", ""),
    )


@dataclass(frozen=True)
class Reviews:
    """All reviews of a layer, the oldest first. id: names them all."""

    all: tuple[Review, ...] = ()

    @property
    def id(self) -> str:
        """The same for the same reviews in the same order."""
        return digest([review.id for review in self.all])

    def add(self, review: Review) -> Reviews:
        """With one more. The same thing said once more is said once."""
        return Reviews((*(each for each in self.all if each.id != review.id), review))

    def remove(self, id: str) -> Reviews:
        """Without one. Raises KeyError if there is none such."""
        if all(review.id != id for review in self.all):
            raise KeyError(id)
        return replace(self, all=tuple(review for review in self.all if review.id != id))

    def within(self, window: Window) -> list[ReviewedObject]:
        """Those that may change a window, in its pixels."""
        if not self.all:
            return []
        around = window.grown(math.ceil(REACH))
        box = shapely.box(around.left, around.top, around.left + around.width, around.top + around.height)
        west, south, east, north = degrees_of(box, window.zoom).bounds
        left, bottom, right, top = self._bounds.T
        near = (left <= east) & (right >= west) & (bottom <= north) & (top >= south)
        found = []
        for review in (self.all[i] for i in np.flatnonzero(near)):
            seen, there = (_pixels(each, window) for each in (review.seen, review.there))
            found.append(ReviewedObject(review.theme, review.kind, seen, there))
        return found

    @cached_property
    def _bounds(self) -> NDArray[np.float64]:
        """West, south, east, north of every review, N x 4: a layer may have thousands, and a block a few."""
        return np.array([review.outline.bounds for review in self.all], dtype=np.float64).reshape(-1, 4)

    def collection(self) -> dict[str, Any]:
        """A GeoJSON feature collection."""
        return {"type": "FeatureCollection", "features": [review.feature() for review in self.all]}

    def write(self, path: Path) -> None:
        """Keep them."""
        write_atomically(path, json.dumps(self.collection(), indent=1).encode())

    @classmethod
    def read(cls, path: Path) -> Reviews:
        """Those of a file; none if there is no file. Raises SettingsError."""
        try:
            return cls(tuple(review_of(feature) for feature in json.loads(path.read_text())["features"]))
        except FileNotFoundError:
            return cls()
        except (ValueError, KeyError, TypeError) as error:
            raise SettingsError(f"{path} is not a file of reviews: {error!r}; repair it or move it away") from None


def _pixels(geometry: dict[str, Any] | None, window: Window) -> BaseGeometry | None:
    """Degrees -> pixels of a window."""
    if geometry is None:
        return None
    place = pixels_of(shapely.geometry.shape(geometry), window.zoom)
    return shapely.transform(place, lambda points: points - [window.left, window.top])


def changed_reviews(old: Sequence[Review], new: Sequence[Review]) -> list[Review]:
    """Those that came or went, and those whose order has changed."""
    return changed(old, new, lambda review: review.id)
