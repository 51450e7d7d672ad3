"""Map objects in a real browser: MapLibre beside the layer's own tile, and a click on the map page."""

from __future__ import annotations

import functools
import io
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import mercantile
import numpy as np
import pytest
import shapely
from PIL import Image

from tests.app.viewer.test_browsers import Quiet, package
from tests.browser import browser, pixels_of, wait_until
from tests.program import Server
from tilecascade.model.palette import classify
from tilecascade.model.sgdm.config import WEIGHTS_DIR

ZOOM, EDGE = 16, 512

PAGE = """<!doctype html><html><head><style>body {{ margin: 0 }} #map {{ width: {edge}px; height: {edge}px }}</style>
<link rel="stylesheet" href="maplibre-gl.css"><script src="maplibre-gl.js"></script></head>
<body><div id="map"></div><script>
const map = new maplibregl.Map({{container: "map", attributionControl: false, fadeDuration: 0, pixelRatio: 1,
  canvasContextAttributes: {{preserveDrawingBuffer: true}}, preserveDrawingBuffer: true,
  center: [{longitude:.12f}, {latitude:.12f}], zoom: {zoom} - 1, style: "{url}/vector/map/style.json"}});
map.on("idle", () => {{
  window.counts = {{}};
  for (const each of map.queryRenderedFeatures())
    window.counts[each.sourceLayer] = (window.counts[each.sourceLayer] || 0) + 1;
  window.classes = [...new Set(map.queryRenderedFeatures().map((each) => each.properties.class))];
  window.shown = map.getCanvas().toDataURL();
}});
map.on("error", (event) => {{ window.problem = String(event.error); }});
</script></body></html>"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The fictional country, cold, with the shipped network."""
    running = Server(None, WEIGHTS_DIR / "default", tmp_path_factory.mktemp("objects") / "data")
    yield running
    running.stop()


@pytest.mark.slow
def test_maplibre_draws_the_objects_as_the_tiles_do(server: Server, tmp_path: Path) -> None:
    folder = package("maplibre") / "srcjs"
    for file in ("maplibre-gl.js", "maplibre-gl.css"):
        (tmp_path / file).write_bytes((folder / file).read_bytes())
    longitude, latitude, _ = server.get("/tilejson.json").json()["center"]
    corner = mercantile.tile(longitude, latitude, ZOOM)
    # the corner where four tiles meet is the middle of the map
    bounds = mercantile.bounds(corner)
    page = PAGE.format(edge=EDGE, longitude=bounds.east, latitude=bounds.south, zoom=ZOOM, url=server.url)
    (tmp_path / "index.html").write_text(page)
    pages = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=tmp_path))
    threading.Thread(target=pages.serve_forever, daemon=True).start()
    try:
        with browser(600, 600) as window:
            window.get(f"http://127.0.0.1:{pages.server_port}/")
            shown = pixels_of(wait_until(window, "return window.shown || window.problem", 120))
            counts = window.execute_script("return window.counts")
    finally:
        pages.shutdown()
    assert counts.get("landcover", 0) + counts.get("road", 0) + counts.get("building", 0) > 5, counts
    truth = np.zeros((EDGE, EDGE, 3), dtype=np.uint8)
    for down in (0, 1):
        for right in (0, 1):
            address = f"/tiles/{ZOOM}/{corner.x + right}/{corner.y + down}.png?wait=60"
            with Image.open(io.BytesIO(server.get(address).content)) as image:
                tile = np.asarray(image.convert("RGB"))
            truth[down * 256 : down * 256 + 256, right * 256 : right * 256 + 256] = tile
    assert (classify(shown[:EDGE, :EDGE]) == classify(truth)).mean() > 0.95


def test_a_click_on_the_map_page_says_what_is_there(server: Server) -> None:
    longitude, latitude, _ = server.get("/tilejson.json").json()["center"]
    tile = mercantile.tile(longitude, latitude, ZOOM)
    features = server.get(f"/features/map/{tile.z}/{tile.x}/{tile.y}.geojson").json()["features"]
    house = next(each for each in features if each["properties"]["layer"] == "building")
    place = shapely.geometry.shape(house["geometry"]).representative_point()
    with browser() as page:
        page.get(f"{server.url}/#{ZOOM}/{place.y:.6f}/{place.x:.6f}")
        wait_until(page, f"return map.getZoom() === {ZOOM}")
        page.execute_script("map.fire('click', {latlng: L.latLng(arguments[0], arguments[1])})", place.y, place.x)
        text = wait_until(page, "return (document.querySelector('.object p') || {}).innerText")
        assert "Generated, not surveyed" in text
        assert f"{round(100 * house['properties']['confidence'])} %" in text
        assert page.execute_script("return document.querySelector('.object b').textContent") == "building"
        assert page.execute_script("return document.querySelectorAll('.leaflet-overlay-pane path').length") == 1
        said = [line for line in page.get_log("browser") if line["level"] == "SEVERE"]
    assert not said
