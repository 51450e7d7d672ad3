"""Comparing generated features with a map that exists: what is new, what has changed, what is gone."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pyogrio.raw
import shapely
from numpy.typing import NDArray
from rasterio.warp import transform
from shapely import LineString, Polygon, STRtree
from shapely.geometry.base import BaseGeometry

from tilecascade.app.client.feature_files import DEGREES, as_geometry
from tilecascade.app.errors import SettingsError
from tilecascade.app.tiles.geojson import Feature

SAME, SOME = 0.5, 0.1
"""Intersection over union of two buildings that are the same; below the second nothing of the one is the other."""

BESIDE = 8.0
"""Metres from a known road within which a generated one is the same road."""

MOST, LITTLE = 0.7, 0.3
"""Share of a road's length beside known ones from which on it is known; below the second it is new."""


@dataclass(frozen=True)
class Existing:
    """What a map has already, in Web Mercator metres."""

    buildings: list[BaseGeometry]
    roads: list[BaseGeometry]


def read_existing(path: Path, bounds: tuple[float, float, float, float]) -> Existing:
    """The buildings and roads of a file within bounds (degrees): GeoJSON, GeoPackage, FlatGeobuf or OpenStreetMap.

    Raises SettingsError with a sentence.
    """
    if not path.is_file():
        raise SettingsError(f"--against: there is no file {path}")
    # negative ids, as of objects that are not uploaded yet
    pyogrio.set_gdal_config_options({"OSM_USE_CUSTOM_INDEXING": False})
    buildings: list[BaseGeometry] = []
    roads: list[BaseGeometry] = []
    try:
        for name, _ in pyogrio.list_layers(path):
            if path.suffix in (".osm", ".pbf") and name not in ("lines", "multipolygons"):
                continue
            meta, _, geometries, columns = pyogrio.raw.read(path, layer=name)
            tags = dict(zip(meta["fields"], columns, strict=True))
            for place, geometry in enumerate(shapely.from_wkb(geometries)):
                if geometry is None:
                    continue
                moved = metres(geometry, meta["crs"] or DEGREES)
                for part in shapely.get_parts(moved):
                    if isinstance(part, Polygon) and is_building(tags, place, name):
                        buildings.append(part)
                    elif isinstance(part, LineString) and is_road(tags, place, name):
                        roads.append(part)
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, ValueError) as error:
        raise SettingsError(f"--against: {path} cannot be read: {str(error).splitlines()[0]}") from None
    box = metres(shapely.box(*bounds), DEGREES)
    return Existing([b for b in buildings if b.intersects(box)], [r for r in roads if r.intersects(box)])


def is_building(tags: dict[str, NDArray[Any]], place: int, layer: str) -> bool:
    """Whether a polygon is one: by OpenStreetMap's tag, by a layer or class of ours, or where nothing says what it
    is."""
    said = _said(tags, place, ("building",)), _said(tags, place, ("layer", "class"))
    if said[0] is not None:
        return said[0] not in ("", "no")
    if "building" in tags:
        return False
    return said[1] == "building" if said[1] is not None else layer not in ("landcover", "multipolygons")


def is_road(tags: dict[str, NDArray[Any]], place: int, layer: str) -> bool:
    """The same of a line."""
    said = _said(tags, place, ("highway",)), _said(tags, place, ("layer",))
    if said[0] is not None:
        return said[0] != ""
    if "highway" in tags:
        return False
    return said[1] == "road" if said[1] is not None else layer != "lines"


def _said(tags: dict[str, NDArray[Any]], place: int, names: tuple[str, ...]) -> str | None:
    for name in names:
        if name in tags and tags[name][place] is not None:
            return str(tags[name][place])
    return None


def metres(geometry: BaseGeometry, crs: str) -> BaseGeometry:
    """In Web Mercator."""

    def move(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.stack(transform(crs, "EPSG:3857", points[:, 0], points[:, 1]), axis=1)

    return shapely.transform(geometry, move)


def degrees(geometry: BaseGeometry) -> BaseGeometry:
    """Inverse of `metres`."""
    return shapely.transform(
        geometry, lambda points: np.stack(transform("EPSG:3857", DEGREES, points[:, 0], points[:, 1]), axis=1).round(9)
    )


def conflate(features: list[Feature], existing: Existing) -> list[Feature]:
    """Features with the property `change`: "new", "changed" or "same" for buildings and roads; and what exists but was
    not generated, as "gone"."""
    places = [metres(shapely.geometry.shape(each["geometry"]), DEGREES) for each in features]
    kinds = [each["properties"]["layer"] for each in features]
    buildings = [i for i, kind in enumerate(kinds) if kind == "building"]
    roads = [i for i, kind in enumerate(kinds) if kind == "road"]
    changes = _named(buildings, _overlaps([places[i] for i in buildings], existing.buildings), SAME, SOME)
    changes |= _named(roads, _beside([places[i] for i in roads], existing.roads), MOST, LITTLE)
    marked = [
        {**each, "properties": each["properties"] | ({"change": changes[i]} if i in changes else {})}
        for i, each in enumerate(features)
    ]
    left = _overlaps(existing.buildings, [places[i] for i in buildings])
    gone = [("building", b) for b, share in zip(existing.buildings, left, strict=True) if share < SOME]
    kept = _beside(existing.roads, [places[i] for i in roads])
    gone += [("road", r) for r, share in zip(existing.roads, kept, strict=True) if share < LITTLE]
    return marked + [_gone(layer, geometry) for layer, geometry in gone]


def _named(numbers: list[int], shares: list[float], same: float, some: float) -> dict[int, str]:
    """What has become of each, by the share of it that exists."""
    names = ["same" if share >= same else "changed" if share >= some else "new" for share in shares]
    return dict(zip(numbers, names, strict=True))


def _gone(layer: str, geometry: BaseGeometry) -> Feature:
    name = hashlib.blake2b(shapely.to_wkb(geometry), digest_size=8).hexdigest()
    properties = {"layer": layer, "class": layer, "confidence": None, "generated": False, "change": "gone"}
    place = as_geometry(degrees(geometry))
    return {"type": "Feature", "id": name, "properties": properties | {"source": "existing"}, "geometry": place}


def _overlaps(some: list[BaseGeometry], others: list[BaseGeometry]) -> list[float]:
    """Of each polygon the largest intersection over union with another."""
    best = [0.0] * len(some)
    if some and others:
        for i, j in STRtree(others).query(some, predicate="intersects").T:
            shared = some[i].intersection(others[j]).area
            best[i] = max(best[i], shared / (some[i].area + others[j].area - shared))
    return best


def _beside(some: list[BaseGeometry], others: list[BaseGeometry]) -> list[float]:
    """Of each line the share that lies beside others."""
    if not some or not others:
        return [0.0] * len(some)
    tree = STRtree(others)
    shares = []
    for line in some:
        latitude = np.arctan(np.sinh(line.centroid.y / 6378137.0))
        reach = BESIDE / float(np.cos(latitude))
        near = [others[j].buffer(reach) for j in tree.query(line.buffer(reach))]
        shares.append(line.intersection(shapely.union_all(near)).length / line.length if near else 0.0)
    return shares
