"""What others read: GDAL the WMTS and the tiles, SQLite and pmtiles the exported files; all see the same pixels."""

from __future__ import annotations

import io
import json
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as xml

import httpx
import ipyleaflet
import mercantile
import numpy as np
import pystac
import pytest
import rasterio
from mercantile import Tile
from PIL import Image
from pmtiles.reader import MmapSource, Reader
from rasterio.windows import Window, from_bounds

from tests.conftest import PLACE, SceneMaker, picture, place_bounds, write_scene
from tests.program import TILECASCADE, Server
from tilecascade.app.client import layer
from tilecascade.app.errors import SettingsError
from tilecascade.app.sources.scene import window_bounds
from tilecascade.model.cascade import tile_window

ZOOM, X, Y = 16, 4 * PLACE.x + 1, 4 * PLACE.y + 1

TMS = """<GDAL_WMS>
  <Service name="TMS"><ServerUrl>{url}/tiles/${{z}}/${{x}}/${{y}}.png</ServerUrl></Service>
  <DataWindow>
    <UpperLeftX>-20037508.34</UpperLeftX><UpperLeftY>20037508.34</UpperLeftY>
    <LowerRightX>20037508.34</LowerRightX><LowerRightY>-20037508.34</LowerRightY>
    <TileLevel>16</TileLevel><TileCountX>1</TileCountX><TileCountY>1</TileCountY><YOrigin>top</YOrigin>
  </DataWindow>
  <Projection>EPSG:3857</Projection><BlockSizeX>256</BlockSizeX><BlockSizeY>256</BlockSizeY><BandsCount>3</BandsCount>
  <Timeout>60</Timeout>
</GDAL_WMS>"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("clients")
    scene = write_scene(folder / "scene.tif", picture(1024, 0), place_bounds(), "EPSG:3857")
    running = Server(scene, tiny_weights, folder / "data")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def truth(server: Server) -> np.ndarray:
    """The tile as an image, 256 x 256 x 3."""
    answer = httpx.get(f"{server.url}/tiles/{ZOOM}/{X}/{Y}.png?wait=100", timeout=120)
    answer.raise_for_status()
    with Image.open(io.BytesIO(answer.content)) as image:
        return np.asarray(image.convert("RGB"))


def tile_of(dataset: rasterio.DatasetReader) -> np.ndarray:
    """The test tile's pixels, read by a dataset at its zoom."""
    bounds = window_bounds(tile_window(Tile(X, Y, ZOOM)))
    window = from_bounds(*bounds, transform=dataset.transform)
    whole = Window(*(round(value) for value in (window.col_off, window.row_off, window.width, window.height)))
    return dataset.read((1, 2, 3), window=whole).transpose(1, 2, 0)


@pytest.mark.slow
def test_gdal_wmts_reads_the_same_pixels(server: Server, truth: np.ndarray) -> None:
    address = f"WMTS:{server.url}/wmts/1.0.0/WMTSCapabilities.xml,layer=map"
    with rasterio.open(address) as dataset:
        assert dataset.crs.to_epsg() == 3857
        assert np.array_equal(tile_of(dataset), truth)


def test_gdal_tms_reads_the_same_pixels(server: Server, truth: np.ndarray, tmp_path: Path) -> None:
    description = tmp_path / "tms.xml"
    description.write_text(TMS.format(url=server.url))
    with rasterio.open(description) as dataset:
        assert np.array_equal(tile_of(dataset), truth)


