"""The promises of the resolver, on tiny random weights and a real scene."""

import asyncio
import random
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mercantile import Tile
from PIL import Image

from app import tile_image
from app.resolver import NoTileError, TileResolver
from app.service import Service
from app.settings import LayerSettings, Settings
from model.engine import Urgency
from model.pipeline import Stage
from tests.conftest import PLACE, SceneMaker, picture, place_bounds, write_scene

MakeSettings = Callable[..., Settings]


def run(settings: Settings, layer: LayerSettings, story: Callable[[TileResolver], object]) -> object:
    """Start a service, run a coroutine function on its resolver, close it."""

    async def whole() -> object:
        service = Service(settings, [layer])
        service.start()
        try:
            return await story(service.resolvers[layer.name])  # type: ignore[misc]
        finally:
            await service.resolvers[layer.name].drain()
            service.close()

    return asyncio.run(whole())


def tiles_at(zoom: int) -> list[Tile]:
    shift = zoom - 14
    edge = 1 << shift
    return [Tile((PLACE.x << shift) + i, (PLACE.y << shift) + j, zoom) for j in range(edge) for i in range(edge)]


ALL = [tile for zoom in (14, 15, 16) for tile in tiles_at(zoom)]


async def fetch_all(resolver: TileResolver, order: list[Tile], parallel: int = 8) -> dict[Tile, bytes]:
    gate = asyncio.Semaphore(parallel)

    async def one(tile: Tile) -> tuple[Tile, bytes]:
        async with gate:
            return tile, (await resolver.tile(tile)).png

    return dict(await asyncio.gather(*(one(tile) for tile in order)))


@pytest.mark.parametrize("span", [0, 1, 2])
def test_any_order_gives_the_same_bytes(make_settings: MakeSettings, layer_settings: LayerSettings, span: int) -> None:
    layer = layer_settings.model_copy(update={"span": span})
    settings = make_settings()
    results = []
    for seed, parallel in ((1, 1), (2, 16)):
        order = list(ALL)
        random.Random(seed).shuffle(order)
        results.append(run(settings, layer, lambda r, o=order, p=parallel: fetch_all(r, o, p)))
        shutil.rmtree(settings.data_dir)
    assert results[0] == results[1]
    assert len(set(results[0].values())) == len(ALL)  # type: ignore[attr-defined]


def test_batches_of_several_blocks_change_nothing_within_one_version(
    make_settings: MakeSettings, layer_settings: LayerSettings
) -> None:
    settings = make_settings(batch_blocks=3)
    first = run(settings, layer_settings, lambda r: fetch_all(r, ALL, 16))
    shutil.rmtree(settings.data_dir)
    assert first == run(settings, layer_settings, lambda r: fetch_all(r, ALL[::-1], 1))


def test_a_generated_tile_is_then_a_hit_on_every_tier(
    make_settings: MakeSettings, layer_settings: LayerSettings
) -> None:
    settings, tile = make_settings(), tiles_at(16)[5]

    async def story(resolver: TileResolver) -> tuple[str, str, int]:
        first = await resolver.tile(tile)
        second = await resolver.tile(tile)
        assert first.png == second.png
        return first.source, second.source, resolver.blocks_generated

    assert run(settings, layer_settings, story) == ("generated", "memory", 3)

    async def again(resolver: TileResolver) -> tuple[str, int]:
        return (await resolver.tile(tile)).source, resolver.blocks_generated

    assert run(settings, layer_settings, again) == ("disk", 0)


def test_siblings_come_with_the_first_tile_and_a_crowd_costs_one_generation(
    make_settings: MakeSettings, layer_settings: LayerSettings
) -> None:
    async def story(resolver: TileResolver) -> int:
        await asyncio.gather(*(resolver.tile(tile) for tile in tiles_at(15) * 25))
        return resolver.blocks_generated

    assert run(make_settings(), layer_settings, story) == 2  # the root and one block


class Held:
    """Stands before the engine's drawing until opened."""

    def __init__(self, resolver: TileResolver) -> None:
        self.engine: Any = resolver.engine
        self._open = threading.Event()
        self.drawing = threading.Event()
        inner = self.engine._draw

        def draw(stage: Stage, batch: Any) -> Any:
            self.drawing.set()
            self._open.wait(30)
            return inner(stage, batch)

        self.engine._draw = draw
        self.open = self._open.set

    async def until(self, ready: Callable[[], bool]) -> None:
        for _ in range(500):
            if ready():
                return
            await asyncio.sleep(0.01)
        raise AssertionError("it never came to that")


