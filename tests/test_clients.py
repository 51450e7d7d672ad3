"""GDAL reads what is served: its WMTS and TMS drivers see the pixels that a tile has."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as xml

import httpx
import numpy as np
import pytest
import rasterio
from mercantile import Tile
from PIL import Image
from rasterio.windows import Window, from_bounds

from app.imagery import tile_window, window_bounds
from tests.conftest import PLACE, SceneMaker, picture, place_bounds, write_scene
from tests.test_e2e import Server

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
