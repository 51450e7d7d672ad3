"""From what somebody says of areas to their ground: captions become layouts, once and for all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import shapely

from tilecascade.app.errors import BadRequestError
from tilecascade.app.settings import DataDir, LayerSettings
from tilecascade.app.sources.areas import Area, Areas
from tilecascade.app.sources.mosaic import SceneMosaic
from tilecascade.app.tiles.layer import Layer, build_layer, imagery_layer, painted_in
from tilecascade.model.layout.layout import Layout
from tilecascade.model.layout.sampling import LayoutGenerator, Wanted, load_layouts
from tilecascade.model.sgdm.config import WEIGHTS_DIR
from tilecascade.model.text.captions import CaptionError
from tilecascade.model.world.areas import ground_seen
from tilecascade.model.world.sketch import Territory

LAYOUTS = WEIGHTS_DIR / "layout"
"""The generator of layouts."""

LEAST_PIXELS = 3.0
"""Pixels of the sketch that an area with a caption is large at least: what is smaller has no ground of its own."""


def with_layouts(areas: Areas, stem: Path, before: Areas) -> Areas:
    """The areas of the territory at `stem`, each that has a caption with its layout.

    One that `before` has, too, keeps its layout for ever. May take seconds. Raises BadRequestError with a sentence.
    """
    kept = {area.key: area.layout for area in before.all if area.layout is not None}
    territory, generator = None, None
    found = []
    for place, area in enumerate(areas.all, start=1):
        layout = area.layout if area.layout is not None else kept.get(area.key)
        if area.caption is not None and layout is None:
            territory = territory or Territory.read(stem)
            generator = generator or load_layouts(LAYOUTS)
            layout = _generated(area, f"area {place}", territory, generator)
        found.append(replace(area, layout=layout if area.caption is not None else None))
    return Areas(tuple(found))


def _generated(area: Area, name: str, territory: Territory, generator: LayoutGenerator) -> Layout:
    """The layout of one area, which goes on with what is around it."""
    outline = area.ground.outline
    if not shapely.intersects(outline, shapely.box(*territory.box)):
        raise BadRequestError(f"{name} lies outside the territory")
    if area.ground.square[2] < LEAST_PIXELS * territory.pixel:
        raise BadRequestError(
            f"{name} is too small for ground of its own: it is {area.ground.square[2]:.0f} m large, and pixels of the "
            f"sketch are {territory.pixel:.0f} m"
        )
    known, mask = ground_seen(territory, area.ground)
    try:
        return generator([Wanted(area.caption, area.seed, known, mask)])[0]
    except CaptionError as error:
        raise BadRequestError(f"{name}: {error}") from None


def steered_layers(wanted: LayerSettings | None, old: Layer, data_dir: DataDir, areas: Areas) -> list[Layer]:
    """A territory's layers with other areas: of imagery, if that is painted, and of the map, which is made from it.

    wanted: the settings of the layer `old`. May take seconds. Raises BadRequestError.
    """
    if wanted is None or wanted.territory is None:
        raise BadRequestError(f"layer {old.name} is no territory; areas with prompts change what a sketch becomes")
    areas = with_layouts(areas, wanted.territory.with_suffix(""), old.areas)
    scenes = old.imagery.scenes if isinstance(old.imagery, SceneMosaic) else ()
    new = build_layer(wanted, old.model, data_dir, scenes, areas)
    below = painted_in(new.imagery)
    painted = None if below is None else imagery_layer(wanted, below.source, old.model, areas)
    return [new] if painted is None else [painted, new]


def notes_of(areas: Areas) -> list[str]:
    """What of the areas is not used, as sentences."""
    return [f"{_name(area.said, place)}: {note}" for place, area in enumerate(areas.all, 1) for note in area.notes]


def _name(said: Mapping[str, object], place: int) -> str:
    return str(said.get("name") or f"area {place}")
