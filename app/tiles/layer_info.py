"""What answers say of a layer's tiles, in a form that can be handed to other processes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import mercantile
from mercantile import Tile

from tilecascade.app.storage.atomic import write_atomically
from tilecascade.app.tiles.formats import Variant

NOTICE = "generated, not surveyed"
"""What every generated tile says of itself."""

BASE_MAP_NOTICE = "from the base map"
"""What a tile of the base map says of itself."""

DRAWN_NOTICE = "drawn from a sketch, not surveyed"
"""What a tile of a base map that is drawn of a sketch says of itself."""

IMAGERY_NOTICE = "imagery, not a map"
"""What a tile of imagery that is as it was given says of itself."""

FINISHED, PINNED = "no-cache", "public, max-age=31536000, immutable"
"""Cache-Control of finished tiles: asked for without a revision (a client revalidates), and with the present one."""


@dataclass(frozen=True)
class LayerInfo:
    """What answers need of a layer, in a form that can be written down for other processes.

    headers: the same for each tile. depths: stages of the cascade by zoom. references: levels between a tile and its
    reference by zoom, 0 for none. base_notice: what tiles of its base map say of themselves.
    """

    name: str
    version: str
    revision: str
    max_zoom: int
    headers: dict[str, str]
    depths: list[int]
    references: list[int]
    base_notice: str = BASE_MAP_NOTICE

    def scale_note(self, tile: Tile) -> str:
        """What a tile of 512 pixels is made from."""
        return f"zoom {tile.z + 1}" if tile.z < self.max_zoom else "enlarged"

    def describe(self, tile: Tile, variant: Variant, state: str, source: str) -> dict[str, str]:
        """Headers that say what an answer is.

        state: base-map, cached, generated or placeholder. source: the name of a cache, or "miss".
        """
        if state == "base-map":
            return {"X-Tile-State": state, "X-Tile-Version": self.version, "X-Tile-Notice": self.base_notice}
        headers = {"X-Tile-State": state, "X-Cache": source, "X-Tile-Depth": str(self.depths[tile.z]), **self.headers}
        levels = self.references[tile.z]
        if levels:
            parent = mercantile.parent(tile, zoom=tile.z - levels)
            headers["X-Tile-Reference"] = f"{parent.z}/{parent.x}/{parent.y}"
        if variant.scale == 2:
            headers["X-Tile-Scale"] = self.scale_note(tile)
        return headers

    def cache_control(self, revision: str | None) -> str:
        """Cache-Control of a finished tile that was asked for with `?v=revision`, or without."""
        return PINNED if revision == self.revision else FINISHED


def write_layer_info(layers: list[LayerInfo], path: Path) -> None:
    """Write the information of all layers for other processes, the default layer first."""
    write_atomically(path, json.dumps([asdict(layer) for layer in layers]).encode(), sync=False)


def read_layer_info(path: Path) -> list[LayerInfo]:
    """Inverse of `write_layer_info`."""
    return [LayerInfo(**info) for info in json.loads(path.read_text())]