def test_what_nobody_waits_for_any_more_is_not_drawn(
    make_settings: MakeSettings, layer_settings: LayerSettings
) -> None:
    """One block is being drawn, two wait: of those, one is left by all who asked."""
    roots = layer_settings.model_copy(update={"root_zoom": 16})
    a, b, c = (tile for i, tile in enumerate(tiles_at(16)) if i in (0, 1, 2))

    async def story(resolver: TileResolver) -> None:
        held = Held(resolver)
        asked = {a: [asyncio.create_task(resolver.tile(a)) for _ in range(2)]}
        await asyncio.to_thread(held.drawing.wait, 30)
        asked |= {tile: [asyncio.create_task(resolver.tile(tile)) for _ in range(2)] for tile in (b, c)}
        await held.until(lambda: held.engine.waiting["interactive"] == 2)
        for tasks in (asked[a], asked[b], asked[c][:1]):
            for task in tasks:
                task.cancel()
        await asyncio.sleep(0.05)
        held.open()
        await asked[c][1]
        await resolver.drain()
        # the first was being drawn when it was left: it is stored; the second was not begun
        assert await resolver.cached(a) is not None
        assert await resolver.cached(b) is None
        assert held.engine.dropped == 1
        assert resolver.blocks_generated == 2
        assert not resolver._wanted

    run(make_settings(threads=1), roots, story)


def test_a_viewer_who_joins_a_prefetch_pulls_it_forward_with_all_it_needs(
    make_settings: MakeSettings, layer_settings: LayerSettings
) -> None:
    tile = tiles_at(16)[5]

    async def story(resolver: TileResolver) -> None:
        held = Held(resolver)
        prefetch = asyncio.create_task(resolver.tile(tile, Urgency.PREFETCH))
        await held.until(lambda: any(w.drawing for w in resolver._wanted.values()))
        assert {wanted.urgency for wanted in resolver._wanted.values()} == {Urgency.PREFETCH}
        viewer = asyncio.create_task(resolver.tile(tile))
        await held.until(lambda: all(w.urgency == Urgency.INTERACTIVE for w in resolver._wanted.values()))
        held.open()
        assert (await viewer).png == (await prefetch).png
        assert resolver.blocks_generated == 3

    run(make_settings(), layer_settings, story)


def test_whoever_asks_while_a_flight_lands_joins_it(make_settings: MakeSettings, layer_settings: LayerSettings) -> None:
    """Between the end of the work and the end of its flight a block is on its way, but no longer wanted."""
    tile = tiles_at(14)[0]

    async def story(resolver: TileResolver) -> None:
        late: list[asyncio.Task[Any]] = []
        finished = resolver._wanted

        class Watched(dict):  # type: ignore[type-arg]
            def __delitem__(self, block: Any) -> None:
                super().__delitem__(block)
                late.append(asyncio.get_running_loop().create_task(resolver._block(block, Urgency.INTERACTIVE)))

        resolver._wanted = Watched(finished)
        made = await resolver.tile(tile)
        assert (await late[0])[tile] == made.png
        assert resolver.blocks_generated <= 2

    run(make_settings(), layer_settings, story)


def test_evicted_parents_do_not_change_children(make_settings: MakeSettings, layer_settings: LayerSettings) -> None:
    settings = make_settings(memory_bytes=0)

    async def story(resolver: TileResolver) -> bool:
        before = await fetch_all(resolver, ALL)
        folder = settings.data_dir / "tiles" / "map" / resolver.layer.version
        for path in (folder / "14", folder / "16"):
            shutil.rmtree(path)
        return before == await fetch_all(resolver, ALL[::-1])

    assert run(settings, layer_settings, story)


def test_where_there_is_nothing(make_settings: MakeSettings, layer_settings: LayerSettings) -> None:
    async def story(resolver: TileResolver) -> None:
        for tile, words in [
            (Tile(PLACE.x + 1, PLACE.y, 14), "no imagery"),
            (Tile(PLACE.x * 8, PLACE.y * 8, 17), "max zoom 16"),
            (Tile(PLACE.x >> 1, PLACE.y >> 1, 13), "not all tiles exist"),
            (Tile(0, 0, 0), "not all tiles exist"),
            (Tile(0, 0, 13), "no imagery"),
        ]:
            with pytest.raises(NoTileError, match=words):
                await resolver.tile(tile)
        assert resolver.blocks_generated == 0

    run(make_settings(), layer_settings, story)


