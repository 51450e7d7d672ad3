"""`tilecascade info`: what a running server serves, with addresses and boxes to paste."""

from __future__ import annotations

import httpx

from tilecascade.app.api.schemas import Bounds, TileJSON
from tilecascade.app.client.connection import ask, suffix_of

SMALL = 0.01
"""Degrees of the box in the middle of a layer that examples use, at most."""


def describe_server(url: str) -> str:
    """Each layer's zooms, bounds and addresses, and commands to try. Raises SettingsError if no server answers."""
    with httpx.Client(base_url=url, timeout=30) as client:
        health = httpx.Response(200, content=ask(client, "GET", "/health")).json()
        layers = [
            TileJSON.model_validate_json(ask(client, "GET", f"/tiles/{name}/tilejson.json"))
            for name in health["layers"]
        ]
    base = url.rstrip("/")
    lines = [f"{base} is {health['state']}"]
    for layer in layers:
        first = max(layer.minzoom, layer.maxzoom - 3)
        lines += [
            "",
            f"layer {layer.name}: zooms {layer.minzoom}-{layer.maxzoom}",
            f"  everything      --bbox {box(layer.bounds)}",
            f"  in the middle   --bbox {box(middle(layer))}",
            f"  XYZ             {base}/tiles/{layer.name}/{{z}}/{{x}}/{{y}}{suffix_of(layer)}",
            f"  TileJSON        {base}/tiles/{layer.name}/tilejson.json",
            f"  prefetch it     tilecascade prefetch --layer {layer.name} --bbox {box(middle(layer))} "
            f"--zooms {first}-{layer.maxzoom}",
            f"  take it along   tilecascade export --layer {layer.name} --bbox {box(middle(layer))} "
            f"--zooms {first}-{layer.maxzoom} --out {layer.name}.mbtiles",
        ]
    lines += ["", f"WMTS for QGIS and GDAL: {base}/wmts/1.0.0/WMTSCapabilities.xml"]
    return "\n".join(lines)


def middle(layer: TileJSON) -> Bounds:
    """A small box around the place that a layer begins with, within its bounds."""
    west, south, east, north = layer.bounds
    longitude, latitude = layer.center[:2]
    across, up = min(SMALL, east - west) / 2, min(SMALL, north - south) / 2
    return longitude - across, latitude - up, longitude + across, latitude + up


def box(bounds: Bounds) -> str:
    """As --bbox takes it."""
    return ",".join(f"{edge:.5f}" for edge in bounds)
