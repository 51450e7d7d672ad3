"""A layer: what is served, from what imagery, by what model; and the version that names its tiles."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

import mercantile
from mercantile import Tile

from tilecascade.app.errors import SettingsError
from tilecascade.app.settings import DataDir, LayerSettings
from tilecascade.app.sources.areas import Areas
from tilecascade.app.sources.base_map import FIRST_DRAWN, BaseMap, open_base_map
from tilecascade.app.sources.country import CountrySource
from tilecascade.app.sources.mosaic import SceneMosaic, newest_first
from tilecascade.app.sources.painted import PaintedSource, SourceTiles, plain_id
from tilecascade.app.sources.scene import Scene, open_scene
from tilecascade.app.sources.sensors import sensors_notice
from tilecascade.app.sources.source import Source, digest
from tilecascade.app.sources.territory import TerritorySource
from tilecascade.app.tiles.formats import MAX_ZOOM, PAINTED, PLAIN, Variant
from tilecascade.app.tiles.layer_info import BASE_MAP_NOTICE, DRAWN_NOTICE, IMAGERY_NOTICE, NOTICE, LayerInfo
from tilecascade.app.tiles.reviews import Reviews, given_roads
from tilecascade.model.blending import STARTS
from tilecascade.model.cartography.finish import libraries
from tilecascade.model.cascade import Block, Ladder, WindowConfig, tile_window
from tilecascade.model.imagery.painter import ImageryLadder
from tilecascade.model.sgdm.config import Finish
from tilecascade.model.sgdm.scale_text import MAX_TABLE_ZOOM
from tilecascade.model.style import FIRST_ROAD_ZOOM

ALGORITHM = 11
"""Counts the changes of code that have changed pixels."""

LEVELS_BELOW = 2
"""Zooms coarser than a layer's first at which imagery is shown: farther out a scene without overviews is read whole."""

OVERVIEW_LEVELS = 3
"""Zooms that are drawn of objects above the root zoom, however large the imagery is: 64 root tiles at most."""

STYLE = "osm"
"""Name of the map style that the network has learned."""

IMAGERY_SUFFIX = "-imagery"
"""What is added to a layer's name for the layer of imagery that is painted for it."""


@dataclass(frozen=True)
class ModelInfo:
    """What generates the tiles of a layer.

    hash: names the network's weights and configuration. runtime: what else the bytes depend on (see
    `model.engine.device`). windows: how far the network looks. calibration: what its uncertainty means (see
    `model.confidence`); empty if unknown. palette: whether it says how likely each colour of the palette is, of which
    the cartographic finish makes objects. finish: the one that makes the better maps of it. painter: the network that
    paints imagery on the same device.
    """

    hash: str
    runtime: str
    windows: WindowConfig
    calibration: tuple[tuple[float, ...], ...] = ()
    palette: bool = True
    finish: Finish = "none"
    painter: ModelInfo | None = None


