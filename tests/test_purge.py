"""A change of imagery: which tiles it reaches, that none of the old ones survives and that all others stay."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mercantile import Tile

from app.imagery import READ_MARGIN, SceneImagery, newest_first, open_scene, window_bounds
from app.layer import Layer
from app.purge import Epochs, Reach, changed_scenes, reach_of
from app.registry import Registry
from app.resolver import PurgeError, TileResolver
from app.service import Service
from app.settings import LayerSettings, Settings
from model.cascade import Block, Ladder, tile_window
from model.sgdm.config import default, tiny
from tests.conftest import PLACE, SceneMaker, picture, write_scene
from tests.test_resolver import ALL, fetch_all

MakeSettings = Callable[..., Settings]


def reached(ladder: Ladder, box: tuple[float, float, float, float], block: Block) -> bool:
    """By the definition: a block depends on its window's imagery and on the tiles of its reference field."""
    left, bottom, right, top = window_bounds(ladder.window(block).grown(READ_MARGIN))
    if left < box[2] and right > box[0] and bottom < box[3] and top > box[1]:
        return True
    field = ladder.reference_window(ladder.window(block))
    return field is not None and any(reached(ladder, box, ladder.block(tile)) for tile in field.tiles())


@settings(max_examples=25)
@given(
    st.sampled_from([default().windows, tiny().windows]),
    st.sampled_from([0, 1, 2]),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0.001, 0.6),
    st.data(),
)
def test_reach_is_what_the_cascade_depends_on(
    windows: object, span: int, x: float, y: float, size: float, data: st.DataObject
) -> None:
    ladder = Ladder(14, span, windows)  # type: ignore[arg-type]
    left, bottom, right, _ = window_bounds(tile_window(PLACE))
    width = right - left
    box = (left + x * width, bottom + y * width, left + (x + size) * width, bottom + (y + size) * width)
    reach = Reach(ladder, 17, [box])
    named = set(reach.tiles())
    for _ in range(12):
        zoom = data.draw(st.integers(14, 17))
        scale = 1 << zoom - 14
        column = PLACE.x * scale + data.draw(st.integers(-3 * scale, 4 * scale))
        row = PLACE.y * scale + data.draw(st.integers(-3 * scale, 4 * scale))
        tile = Tile(column, row, zoom)
        expected = reached(ladder, box, ladder.block(tile))
        assert (tile in reach) == expected
        assert (tile in named) == expected
    assert Tile(PLACE.x >> 3, PLACE.y >> 3, 11) in reach
    assert Tile(0, 0, 11) not in reach


def corner_scene(folder: Path, seed: int, name: str = "new.tif") -> Path:
    """Fresh imagery over the south-eastern sixteenth of the test tile."""
    left, bottom, right, _ = window_bounds(tile_window(PLACE))
    quarter = (right - left) / 4
    return write_scene(
        folder / name, picture(256, seed), (right - quarter, bottom, right, bottom + quarter), "EPSG:3857"
    )


def changed(layer: Layer, scenes: list[Path]) -> tuple[Layer, Reach]:
    imagery = SceneImagery(newest_first([open_scene(path) for path in scenes]))
    assert isinstance(layer.imagery, SceneImagery)
    reach = reach_of(layer.ladder, layer.max_zoom, changed_scenes(layer.imagery.scenes, imagery.scenes))
    return replace(layer, imagery=imagery), reach


def with_service(settings: Settings, layer: LayerSettings, story: Callable[[Service, TileResolver], object]) -> object:
    async def whole() -> object:
        service = Service(settings, [layer])
        service.start()
        try:
            return await story(service, service.resolvers[layer.name])  # type: ignore[misc]
        finally:
            await service.resolvers[layer.name].drain()
            service.close()

    return asyncio.run(whole())


FROM_15 = [tile for tile in ALL if tile.z >= 15]
DEEP = [Tile((PLACE.x << 4) + i, (PLACE.y << 4) + j, 18) for i in (0, 5, 10, 15) for j in (0, 5, 10, 15)]


