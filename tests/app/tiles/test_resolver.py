"""The promises of the resolver, on tiny random weights and a real scene."""

import asyncio
import random
import shutil
import threading
from pathlib import Path
from typing import Any

import mercantile
import numpy as np
import pytest
from mercantile import Tile
from PIL import Image

from tests.conftest import PLACE, SceneMaker, picture, place_bounds, write_scene
from tests.support import ALL, MakeSettings, fetch_all, hold, run, tiles_at, until, with_service
from tilecascade.app.errors import NoTileError
from tilecascade.app.service import Service
from tilecascade.app.settings import LayerSettings
from tilecascade.app.tiles import image as tile_image
from tilecascade.app.tiles.generator import BlockGenerator
from tilecascade.app.tiles.resolver import TileResolver
from tilecascade.model.conditions import Stage
from tilecascade.model.engine import LocalEngine, Priority
from tilecascade.model.pipeline import CascadePipeline
from tilecascade.model.sgdm.config import tiny
from tilecascade.model.sgdm.network import random_network


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


def test_a_field_that_is_not_stored_is_generated_again(
    make_settings: MakeSettings, layer_settings: LayerSettings
) -> None:
    """Fields of the last zoom are not stored, so they are missing when a finer zoom is added."""
    settings, parents, tiles = make_settings(), tiles_at(15), tiles_at(16)
    coarse = layer_settings.model_copy(update={"max_zoom": 15})
    before = run(settings, coarse, lambda r: fetch_all(r, parents))
    fields = {path.name for path in (settings.data_dir / "tiles").rglob("*.field.png")}
    assert len(fields) == 1, "that of the root"
    after = run(settings, layer_settings, lambda r: fetch_all(r, [*tiles, *parents]))
    shutil.rmtree(settings.data_dir)
    assert after == run(settings, layer_settings, lambda r: fetch_all(r, [*parents, *tiles]))
    assert before == {tile: after[tile] for tile in parents}  # type: ignore[index]


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
        first = await resolver.find(tile)
        second = await resolver.find(tile)
        assert first.data == second.data
        return first.source, second.source, resolver.generator.blocks_generated

    assert run(settings, layer_settings, story) == ("generated", "memory", 3)

    async def again(resolver: TileResolver) -> tuple[str, int]:
        return (await resolver.find(tile)).source, resolver.generator.blocks_generated

    assert run(settings, layer_settings, again) == ("disk", 0)


def test_siblings_come_with_the_first_tile_and_a_crowd_costs_one_generation(
    make_settings: MakeSettings, layer_settings: LayerSettings
) -> None:
    async def story(resolver: TileResolver) -> int:
        await asyncio.gather(*(resolver.find(tile) for tile in tiles_at(15) * 25))
        return resolver.generator.blocks_generated

    assert run(make_settings(), layer_settings, story) == 2  # the root and one block


def test_work_that_nobody_waits_for_any_more_is_dropped(
    make_settings: MakeSettings, layer_settings: LayerSettings
) -> None:
    """Blocks wait behind the two that are read ahead; of the waiting ones, one loses all its clients."""
    roots = layer_settings.model_copy(update={"root_zoom": 16})
    tiles = tiles_at(16)[:8]

    async def story(resolver: TileResolver) -> None:
        held = hold(resolver)
        requests = {}
        for count, tile in enumerate(tiles, 1):  # one after the other, so that the last ones wait last
            requests[tile] = [asyncio.create_task(resolver.find(tile)) for _ in range(2)]
            await until(lambda count=count: len(held.priorities) == count)  # type: ignore[misc]
        await asyncio.to_thread(held.begun.wait, 30)
        left, kept = tiles[-1], tiles[-2]
        for task in (*requests[left], requests[kept][0]):
            task.cancel()
        await until(lambda: held.state().dropped == 1)
        held.open()
        await asyncio.gather(*(task for tile in tiles[:-1] for task in requests[tile][1:]))
        await resolver.drain()
        assert await resolver.store.lookup(kept) is not None
        assert await resolver.store.lookup(left) is None
        assert resolver.generator.blocks_generated == len(tiles) - 1

    run(make_settings(threads=1), roots, story)


