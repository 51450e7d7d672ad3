"""Changing a layer's scenes and reviews while it is served; catching up at the start with changes made in between."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from tilecascade.app.errors import PurgeError, SceneError, SettingsError
from tilecascade.app.scenes.made_from import (
    journal_of_areas,
    journal_of_reviews,
    journal_of_scenes,
    made_from,
    redrawn_by,
    steered_by,
)
from tilecascade.app.scenes.scene_set import SceneSet
from tilecascade.app.settings import DataDir, LayerSettings
from tilecascade.app.sources.areas import changed_areas
from tilecascade.app.sources.mosaic import SceneMosaic
from tilecascade.app.sources.painted import PaintedSource
from tilecascade.app.sources.scene import Scene
from tilecascade.app.storage.publication import Publication
from tilecascade.app.tiles.invalidation import AffectedTiles, affected_by, changed_scenes
from tilecascade.app.tiles.layer import Layer, ModelInfo, build_layer, configured_scenes
from tilecascade.app.tiles.reviews import Reviews, changed_reviews
from tilecascade.app.tiles.store import TileStore, change_layers

log = logging.getLogger(__name__)

RETRY_SECONDS = 2.0
"""Time between two attempts to remove outdated tiles from a cache that does not answer."""


MAX_ENLARGED = 4
"""How many zooms coarser than a layer's first one a scene that is added may be: there is nothing to see in 16 times
enlarged pixels, and such a scene would cover half a continent."""


@dataclass(frozen=True)
class LayerScenes:
    """The scenes of one layer: its settings, the scenes that they name, and what was changed since."""

    settings: LayerSettings
    configured: list[Scene]
    set: SceneSet


class SceneManager:
    """The scenes of all layers, and the way from one set of scenes to the next."""

    def __init__(self, data_dir: DataDir, publication: Publication) -> None:
        self._data_dir = data_dir
        self._publication = publication
        self._scenes: dict[str, LayerScenes] = {}
        self._changing = asyncio.Lock()
        self._unfinished: set[asyncio.Task[None]] = set()
        self._remaining: list[tuple[TileStore, AffectedTiles]] = []

    def build(self, wanted: LayerSettings, model: ModelInfo) -> Layer:
        """A layer with its scenes as configured and as changed since. Raises SceneError or SettingsError."""
        if wanted.territory is None and (not wanted.scenes or wanted.painted_zoom is not None):
            return build_layer(wanted, model, self._data_dir)
        configured = configured_scenes(wanted)
        scenes = SceneSet.read(self._data_dir.scene_set(wanted.name)).verified()
        self._scenes[wanted.name] = LayerScenes(wanted, configured, scenes)
        shown = scenes.effective(configured)
        return build_layer(wanted, model, self._data_dir, shown if shown or wanted.territory else configured)

    def catch_up(self, store: TileStore) -> None:
        """Remove tiles made from other scenes or reviews than the present ones: these changed while no server ran, or a
        removal was interrupted. Then publish the layer.

        If a cache does not answer, outdated tiles are not used, and `go_on` finishes the removal. Raises SettingsError.
        """
        layer = store.layer
        kinds = made_from(self._data_dir, layer)
        try:
            found = [kind.outdated() for kind in kinds]
        except ValueError as error:
            raise SettingsError(
                f"{error}; move it away to have all tiles of layer {layer.name} generated again"
            ) from None
        outdated = [affected for affected in found if affected is not None]
        for affected in outdated:
            store.clock.change(affected, lambda: None)
            log.info("layer %s: its scenes or reviews have changed; removing the tiles made before", layer.name)
            try:
                store.invalidate(affected)
            except PurgeError as error:
                log.warning("layer %s: outdated tiles remain and are not used: %s", layer.name, error)
                self._remaining.append((store, affected))
        if store.clock.removing:
            return
        for kind in kinds:
            kind.settle()
        self._publication.publish(layer)

    def go_on(self, layers: Callable[[], Iterable[Layer]]) -> None:
        """Go on in the background with the removals that `catch_up` could not finish."""
        for store, affected in self._remaining:
            self._remove_later(store, layers, affected)
        self._remaining.clear()

    async def change(
        self, store: TileStore, layers: Callable[[], Iterable[Layer]], change: Callable[[SceneSet], SceneSet]
    ) -> Layer:
        """Change a layer's scenes; returns when no tile made from the old ones is served any more.

        layers: gives all layers once the change is made. Raises SceneError if the change is impossible. Raises
        PurgeError if a cache does not answer: the change is made all the same, outdated tiles are not used, and their
        removal goes on in the background.
        """
        async with self._changing:
            old = store.layer
            known = self._scenes.get(old.name)
            if known is None or not isinstance(old.imagery, SceneMosaic):
                what = "painted imagery" if isinstance(old.imagery, PaintedSource) else "the fictional country"
                raise SceneError(f"layer {old.name} shows {what}; start the server with other scenes instead")
            changed = change(known.set)
            scenes = changed.effective(known.configured)
            if not scenes and known.settings.territory is None:
                raise SceneError("a layer needs a scene; add another before you remove the last")
            new = await asyncio.to_thread(build_layer, known.settings, old.model, self._data_dir, scenes)
            if new.version != old.version:
                raise SceneError(
                    f"with this the layer would begin at zoom {new.ladder.root} instead of {old.ladder.root}; give it "
                    "a layer of its own"
                )
            differing = changed_scenes(old.imagery.scenes, scenes)
            for scene in differing:
                if scene in scenes and scene.native_zoom < old.ladder.root - MAX_ENLARGED:
                    raise SceneError(
                        f"its pixels are those of zoom {scene.native_zoom}, too coarse for this layer, which begins at "
                        f"zoom {old.ladder.root}; give imagery of zoom {old.ladder.root - MAX_ENLARGED} or finer"
                    )
            affected = affected_by(old.ladder, max(old.max_zoom, new.max_zoom), differing)
            journal = journal_of_scenes(self._data_dir, old)
            await asyncio.to_thread(journal.begin, old.imagery.scenes, scenes)
            await asyncio.to_thread(changed.write)
            self._scenes[old.name] = replace(known, set=changed)
            await self._hand_over(store, layers, new, affected)
            return new

    async def review(
        self, store: TileStore, layers: Callable[[], Iterable[Layer]], change: Callable[[Reviews], Reviews]
    ) -> Layer:
        """Change a layer's reviews; returns when no tile is served that is drawn without the change.

        Raises PurgeError like `change`.
        """
        async with self._changing:
            old = store.layer
            new = replace(old, reviews=change(old.reviews))
            affected = redrawn_by(old, changed_reviews(old.reviews.all, new.reviews.all))
            journal = journal_of_reviews(self._data_dir, old)
            await asyncio.to_thread(journal.begin, old.reviews.all, new.reviews.all)
            await asyncio.to_thread(new.reviews.write, self._data_dir.reviews(old.name))
            await self._hand_over(store, layers, new, affected)
            return new

    async def steer(
        self, stores: Sequence[TileStore], layers: Callable[[], Iterable[Layer]], new: Sequence[Layer]
    ) -> None:
        """Change the areas of a territory: its layers of imagery and of maps become new ones, in this order; returns
        when no tile is served that was made with other areas. Raises PurgeError like `change`."""
        async with self._changing:
            areas = new[-1].areas
            affected = [steered_by(store.layer, changed_areas(store.layer.areas.all, areas.all)) for store in stores]
            for store in stores:
                journal = journal_of_areas(self._data_dir, store.layer)
                await asyncio.to_thread(journal.begin, store.layer.areas.all, areas.all)
            await asyncio.to_thread(areas.write, self._data_dir.areas(stores[-1].layer.name))
            for store in stores:
                await asyncio.to_thread(self._publication.withdraw, store.layer)
            # of one moment: no map is made of new imagery under the old revision
            await asyncio.to_thread(change_layers, stores, new, affected)
            problem: PurgeError | None = None
            for store, outdated in zip(stores, affected, strict=True):
                try:
                    await store.run(store.invalidate, outdated)
                except PurgeError as error:
                    problem = error
                    self._remove_later(store, layers, outdated)
                else:
                    await self._finish(store, layers)
            if problem is not None:
                raise problem

    async def _hand_over(
        self, store: TileStore, layers: Callable[[], Iterable[Layer]], new: Layer, affected: AffectedTiles
    ) -> None:
        """From a layer to the next; the journal has begun. Raises PurgeError."""
        await asyncio.to_thread(self._publication.withdraw, store.layer)
        try:
            await store.change_layer(new, affected)
        except PurgeError:
            self._remove_later(store, layers, affected)
            raise
        await self._finish(store, layers)

    def drop(self, name: str, delete: bool = True) -> None:
        """Forget a layer that is served no more, and delete the files of the scenes that were added to it."""
        known = self._scenes.pop(name, None)
        for scene in known.set.added if known is not None and delete else ():
            self.forget(scene)

    def forget(self, scene: Scene) -> None:
        """Delete the file of a scene, if it is ours and no layer has it among its scenes, shown or not."""
        known = [kept for layer in self._scenes.values() for kept in layer.set.added]
        ours = scene.path.parent == self._data_dir.scenes.resolve()
        if ours and all(scene.path != kept.path for kept in known):
            scene.path.unlink(missing_ok=True)

    def _remove_later(self, store: TileStore, layers: Callable[[], Iterable[Layer]], affected: AffectedTiles) -> None:
        self._unfinished.add(task := asyncio.create_task(self._invalidate_later(store, layers, affected)))
        task.add_done_callback(self._unfinished.discard)

    async def _invalidate_later(
        self, store: TileStore, layers: Callable[[], Iterable[Layer]], affected: AffectedTiles
    ) -> None:
        while True:
            await asyncio.sleep(RETRY_SECONDS)
            with suppress(PurgeError):
                await asyncio.to_thread(store.invalidate, affected)
                break
        async with self._changing:
            await self._finish(store, layers)

    async def _finish(self, store: TileStore, layers: Callable[[], Iterable[Layer]]) -> None:
        """Record on disk that no outdated tile is left, and publish the new revision.

        While the removal of another change is unfinished, this is left to that one.
        """
        layer = store.layer
        if store.clock.removing:
            return
        for kind in made_from(self._data_dir, layer):
            await asyncio.to_thread(kind.settle)
        if all(layer is not served for served in layers()):
            return  # another version of the layer is served by now
        await asyncio.to_thread(self._publication.publish, layer)
        self._publication.inform_workers(layers())

    def close(self) -> None:
        """Leave unfinished removals to the next start."""
        for task in self._unfinished:
            task.cancel()
