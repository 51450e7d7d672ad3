"""Leaflet, OpenLayers and MapLibre in a real browser, given our URL, show the tile's own pixels."""

from __future__ import annotations

import functools
import importlib.util
import io
import threading
import time
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import mercantile
import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from xstatic.pkg import leaflet

from tests.browser import browser, pixels_of, wait_until
from tests.conftest import PLACE, picture, place_bounds, write_scene
from tests.program import Server

ZOOM, X, Y = 16, 4 * PLACE.x + 1, 4 * PLACE.y + 1


def package(name: str) -> Path:
    """The folder of a package that carries a library for browsers."""
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"{name} is not installed")
    return Path(found.submodule_search_locations[0])


PAGE = """<!doctype html><html><head><style>body { margin: 0 } #map { width: 256px; height: 256px }</style>%s</head>
<body><div id="map"></div><script>
const tiles = "%s", zoom = %d, longitude = %.12f, latitude = %.12f;
window.shown = null;
%s
</script></body></html>"""

LEAFLET = """
const map = L.map("map", {zoomAnimation: false, fadeAnimation: false, zoomControl: false});
const layer = L.tileLayer(tiles, {crossOrigin: "anonymous", minZoom: 14, maxZoom: 16}).addTo(map);
layer.on("load", () => {
  const canvas = Object.assign(document.createElement("canvas"), {width: 256, height: 256});
  const corner = document.getElementById("map").getBoundingClientRect();
  for (const image of document.querySelectorAll(".leaflet-tile")) {
    const place = image.getBoundingClientRect();
    canvas.getContext("2d").drawImage(image, place.left - corner.left, place.top - corner.top);
  }
  window.shown = canvas.toDataURL();
});
map.setView([latitude, longitude], zoom);
"""

OPENLAYERS = """
const source = new ol.source.XYZ({url: tiles, crossOrigin: "anonymous", transition: 0, maxZoom: 16});
const map = new ol.Map({target: "map", controls: [], pixelRatio: 1, layers: [new ol.layer.Tile({source})],
  view: new ol.View({center: ol.proj.fromLonLat([longitude, latitude]), zoom})});
map.on("rendercomplete", () => { window.shown = document.querySelector("#map canvas").toDataURL(); });
"""

OGC = OPENLAYERS.replace(
    'new ol.source.XYZ({url: tiles, crossOrigin: "anonymous", transition: 0, maxZoom: 16})',
    """new ol.source.OGCMapTile({url: tiles.replace(/tiles.*/, "ogc/collections/map/map/tiles/WebMercatorQuad"),
  mediaType: "image/png", crossOrigin: "anonymous", transition: 0})""",
)
assert OGC != OPENLAYERS

MAPLIBRE = """
const map = new maplibregl.Map({container: "map", attributionControl: false, fadeDuration: 0, pixelRatio: 1,
  canvasContextAttributes: {preserveDrawingBuffer: true}, preserveDrawingBuffer: true,
  center: [longitude, latitude], zoom: zoom - 1,  // its zooms are of tiles of 512 pixels
  style: {version: 8, sources: {map: {type: "raster", tiles: [tiles], tileSize: 256, minzoom: 14, maxzoom: 16}},
    layers: [{id: "map", type: "raster", source: "map",
      paint: {"raster-fade-duration": 0, "raster-resampling": "nearest"}}]}});
map.on("idle", () => { window.shown = map.getCanvas().toDataURL(); });
map.on("error", (event) => { window.problem = String(event.error); });
"""

CLIENTS = {"leaflet": LEAFLET, "openlayers": OPENLAYERS, "openlayers ogc": OGC, "maplibre": MAPLIBRE}

RETRYING = {
    "leaflet": LEAFLET.replace("L.tileLayer(tiles, ", "tilecascade.leaflet(tiles, "),
    "openlayers": OPENLAYERS.replace("new ol.source.XYZ({url: tiles, ", "tilecascade.openlayers(tiles, {").replace(
        "new ol.layer.Tile({source})", "source"
    ),
    "maplibre": MAPLIBRE.replace("style: {", "style: {version: 8, sources: {}, layers: []}, unused: {")
    + 'map.on("load", () => tilecascade.maplibre(map, "map", tiles, {minzoom: 14, maxzoom: 16}));',
}
"""The same with the script that shows placeholders and replaces them."""


@pytest.fixture
def server(tmp_path: Path, tiny_weights: Path) -> Iterator[Server]:
    """A cold server: nothing has been generated."""
    scene = write_scene(tmp_path / "scene.tif", picture(1024, 0), place_bounds(), "EPSG:3857")
    running = Server(scene, tiny_weights, tmp_path / "data")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def window() -> Iterator[webdriver.Chrome]:
    with browser(400, 400) as page:
        yield page


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "retrying"), [*((name, False) for name in CLIENTS), *((name, True) for name in RETRYING)]
)
def test_a_client_of_a_cold_server_ends_with_finished_tiles(
    name: str, retrying: bool, server: Server, window: webdriver.Chrome, tmp_path: Path
) -> None:
    sources = {
        "leaflet": lambda: (Path(leaflet.BASE_DIR), "leaflet.js", "leaflet.css"),
        "openlayers": lambda: (package("mapproxy") / "service/templates/demo/static", "ol.js", "ol.css"),
        "maplibre": lambda: (package("maplibre") / "srcjs", "maplibre-gl.js", "maplibre-gl.css"),
    }
    folder, script, style = sources[name.split()[0]]()
    for file in (script, style):
        (tmp_path / file).write_bytes((folder / file).read_bytes())
    bounds = mercantile.xy_bounds(X, Y, ZOOM)
    middle = mercantile.lnglat((bounds.left + bounds.right) / 2, (bounds.bottom + bounds.top) / 2)
    head = f'<link rel="stylesheet" href="{style}"><script src="{script}"></script>'
    head += f'<script src="{server.url}/static/viewer/tilecascade-retry.js"></script>' * retrying
    url = f"{server.url}/tiles/{{z}}/{{x}}/{{y}}.png"
    (tmp_path / "index.html").write_text(
        PAGE % (head, url, ZOOM, middle.lng, middle.lat, (RETRYING if retrying else CLIENTS)[name])
    )
    pages = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=tmp_path))
    threading.Thread(target=pages.serve_forever, daemon=True).start()
    try:
        window.get(f"http://127.0.0.1:{pages.server_port}/")
        shown = pixels_of(wait_until(window, "return window.shown || window.problem"))
        answer = httpx.get(f"{server.url}/tiles/{ZOOM}/{X}/{Y}.png?wait=60")
        with Image.open(io.BytesIO(answer.content)) as image:
            truth = np.asarray(image.convert("RGB"))
        deadline = time.monotonic() + 60
        while retrying and difference(shown, truth).any() and time.monotonic() < deadline:
            time.sleep(0.2)
            shown = pixels_of(wait_until(window, "return window.shown"))
    finally:
        pages.shutdown()
        pages.server_close()
    assert not difference(shown, truth).any(), f"{difference(shown, truth).mean():.1%} of the pixels differ"


def difference(shown: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Where two pictures differ visibly. A client may round the view by half a pixel at the rim."""
    assert shown.shape == truth.shape
    return (np.abs(shown.astype(int) - truth).max(axis=2) > 2)[2:-2, 2:-2]