def test_below_the_root_tiles_are_averaged_once_the_root_exists(
    make_settings: MakeSettings, layer_settings: LayerSettings
) -> None:
    async def story(resolver: TileResolver) -> None:
        root = tile_image.decode((await resolver.tile(PLACE)).png).astype(float)
        above = tile_image.decode((await resolver.tile(Tile(PLACE.x >> 1, PLACE.y >> 1, 13))).png)
        top, left = PLACE.y % 2 * 128, PLACE.x % 2 * 128
        part = above[top : top + 128, left : left + 128]
        mean = root.reshape(128, 2, 128, 2, 4).mean(axis=(1, 3))
        assert np.abs(part - mean).max() <= 1
        assert (above[..., 3] == 255).sum() == 128 * 128
        world = tile_image.decode((await resolver.tile(Tile(0, 0, 0))).png)
        assert world.shape == (256, 256, 4)
        assert resolver.blocks_generated == 1

    run(make_settings(), layer_settings, story)


def test_outside_the_imagery_tiles_are_transparent(make_settings: MakeSettings, tmp_path: Path) -> None:
    mask = np.add.outer(np.arange(1024), np.arange(1024)) < 900
    scene = write_scene(tmp_path / "corner.tif", picture(1024), place_bounds(), mask=mask)

    async def story(resolver: TileResolver) -> None:
        for zoom in (14, 15, 16):
            for index, tile in enumerate(tiles_at(zoom)):
                size = 1024 >> (zoom - 14)
                row, column = divmod(index, 1 << (zoom - 14))
                truth = mask[row * size : (row + 1) * size, column * size : (column + 1) * size]
                if not truth.any():
                    with pytest.raises(NoTileError):
                        await resolver.tile(tile)
                    continue
                rgba = tile_image.decode((await resolver.tile(tile)).png)
                known = np.asarray(Image.fromarray(truth).resize((256, 256), Image.Resampling.NEAREST))
                assert (rgba[..., 3] > 0).mean() == pytest.approx(known.mean(), abs=0.02)
                assert not rgba[rgba[..., 3] == 0].any()

    run(make_settings(), LayerSettings(scenes=[scene]), story)


def test_the_version_names_what_tiles_depend_on(
    make_settings: MakeSettings, layer_settings: LayerSettings, make_scene: SceneMaker
) -> None:
    """But the scenes, which may change under some tiles only: they are in the revision."""

    async def version(resolver: TileResolver) -> str:
        return resolver.layer.version

    async def both(resolver: TileResolver) -> tuple[str, str]:
        return resolver.layer.version, resolver.layer.revision

    first = run(make_settings(), layer_settings, both)
    other = layer_settings.model_copy(update={"scenes": [make_scene("other.tif", seed=5)]})
    second = run(make_settings(), other, both)
    assert [a == b for a, b in zip(first, second, strict=True)] == [True, False]  # type: ignore[call-overload]

    base = run(make_settings(), layer_settings, version)
    assert base == run(make_settings(port=1), layer_settings, version)
    changes: list[dict[str, object]] = [
        {"seed": 1},
        {"span": 2},
        {"root_zoom": 15},
    ]
    versions = {run(make_settings(), layer_settings.model_copy(update=c), version) for c in changes}
    versions.add(run(make_settings(batch_blocks=2), layer_settings, version))
    assert base not in versions
    assert len(versions) == 4


def test_coarse_imagery_has_a_single_stage(make_settings: MakeSettings, make_scene: SceneMaker) -> None:
    layer = LayerSettings(scenes=[make_scene("coarse.tif", size=64)])

    async def story(resolver: TileResolver) -> tuple[int, int]:
        await resolver.tile(Tile(PLACE.x >> 2, PLACE.y >> 2, 12))
        return resolver.layer.ladder.root, resolver.layer.max_zoom

    assert run(make_settings(), layer, story) == (12, 12)


def test_a_png_says_what_it_is(make_settings: MakeSettings, layer_settings: LayerSettings) -> None:
    async def story(resolver: TileResolver) -> None:
        import io

        tile = tiles_at(16)[3]
        with Image.open(io.BytesIO((await resolver.tile(tile)).png)) as image:
            assert image.size == (256, 256)
            text = image.text  # type: ignore[attr-defined]
        assert text["Comment"] == "generated, not surveyed"
        assert text["tilecascade:reference"] == f"15/{tile.x // 2}/{tile.y // 2}"
        assert text["tilecascade:depth"] == "3"
        assert text["tilecascade:model"] == resolver.layer.generator.model
        assert text["tilecascade:imagery"] == resolver.layer.imagery.id

    run(make_settings(), layer_settings, story)