@dataclass(frozen=True)
class Layer:
    """One served layer.

    version: a hash of everything that a tile's bytes depend on except its coordinates, the scenes, the areas and the
    reviews, because these change some of the tiles only. revision: a hash of the version and of these; while it stays,
    no tile changes. plain: how a tile is kept when it is made. info: what answers say of the layer's tiles. base: the
    base map, whose tiles are served as they are and are the references of generated ones. finish: see
    `model.pipeline.Stage`. reviews: what people have said about its objects. base_drawn: whether the base map is drawn
    of a sketch. given: objects of the imagery's source that are there for certain; they come before what people say.
    kind: "map"; or "imagery", painted for a map layer (see `imagery_layer`). areas: of its territory, which may change.
    """

    name: str
    imagery: Source
    ladder: Ladder
    max_zoom: int
    seed: int
    model: ModelInfo
    attribution: str
    base: BaseMap | None = None
    finish: Finish = "none"
    reviews: Reviews = field(default_factory=Reviews)
    given: Reviews = field(default_factory=Reviews)
    base_drawn: bool = False
    kind: Literal["map", "imagery"] = "map"
    areas: Areas = field(default_factory=Areas)
    version: str = field(init=False)
    revision: str = field(init=False)
    info: LayerInfo = field(init=False)
    plain: Variant = field(init=False)

    def __post_init__(self) -> None:
        described = json.dumps(self.identity(), sort_keys=True)
        object.__setattr__(self, "version", hashlib.sha256(described.encode()).hexdigest()[:12])
        changing = [some.id for some in (self.reviews, self.areas) if some.all]
        object.__setattr__(self, "revision", digest([self.version, self.imagery.id, *changing]))
        object.__setattr__(self, "plain", PLAIN if self.kind == "map" else PAINTED)
        object.__setattr__(self, "info", self._info())

    def identity(self) -> dict[str, object]:
        """Everything that the version is the hash of."""
        return {
            "algorithm": ALGORITHM,
            "model": self.model.hash,
            "runtime": self.model.runtime,
            # a map whose scenes change keeps the tiles that they do not affect; painted imagery depends on all of them
            "imagery": plain_id(self.imagery) if self.kind == "imagery" else without_scenes(self.imagery),
            "root_zoom": self.ladder.root,
            "span": self.ladder.span,
            "windows": STARTS if self.ladder.windows.blend else asdict(self.ladder.windows),
            "seed": self.seed,
            "style": STYLE if self.kind == "map" else f"{self.kind} as {PAINTED.format}",
            "finish": libraries() if self.finish == "cartographic" else self.finish,
        } | ({} if self.base is None else {"base": self.base.id})

    @property
    def min_zoom(self) -> int:
        """The first zoom with tiles that can be had at once: of its own, or drawn of a bounded number of root tiles."""
        if self.base is not None:
            return min(self.ladder.root, self.base.zooms[0])
        if self.finish == "none":
            return self.ladder.root
        first, last = self.corners(self.ladder.root)
        few = (last.x - first.x + 1) * (last.y - first.y + 1) <= 4**OVERVIEW_LEVELS
        return min(self.ladder.root, FIRST_ROAD_ZOOM) if few else max(0, self.ladder.root - OVERVIEW_LEVELS)

    def base_map_tile(self, tile: Tile) -> bytes | None:
        """The base map's tile, an image file; None if it has none. May block. Raises BaseMapError.

        From the root zoom on, tiles of a sketch with what people have said are no longer its own.
        """
        corrected = self.base_drawn and tile.z >= self.ladder.root and self.reviews.within(tile_window(tile))
        return None if corrected else self.uncorrected_tile(tile)

    def uncorrected_tile(self, tile: Tile) -> bytes | None:
        """The same, whatever people have said, as references are; no sketch's where a scene shows the ground."""
        if self.base is None or (self.base_drawn and tile.z >= self.ladder.root and self.shows_scene(tile)):
            return None
        return self.base.get(tile)

    def shows_scene(self, tile: Tile) -> bool:
        """Whether any of the tile is a scene's. May block."""
        imagery = self.imagery
        return isinstance(imagery, SceneMosaic) and bool(imagery.scenes) and bool(imagery.sources(tile))

    @property
    def folder(self) -> str:
        """What the cache keys of all of its tiles begin with."""
        return f"{self.name}/{self.version}"

    def key(self, tile: Tile, variant: Variant | None = None) -> str:
        """The cache key of a tile, as it is made if None; also its path below the tile directory."""
        return f"{self.folder}/{tile.z}/{tile.x}/{tile.y}{(variant or self.plain).suffix}"

    def depth(self, zoom: int) -> int:
        """Stages of the cascade that lead to a zoom: 1 at the root and below it."""
        return len(self.ladder.chain(max(zoom, self.ladder.root)))

    def _info(self) -> LayerInfo:
        zooms = range(MAX_ZOOM + 1)
        references = [self.ladder.reference_zoom(zoom) if zoom > self.ladder.root else None for zoom in zooms]
        return LayerInfo(
            name=self.name,
            version=self.version,
            revision=self.revision,
            max_zoom=self.max_zoom,
            headers={
                "X-Tile-Model": self.model.hash,
                "X-Tile-Seed": str(self.seed),
                "X-Tile-Imagery": self.imagery.id,
                "X-Tile-Version": self.version,
                "X-Tile-Notice": NOTICE,
            }
            | ({} if self.sensors is None else {"X-Tile-Sensor": self.sensors}),
            depths=[self.depth(zoom) for zoom in zooms],
            references=[0 if above is None else zoom - above for zoom, above in zip(zooms, references, strict=True)],
            base_notice=self._base_notice(),
        )

    @property
    def sensors(self) -> str | None:
        """What answers say of the sensors of the layer's imagery; None for a camera."""
        return sensors_notice([scene.sensor for scene in scenes_of(self.imagery)])

    def sensors_at(self, tile: Tile) -> str | None:
        """The same of one tile's imagery."""
        imagery = self.imagery.source if isinstance(self.imagery, PaintedSource) else self.imagery
        if not isinstance(imagery, SceneMosaic) or self.sensors is None:
            return None
        here = imagery.sources(tile)
        return sensors_notice([scene.sensor for scene in imagery.scenes if scene.id in here])

    def _base_notice(self) -> str:
        if self.base_drawn:
            return DRAWN_NOTICE
        return BASE_MAP_NOTICE if self.kind == "map" else IMAGERY_NOTICE

    def block_key(self, block: Block) -> str:
        """The name of a block's lease, for servers with the same imagery."""
        return f"{self.folder}/{self.revision}/{block.zoom}/{block.column}/{block.row}"

    def root_tiles_from_center(self, count: int) -> list[Tile]:
        """The `count` tiles of the root zoom that are nearest to the imagery's center, within its bounds."""
        first, last = self.corners(self.ladder.root)
        middle = mercantile.tile(*self.imagery.center, self.ladder.root)
        near = [
            Tile(x, y, self.ladder.root)
            for x in range(max(first.x, middle.x - count), min(last.x, middle.x + count) + 1)
            for y in range(max(first.y, middle.y - count), min(last.y, middle.y + count) + 1)
        ]
        return sorted(near, key=lambda tile: math.hypot(tile.x - middle.x, tile.y - middle.y))[:count]

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


