"""A layer for maps in Jupyter notebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx

from tilecascade.app.api.schemas import TileJSON
from tilecascade.app.client.connection import ask
from tilecascade.app.errors import SettingsError

if TYPE_CHECKING:
    from ipyleaflet import TileLayer


def layer(url: str = "http://127.0.0.1:8000", name: str | None = None) -> TileLayer:
    """An ipyleaflet layer of a running server's tiles, for `Map.add`.

    url: the server, as the browser reaches it. name: of the layer; the server's default one unless given.
    Raises SettingsError if no server answers, there is no such layer, or ipyleaflet is not installed.
    """
    try:
        import ipyleaflet
    except ImportError:
        raise SettingsError("a layer for notebooks needs ipyleaflet: pip install ipyleaflet") from None
    with httpx.Client(base_url=url, timeout=30) as client:
        path = "/tilejson.json" if name is None else f"/tiles/{name}/tilejson.json"
        found = TileJSON.model_validate_json(ask(client, "GET", path))
    west, south, east, north = found.bounds
    return ipyleaflet.TileLayer(
        name=found.name,
        url=found.tiles[0],
        attribution=found.attribution,
        min_zoom=found.minzoom,
        max_zoom=22,
        max_native_zoom=found.maxzoom,
        bounds=[(south, west), (north, east)],
    )
