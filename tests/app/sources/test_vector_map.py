"""A map drawn of GeoJSON: colours and widths of the default style, other styles, and what cannot be drawn."""

from __future__ import annotations

import csv
import json
import tarfile
from pathlib import Path
from typing import Any

import mercantile
import numpy as np
import pytest
from mercantile import Tile

from tests.conftest import PLACE
from tests.golden import SHARED
from tilecascade.app.errors import SceneError
from tilecascade.app.sources.vector_map import VectorMap
from tilecascade.model.data.pairs import read_image
from tilecascade.model.evaluation.metrics import luma, psnr
from tilecascade.model.style import COLOUR, road_filling


def feature(kind: str, corners: Any, **tags: str) -> dict[str, Any]:
    """A feature whose corners are shares of PLACE, from its south-west corner."""
    west, south, east, north = mercantile.bounds(PLACE)

    def place(value: Any) -> Any:
        if isinstance(value[0], (int, float)):
            return [west + value[0] * (east - west), south + value[1] * (north - south)]
        return [place(each) for each in value]

    return {"type": "Feature", "geometry": {"type": kind, "coordinates": place(corners)}, "properties": tags}


def square(low: float, high: float) -> list[list[float]]:
    return [[low, low], [high, low], [high, high], [low, high], [low, low]]


def written(path: Path, *features: dict[str, Any]) -> VectorMap:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return VectorMap(path)


def middle(image: np.ndarray, x: float, y: float) -> tuple[int, ...]:
    """The colour at a place in shares from the south-west corner."""
    return tuple(image[round((1 - y) * 255), round(x * 255)].tolist())


def test_areas_lines_and_holes_have_the_style_s_colours(tmp_path: Path) -> None:
    drawn = written(
        tmp_path / "map.geojson",
        feature("Polygon", [square(0, 1)], landuse="residential"),
        feature("Polygon", [square(0.1, 0.5), square(0.2, 0.4)], natural="wood"),
        feature("Polygon", [square(0.6, 0.7)], building="yes"),
        feature("LineString", [[0, 0.85], [1, 0.85]], highway="primary"),
        feature("LineString", [[0.85, 0], [0.85, 1]], highway="service"),
        feature("Point", [0.5, 0.5], place="town"),
    )
    tile = drawn.tile(PLACE)
    assert tile is not None
    assert tile[1].all()
    image = tile[0]
    assert middle(image, 0.15, 0.15) == COLOUR["forest"]
    assert middle(image, 0.3, 0.3) == COLOUR["residential"]  # the hole
    assert middle(image, 0.65, 0.65) == COLOUR["building"]
    assert middle(image, 0.3, 0.85) == COLOUR["primary road"]
    assert middle(image, 0.85, 0.85) == COLOUR["primary road"]  # lies above the lesser road
    width = (image[:, 60] == COLOUR["primary road"]).all(-1).sum()
    assert abs(width - road_filling("primary", PLACE.z)) <= 2
    finer = drawn.tile(Tile(PLACE.x * 4, PLACE.y * 4, PLACE.z + 2))
    assert finer is not None
    assert finer[0].shape == (256, 256, 3)


def test_small_buildings_wait_for_finer_zooms_and_tiles_beyond_the_extent_are_none(tmp_path: Path) -> None:
    drawn = written(
        tmp_path / "map.geojson",
        feature("Polygon", [square(0, 1)], landuse="farmland"),
        feature("Polygon", [square(0.3, 0.305)], building="yes"),
    )
    seen = {}
    for levels in (0, 2):
        tile = Tile((PLACE.x << levels) + (1 if levels else 0), (PLACE.y << levels) + (2 if levels else 0), 14 + levels)
        image = drawn.tile(tile)
        assert image is not None
        seen[levels] = bool((np.abs(image[0].astype(int) - COLOUR["building"]).sum(-1) < 12).any())
    assert seen == {0: False, 2: True}
    assert drawn.tile(Tile(PLACE.x + 1, PLACE.y, 14)) is None


def test_a_file_brings_its_own_colours(tmp_path: Path) -> None:
    drawn = written(
        tmp_path / "map.geojson",
        feature("Polygon", [square(0, 1)], fill="#102030"),
        feature("LineString", [[0, 0.5], [1, 0.5]], stroke="#ff0000", **{"stroke-width": "8"}),
    )
    tile = drawn.tile(PLACE)
    assert tile is not None
    assert middle(tile[0], 0.2, 0.2) == (16, 32, 48)
    assert middle(tile[0], 0.2, 0.5) == (255, 0, 0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "no GeoJSON"),
        ('{"type": "FeatureCollection", "features": []}', "no feature that can be drawn"),
        ('{"type": "FeatureCollection"}', "no GeoJSON"),
        (json.dumps(feature("Polygon", [square(0, 1)], fill="no colour")), "no GeoJSON"),
        (json.dumps(feature("Polygon", [square(0, 1)], landuse="moon")), "no feature that can be drawn"),
    ],
)
def test_what_is_no_map_is_said(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "map.geojson"
    path.write_text(text)
    with pytest.raises(SceneError, match=said):
        VectorMap(path)
    with pytest.raises(SceneError, match="cannot be read"):
        VectorMap(tmp_path / "absent.geojson")


def test_it_is_the_map_that_the_supplied_tiles_are(tmp_path: Path) -> None:
    vectors, pairs = SHARED / "data" / "osm_vectors.tgz", SHARED / "data" / "pairs"
    if not vectors.is_file():
        pytest.skip("the vectors of the supplied maps are not here")
    features = []
    with tarfile.open(vectors) as archive:
        archive.extractall(tmp_path, filter="data")
    for path in (tmp_path / "data").glob("*.geojson"):
        for each in json.loads(path.read_text())["features"]:
            key, _, value = str(each["properties"].get("landuse") or "").partition("_")
            if value:  # such as natural_wood
                each["properties"] |= {"landuse": None, key: value}
            features.append(each)
    drawn = written(tmp_path / "all.geojson", *features)
    rows = [row for row in csv.DictReader((pairs / "manifest.csv").open()) if row["source"] == "snezhinsk_osm"]
    for zoom, least in ((15, 25.0), (17, 27.0)):
        some = [row for row in rows if row["split"] == "train" and row["zoom"] == str(zoom)][::12]
        values, plain = [], []
        for row in some:
            tile = drawn.tile(Tile(int(row["x"]), int(row["y"]), zoom))
            assert tile is not None
            truth = luma(read_image(pairs / row["map"]))
            values.append(min(60.0, psnr(luma(tile[0]), truth)))
            plain.append(min(60.0, psnr(luma(np.full_like(tile[0], COLOUR["land"])), truth)))
        assert len(some) >= 8
        assert np.mean(values) > max(least, np.mean(plain) + 6), (zoom, np.mean(values), np.mean(plain))
