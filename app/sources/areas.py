"""Areas of a territory with prompts: a GeoJSON of polygons, each with a caption, a prompt, or weather.

A feature's properties: `prompt`, a text in the form of MMM-RS, whose content is read as plain words; or `caption`, an
object {scene, relation, element} or a text; and `weather` with `strength`. What is computed of a caption once, the
layout, is kept in the property `layout`, so that the ground is the same for ever.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import mercantile
import numpy as np
import shapely

from tilecascade.app.errors import BadRequestError, SettingsError
from tilecascade.app.sources.source import changed, digest
from tilecascade.app.storage.atomic import write_atomically
from tilecascade.model.cascade import TILE_SIZE, Window
from tilecascade.model.imagery.weather import Weather, weather_named
from tilecascade.model.layout.layout import EDGE, KINDS, Layout
from tilecascade.model.text.captions import Caption, CaptionError, from_dict, parse
from tilecascade.model.text.prompts import parse_prompt
from tilecascade.model.text.reading import caption_of_text
from tilecascade.model.world.areas import GroundArea

MOST_AREAS = 64
"""Areas of one territory."""

MOST_TEXT = 1_000
"""Characters of a name or a prompt."""

MOST_POINTS = 2_000
"""Points of one area's outline."""

TOO_MUCH = (ArithmeticError, RecursionError)
"""What numbers of hundreds of digits and lists in lists in lists raise."""

PROPERTIES = ("name", "prompt", "caption", "weather", "strength", "seed", "layout")

STRENGTH = 0.6
"""Of weather, unless it is said."""


