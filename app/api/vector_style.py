"""The MapLibre style of a layer's vector tiles, made from the style that its tiles are drawn in."""

from __future__ import annotations

from typing import Any

from tilecascade.app.api.schemas import VectorTileJSON
from tilecascade.app.tiles.layer import Layer
from tilecascade.model.cartography.areas import COVER
from tilecascade.model.palette import LAND
from tilecascade.model.style import CASING, COLOUR, ORDER, OUTLINES, ROAD_COLOUR, road_filling, road_width

Json = dict[str, Any]


def style_of(layer: Layer, source: VectorTileJSON) -> Json:
    """MapLibre style specification 8. source: TileJSON of the vector tiles."""
    vector = source.model_dump(include={"tiles", "minzoom", "maxzoom", "bounds", "attribution"})
    zooms = range(layer.ladder.root, layer.max_zoom + 1)
    return {
        "version": 8,
        "name": f"{layer.name}, {source.description}",
        "center": list(source.center[:2]),
        "zoom": source.center[2] - 1,
        "sources": {"objects": {"type": "vector", **vector}},
        "layers": [
            {"id": "background", "type": "background", "paint": {"background-color": _hex(LAND)}},
            {**_from("landcover", "fill"), "paint": {"fill-color": _by_class({k: COLOUR[k] for k in COVER})}},
            {**_from("building", "fill"), "paint": {"fill-color": _hex(COLOUR["building"])}},
            {
                **_from("building", "line"),
                "minzoom": OUTLINES - 1,
                "paint": {"line-color": _hex(COLOUR["building outline"]), "line-width": 1},
            },
            *(_roads(kind, zooms, casing=True) for kind in ORDER),
            *(_roads(kind, zooms, casing=False) for kind in ORDER),
        ],
    }


def _from(name: str, kind: str) -> Json:
    return {"id": f"{name}-{kind}", "type": kind, "source": "objects", "source-layer": name}


def _roads(kind: str, zooms: range, casing: bool) -> Json:
    """All roads of a class: their casings or their fillings."""
    widths: list[float] = []
    for zoom in zooms:
        # a vector tile covers 512 pixels, so the map's zoom is one less than the tile's of the same scale
        widths += [zoom - 1, road_width(kind, zoom) if casing else road_filling(kind, zoom)]
    return {
        "id": f"road-{kind}-{'casing' if casing else 'filling'}",
        "type": "line",
        "source": "objects",
        "source-layer": "road",
        "filter": ["==", ["get", "class"], kind],
        "layout": {"line-cap": "round", "line-join": "round"},
        "paint": {
            "line-color": _hex(CASING if casing else COLOUR[ROAD_COLOUR.get(kind, "road")]),
            "line-width": ["interpolate", ["exponential", 2], ["zoom"], *widths],
        },
    }


def _by_class(colours: dict[str, tuple[int, int, int]]) -> list[Any]:
    pairs: list[Any] = []
    for name, colour in colours.items():
        pairs += [name, _hex(colour)]
    return ["match", ["get", "class"], *pairs, _hex(LAND)]


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
