"""The vector tiles in MapLibre, in a real browser, beside the layer's own tile."""

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


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """The fictional country, cold, with the shipped network."""
    running = Server(None, WEIGHTS_DIR / "default", tmp_path / "data")
    yield running
    running.stop()


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