@dataclass(frozen=True, eq=False)
class Area:
    """One area.

    geometry: GeoJSON polygon in degrees. said: its properties as somebody has written them. caption, weather: what
    these mean. notes: sentences about what of it is not used. layout: computed of the caption, if it has been.
    """

    geometry: dict[str, Any]
    said: Mapping[str, Any]
    caption: Caption | None = None
    weather: Weather | None = None
    notes: tuple[str, ...] = ()
    layout: Layout | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Area) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    @cached_property
    def layout_key(self) -> str:
        """Names what a layout depends on: one that was computed for other words is not kept."""
        return _digest([self.geometry, None if self.caption is None else self.caption.text(), self.seed])

    @cached_property
    def id(self) -> str:
        """Names all that tiles depend on."""
        weather = None if self.weather is None else [self.weather.kind, self.weather.strength, self.weather.seed]
        return _digest([self.layout_key, weather, None if self.layout is None else self.layout.tobytes().hex()])

    @property
    def seed(self) -> int:
        """Another one: another layout of the same caption, other patches of fog."""
        return int(self.said.get("seed", 0))

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, south, east, north."""
        west, south, east, north = shapely.geometry.shape(self.geometry).bounds
        return west, south, east, north

    @cached_property
    def ground(self) -> GroundArea:
        """As the territory is drawn with it."""
        place = shapely.geometry.shape(self.geometry)
        outline = shapely.transform(place, lambda points: np.array([mercantile.xy(*point) for point in points]))
        return GroundArea(outline, self.layout, self.weather)

    def feature(self) -> dict[str, Any]:
        """As GeoJSON, with its layout."""
        properties = dict(self.said)
        if self.layout is not None:
            properties["layout"] = f"{self.layout_key}:{base64.b85encode(self.layout.tobytes()).decode()}"
        return {"type": "Feature", "id": self.id, "properties": properties, "geometry": self.geometry}


def _digest(parts: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def area_of(feature: Mapping[str, Any], name: str = "an area") -> Area:
    """Read one feature. Raises BadRequestError with a sentence; name: what to call it there."""
    try:
        properties = {key: value for key, value in (feature.get("properties") or {}).items() if value is not None}
        shape = shapely.force_2d(shapely.geometry.shape(feature["geometry"]))
    except (KeyError, TypeError, AttributeError, ValueError, shapely.errors.ShapelyError, *TOO_MUCH):
        raise BadRequestError(f"{name} is no GeoJSON feature with a polygon") from None
    if shape.geom_type != "Polygon" or not shape.is_valid or not shape.area:
        raise BadRequestError(f"{name} is no polygon without crossings; its type is {shape.geom_type}")
    if shapely.get_num_coordinates(shape) > MOST_POINTS:
        raise BadRequestError(f"{name} has more than {MOST_POINTS} points")
    if not np.isfinite(shapely.get_coordinates(shape)).all():
        raise BadRequestError(f"the corners of {name} are pairs of numbers, longitude and latitude")
    west, south, east, north = shape.bounds
    if not (west >= -180 and east <= 180 and south >= -85 and north <= 85):
        raise BadRequestError(f"{name} goes beyond 180 degrees east or west, or 85 north or south")
    stored = properties.pop("layout", None)
    unknown = [key for key in properties if key not in PROPERTIES]
    if unknown:
        raise BadRequestError(f"{name} has a property {unknown[0]!r}; there are {', '.join(PROPERTIES[:-1])}")
    for key in ("name", "prompt", "weather"):
        if key in properties and not _is_text(properties[key]):
            raise BadRequestError(f"the {key} of {name} is a text of at most {MOST_TEXT} characters")
    seed = properties.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise BadRequestError(f"the seed of {name} is a whole number from 0, not {seed!r}")
    try:
        caption, weather, notes = _meaning(properties)
    except (CaptionError, ValueError, *TOO_MUCH) as error:
        raise BadRequestError(f"{name}: {error}") from None
    geometry = {"type": "Polygon", "coordinates": shapely.geometry.mapping(shape)["coordinates"]}
    said = Area(geometry, properties, caption, weather, notes)
    return said if stored is None else replace(said, layout=_layout(stored, said, name))


def _is_text(value: object) -> bool:
    """Whether a value is a text that can be stored and sent."""
    if not isinstance(value, str) or len(value) > MOST_TEXT:
        return False
    return not any(0xD800 <= ord(letter) <= 0xDFFF for letter in value)


def _meaning(said: Mapping[str, Any]) -> tuple[Caption | None, Weather | None, tuple[str, ...]]:
    """The caption and the weather of properties, and what of them is not used. Raises ValueError."""
    caption, weather, notes = None, str(said.get("weather") or ""), []
    if "prompt" in said and "caption" in said:
        raise ValueError("give a prompt or a caption, not both")
    if "prompt" in said:
        prompt = parse_prompt(str(said["prompt"]), level_needed=False)
        if prompt.weather and weather and weather_named(weather) != weather_named(prompt.weather):
            raise ValueError(f"the prompt says {prompt.weather}, and weather says {weather}; give one of them")
        weather = prompt.weather or weather
        if prompt.level:
            notes.append(f"{prompt.level!r} is not used: every zoom has the level of its own metres per pixel")
        if prompt.satellite:
            notes.append(f"{prompt.satellite!r} is not used: the generator knows one kind of imagery")
        caption = caption_of_text(prompt.content) if prompt.content else None
    elif isinstance(said.get("caption"), Mapping):
        caption = from_dict(said["caption"])
    elif said.get("caption"):
        text = str(said["caption"])
        caption = parse(text) if text.lstrip().startswith("scene:") else caption_of_text(text)
    if caption is not None:
        caption.check()
    if not weather and "strength" in said:
        raise ValueError("strength is that of weather; give weather, too")
    strength = said.get("strength")
    if strength is not None and (isinstance(strength, bool) or not isinstance(strength, int | float)):
        raise ValueError(f"the strength of weather is a number from 0 to 1, not {strength!r}")
    if not weather:
        return caption, None, tuple(notes)
    kind, usual = weather_named(weather)
    chosen = float(strength) if strength is not None else usual or STRENGTH
    return caption, Weather(kind, chosen, int(said.get("seed", 0))), tuple(notes)


def _layout(stored: Any, said: Area, name: str) -> Layout | None:
    """The layout that is kept with an area; None if it was computed for other words or another place."""
    try:
        key, _, packed = stored.partition(":")
        found = np.frombuffer(base64.b85decode(packed), dtype=np.uint8).reshape(EDGE, EDGE)
        if found.max() < len(KINDS):
            return found if key == said.layout_key and said.caption is not None else None
    except (ValueError, TypeError, AttributeError):
        pass
    raise BadRequestError(f"the layout of {name} is none of this program's; leave it out to have it computed")


@dataclass(frozen=True)
class Areas:
    """All areas of a territory, the last on top. id: names them all."""

    all: tuple[Area, ...] = ()

    @property
    def id(self) -> str:
        """The same for the same areas in the same order."""
        return digest([area.id for area in self.all])

    def caption_at(self, window: Window) -> Caption | None:
        """The caption of the last area with one that has the middle of a window; None if there is none."""
        scale = mercantile.CE / (TILE_SIZE << window.zoom)
        x = (window.left + window.width / 2) * scale - mercantile.CE / 2
        y = mercantile.CE / 2 - (window.top + window.height / 2) * scale
        here = [area for area in self.all if area.caption and shapely.contains_xy(area.ground.outline, x, y)]
        return here[-1].caption if here else None

    def collection(self) -> dict[str, Any]:
        """A GeoJSON feature collection, with layouts."""
        return {"type": "FeatureCollection", "features": [area.feature() for area in self.all]}

    def write(self, path: Path) -> None:
        """Keep them."""
        write_atomically(path, json.dumps(self.collection(), indent=1).encode())

    @classmethod
    def read(cls, path: Path) -> Areas:
        """Those of a file; none if there is no file. Raises SettingsError."""
        try:
            return areas_of(json.loads(path.read_text()))
        except FileNotFoundError:
            return cls()
        except (ValueError, BadRequestError) as error:
            raise SettingsError(f"{path} is not a file of areas: {error}") from None


def areas_of(collection: Any) -> Areas:
    """Read a GeoJSON feature collection. Raises BadRequestError with a sentence."""
    features = collection.get("features") if isinstance(collection, Mapping) else None
    if not isinstance(features, list):
        raise BadRequestError("areas are a GeoJSON FeatureCollection of polygons")
    if len(features) > MOST_AREAS:
        raise BadRequestError(f"a territory has {MOST_AREAS} areas at most; there are {len(features)}")
    found = []
    for place, feature in enumerate(features, start=1):
        said = feature.get("properties") if isinstance(feature, Mapping) else None
        name = said.get("name") if isinstance(said, Mapping) else None
        found.append(area_of(feature, f"area {place}" + (f" ({name[:40]})" if _is_text(name) and name else "")))
        if found[-1] in found[:-1]:
            raise BadRequestError(f"area {place} is the same as area {1 + found.index(found[-1])}")
    return Areas(tuple(found))


def changed_areas(old: Sequence[Area], new: Sequence[Area]) -> list[Area]:
    """Those that came or went, and those whose order has changed."""
    return changed(old, new, lambda area: area.id)
