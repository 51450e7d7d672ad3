"""Files of features: GeoJSON, GeoPackage and FlatGeobuf through GDAL, and OpenStreetMap's XML and PBF."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import osmium
import pyogrio.raw
import shapely
from osmium.osm.mutable import Node, Relation, Way
from shapely.geometry import mapping
from shapely.geometry.base import BaseGeometry

from tilecascade.app.tiles.geojson import LAYERS, Feature
from tilecascade.app.tiles.layer_info import NOTICE

DEGREES = "EPSG:4326"

OSM_TAGS = {
    "building": {"building": "yes"},
    "residential": {"landuse": "residential"},
    "industrial": {"landuse": "industrial"},
    "commercial": {"landuse": "commercial"},
    "retail": {"landuse": "retail"},
    "garages": {"landuse": "garages"},
    "parking": {"amenity": "parking"},
    "forest": {"natural": "wood"},
    "grass": {"landuse": "grass"},
    "park": {"leisure": "park"},
    "allotments": {"landuse": "allotments"},
    "scrub": {"natural": "scrub"},
    "cemetery": {"landuse": "cemetery"},
    "wetland": {"natural": "wetland"},
    "farmland": {"landuse": "farmland"},
    "pitch": {"leisure": "pitch"},
    "water": {"natural": "water"},
}
"""OpenStreetMap's tags for the classes of areas; a road's class is its `highway`."""


def write_geojson(path: Path, features: Sequence[Feature], about: dict[str, Any]) -> None:
    """One feature collection. about: more members of it."""
    collection = {"type": "FeatureCollection", "notice": NOTICE, **about, "features": list(features)}
    path.write_text(json.dumps(collection))


def write_geopackage(path: Path, features: Sequence[Feature], about: dict[str, Any]) -> None:
    """A GeoPackage with a table for each of landcover, road and building."""
    for name, kind in zip(LAYERS.values(), ("Polygon", "Polygon", "LineString"), strict=True):
        some = [each for each in features if each["properties"]["layer"] == name]
        if some:
            _write(path, "GPKG", name, kind, some, about, append=path.exists())


def write_flatgeobuf(path: Path, features: Sequence[Feature], about: dict[str, Any]) -> None:
    """A FlatGeobuf with all of them, whatever their geometry."""
    _write(path, "FlatGeobuf", "objects", "Unknown", features, about, append=False)


def _write(
    path: Path, driver: str, name: str, kind: str, features: Sequence[Feature], about: dict[str, Any], append: bool
) -> None:
    columns: dict[str, np.ndarray] = {"id": np.array([each["id"] for each in features], dtype=object)}
    names = dict.fromkeys(name for each in features for name in each["properties"])
    for column in names:
        values = [each["properties"].get(column) for each in features]
        numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
        columns[column] = np.array(
            values if numbers else [None if value is None else str(value) for value in values],
            dtype=None if numbers else object,
        )
    places = np.array([shapely.to_wkb(shapely.geometry.shape(each["geometry"])) for each in features], dtype=object)
    pyogrio.raw.write(
        path,
        places,
        list(columns.values()),
        list(columns),
        geometry_type=kind,
        crs=DEGREES,
        driver=driver,
        layer=name,
        append=append,
        layer_metadata=None if driver == "FlatGeobuf" else {"notice": NOTICE, **{k: str(v) for k, v in about.items()}},
    )


def write_osm(path: Path, features: Sequence[Feature], about: dict[str, Any]) -> None:
    """OpenStreetMap's own file, for JOSM and the like: lines that meet share their nodes. Ids are negative: new."""
    count = 0
    nodes: dict[tuple[float, float], int] = {}
    with osmium.SimpleWriter(str(path), overwrite=True) as out:

        def next_id() -> int:
            nonlocal count
            count += 1
            return -count

        def way(points: Sequence[Sequence[float]], tags: dict[str, str]) -> int:
            numbers = []
            for point in points:
                # the precision of OpenStreetMap
                place = (round(point[0], 7), round(point[1], 7))
                if place not in nodes:
                    nodes[place] = next_id()
                    out.add_node(Node(id=nodes[place], location=place))
                numbers.append(nodes[place])
            number = next_id()
            out.add_way(Way(id=number, nodes=numbers, tags=tags))
            return number

        for each in features:
            kind, parts = each["geometry"]["type"], each["geometry"]["coordinates"]
            tags = osm_tags(each)
            if kind == "LineString":
                way(parts, tags)
            elif len(parts) == 1:
                way(parts[0], tags)
            else:
                members = [("w", way(ring, {}), "inner" if i else "outer") for i, ring in enumerate(parts)]
                out.add_relation(Relation(id=next_id(), members=members, tags=tags | {"type": "multipolygon"}))


def osm_tags(each: Feature) -> dict[str, str]:
    """A feature's tags: what it is, that nobody has surveyed it, and how sure the map is of it."""
    properties = each["properties"]
    kind = properties["class"]
    known = {"highway": kind} if properties["layer"] == "road" else OSM_TAGS.get(kind, {"note": kind})
    tags = known | {"source": properties["source"], "generated": "yes", "confidence": str(properties["confidence"])}
    if properties.get("change"):
        tags["tilecascade:change"] = properties["change"]
    if properties.get("captured"):
        tags["source:date"] = properties["captured"][:10]
    return tags


Writer = Callable[[Path, Sequence[Feature], dict[str, Any]], None]

FEATURE_WRITERS: dict[str, Writer] = {
    ".geojson": write_geojson,
    ".gpkg": write_geopackage,
    ".fgb": write_flatgeobuf,
    ".osm": write_osm,
    ".pbf": write_osm,
}
"""By the file's suffix."""


def as_geometry(geometry: BaseGeometry) -> dict[str, Any]:
    """GeoJSON of a geometry."""
    return dict(mapping(geometry))
