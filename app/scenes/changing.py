"""Layers that change while they are served: by somebody's request, or because another server of the group has."""

from __future__ import annotations

import asyncio
import json
import logging
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tilecascade.app.errors import TilecascadeError
from tilecascade.app.scenes.areas import laid_out, steered_layers
from tilecascade.app.scenes.group import Group, State, answering, state_of, take_over, together
from tilecascade.app.scenes.scene_set import SceneSet
from tilecascade.app.settings import LayerSettings, Settings
from tilecascade.app.sources.areas import Areas
from tilecascade.app.sources.scene import Scene
from tilecascade.app.tiles.layer import Layer, names_of
from tilecascade.app.tiles.resolver import TileResolver
from tilecascade.app.tiles.reviews import Reviews
from tilecascade.app.tiles.served_layers import ServedLayers

log = logging.getLogger(__name__)


class ChangingLayers(ServedLayers):
    """`ServedLayers` whose scenes, reviews and areas can be changed. group: the servers that change them together."""

    def __init__(self, settings: Settings, layers: list[LayerSettings]) -> None:
        super().__init__(settings, layers)
        self.group: Group | None = None
        self._taken: dict[str, State] = {}

    async def change_scenes(self, layer: str | None, change: Callable[[SceneSet], SceneSet]) -> Layer:
        """Change the scenes of a layer. See `SceneManager.change`."""
        async with self._together(layer):
            return await self._change_scenes(self.resolver(layer), change)

    async def _change_scenes(self, resolver: TileResolver, change: Callable[[SceneSet], SceneSet]) -> Layer:
        resolver.previous = None  # it would go on showing what is removed
        changed = await self._scenes.change(resolver.store, lambda: self.layers, change)
        self.background.warm(resolver, self.settings.warm_tiles)
        return changed

    async def review(self, layer: str | None, change: Callable[[Reviews], Reviews]) -> Layer:
        """Change the reviews of a layer. See `SceneManager.review`."""
        async with self._together(layer):
            return await self._review(self.resolver(layer), change)

    async def _review(self, resolver: TileResolver, change: Callable[[Reviews], Reviews]) -> Layer:
        resolver.previous = None
        return await self._scenes.review(resolver.store, lambda: self.layers, change)

    async def steer(self, layer: str | None, areas: Areas) -> Layer:
        """Change the areas of a territory. Raises BadRequestError, or PurgeError like `change_scenes`."""
        resolver = self.resolver(layer)
        areas = await asyncio.to_thread(laid_out, self._settings_of(resolver), resolver.layer, areas)
        async with self._together(layer):
            return await self._steer(self.resolver(layer), areas)

    async def _steer(self, resolver: TileResolver, areas: Areas) -> Layer:
        wanted = self._settings_of(resolver)
        assert wanted is not None  # or it had been refused
        new = await asyncio.to_thread(steered_layers, wanted, resolver.layer, self.data_dir, areas)
        changing = [self.resolvers[layer.name] for layer in new]
        for each in changing:
            each.previous = None
        await self._scenes.steer([each.store for each in changing], lambda: self.layers, new)
        self.background.warm(resolver, self.settings.warm_tiles)
        return new[-1]

    def _settings_of(self, resolver: TileResolver) -> LayerSettings | None:
        return next((one for one in self._layer_settings if one.name == resolver.layer.name), None)

    def forget_scene(self, scene: Scene) -> None:
        """Delete a scene's file unless a layer still has it. May block."""
        if self.group is None:  # or another server may read it
            self._scenes.forget(scene)

    def join(self, layers: Sequence[str]) -> None:
        """Before these layers are opened: have what the group has. May block. Raises SettingsError."""
        if self.settings.group is not None:
            self.group = Group(self.caches.shared_redis(), self.settings.group)
            self._taken = take_over(self.group, self.data_dir, layers)

    def follow_group(self) -> None:
        """Once the layers are served: make what the others change, from now on."""
        if self.group is None:
            return
        for name, state in self._taken.items():
            self._take_revisions(name, state)

        def look() -> None:
            if not self._loop.is_closed():
                asyncio.run_coroutine_threadsafe(self._look(), self._loop).result()

        self.group.watch(look)

    async def _look(self) -> None:
        """Make what others have changed. Raises redis errors."""
        assert self.group is not None
        for name in [one.name for one in self._layer_settings if one.name in self.resolvers]:
            async with self._changing:
                try:
                    await self._follow(name)
                    if name not in self.group.numbers:
                        # the first server of the group, or Redis has lost its memory
                        await asyncio.to_thread(self.group.write, name, await asyncio.to_thread(self._state, name))
                except TilecascadeError as error:
                    log.error("layer %s: what another server has changed cannot be made here: %s", name, error)

    async def _follow(self, name: str) -> None:
        """Make what is newer in a layer's record. `_changing` must be held."""
        assert self.group is not None
        newer = await asyncio.to_thread(self.group.newer, name)
        if newer is None:
            return
        number, state = newer
        here = await asyncio.to_thread(self._state, name)
        if _without_stamps(state.scenes) != _without_stamps(here.scenes):
            path = self.data_dir.scene_set(name)
            wanted = await asyncio.to_thread(_read, SceneSet.read, state.scenes)
            wanted = replace(await asyncio.to_thread(wanted.verified), path=path)
            await self._change_scenes(self.resolver(name), lambda _: wanted)
        if state.reviews != here.reviews:
            reviews = await asyncio.to_thread(_read, Reviews.read, state.reviews)
            await self._review(self.resolver(name), lambda _: reviews)
        if state.areas != here.areas:
            await self._steer(self.resolver(name), await asyncio.to_thread(_read, Areas.read, state.areas))
        self._take_revisions(name, state)
        self.group.numbers[name] = number
        log.info("layer %s: followed change %d of the group", name, number)

    def _take_revisions(self, name: str, state: State) -> None:
        for each in names_of(name):
            resolver = self.resolvers.get(each)
            if resolver is not None and resolver.layer.folder in state.revisions:
                self.caches.revisions.take(resolver.layer, state.revisions[resolver.layer.folder])

    def _state(self, name: str) -> State:
        """A layer's state as it is here. May block."""
        layers = [self.resolvers[each].layer for each in names_of(name) if each in self.resolvers]
        return state_of(self.data_dir, name, {layer.folder: self.caches.revisions.rows(layer) for layer in layers})

    def _together(self, layer: str | None) -> AbstractAsyncContextManager[None]:
        """While a layer is changed, here and in the group."""
        return together(self.group, self.resolver(layer).layer.name, self._changing, self._followed, self._state)

    async def _followed(self, name: str) -> None:
        with answering():
            await self._follow(name)


def _without_stamps(scenes: str | None) -> Any:
    """What a set of scenes says that is the same on every machine."""
    said = json.loads(scenes) if scenes is not None else {"added": [], "hidden": [], "order": []}
    return said | {"added": [{**scene, "stamp": None} for scene in said["added"]]}


def _read(read: Callable[[Path], Any], text: str | None) -> Any:
    """What a file of this text says, or one that is not there."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.json"
        if text is not None:
            path.write_text(text)
        return read(path)
