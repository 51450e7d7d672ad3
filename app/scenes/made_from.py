"""What a layer's tiles are made from and may change while it is served: its scenes, its areas, and its reviews."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic

import mercantile

from tilecascade.app.scenes.journal import Entry, Item, Journal, area_journal, review_journal, scene_journal
from tilecascade.app.settings import DataDir
from tilecascade.app.sources.areas import Area, changed_areas
from tilecascade.app.sources.mosaic import SceneMosaic, box_of
from tilecascade.app.sources.scene import Scene
from tilecascade.app.tiles.invalidation import AffectedTiles, Box, RedrawnTiles, affected_by, changed_scenes
from tilecascade.app.tiles.layer import Layer, imagery_ladder, painted_in, territory_in
from tilecascade.app.tiles.reviews import Review, changed_reviews
from tilecascade.model.cartography.parts import MARGIN
from tilecascade.model.cartography.reviews import REACH
from tilecascade.model.cascade import TILE_SIZE


@dataclass(frozen=True)
class MadeFrom(Generic[Item]):
    """One kind of things.

    journal: which the stored tiles were made from. today: those there are. changed: which differ between two sets.
    affected: the tiles that these affect. unwritten: what stored tiles were made from if there is no journal; None if
    that is not known, because nothing is stored yet.
    """

    journal: Journal[Item]
    today: list[Item]
    changed: Callable[[Sequence[Item], Sequence[Item]], list[Item]]
    affected: Callable[[Sequence[Item]], AffectedTiles]
    unwritten: Entry[Item] | None = None

    def outdated(self) -> AffectedTiles | None:
        """The tiles that may have been made from others than today's; None if none can be.

        Notes in the journal that their removal has begun. Raises ValueError if the journal cannot be read.
        """
        entry = self.journal.read() or self.unwritten
        if entry is None or (not entry.pending and entry.items == self.today):
            return None
        earlier = [entry.items, *entry.pending]
        self.journal.begin(entry.items, self.today)
        return self.affected([item for items in earlier for item in self.changed(items, self.today)])

    def settle(self) -> None:
        """Note that the stored tiles are made from those of today, unless that is there already: the disk may be
        read-only."""
        entry = self.journal.read() or Entry([])
        if entry != Entry(self.today):
            self.journal.finish(self.today)


def journal_of_scenes(data_dir: DataDir, layer: Layer) -> Journal[Scene]:
    """Which scenes a layer's stored tiles were made from."""
    return scene_journal(data_dir.scene_journal(layer.name, layer.version))


def journal_of_reviews(data_dir: DataDir, layer: Layer) -> Journal[Review]:
    """Which reviews are in a layer's stored tiles."""
    return review_journal(data_dir.review_journal(layer.name, layer.version))


def journal_of_areas(data_dir: DataDir, layer: Layer) -> Journal[Area]:
    """With which areas a layer's stored tiles were made."""
    return area_journal(data_dir.area_journal(layer.name, layer.version))


def steered_by(layer: Layer, areas: Sequence[Area]) -> AffectedTiles:
    """The tiles of a map, or of its imagery, that a change of these areas affects.

    A map sees painted imagery, which an area changes beyond its edge.
    """
    painted, territory = painted_in(layer.imagery), territory_in(layer.imagery)
    # and roads that are given count in what is drawn some pixels away
    near = (int(REACH) + MARGIN) * mercantile.CE / (TILE_SIZE << layer.ladder.root)
    reach = near + (0.0 if territory is None else territory.reach)
    boxes: list[Box] = []
    for area in areas:
        left, bottom, right, top = box_of(area.bounds)
        boxes.append((left - reach, bottom - reach, right + reach, top + reach))
    if painted is not None and layer.kind == "map":
        ladder = imagery_ladder(painted.source)
        boxes = [AffectedTiles(ladder, painted.zoom, [box]).around(box) for box in boxes]
    return AffectedTiles(layer.ladder, layer.max_zoom, boxes)


def redrawn_by(layer: Layer, reviews: Sequence[Review]) -> AffectedTiles:
    """The tiles that a change of these reviews affects."""
    boxes = [review.outline.bounds for review in reviews]
    metres = [(*mercantile.xy(west, south), *mercantile.xy(east, north)) for west, south, east, north in boxes]
    return RedrawnTiles(layer.ladder, layer.max_zoom, metres, int(REACH) + MARGIN)


def made_from(data_dir: DataDir, layer: Layer) -> list[MadeFrom[Any]]:
    """All kinds; only scenes of a map layer change while it is served."""
    areas = MadeFrom(
        journal_of_areas(data_dir, layer),
        list(layer.areas.all),
        changed_areas,
        lambda some: steered_by(layer, some),
        Entry([]),
    )
    reviews = MadeFrom(
        journal_of_reviews(data_dir, layer),
        list(layer.reviews.all),
        changed_reviews,
        lambda some: redrawn_by(layer, some),
        Entry([]),
    )
    if not isinstance(layer.imagery, SceneMosaic) or layer.kind == "imagery":
        return [areas, reviews]
    scenes = MadeFrom(
        journal_of_scenes(data_dir, layer),
        list(layer.imagery.scenes),
        changed_scenes,
        lambda some: affected_by(layer.ladder, layer.max_zoom, some),
    )
    return [scenes, areas, reviews]