def test_wmts_by_key_and_value(server: Server, truth: np.ndarray) -> None:
    asked = {"SERVICE": "WMTS", "REQUEST": "GetTile", "LAYER": "map", "STYLE": "default", "FORMAT": "image/png"}
    asked |= {"TILEMATRIXSET": "GoogleMapsCompatible", "TILEMATRIX": str(ZOOM), "TILECOL": str(X), "TILEROW": str(Y)}
    answer = httpx.get(server.url + "/wmts", params=asked)
    with Image.open(io.BytesIO(answer.content)) as image:
        assert np.array_equal(np.asarray(image.convert("RGB")), truth)
    for wrong in ({"REQUEST": "GetMap"}, {"FORMAT": "image/gif"}, {"TILEMATRIXSET": "other"}, {"TILECOL": "x"}):
        refused = httpx.get(server.url + "/wmts", params=asked | wrong)
        assert refused.status_code == 400, wrong
        assert refused.json()["detail"]
    del asked["TILEROW"]
    assert "TILEROW" in httpx.get(server.url + "/wmts", params=asked).json()["detail"]


def test_capabilities_name_what_is_served(server: Server) -> None:
    document = xml.fromstring(server.get("/wmts?service=WMTS&request=GetCapabilities").content)
    space = {"w": "http://www.opengis.net/wmts/1.0", "ows": "http://www.opengis.net/ows/1.1"}
    layer = document.find("w:Contents/w:Layer", space)
    assert layer is not None
    assert layer.findtext("ows:Identifier", namespaces=space) == "map"
    assert "not surveyed" in (layer.findtext("ows:Abstract", namespaces=space) or "")
    limits = layer.findall(".//w:TileMatrixLimits", space)
    assert [limit.findtext("w:TileMatrix", namespaces=space) for limit in limits] == ["14", "15", "16"]
    template = layer.find("w:ResourceURL", space)
    assert template is not None
    url = template.get("template", "").format(TileMatrix=ZOOM, TileCol=X, TileRow=Y)
    assert httpx.get(url).status_code == 200


def test_ogc_api_tiles_leads_from_its_landing_page_to_a_tile(server: Server, truth: np.ndarray) -> None:
    def follow(document: dict[str, Any], relation: str) -> dict[str, Any]:
        link = next(link for link in document["links"] if link["rel"].endswith(relation))
        found: dict[str, Any] = httpx.get(link["href"]).raise_for_status().json()
        return found

    landing = server.get("/ogc").json()
    classes = follow(landing, "/conformance")["conformsTo"]
    assert any(name.endswith("ogcapi-tiles-1/1.0/conf/tileset") for name in classes)
    assert follow(landing, "service-desc")["openapi"].startswith("3")
    layer = follow(landing, "/data")["collections"][0]
    assert follow(layer, "self") == layer
    listed = follow(layer, "/tilesets-map")["tilesets"][0]
    tileset = follow(listed, "self")
    assert tileset == listed
    limits = {limit["tileMatrix"]: limit for limit in tileset["tileMatrixSetLimits"]}
    assert set(limits) == {str(zoom) for zoom in range(17)}
    assert limits[str(ZOOM)]["minTileCol"] <= X <= limits[str(ZOOM)]["maxTileCol"]
    assert limits[str(ZOOM)]["minTileRow"] <= Y <= limits[str(ZOOM)]["maxTileRow"]
    grid = follow(tileset, "/tiling-scheme")
    matrix = next(matrix for matrix in grid["tileMatrices"] if matrix["id"] == str(ZOOM))
    assert (matrix["matrixWidth"], matrix["tileWidth"]) == (1 << ZOOM, 256)
    items = {link["type"]: link["href"] for link in tileset["links"] if link["rel"] == "item"}
    url = items["image/png"].format(tileMatrix=ZOOM, tileRow=Y, tileCol=X)
    plain = httpx.get(f"{server.url}/tiles/{ZOOM}/{X}/{Y}.png?wait=100", timeout=120)
    assert httpx.get(url).content == plain.content
    bare = url.replace(".png", "").split("?")[0]
    assert httpx.get(bare).content == plain.content
    assert httpx.get(bare, headers={"Accept": "text/html, image/webp;q=0.9"}).headers["content-type"] == "image/webp"
    assert httpx.get(bare.replace("WebMercatorQuad", "WorldCRS84Quad")).status_code == 404
    assert httpx.get(f"{server.url}/ogc/collections/nothing").status_code == 404


