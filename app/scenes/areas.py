"""From what somebody says of areas to their ground: captions become layouts, once and for all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import shapely
import torch
from safetensors import SafetensorError

from tilecascade.app.errors import BadRequestError, StorageError
from tilecascade.app.settings import DataDir, LayerSettings
from tilecascade.app.sources.areas import Area, Areas
from tilecascade.app.sources.mosaic import SceneMosaic
from tilecascade.app.tiles.layer import Layer, build_layer, imagery_layer, painted_in
from tilecascade.model.layout.layout import NUMBER, Layout
from tilecascade.model.layout.sampling import LayoutGenerator, Wanted, load_layouts
from tilecascade.model.sgdm.config import WEIGHTS_DIR
from tilecascade.model.text.captions import CaptionError
from tilecascade.model.world.areas import ground_seen
from tilecascade.model.world.sketch import Territory

LAYOUTS = WEIGHTS_DIR / "layout"
"""The generator of layouts."""

LEAST_WATER = 12
"""Cells of water in an area from which on a caption speaks of this water, and adds none."""

LEAST_PIXELS = 3.0
"""Pixels of the sketch that an area with a caption is large at least: what is smaller has no ground of its own."""


def with_layouts(areas: Areas, territory: Callable[[], Territory], before: Areas) -> Areas:
    """The areas of a territory, each that has a caption with its layout.

    One that is there already, or that `before` has for the same words at the same place, is kept for ever. territory:
    gives it without areas. May take seconds. Raises BadRequestError or StorageError with a sentence.
    """
    kept = {area.layout_key: area.layout for area in before.all if area.layout is not None}
    if not any(area.caption for area in areas.all):
        return areas
    ground, generator = territory(), None
    found = []
    for place, area in enumerate(areas.all, start=1):
        layout = None
        if area.caption is not None:
            _check(area, f"area {place}", ground)
            layout = area.layout if area.layout is not None else kept.get(area.layout_key)
            if layout is None:
                generator = generator or _generator()
                layout = _generated(area, f"area {place}", ground, generator)
        found.append(replace(area, layout=layout))
    return Areas(tuple(found))


def _generator() -> LayoutGenerator:
    try:
        return load_layouts(LAYOUTS)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise StorageError(f"the generator of layouts cannot be loaded: {error}") from None


def _check(area: Area, name: str, territory: Territory) -> None:
    """Raises BadRequestError if an area cannot have ground of its own."""
    if not shapely.intersects(area.ground.outline, shapely.box(*territory.box)):
        raise BadRequestError(f"{name} lies outside the territory")
    if area.ground.square[2] < LEAST_PIXELS * territory.pixel:
        raise BadRequestError(
            f"{name} is too small for ground of its own: it is {area.ground.square[2]:.0f} m large, and pixels of the "
            f"sketch are {territory.pixel:.0f} m"
        )


def _generated(area: Area, name: str, territory: Territory, generator: LayoutGenerator) -> Layout:
    """The layout of one area, which goes on with what is around it."""
    known, mask = ground_seen(territory, area.ground)
    if torch.get_num_threads() != 1:  # of this thread; several, beside those that generate tiles, wait for each other
        torch.set_num_threads(1)
    # the water that a caption speaks of is what is there already
    dry = bool((area.ground.inside() & (known == NUMBER["water"])).sum() >= LEAST_WATER)
    try:
        return generator.best(Wanted(area.caption, area.seed, known, mask, dry=dry))
    except CaptionError as error:
        raise BadRequestError(f"{name}: {error}") from None


def laid_out(wanted: LayerSettings | None, old: Layer, areas: Areas) -> Areas:
    """The areas of a layer with their layouts. wanted: its settings. May take seconds for each caption.

    Raises BadRequestError or StorageError.
    """
    if wanted is None or wanted.territory is None:
        raise BadRequestError(f"layer {old.name} is no territory; areas with prompts change what a sketch becomes")
    stem = wanted.territory.with_suffix("")
    return with_layouts(areas, lambda: Territory.read(stem), old.areas)


def steered_layers(wanted: LayerSettings, old: Layer, data_dir: DataDir, areas: Areas) -> list[Layer]:
    """A territory's layers with other areas: of imagery, if that is painted, and of the map, which is made from it.

    Raises BadRequestError if the territory is another one by now.
    """
    scenes = old.imagery.scenes if isinstance(old.imagery, SceneMosaic) else ()
    new = build_layer(wanted, old.model, data_dir, scenes, areas)
    if new.version != old.version:
        raise BadRequestError(f"territory {old.name} is being made anew; try again")
    below = painted_in(new.imagery)
    painted = None if below is None else imagery_layer(wanted, below.source, old.model, areas)
    return [new] if painted is None else [painted, new]


def notes_of(areas: Areas) -> list[str]:
    """What of the areas is not used, as sentences."""
    return [f"{_name(area.said, place)}: {note}" for place, area in enumerate(areas.all, 1) for note in area.notes]


def _name(said: Mapping[str, object], place: int) -> str:
    return str(said.get("name") or f"area {place}")
