"""Exported map objects of the fictional country, as others read them, and compared with what exists."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import osmium
import pyogrio
import pytest
import shapely
from shapely import STRtree

from tests.program import TILECASCADE, Server
from tilecascade.model.sgdm.config import WEIGHTS_DIR

ZOOM = "16"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(None, WEIGHTS_DIR / "default", tmp_path_factory.mktemp("features") / "data")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def bbox(server: Server) -> str:
    """Four blocks around the middle of the country."""
    longitude, latitude, _ = httpx.get(server.url + "/tilejson.json").json()["center"]
    return f"{longitude - 0.008},{latitude - 0.005},{longitude + 0.008},{latitude + 0.005}"


def export(server: Server, bbox: str, out: Path, *more: str, zooms: str = ZOOM) -> subprocess.CompletedProcess[str]:
    command = [*TILECASCADE, "export", "--url", server.url, "--bbox", bbox, "--zooms", zooms, "--out", str(out), *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=280)


@pytest.fixture(scope="module")
def exported(server: Server, bbox: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("exported") / "area.geojson"
    done = export(server, bbox, out)
    assert done.returncode == 0, done.stderr
    assert "building" in done.stdout
    collection: dict[str, Any] = json.loads(out.read_text())
    return collection


def of_layer(collection: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [each for each in collection["features"] if each["properties"]["layer"] == name]


def test_every_object_is_there_once_and_valid(exported: dict[str, Any]) -> None:
    assert exported["notice"] == "generated, not surveyed"
    shapes = [shapely.geometry.shape(each["geometry"]) for each in exported["features"]]
    assert all(shape.is_valid for shape in shapes)
    assert len({each["id"] for each in exported["features"]}) == len(exported["features"])
    houses = [shapely.geometry.shape(each["geometry"]) for each in of_layer(exported, "building")]
    assert len(houses) > 5
    pairs = STRtree(houses).query(houses, predicate="intersects").T
    for i, j in pairs:
        if i < j:
            assert houses[i].intersection(houses[j]).area < 0.5 * min(houses[i].area, houses[j].area)
    roads = [shapely.geometry.shape(each["geometry"]) for each in of_layer(exported, "road")]
    assert roads
    assert all(each["properties"]["width_m"] > 0.5 for each in of_layer(exported, "road"))


@pytest.mark.parametrize("suffix", ["gpkg", "fgb"])
def test_gdal_reads_the_same_features(
    server: Server, bbox: str, exported: dict[str, Any], tmp_path: Path, suffix: str
) -> None:
    out = tmp_path / f"area.{suffix}"
    done = export(server, bbox, out)
    assert done.returncode == 0, done.stderr
    count = 0
    for name, _ in pyogrio.list_layers(out):
        about = pyogrio.read_info(out, layer=name)
        assert about["crs"] == "EPSG:4326"
        assert {"class", "confidence", "generated", "source", "version"} <= set(about["fields"])
        count += about["features"]
    assert count == len(exported["features"])


@pytest.mark.parametrize("suffix", ["osm"])
def test_osmium_reads_the_same_features(
    server: Server, bbox: str, exported: dict[str, Any], tmp_path: Path, suffix: str
) -> None:
    out = tmp_path / f"area.{suffix}"
    assert export(server, bbox, out).returncode == 0
    highways = houses = 0
    nodes: dict[int, int] = {}
    for each in osmium.FileProcessor(str(out)):
        assert each.id < 0
        if each.tags:
            assert each.tags["generated"] == "yes"
        if each.is_way() and "highway" in each.tags:
            highways += 1
            for node in (each.nodes[0].ref, each.nodes[-1].ref):
                nodes[node] = nodes.get(node, 0) + 1
        houses += "building" in each.tags
    assert houses == len(of_layer(exported, "building"))
    assert highways == len(of_layer(exported, "road"))
    assert max(nodes.values()) > 1, "roads that meet share their nodes"


def test_changes_against_a_map_that_exists(server: Server, bbox: str, exported: dict[str, Any], tmp_path: Path) -> None:
    houses, roads = of_layer(exported, "building"), of_layer(exported, "road")
    elsewhere = json.loads(json.dumps(houses[0]))
    west, south, *_ = exported["bbox"]
    corner = shapely.box(west + 1e-4, south + 1e-4, west + 1.2e-4, south + 1.2e-4)
    elsewhere["geometry"] = shapely.geometry.mapping(corner)
    known = tmp_path / "known.geojson"
    known.write_text(json.dumps({"type": "FeatureCollection", "features": [*houses[1:], elsewhere, *roads]}))
    out = tmp_path / "changes.geojson"
    done = export(server, bbox, out, "--against", str(known))
    assert done.returncode == 0, done.stderr
    changes = json.loads(out.read_text())
    by_id = {each["id"]: each["properties"].get("change") for each in changes["features"]}
    assert by_id[houses[0]["id"]] == "new"
    assert {by_id[each["id"]] for each in houses[1:]} == {"same"}
    assert {by_id[each["id"]] for each in roads} == {"same"}
    gone = [each for each in changes["features"] if each["properties"].get("change") == "gone"]
    assert len(gone) == 1
    assert not gone[0]["properties"]["generated"]
    assert "1 gone building" in done.stdout


def test_an_openstreetmap_file_can_be_compared_with(server: Server, bbox: str, tmp_path: Path) -> None:
    known = tmp_path / "known.osm.pbf"
    assert export(server, bbox, known).returncode == 0
    done = export(server, bbox, tmp_path / "changes.gpkg", "--against", str(known))
    assert done.returncode == 0, done.stderr
    assert "new building" not in done.stdout
    assert "gone" not in done.stdout


@pytest.mark.parametrize(
    ("name", "zooms", "more", "words"),
    [
        ("a.geojson", "15-16", (), "one number"),
        ("missing/a.geojson", "16", (), "no directory"),
        ("a.geojson", "16", ("--against", "nothing.geojson"), "no file"),
        ("a.geojson", "16", ("--against", "pyproject.toml"), "cannot be read"),
        ("a.mbtiles", "16", ("--against", "pyproject.toml"), "--against is for map objects"),
        ("a.shp", "16", (), ".gpkg"),
        ("a.geojson", "22", (), "asks for more"),
    ],
)
def test_what_cannot_be_exported_is_said(
    server: Server, bbox: str, tmp_path: Path, name: str, zooms: str, more: tuple[str, ...], words: str
) -> None:
    done = export(server, bbox, tmp_path / name, *more, zooms=zooms)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