def tile_of_key(key: str) -> Tile | None:
    """The tile that a cache key names, in whatever variant; None if it names none."""
    parts = key.split("/")[-3:]
    if len(parts) < 3:
        return None
    zoom, x, y = parts[0], parts[1], parts[2].partition(".")[0].partition("@")[0]
    return Tile(int(x), int(y), int(zoom)) if zoom.isdigit() and x.isdigit() and y.isdigit() else None


def configured_scenes(settings: LayerSettings) -> list[Scene]:
    """Open the scenes that a layer's settings name. Raises SceneError."""
    return newest_first([open_scene(path, sensor=settings.sensor) for path in settings.scenes])


def build_layer(
    settings: LayerSettings, model: ModelInfo, data_dir: DataDir, scenes: Sequence[Scene] | None = None,
    areas: Areas | None = None,
) -> Layer:  # fmt: skip
    """A layer of these scenes, topmost first, and with these areas; of those that were kept or configured if None.

    data_dir: where what a base map's server answers is kept, and the layer's reviews.
    Raises SceneError or SettingsError with one sentence.
    """
    imagery: Source
    given = Reviews()
    shown = configured_scenes(settings) if scenes is None else list(scenes)
    if settings.country is not None:
        imagery = CountrySource(settings.country)
    elif settings.territory is not None:
        areas = kept_areas(settings, data_dir) if areas is None else areas
        territory = TerritorySource(settings.territory, areas)
        boxes = [scene.bounds for scene in shown]
        roads = (given_roads(kind, points, boxes) for kind, points in territory.roads())
        given = Reviews(tuple(itertools.chain.from_iterable(roads)))
        imagery = SceneMosaic(shown, painted_beyond(settings, territory, model, areas))
    else:
        imagery = painted_beyond(settings, SceneMosaic(shown), model)
    max_zoom = settings.max_zoom if settings.max_zoom is not None else min(imagery.native_zoom, MAX_TABLE_ZOOM)
    root = settings.root_zoom
    if max_zoom < root:
        if settings.max_zoom is not None:
            raise SettingsError(f"layer {settings.name}: max_zoom {max_zoom} is coarser than root_zoom {root}")
        root = max_zoom  # coarse imagery: the cascade has one stage, at the imagery's own zoom
    base = None
    if settings.base_map is not None:
        base = open_base_map(settings.base_map, settings.base_max_zoom, root, data_dir.base_maps, areas)
        root = min(root, base.zooms[-1])  # the cascade goes on where the base map ends
    return Layer(
        name=settings.name,
        imagery=imagery,
        ladder=Ladder(root, settings.span, model.windows),
        max_zoom=max_zoom,
        seed=settings.seed,
        model=model,
        attribution=settings.attribution or imagery.attribution,
        base=base,
        finish=_finish(settings, model, base),
        reviews=Reviews.read(data_dir.reviews(settings.name)),
        given=given,
        base_drawn=settings.base_map_drawn,
        areas=areas or Areas(),
    )