def test_a_layer_is_a_stac_item(server: Server) -> None:
    document = server.get("/tiles/map/stac.json").json()
    item = pystac.Item.from_dict(document)
    assert item.datetime is not None
    assert item.bbox == pytest.approx(place_bounds("EPSG:4326"), abs=1e-6)
    assert item.properties["tilecascade:revision"] == server.get("/tilejson.json").json()["tilecascade_revision"]
    assert httpx.get(item.assets["tilejson"].href).status_code == 200
    template = next(link for link in document["links"] if link["rel"] == "xyz")["href"]
    assert httpx.get(template.format(z=ZOOM, x=X, y=Y), timeout=100).status_code == 200


def test_a_notebook_gets_a_layer(server: Server) -> None:
    found = layer(server.url)
    assert (found.name, found.min_zoom, found.max_native_zoom) == ("map", 14, 16)
    assert "not surveyed" in found.attribution
    assert httpx.get(found.url.format(z=ZOOM, x=X, y=Y), timeout=100).status_code == 200
    widgets = ipyleaflet.Map(layers=[found], center=(0, 0))
    assert found in widgets.layers
    with pytest.raises(SettingsError, match="there is no layer 'nothing'"):
        layer(server.url, "nothing")


@pytest.mark.slow
def test_behind_a_prefix_addresses_carry_it(make_scene: SceneMaker, tiny_weights: Path, tmp_path: Path) -> None:
    server = Server(make_scene(), tiny_weights, tmp_path / "data", {"TILECASCADE_ROOT_PATH": "/maps"})
    try:
        told = server.get("/tilejson.json").json()["tiles"][0]
        assert told.startswith(f"{server.url}/maps/tiles/map/")
        assert f"{server.url}/maps/tiles/map/" in server.get("/wmts").text
        assert f"{server.url}/maps" in server.get("/").text
        assert server.get("/maps/health").status_code == 200
    finally:
        server.stop()


AREA = mercantile.bounds(PLACE)
BBOX = f"{AREA.west + 1e-6},{AREA.south + 1e-6},{AREA.east - 1e-6},{AREA.north - 1e-6}"