def test_a_block_that_the_device_has_begun_is_finished_and_stored(
    make_settings: MakeSettings, layer_settings: LayerSettings
) -> None:
    tile = tiles_at(14)[0]

    async def story(resolver: TileResolver) -> None:
        begun, go = threading.Event(), threading.Event()
        generate = CascadePipeline(random_network(tiny()))

        def slow(stage: Stage, batch: Any) -> Any:
            begun.set()
            go.wait(30)
            return generate(stage, batch)

        resolver.generator.works.engine = LocalEngine(slow)
        request = asyncio.create_task(resolver.find(tile))
        await asyncio.to_thread(begun.wait, 30)
        request.cancel()
        await asyncio.sleep(0.05)
        go.set()
        await resolver.drain()
        assert await resolver.store.lookup(tile) is not None
        resolver.generator.works.engine.close()

    run(make_settings(), layer_settings, story)


def test_a_viewer_who_joins_a_prefetch_raises_the_priority_of_all_it_needs(
    make_settings: MakeSettings, layer_settings: LayerSettings
) -> None:
    tile = tiles_at(16)[5]

    async def story(resolver: TileResolver) -> None:
        held = hold(resolver)
        prefetch = asyncio.create_task(resolver.find(tile, priority=Priority.PREFETCH))
        await until(lambda: bool(held.priorities))
        assert set(held.priorities.values()) == {Priority.PREFETCH}
        viewer = asyncio.create_task(resolver.find(tile))
        await until(lambda: set(held.priorities.values()) == {Priority.INTERACTIVE})
        held.open()
        assert (await viewer).data == (await prefetch).data
        assert set(held.priorities.values()) == {Priority.INTERACTIVE}  # the blocks submitted later, too
        assert resolver.generator.blocks_generated == 3

    run(make_settings(), layer_settings, story)


def test_a_cold_tile_is_looked_up_once(make_settings: MakeSettings, layer_settings: LayerSettings) -> None:
    async def story(service: Service, resolver: TileResolver) -> None:
        await resolver.find(tiles_at(14)[0])
        assert service.caches.store.misses == 1
        assert sum(service.caches.store.hits.values()) == 0
        await resolver.find(tiles_at(14)[0])
        assert (service.caches.store.misses, sum(service.caches.store.hits.values())) == (1, 1)
        await resolver.find(tiles_at(15)[0])  # its root is a hit
        assert (service.caches.store.misses, sum(service.caches.store.hits.values())) == (2, 2)

    with_service(make_settings(), layer_settings, story)


def test_reading_takes_no_lock(make_settings: MakeSettings, layer_settings: LayerSettings) -> None:
    """Finished tiles are found while another process holds every lease, and in a directory that is read-only."""
    settings, tile = make_settings(memory_bytes=0), tiles_at(15)[1]

    async def generate(resolver: TileResolver) -> bytes:
        return (await resolver.find(tile)).data

    made = run(settings, layer_settings, generate)

    class NoLeases:
        def acquire(self, key: str) -> None:
            raise AssertionError("a lease was asked for")

    async def read(service: Service, resolver: TileResolver) -> bytes:
        locked = TileResolver(
            resolver.store, BlockGenerator(resolver.store, NoLeases(), resolver.generator.works.engine)
        )
        folders = [path for path in (settings.data_dir / "tiles").rglob("*") if path.is_dir()]
        for folder in folders:
            folder.chmod(0o555)
        try:
            before = sorted(settings.data_dir.rglob("*"))
            data = (await locked.find(tile)).data
            assert sorted(settings.data_dir.rglob("*")) == before
            return data
        finally:
            for folder in folders:
                folder.chmod(0o755)

    assert with_service(settings, layer_settings, read) == made


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
                await resolver.find(tile)
        assert resolver.generator.blocks_generated == 0

    run(make_settings(), layer_settings, story)