def test_after_a_change_the_tiles_reached_are_new_and_all_others_keep_their_bytes(
    make_settings: MakeSettings, layer_settings: LayerSettings, tmp_path: Path
) -> None:
    layer_settings = layer_settings.model_copy(update={"root_zoom": 16, "max_zoom": 18})
    old, new = layer_settings.scenes[0], corner_scene(tmp_path, 7)
    tiles = [tile for tile in ALL + DEEP if tile.z >= 16]

    async def story(service: Service, resolver: TileResolver) -> object:
        before = await fetch_all(resolver, tiles)
        layer, reach = changed(resolver.layer, [old, new])
        assert layer.version == resolver.layer.version
        assert layer.revision != resolver.layer.revision
        await resolver.change_layer(layer, reach)
        kept = [tile for tile in tiles if await resolver.cached(tile) is not None]
        assert set(kept) == {tile for tile in tiles if tile not in reach}
        return before, await fetch_all(resolver, tiles), reach

    before, after, reach = with_service(make_settings(), layer_settings, story)  # type: ignore[misc]
    same = {tile for tile in tiles if before[tile] == after[tile]}
    assert same == {tile for tile in tiles if tile not in reach}
    assert 0 < len(same) < len(tiles)
    assert Tile(PLACE.x * 4 + 3, PLACE.y * 4 + 3, 16) not in same

    async def anew(service: Service, resolver: TileResolver) -> object:
        return await fetch_all(resolver, tiles)

    fresh = make_settings(data_dir=tmp_path / "fresh")
    from_nothing = with_service(fresh, layer_settings.model_copy(update={"scenes": [old, new]}), anew)
    assert from_nothing == after


def test_what_was_begun_before_a_change_is_not_stored_after_it(
    make_settings: MakeSettings, layer_settings: LayerSettings, tmp_path: Path
) -> None:
    tile = Tile(PLACE.x * 4 + 3, PLACE.y * 4 + 3, 16)
    old, new = layer_settings.scenes[0], corner_scene(tmp_path, 7)

    async def story(service: Service, resolver: TileResolver) -> tuple[bytes, int]:
        engine, drawing, go = resolver.engine, threading.Event(), threading.Event()
        inner = engine._draw  # type: ignore[attr-defined]

        def draw(stage: object, batch: object) -> object:
            drawing.set()
            go.wait(30)
            return inner(stage, batch)

        engine._draw = draw  # type: ignore[attr-defined]
        asked = asyncio.create_task(resolver.tile(tile))
        await asyncio.to_thread(drawing.wait, 30)
        layer, reach = changed(resolver.layer, [old, new])
        await resolver.change_layer(layer, reach)
        go.set()
        return (await asked).png, resolver.blocks_generated

    async def plain(service: Service, resolver: TileResolver) -> bytes:
        return (await resolver.tile(tile)).png

    overtaken, _ = with_service(make_settings(), layer_settings, story)  # type: ignore[misc]
    both = layer_settings.model_copy(update={"scenes": [old, new]})
    assert overtaken == with_service(make_settings(data_dir=tmp_path / "fresh"), both, plain)


