"""Territories that are made and removed while the server runs, each a layer of its name."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import ValidationError

from tilecascade.app.errors import BadRequestError, NotReadyError, SceneError, SettingsError, TilecascadeError
from tilecascade.app.scenes.changing import ChangingLayers
from tilecascade.app.scenes.group import answering
from tilecascade.app.scenes.territories import Territories, TerritoryRequest
from tilecascade.app.settings import LayerSettings, Settings, first_problem
from tilecascade.app.tiles.layer import names_of
from tilecascade.app.tiles.loaded_model import LoadedModel
from tilecascade.app.tiles.resolver import TileResolver
from tilecascade.app.tiles.served_layers import RETIRE_SECONDS
from tilecascade.app.tiles.store import TileStore

log = logging.getLogger(__name__)

TERRITORIES = "*territories"
"""What the servers of a group call all of them: no layer can have this name."""

AGAIN_SECONDS = 0.5
"""A territory that is being replaced is gone for a moment: one that is gone is looked for once more after this time."""


class TerritoryLayers(ChangingLayers):
    """`ChangingLayers`, and the territories. Servers of a group keep these in one folder, and serve the same ones."""

    def __init__(self, settings: Settings, layers: list[LayerSettings]) -> None:
        super().__init__(settings, layers)
        self.territories = Territories(self.data_dir.territories)
        self._making = asyncio.Lock()
        self._shown: dict[str, str] = {}
        self._refused: dict[str, str] = {}
        self._loaded = False

    def load_territories(self, model: LoadedModel) -> None:
        """Serve what was made of sketches before. One that cannot be read keeps nobody from the other layers."""
        marks = self.territories.marks()
        for wanted in self.territories.layers():
            try:
                self._check_name(wanted.name)
                layer = self._scenes.build(wanted, model.info)
            except (BadRequestError, SettingsError, SceneError) as error:
                log.warning("territory %s is not served: %s", wanted.name, error)
                continue
            self.resolvers |= self._serve(wanted, layer, model)
            self._layer_settings.append(wanted)
            self._shown[wanted.name] = marks.get(wanted.name, "")
        self._loaded = True

    def _check_name(self, name: str) -> None:
        """Raises BadRequestError if no territory can have this name."""
        try:
            LayerSettings(name=name, scenes=[Path("any.tif")], painted_zoom=14)
        except ValidationError as error:
            raise BadRequestError(first_problem(error)) from None
        taken = set(self.resolvers) - {layer for made in self.territories.names() for layer in names_of(made)}
        if taken & set(names_of(name)):
            raise BadRequestError(f"there is a layer {name} that is no territory; choose another name")

    async def make_territory(self, name: str, picture: bytes, request: TerritoryRequest) -> str:
        """Make a territory of a picture, or replace it, and serve it from now on; returns what to say of it.

        Raises BadRequestError, StorageError or NotReadyError, and all stays as it was.
        """
        if self.group is not None and self.settings.scenes_dir is None:
            raise BadRequestError("a group keeps territories in TILECASCADE_SCENES_DIR: give all servers the same one")
        async with self._for_all():
            await asyncio.to_thread(self._check_name, name)
            if name not in self._shown:
                await self._forget(name)
            said = await asyncio.to_thread(self.territories.make, name, picture, request)
            try:
                await self._put_layer(self.territories.layer(name))
            except Exception:
                await asyncio.to_thread(self.territories.settle, name, False)
                raise
            await asyncio.to_thread(self.territories.settle, name, True)
            self._shown |= await asyncio.to_thread(self.territories.marks)
        return said

    async def remove_territory(self, name: str) -> None:
        """Serve a territory no more, and delete it and its tiles. Raises NotFoundError or NotReadyError."""
        async with self._for_all():
            await self._remove_layer(name)
            await asyncio.to_thread(self.territories.remove, name)
            self._shown.pop(name, None)

    async def _forget(self, name: str) -> None:
        """Let a new territory have nothing of an earlier one of its name. Raises NotReadyError."""
        if self.group is not None:
            with answering():
                await asyncio.to_thread(self.group.forget, name)
        await self._forget_changes(name)

    @asynccontextmanager
    async def _for_all(self) -> AsyncIterator[None]:
        """While territories change, here and in the group. Raises NotReadyError if that cannot be reached."""
        if not self._loaded:
            raise NotReadyError("the server is starting: the model is being loaded")
        release = None if self.group is None else await asyncio.to_thread(self.group.turn, TERRITORIES)
        try:
            async with self._making:
                if self.group is not None:
                    await asyncio.to_thread(self.territories.tidy)
                    with answering():
                        await self._follow_territories()
                yield
            if self.group is not None:  # others may have to wait for this server meanwhile
                await asyncio.to_thread(self.group.count, TERRITORIES)
        finally:
            if release is not None:
                await asyncio.to_thread(release)

    async def _look(self) -> None:
        if not self._making.locked():  # here the folder changes before the layers
            async with self._making:
                await self._follow_territories()
        await super()._look()

    async def _follow_territories(self) -> None:
        """Serve what other servers have made, and no more what they have removed. `_making` must be held.

        What is gone counts as removed only if a change has been counted: a folder may be away for a moment.
        """
        assert self.group is not None
        # the number first: what it counts is in the folder before
        number = await asyncio.to_thread(self.group.counted, TERRITORIES)
        there = await asyncio.to_thread(self.territories.marks)
        if number != self.group.numbers.get(TERRITORIES, 0) and set(self._shown) - set(there):
            await asyncio.sleep(AGAIN_SECONDS)
            there = await asyncio.to_thread(self.territories.marks)
            for name in set(self._shown) - set(there):
                await self._remove_layer(name)
                self._shown.pop(name)
                self.group.numbers.pop(name, None)
        for name in [name for name, mark in there.items() if self._shown.get(name) != mark]:
            try:
                await asyncio.to_thread(self._check_name, name)
                if name not in self._shown:
                    self.group.numbers.pop(name, None)
                    await self._forget_changes(name)
                await self._put_layer(await asyncio.to_thread(self.territories.layer, name))
                self._shown[name] = there[name]
            except (TilecascadeError, OSError) as error:  # it is tried again at the next look
                if self._refused.get(name) != there[name]:
                    log.warning("territory %s is not served: %s", name, error)
                self._refused[name] = there[name]
        self.group.numbers[TERRITORIES] = number

    async def _put_layer(self, wanted: LayerSettings) -> None:
        """Serve a layer from now on, or instead of the one of that name. Raises SceneError or SettingsError."""
        async with self._changing:
            model = self.model
            assert model is not None
            layer = await asyncio.to_thread(self._scenes.build, wanted, model.info)
            made = await asyncio.to_thread(self._serve, wanted, layer, model)
            for resolver in made.values():
                resolver.previous = None  # it would show another country
            self._retire_soon([self.resolvers.pop(name) for name in names_of(wanted.name) if name in self.resolvers])
            self.resolvers |= made
            self._layer_settings[:] = [one for one in self._layer_settings if one.name != wanted.name] + [wanted]
            self._publication.inform_workers(self.layers)
        self.background.warm(made[wanted.name], self.settings.warm_tiles)

    async def _remove_layer(self, name: str) -> None:
        """Serve a layer no more, and delete its tiles."""
        async with self._changing:
            gone = [self.resolvers.pop(each) for each in names_of(name) if each in self.resolvers]
            self._layer_settings[:] = [one for one in self._layer_settings if one.name != name]
            self._publication.inform_workers(self.layers)
            # of a group another server may still read the scenes
            await asyncio.to_thread(self._scenes.drop, name, self.group is None)
            # at once: what is made under this name next has other scenes and reviews
            await self._forget_changes(name)
        self._retire_soon(gone, delete=True)

    async def _forget_changes(self, name: str) -> None:
        """Delete what was said and changed here about a layer of this name."""
        for each in names_of(name):
            await asyncio.to_thread(shutil.rmtree, self.data_dir.layers / each, True)

    def _retire_soon(self, resolvers: list[TileResolver], delete: bool = False) -> None:
        """Let resolvers finish what they have begun with, when requests that have just come have asked them."""

        async def later() -> None:
            try:
                await asyncio.sleep(RETIRE_SECONDS)
            finally:  # at once if the server stops: nobody would remember
                for resolver in resolvers:
                    await resolver.drain()
                    if delete:
                        await asyncio.to_thread(self._delete, resolver.store)

        self._keep(later())

    def _delete(self, store: TileStore) -> None:
        """Delete the tiles of a layer that is not served any more."""
        store.forget_all()
        if store.layer.name not in self.resolvers:  # or it has been made again meanwhile
            shutil.rmtree(self.data_dir.tiles / store.layer.name, ignore_errors=True)
