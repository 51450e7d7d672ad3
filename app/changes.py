"""Changing what a layer is drawn from while it is served, and making good at the start what changed in between."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from app.imagery import Scene, SceneError, SceneImagery
from app.layer import Generator, Layer, build_layer, configured_scenes
from app.published import Published
from app.purge import Reach, changed_scenes, reach_of
from app.registry import Registry
from app.resolver import PurgeError, TileResolver
from app.scenes import SceneSet
from app.settings import LayerSettings, SettingsError

log = logging.getLogger(__name__)

PURGE_PAUSE = 2.0
"""Seconds between two tries to remove old tiles from a cache that does not answer."""


@dataclass(frozen=True)
class Scenes:
    """What a layer is drawn from: its settings, the scenes they name, and what was changed since."""

    settings: LayerSettings
    configured: list[Scene]
    set: SceneSet


class SceneChanges:
    """The scenes of all layers, and the way from one set to the next. State lies below `data_dir`/layers."""

    def __init__(self, data_dir: Path, published: Published) -> None:
        self._data_dir = data_dir
        self._folder = data_dir / "layers"
        self._published = published
        self._scenes: dict[str, Scenes] = {}
        self._changing = asyncio.Lock()
        self._later: set[asyncio.Task[None]] = set()

    def build(self, wanted: LayerSettings, generator: Generator) -> Layer:
        """A layer as configured and as changed since. Raises SceneError or SettingsError."""
        if wanted.country is not None:
            return build_layer(wanted, generator, self._data_dir)
        found = configured_scenes(wanted)
        scenes = SceneSet.read(self._folder / wanted.name / "scenes.json")
        self._scenes[wanted.name] = Scenes(wanted, found, scenes)
        return build_layer(wanted, generator, self._data_dir, scenes.effective(found) or found)

    def registry(self, layer: Layer) -> Registry:
        """What the layer's stored tiles were made from."""
        return Registry(self._folder / layer.name / f"{layer.version}.json")

    def catch_up(self, resolver: TileResolver) -> None:
        """Remove what was stored from other scenes than now: they changed while nothing ran, or a purge was cut off."""
        layer, imagery = resolver.layer, resolver.layer.imagery
        if not isinstance(imagery, SceneImagery):
            return
        registry = self.registry(layer)
        try:
            record = registry.read()
        except ValueError as error:
            raise SettingsError(f"{error}; move it away to have all tiles of layer {layer.name} drawn anew") from None
        if record is not None and (record.pending is not None or record.scenes != list(imagery.scenes)):
            changed = changed_scenes(record.scenes, imagery.scenes)
            changed += changed_scenes(record.pending, imagery.scenes) if record.pending is not None else []
            registry.begin(record.scenes, imagery.scenes)
            reach = reach_of(layer.ladder, layer.max_zoom, changed)
            resolver.epochs.change(reach, lambda: None)
            log.info("layer %s: the scenes have changed: removing tiles made from the old ones", layer.name)
            try:
                resolver.forget(reach)
            except PurgeError as error:
                log.warning("layer %s: old tiles remain, and are not used: %s", layer.name, error)
                return  # the record stays as it is: the next start tries again
        registry.finish(imagery.scenes)

    async def change(
        self, resolver: TileResolver, layers: Callable[[], Iterable[Layer]], change: Callable[[SceneSet], SceneSet]
    ) -> Layer:
        """Change a layer's scenes; returns when no tile made from the old ones is served any more.

        layers: all layers, asked after the change. Raises SceneError if the change cannot be, PurgeError if a cache
        does not answer: it is then made, old tiles are not used, and their removal goes on.
        """
        async with self._changing:
            old = resolver.layer
            known = self._scenes.get(old.name)
            if known is None or not isinstance(old.imagery, SceneImagery):
                raise SceneError(f"layer {old.name} shows the fictional country; start the server with a scene instead")
            changed = change(known.set)
            shown = changed.effective(known.configured)
            if not shown:
                raise SceneError("a layer needs a scene; add another before you remove the last")
            new = await asyncio.to_thread(build_layer, known.settings, old.generator, self._data_dir, shown)
            if new.version != old.version:
                raise SceneError(
                    f"with this the layer would begin at zoom {new.ladder.root} instead of {old.ladder.root}; give it "
                    "a layer of its own"
                )
            differing = changed_scenes(old.imagery.scenes, shown)
            reach = reach_of(old.ladder, max(old.max_zoom, new.max_zoom), differing)
            await asyncio.to_thread(self.registry(old).begin, old.imagery.scenes, shown)
            await asyncio.to_thread(changed.write)
            self._scenes[old.name] = replace(known, set=changed)
            await asyncio.to_thread(self._published.unpoint, old)
            try:
                await resolver.change_layer(new, reach)
            except PurgeError:
                self._later.add(task := asyncio.create_task(self._forget_until_done(resolver, layers, reach)))
                task.add_done_callback(self._later.discard)
                raise
            await self._finish(resolver, layers)
            return new

    async def _forget_until_done(
        self, resolver: TileResolver, layers: Callable[[], Iterable[Layer]], reach: Reach
    ) -> None:
        while True:
            await asyncio.sleep(PURGE_PAUSE)
            with suppress(PurgeError):
                await asyncio.to_thread(resolver.forget, reach)
                break
        async with self._changing:
            await self._finish(resolver, layers)

    async def _finish(self, resolver: TileResolver, layers: Callable[[], Iterable[Layer]]) -> None:
        """No old tile is left: say so on disk, and show the new revision."""
        layer = resolver.layer
        if isinstance(layer.imagery, SceneImagery):
            await asyncio.to_thread(self.registry(layer).finish, layer.imagery.scenes)
        await asyncio.to_thread(self._published.point, layer)
        self._published.tell(layers())

    def close(self) -> None:
        """Leave what is unfinished to the next start."""
        for task in self._later:
            task.cancel()