@pytest.mark.parametrize("cut_off", [False, True])
def test_a_change_while_nothing_ran_or_a_purge_cut_off_is_made_good_at_the_start(
    make_settings: MakeSettings, layer_settings: LayerSettings, tmp_path: Path, cut_off: bool
) -> None:
    settings, old, new = make_settings(), layer_settings.scenes[0], corner_scene(tmp_path, 7)
    layer_settings = layer_settings.model_copy(update={"root_zoom": 15})
    both = layer_settings.model_copy(update={"scenes": [old, new]})

    async def draw(service: Service, resolver: TileResolver) -> dict[Tile, bytes]:
        if cut_off:
            layer, _ = changed(resolver.layer, [old, new])
            registry = service.changes.registry(resolver.layer)
            registry.begin(resolver.layer.imagery.scenes, layer.imagery.scenes)  # type: ignore[attr-defined]
        return await fetch_all(resolver, FROM_15)

    async def look(service: Service, resolver: TileResolver) -> tuple[dict[Tile, bytes], set[Tile]]:
        cached = {tile for tile in FROM_15 if await resolver.cached(tile) is not None}
        return await fetch_all(resolver, FROM_15), cached

    before = with_service(settings, layer_settings, draw)
    after, cached = with_service(settings, both, look)  # type: ignore[misc]
    assert 0 < len(cached) < len(FROM_15)
    assert {tile for tile in FROM_15 if before[tile] == after[tile]} == cached  # type: ignore[index]
    again, cached = with_service(settings, both, look)  # type: ignore[misc]
    assert (again, cached) == (after, set(FROM_15))


def test_a_record_comes_back_as_it_was_written(make_scene: SceneMaker, tmp_path: Path) -> None:
    registry = Registry(tmp_path / "deep" / "record.json")
    assert registry.read() is None
    scenes = [
        open_scene(make_scene("a.tif")),
        replace(open_scene(make_scene("b.tif", seed=2)), stretch=((0.5, 2.0),) * 3),
    ]
    registry.begin(scenes[:1], scenes)
    record = registry.read()
    assert record is not None
    assert (record.scenes, record.pending) == (scenes[:1], scenes)
    registry.finish(scenes)
    record = registry.read()
    assert record is not None
    assert (record.scenes, record.pending) == (scenes, None)
    (tmp_path / "deep" / "record.json").write_text("{}")
    with pytest.raises(ValueError, match="not a record"):
        registry.read()


def test_scenes_that_changed_are_those_that_came_went_or_moved(make_scene: SceneMaker) -> None:
    a, b, c = (open_scene(make_scene(f"{name}.tif", seed=i)) for i, name in enumerate("abc"))
    assert changed_scenes([a, b], [a, b]) == []
    assert changed_scenes([a, b], [a, b, c]) == [c]
    assert changed_scenes([a, b, c], [a, c]) == [b]
    assert changed_scenes([a, b, c], [b, a, c]) == [a, b]


def test_a_change_waits_for_those_who_use_the_store() -> None:
    epochs, order, inside = Epochs(), [], threading.Event()
    reach = Reach(Ladder(14), 14, [])

    def use() -> None:
        with epochs.using():
            inside.set()
            order.append("in")
            threading.Event().wait(0.1)
            order.append("out")

    user = threading.Thread(target=use)
    user.start()
    inside.wait(5)
    epochs.change(reach, lambda: order.append("changed"))
    user.join()
    assert order == ["in", "out", "changed"]
    assert epochs.now == 1


def test_while_a_cache_does_not_answer_old_tiles_are_not_used(
    make_settings: MakeSettings, layer_settings: LayerSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tile = Tile(PLACE.x * 4 + 3, PLACE.y * 4 + 3, 16)
    layer_settings = layer_settings.model_copy(update={"root_zoom": 16})
    old, new = layer_settings.scenes[0], corner_scene(tmp_path, 7)

    async def story(service: Service, resolver: TileResolver) -> None:
        before = (await resolver.tile(tile)).png
        layer, reach = changed(resolver.layer, [old, new])
        with monkeypatch.context() as patch:
            patch.setattr(service.store, "purge", lambda keys: False)
            with pytest.raises(PurgeError):
                await resolver.change_layer(layer, reach)
        assert service.store.get(resolver.layer.key(tile)) is not None
        assert await resolver.cached(tile) is None
        resolver.forget(reach)
        assert service.store.get(resolver.layer.key(tile)) is None
        assert (await resolver.tile(tile)).png != before
        assert await resolver.cached(tile) is not None

    with_service(make_settings(), layer_settings, story)
