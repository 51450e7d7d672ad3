"""A layer: what is served, from what imagery, by what model; and the version that names its tiles."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import mercantile
from mercantile import Tile

from app.basemap import OpaqueTiles, open_base_map
from app.country import CountryImagery
from app.hits import NOTICE, PLAIN, LayerFacts, Variant
from app.imagery import Imagery, Scene, SceneImagery, digest, newest_first, open_scene
from app.settings import LayerSettings, SettingsError
from model.cascade import Block, Ladder
from model.sgdm.config import WindowConfig
from model.sgdm.scale_text import MAX_TABLE_ZOOM

ALGORITHM = 4
"""Counts changes of code that change pixels."""

STYLE = "osm"


@dataclass(frozen=True)
class Generator:
    """What draws: the network's hash, a fingerprint of what computes (device class, dtype, library versions), how far
    the network's windows reach, and what its doubt means (model/confidence.py)."""

    model: str
    runtime: str
    windows: WindowConfig
    calibration: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class Layer:
    """One served layer.

    version: a hash of everything a tile's bytes depend on but its coordinates and the scenes, which may change under
    some tiles only. revision: that and the scenes: while it stays, no tile changes. facts: what answers say. base: real
    tiles that are served and drawn from as they are.
    """

    name: str
    imagery: Imagery
    ladder: Ladder
    max_zoom: int
    seed: int
    generator: Generator
    attribution: str
    base: OpaqueTiles | None = None
    version: str = field(init=False)
    revision: str = field(init=False)
    facts: LayerFacts = field(init=False)

    def __post_init__(self) -> None:
        described = json.dumps(self.describe(), sort_keys=True)
        object.__setattr__(self, "version", hashlib.sha256(described.encode()).hexdigest()[:12])
        object.__setattr__(self, "revision", digest([self.version, self.imagery.id]))
        object.__setattr__(self, "facts", self._facts())

    def describe(self) -> dict[str, object]:
        """What the version is the hash of."""
        return {
            "algorithm": ALGORITHM,
            "model": self.generator.model,
            "runtime": self.generator.runtime,
            "imagery": "scenes" if isinstance(self.imagery, SceneImagery) else self.imagery.id,
            "root_zoom": self.ladder.root,
            "span": self.ladder.span,
            "windows": asdict(self.ladder.windows),
            "seed": self.seed,
            "style": STYLE,
        } | ({} if self.base is None else {"base": self.base.id})

    @property
    def min_zoom(self) -> int:
        """The first zoom with tiles of its own."""
        return self.ladder.root if self.base is None else min(self.ladder.root, self.base.zooms[0])

    def real(self, tile: Tile) -> bytes | None:
        """The base map's tile. May block. Raises BaseMapError."""
        return None if self.base is None else self.base.get(tile)

    def key(self, tile: Tile, variant: Variant = PLAIN) -> str:
        """The cache key of a tile: also its path below the tile directory."""
        return f"{self.name}/{self.version}/{tile.z}/{tile.x}/{tile.y}{variant.suffix}"

    def depth(self, zoom: int) -> int:
        """Stages of the cascade that lead to a zoom: 1 at the root and below it."""
        return len(self.ladder.chain(max(zoom, self.ladder.root)))

    def _facts(self) -> LayerFacts:
        zooms = range(MAX_TABLE_ZOOM + 11)
        references = [self.ladder.reference_zoom(zoom) if zoom > self.ladder.root else None for zoom in zooms]
        return LayerFacts(
            name=self.name,
            version=self.version,
            revision=self.revision,
            max_zoom=self.max_zoom,
            headers={
                "X-Tile-Model": self.generator.model,
                "X-Tile-Seed": str(self.seed),
                "X-Tile-Imagery": self.imagery.id,
                "X-Tile-Version": self.version,
                "X-Tile-Notice": NOTICE,
            },
            depths=[self.depth(zoom) for zoom in zooms],
            references=[0 if above is None else zoom - above for zoom, above in zip(zooms, references, strict=True)],
        )

    def block_key(self, block: Block) -> str:
        """The name of a block's lease."""
        return f"{self.name}/{self.version}/{block.zoom}/{block.column}/{block.row}"

    def corners(self, zoom: int) -> tuple[Tile, Tile]:
        """The north-western and the south-eastern tile of the imagery's bounds at a zoom."""
        west, south, east, north = self.imagery.bounds
        return mercantile.tile(west, north, zoom), mercantile.tile(east, south, zoom)

    def root_tiles(self, tile: Tile, limit: int) -> list[Tile] | None:
        """The root-zoom tiles below `tile` that may have imagery; None if they are more than `limit`."""
        scale = 1 << (self.ladder.root - tile.z)
        low, high = self.corners(self.ladder.root)
        columns = range(max(low.x, tile.x * scale), min(high.x, tile.x * scale + scale - 1) + 1)
        rows = range(max(low.y, tile.y * scale), min(high.y, tile.y * scale + scale - 1) + 1)
        if len(columns) * len(rows) > limit:
            return None
        return [Tile(x, y, self.ladder.root) for y in rows for x in columns]


def configured_scenes(settings: LayerSettings) -> list[Scene]:
    """Open the scenes that a layer's settings name. Raises SceneError."""
    return newest_first([open_scene(path) for path in settings.scenes])


def build_layer(
    settings: LayerSettings, generator: Generator, data_dir: Path, scenes: Sequence[Scene] | None = None
) -> Layer:
    """A layer of these scenes, topmost first; of those that its settings name if None.

    data_dir: where what a base map's server answers is kept.
    Raises SceneError or SettingsError with one sentence.
    """
    imagery: Imagery
    if settings.country is not None:
        imagery = CountryImagery(settings.country)
    else:
        imagery = SceneImagery(configured_scenes(settings) if scenes is None else scenes)
    max_zoom = settings.max_zoom if settings.max_zoom is not None else min(imagery.native_zoom, MAX_TABLE_ZOOM)
    root = settings.root_zoom
    if max_zoom < root:
        if settings.max_zoom is not None:
            raise SettingsError(f"layer {settings.name}: max_zoom {max_zoom} is below root_zoom {root}")
        root = max_zoom  # coarse imagery: the cascade has one stage, at the imagery's own zoom
    base = None
    if settings.base_map is not None:
        base = open_base_map(settings.base_map, settings.base_max_zoom, root, data_dir / "base")
        root = min(root, base.zooms[-1])  # the cascade goes on where the base map ends
    return Layer(
        name=settings.name,
        imagery=imagery,
        ladder=Ladder(root, settings.span, generator.windows),
        max_zoom=max_zoom,
        seed=settings.seed,
        generator=generator,
        attribution=settings.attribution or imagery.attribution,
        base=base,
    )