def export(
    server: Server, out: Path, zooms: str, bbox: str | None = BBOX, *more: str
) -> subprocess.CompletedProcess[str]:
    place = [] if bbox is None else ["--bbox", bbox]
    command = [*TILECASCADE, "export", "--url", server.url, *place, "--zooms", zooms, "--out", str(out), *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def served(server: Server, tile: Tile) -> bytes:
    answer = httpx.get(f"{server.url}/tiles/{tile.z}/{tile.x}/{tile.y}.png?wait=100", timeout=120)
    return answer.raise_for_status().content


def test_an_exported_mbtiles_holds_the_tiles(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "area.mbtiles"
    done = export(server, out, "14-16")
    assert done.returncode == 0, done.stderr
    with sqlite3.connect(out) as file:
        rows = {(z, x, y): data for z, x, y, data in file.execute("SELECT * FROM tiles")}
        told = dict(file.execute("SELECT name, value FROM metadata"))
    assert len(rows) == 1 + 4 + 16
    for (z, x, y), data in rows.items():
        assert data == served(server, Tile(x, (1 << z) - 1 - y, z))
    assert (told["minzoom"], told["maxzoom"], told["format"]) == ("14", "16", "png")
    assert "not surveyed" in told["description"]
    with rasterio.open(out) as dataset:  # GDAL reads it, too
        assert dataset.crs.to_epsg() == 3857
    assert [path.name for path in tmp_path.iterdir()] == ["area.mbtiles"]


def test_an_exported_sqlitedb_is_as_osmand_wants_it(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "area.sqlitedb"
    done = export(server, out, "14-16")
    assert done.returncode == 0, done.stderr
    with sqlite3.connect(out) as file:
        rows = {(17 - z, x, y): data for x, y, z, _, data in file.execute("SELECT x, y, z, s, image FROM tiles")}
        about = file.execute("SELECT minzoom, maxzoom, tilenumbering FROM info").fetchall()
    assert about == [(1, 3, "BigPlanet")]
    assert len(rows) == 1 + 4 + 16
    for (z, x, y), data in rows.items():
        assert data == served(server, Tile(x, y, z))


def test_an_exported_pmtiles_holds_the_tiles(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "area.pmtiles"
    assert export(server, out, "14-16").returncode == 0
    with out.open("rb") as file:
        reader = Reader(MmapSource(file))
        header = reader.header()
        assert (header["min_zoom"], header["max_zoom"], header["clustered"]) == (14, 16, True)
        assert header["addressed_tiles_count"] == 21
        assert "not surveyed" in reader.metadata()["description"]
        for zoom in (14, 15, 16):
            for tile in mercantile.tiles(*map(float, BBOX.split(",")), zooms=zoom):
                assert reader.get(tile.z, tile.x, tile.y) == served(server, tile)


def test_an_exported_geotiff_and_picture_are_the_mosaic(server: Server, truth: np.ndarray, tmp_path: Path) -> None:
    out = tmp_path / "area.tif"
    assert export(server, out, "16").returncode == 0
    with rasterio.open(out) as dataset:
        assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert (dataset.crs.to_epsg(), dataset.width, dataset.height) == (3857, 1024, 1024)
        assert dataset.tags()["TIFFTAG_IMAGEDESCRIPTION"] == "generated, not surveyed"
        assert np.array_equal(tile_of(dataset), truth)
        mosaic = dataset.read((1, 2, 3)).transpose(1, 2, 0)
    picture = tmp_path / "area.png"
    assert export(server, picture, "16").returncode == 0
    with Image.open(picture) as image:
        assert np.array_equal(np.asarray(image.convert("RGB")), mosaic)


@pytest.mark.slow
def test_imagery_is_exported_and_areas_are_cut_out(server: Server, truth: np.ndarray, tmp_path: Path) -> None:
    west, south, east, north = AREA
    half = {"type": "Polygon", "coordinates": [[[west, south], [east, south], [east, north], [west, south]]]}
    (tmp_path / "half.geojson").write_text(json.dumps(half))
    seen, cut = tmp_path / "seen.tif", tmp_path / "cut.tif"
    made = export(server, seen, "16", BBOX, "--imagery")
    assert made.returncode == 0, made.stderr
    made = export(server, cut, "16", None, "--clip", str(tmp_path / "half.geojson"))
    assert made.returncode == 0, made.stderr
    with rasterio.open(seen) as imagery, rasterio.open(cut) as map_:
        assert "generated from" in imagery.tags()["TIFFTAG_IMAGEDESCRIPTION"]
        answer = server.get(f"/imagery/map/{ZOOM}/{X}/{Y}.png")
        with Image.open(io.BytesIO(answer.content)) as tile:
            assert np.array_equal(tile_of(imagery), np.asarray(tile.convert("RGB")))
        alpha = map_.read(4)
        assert (map_.width, map_.height) == (1024, 1024)
        assert 0.49 < (alpha > 0).mean() < 0.51
        assert alpha[1000, 1000] == 255  # the lower right half
        assert alpha[20, 20] == 0
    (tmp_path / "line.geojson").write_text('{"type": "LineString", "coordinates": [[0, 0], [1, 1]]}')
    for more, words in (
        (("--clip", str(tmp_path / "line.geojson")), "no area"),
        (("--clip", str(tmp_path / "none.geojson")), "cannot be read"),
        ((), "give --bbox"),
    ):
        refused = export(server, tmp_path / "no.tif", "16", None, *more)
        assert refused.returncode == 2
        assert words in refused.stderr


@pytest.mark.parametrize(
    ("name", "zooms", "bbox", "words"),
    [
        ("area.zip", "14", BBOX, "ends in one of"),
        ("area.png", "14-15", BBOX, "one zoom"),
        ("no/area.tif", "14", BBOX, "no directory"),
        ("area.tif", "14-19", BBOX, "14-16"),
        ("area.tif", "14", "10,10,11,11", "outside"),
    ],
)
def test_exports_that_cannot_be_say_why(
    server: Server, tmp_path: Path, name: str, zooms: str, bbox: str, words: str
) -> None:
    done = export(server, tmp_path / name, zooms, bbox)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mbtiles", "pmtiles"])
def test_an_export_can_fill_a_cache_that_would_generate_the_same(
    server: Server, tmp_path: Path, tiny_weights: Path, kind: str
) -> None:
    out = tmp_path / f"area.{kind}"
    assert export(server, out, "14-16").returncode == 0
    scene = server.log.parent / "scene.tif"

    def take(data: Path) -> subprocess.CompletedProcess[str]:
        command = [*TILECASCADE, "import", str(out), "--data-dir", str(data)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    refused = take(tmp_path / "empty")
    assert refused.returncode == 2
    assert "does not serve" in refused.stderr
    other = Server(scene, tiny_weights, tmp_path / "other", {"TILECASCADE_REDIS_URL": "none"})
    try:
        assert other.get("/metrics").text.count("tilecascade_blocks_generated_total{") == 0
        done = take(tmp_path / "other")
        assert "21 tiles added, 0 present already" in done.stdout, done.stderr
        assert "0 tiles added, 21 present already" in take(tmp_path / "other").stdout
        tile = Tile(X, Y, ZOOM)
        assert served(other, tile) == served(server, tile)
        assert other.get("/metrics").text.count("tilecascade_blocks_generated_total{") == 0, "nothing was drawn"
    finally:
        other.stop()


def test_what_cannot_be_imported_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "other.mbtiles") as file:
        file.execute("CREATE TABLE metadata (name text, value text)")
        file.execute("CREATE TABLE tiles (zoom_level, tile_column, tile_row, tile_data)")
        file.execute("INSERT INTO tiles VALUES (0, 0, 0, x'00')")
    (tmp_path / "broken.pmtiles").write_bytes(b"no tiles")
    for name, words in (
        ("missing.mbtiles", "does not exist"),
        ("broken.pmtiles", "cannot be read"),
        ("other.mbtiles", "base_map"),
        ("other.zip", "neither"),
    ):
        if name.endswith("zip"):
            (tmp_path / name).touch()
        command = [*TILECASCADE, "import", str(tmp_path / name), "--data-dir", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2
        assert words in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_old_versions_can_be_removed(tmp_path: Path) -> None:
    layer = tmp_path / "tiles" / "map"
    for version, count in (("aaa", 3), ("bbb", 2)):
        for number in range(count):
            tile = layer / version / "14" / "1" / f"{number}.png"
            tile.parent.mkdir(parents=True, exist_ok=True)
            tile.write_bytes(b"x" * 10)
    (layer / "current").symlink_to("bbb")
    (layer / "revision").symlink_to("bbb")
    never = tmp_path / "tiles" / "other" / "ccc"
    never.mkdir(parents=True)

    def clean(*arguments: str) -> str:
        command = [*TILECASCADE, "clean", "--data-dir", str(tmp_path), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout

    assert "would remove map/aaa: 3 tiles, 30 bytes" in clean("--dry-run")
    assert clean("--older", "1") == ""
    assert (layer / "aaa").is_dir()
    assert "removed map/aaa" in clean()
    assert not (layer / "aaa").exists()
    assert len(list((layer / "bbb").rglob("*.png"))) == 2
    assert never.is_dir()
    assert clean() == ""
