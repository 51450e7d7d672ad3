"""`/`: the map page."""

from __future__ import annotations

import json
from pathlib import Path

from fastapi import APIRouter, Response
from fastapi.responses import HTMLResponse

from tilecascade.app.api.dependencies import BaseUrl, ServiceDep
from tilecascade.app.api.tilejson import tilejson_of
from tilecascade.app.tiles.layer import Layer, territory_in
from tilecascade.model.world.sketch import COVERS

router = APIRouter()

VIEWER_DIR = Path(__file__).resolve().parents[1] / "viewer"
"""The page and the files that it loads, which are served as `/static/viewer`."""


def page_data(layer: Layer, base: str) -> dict[str, object]:
    """What the page needs to know of a layer. base: the server's address."""
    return tilejson_of(layer, base).model_dump() | {
        "imagery": f"{base}/imagery/{layer.name}/{{z}}/{{x}}/{{y}}.webp?v={layer.revision}",
        "events": f"{base}/tiles/{layer.name}/events",
        "root": layer.min_zoom if layer.base_drawn else layer.ladder.root,
        "objects": layer.finish != "none",
        "territory": territory_in(layer.imagery) is not None,
        "query": f"?v={layer.revision}",
        "confidence": f"{base}/tiles/{layer.name}/confidence/{{z}}/{{x}}/{{y}}.png?v={layer.revision}",
    }


@router.get("/", response_class=HTMLResponse, include_in_schema=False)
async def viewer(service: ServiceDep, base: BaseUrl) -> Response:
    """The map page: Leaflet over the layers, loaded from this server and no other."""
    layers = [page_data(layer, base) for layer in service.layers if layer.kind == "map"]
    page = (VIEWER_DIR / "index.html").read_text(encoding="utf-8")
    # "<" would let a layer's attribution close the script element
    covers = [{"name": cover.name, "paint": "#{:02x}{:02x}{:02x}".format(*cover.paint)} for cover in COVERS]
    data = json.dumps({"layers": layers, "base": base, "covers": covers}).replace("<", "\\u003c")
    note = "" if layers else "The server is starting; this page reloads by itself."
    page = page.replace("__DATA__", data).replace("__BASE__", base).replace("__NOTE__", note)
    return HTMLResponse(page, headers={"Cache-Control": "no-cache"})