def kept_areas(settings: LayerSettings, data_dir: DataDir) -> Areas:
    """The areas of a territory as they were last changed, or as its settings have them. Raises SettingsError."""
    kept = data_dir.areas(settings.name)
    if settings.areas is None or kept.is_file():
        return Areas.read(kept)
    if not settings.areas.is_file():
        raise SettingsError(f"layer {settings.name}: areas {settings.areas} does not exist")
    return Areas.read(settings.areas)


def without_scenes(imagery: Source) -> str:
    """What a map's version depends on: its tiles that a change of scenes does not affect are kept."""
    if not isinstance(imagery, SceneMosaic):
        return plain_id(imagery)
    return "scenes" if imagery.below is None else f"scenes over {plain_id(imagery.below)}"


def painted_beyond(settings: LayerSettings, source: Source, model: ModelInfo, areas: Areas | None = None) -> Source:
    """A source, painted beyond its own resolution if the settings say so."""
    painted = imagery_layer(settings, source, model, areas)
    return source if painted is None else PaintedSource(source, painted.max_zoom, painted.version)


def painted_in(imagery: Source) -> PaintedSource | None:
    """What is painted of a layer's imagery; None if nothing is."""
    below = imagery.below if isinstance(imagery, SceneMosaic) else imagery
    return below if isinstance(below, PaintedSource) else None


def scenes_of(imagery: Source) -> Sequence[Scene]:
    """The scenes of a layer's imagery, painted on or not."""
    source = imagery.source if isinstance(imagery, PaintedSource) else imagery
    return source.scenes if isinstance(source, SceneMosaic) else ()


def territory_in(imagery: Source) -> TerritorySource | None:
    """The territory that a layer's imagery is drawn of; None if it is none."""
    painted = painted_in(imagery)
    source: Source | None = imagery if painted is None else painted.source
    source = source.below if isinstance(source, SceneMosaic) else source
    return source if isinstance(source, TerritorySource) else None


def names_of(name: str) -> tuple[str, str]:
    """The names of a layer whose imagery is painted, and of the layer of that."""
    return name, name + IMAGERY_SUFFIX


def imagery_layer(
    settings: LayerSettings, source: Source, model: ModelInfo, areas: Areas | None = None
) -> Layer | None:
    """The layer of imagery that is painted for a map layer beyond its source's resolution; None if there is none.

    It has the source's own tiles to its resolution. model: that of the map, which knows the painter's.
    """
    if settings.painted_zoom is None or settings.painted_zoom <= source.native_zoom:
        return None
    drawn = settings.territory is not None
    return Layer(
        name=settings.name + IMAGERY_SUFFIX,
        imagery=source,
        ladder=imagery_ladder(source),
        max_zoom=max(settings.painted_zoom, settings.max_zoom or 0),
        seed=settings.seed,
        model=model.painter or ModelInfo("unknown", "unknown", WindowConfig()),
        attribution=settings.attribution or source.attribution,
        base=SourceTiles(source, FIRST_DRAWN if drawn else settings.root_zoom - LEVELS_BELOW),
        base_drawn=drawn,
        kind="imagery",
        areas=areas or Areas(),
    )


def imagery_ladder(source: Source) -> ImageryLadder:
    """The cascade of the imagery that is painted beyond a source's resolution."""
    return ImageryLadder(source.native_zoom, 1, WindowConfig(0, 0, 0, blend=False))


def layer_with_model(layer: Layer, settings: LayerSettings, model: ModelInfo) -> Layer:
    """The same layer generated by another network. Raises SettingsError if that cannot make what the layer needs."""
    ladder, imagery = Ladder(layer.ladder.root, layer.ladder.span, model.windows), layer.imagery
    painted = painted_in(imagery)
    if painted is not None:
        anew = painted_beyond(settings, painted.source, model, layer.areas)
        imagery = SceneMosaic(imagery.scenes, anew) if isinstance(imagery, SceneMosaic) else anew
    finish = _finish(settings, model, layer.base)
    return replace(layer, model=model, imagery=imagery, ladder=ladder, finish=finish)


def _finish(settings: LayerSettings, model: ModelInfo, base: BaseMap | None) -> Finish:
    """The finish: the weights' own unless given, but none where tiles join a base map, whose pixels are kept."""
    if settings.finish == "cartographic" and not model.palette:
        raise SettingsError(f"layer {settings.name}: these weights have no palette to draw objects of; finish is none")
    return settings.finish or (model.finish if base is None else "none")