def test_below_the_root_tiles_are_averaged_once_the_root_exists(
    make_settings: MakeSettings, layer_settings: LayerSettings
) -> None:
    async def story(resolver: TileResolver) -> None:
        root = tile_image.decode((await resolver.find(PLACE)).data).astype(float)
        above = tile_image.decode((await resolver.find(Tile(PLACE.x >> 1, PLACE.y >> 1, 13))).data)
        top, left = PLACE.y % 2 * 128, PLACE.x % 2 * 128
        part = above[top : top + 128, left : left + 128]
        mean = root.reshape(128, 2, 128, 2, 4).mean(axis=(1, 3))
        assert np.abs(part - mean).max() <= 1
        assert (above[..., 3] == 255).sum() == 128 * 128
        world = tile_image.decode((await resolver.find(Tile(0, 0, 0))).data)
        assert world.shape == (256, 256, 4)
        assert resolver.generator.blocks_generated == 1

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
                        await resolver.find(tile)
                    continue
                rgba = tile_image.decode((await resolver.find(tile)).data)
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
        await resolver.find(Tile(PLACE.x >> 2, PLACE.y >> 2, 12))
        return resolver.layer.ladder.root, resolver.layer.max_zoom

    assert run(make_settings(), layer, story) == (12, 12)


def test_a_png_says_what_it_is(make_settings: MakeSettings, layer_settings: LayerSettings) -> None:
    async def story(resolver: TileResolver) -> None:
        import io

        tile = tiles_at(16)[3]
        with Image.open(io.BytesIO((await resolver.find(tile)).data)) as image:
            assert image.size == (256, 256)
            text = image.text  # type: ignore[attr-defined]
        assert text["Comment"] == "generated, not surveyed"
        assert text["tilecascade:reference"] == f"15/{tile.x // 2}/{tile.y // 2}"
        assert text["tilecascade:depth"] == "3"
        assert text["tilecascade:model"] == resolver.layer.model.hash
        assert text["tilecascade:imagery"] == resolver.layer.imagery.id

    run(make_settings(), layer_settings, story)


def test_the_coarsest_tiles_are_generated_before_anybody_asks(
    make_settings: MakeSettings, layer_settings: LayerSettings
) -> None:
    async def story(service: Service, resolver: TileResolver) -> int:
        tiles = resolver.layer.root_tiles_from_center(4)
        assert tiles[0] == mercantile.tile(*resolver.layer.imagery.center, resolver.layer.ladder.root)
        assert len(set(tiles)) == len(tiles) <= 4
        for _ in range(400):
            if all([await resolver.store.lookup(tile) for tile in tiles if resolver.layer.imagery.covers(tile)]):
                break
            await asyncio.sleep(0.05)
        else:
            pytest.fail("the coarsest tiles were not generated")
        return service.resolvers["map"].generator.generated[resolver.layer.ladder.root]

    assert with_service(make_settings(warm_tiles=4), layer_settings, story) > 0


def test_coarser_tiles_are_drawn_of_objects_in_any_order(
    make_settings: MakeSettings, make_scene: SceneMaker, tmp_path: Path
) -> None:
    """With a finish, tiles coarser than the root zoom generate the root tiles that they need, and no other."""
    layer = LayerSettings(scenes=[make_scene()], finish="cartographic")
    results = []
    for folder, zooms in (("down", range(14, 7, -1)), ("up", range(8, 15))):

        async def story(resolver: TileResolver, zooms: range = zooms) -> dict[int, bytes]:
            assert resolver.layer.min_zoom == 8
            return {
                zoom: (await resolver.find(mercantile.parent(PLACE, zoom=zoom) if zoom < 14 else PLACE)).data
                for zoom in zooms
            }

        results.append(run(make_settings(data_dir=tmp_path / folder), layer, story))
        kept = {path.name for path in (tmp_path / folder / "tiles").rglob("*.objects.bin")}
        assert len(kept) == 7
    assert results[0] == results[1]


def test_coarser_tiles_need_a_bounded_number_of_root_tiles(make_settings: MakeSettings, tmp_path: Path) -> None:
    layer = LayerSettings(country=1, finish="cartographic")

    async def story(resolver: TileResolver) -> None:
        assert resolver.layer.min_zoom == 11
        tile = mercantile.tile(*resolver.layer.imagery.center, 9)
        with pytest.raises(NoTileError, match="prefetch"):
            await resolver.find(tile)
        assert resolver.generator.blocks_generated == 0

    run(make_settings(), layer, story)
