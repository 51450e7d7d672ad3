"""The finish in the cascade: with the shipped network, as a layer, and measured."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import mercantile
import numpy as np
import pytest
import shapely
from mercantile import Tile

from tests.conftest import SceneMaker
from tests.model.engine.test_engine import conditions
from tests.support import MakeSettings, run
from tilecascade.app.errors import SettingsError
from tilecascade.app.settings import DataDir, LayerSettings
from tilecascade.app.sources.country import CountrySource
from tilecascade.app.tiles.layer import ModelInfo, build_layer
from tilecascade.app.tiles.resolver import TileResolver
from tilecascade.model.cartography.reviews import ReviewedObject
from tilecascade.model.cascade import Pixels, Window, WindowConfig
from tilecascade.model.conditions import Conditions, Stage
from tilecascade.model.evaluation.likeness import Likeness
from tilecascade.model.palette import CLASSES, COLOURS, classify
from tilecascade.model.pipeline import CascadePipeline
from tilecascade.model.sgdm.config import WEIGHTS_DIR, SGDMConfig, tiny
from tilecascade.model.sgdm.network import load_network, random_network
from tilecascade.model.style import COLOUR, MapCanvas

ZOOM = 16


@pytest.fixture(scope="module")
def shipped() -> CascadePipeline:
    return CascadePipeline(load_network(WEIGHTS_DIR / "default"))


def some_block(pipeline: CascadePipeline) -> tuple[Stage, Conditions]:
    """A block of nothing in particular."""
    edge = 512 + 2 * pipeline.windows.encode
    window = Window(ZOOM, 512 * 14000, 512 * 9000, edge, edge)
    imagery = np.random.default_rng(0).integers(60, 200, (edge, edge, 3), dtype=np.uint8)
    return Stage(ZOOM, None, 512, ring=32), Conditions(window, imagery, np.ones((edge, edge), dtype=bool), None, None)


def test_finer_blocks_see_what_is_likely_and_not_what_is_drawn(shipped: CascadePipeline) -> None:
    stage, item = some_block(shipped)
    (plain,) = shipped(stage, [item])
    (drawn,) = shipped(replace(stage, finish="cartographic"), [item])
    assert plain.field is not None
    assert (plain.pixels == plain.field[32:-32, 32:-32]).all()
    assert drawn.field is not None
    assert drawn.field.shape == plain.field.shape
    assert (drawn.field[32:-32, 32:-32] != drawn.pixels).any()
    assert drawn.pixels.shape == (512, 512, 3)
    assert (drawn.pixels != plain.pixels).any()
    (last,) = shipped(replace(stage, finish="cartographic", field=False), [item])
    assert last.field is None
    assert (last.pixels == drawn.pixels).all()


def test_a_finished_map_has_the_colours_of_the_style(shipped: CascadePipeline) -> None:
    stage, item = some_block(shipped)
    (drawn,) = shipped(replace(stage, finish="cartographic"), [item])
    pixels = drawn.pixels.reshape(-1, 1, 3).astype(int)
    exact = (np.abs(pixels - COLOURS[None].astype(int)).max(axis=2) == 0).any(axis=1)
    assert exact.mean() > 0.8, "but for smoothed edges"


def test_confidence_is_of_what_is_drawn_and_a_review_is_certain(shipped: CascadePipeline) -> None:
    stage, item = some_block(shipped)
    stage = replace(stage, finish="cartographic")
    (drawn,) = shipped(stage, [item])
    (doubt,) = shipped.uncertainty(stage, [item])
    assert doubt.disagreement.shape == doubt.classes.shape == (512, 512)
    # far from edges the class is the drawn one
    kinds = classify(drawn.pixels)
    assert (doubt.classes == kinds).mean() > 0.85
    edge = shipped.windows.encode
    lake_shore = shapely.box(100, 100, 300, 300)
    lake = ReviewedObject("cover", "water", None, lake_shore).shifted(edge, edge)
    (reviewed,) = shipped.uncertainty(stage, [replace(item, reviews=(lake,))])
    inside, outside = (slice(150, 250),) * 2, (slice(400, 500),) * 2
    assert (reviewed.disagreement[inside] == 0).all()
    assert (reviewed.classes[inside] == CLASSES.index("water")).all()
    # little of the water that is drawn there was perceived
    assert (doubt.classes[inside] == CLASSES.index("water")).mean() < 0.1
    assert (reviewed.disagreement[outside] == doubt.disagreement[outside]).all()


def test_a_network_without_a_palette_has_no_finish(tmp_path: Path, make_scene: SceneMaker) -> None:
    network = random_network(replace(tiny(), windows=replace(tiny().windows, blend=True)))
    stage, item = conditions(0)
    with pytest.raises(ValueError, match="no palette"):
        CascadePipeline(network)(replace(stage, finish="cartographic"), [item])
    model = ModelInfo("m", "r", WindowConfig(), palette=False)
    layer = LayerSettings(scenes=[make_scene()])
    assert build_layer(layer, model, DataDir(tmp_path)).finish == "none"  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="no palette"):
        build_layer(layer.model_copy(update={"finish": "cartographic"}), model, DataDir(tmp_path))  # type: ignore[arg-type]


def test_the_weights_say_which_finish_suits_them(tmp_path: Path, make_scene: SceneMaker) -> None:
    assert SGDMConfig.from_file(WEIGHTS_DIR / "default.json").finish == "cartographic"
    model = ModelInfo("m", "r", WindowConfig(), finish="cartographic")
    settings = LayerSettings(scenes=[make_scene()])
    layer = build_layer(settings, model, DataDir(tmp_path))  # type: ignore[arg-type]
    assert layer.finish == "cartographic"
    plain = build_layer(settings.model_copy(update={"finish": "none"}), model, DataDir(tmp_path))  # type: ignore[arg-type]
    assert plain.finish == "none"
    assert plain.version != layer.version


def test_finished_tiles_have_the_same_bytes_in_any_order(make_settings: MakeSettings, tmp_path: Path) -> None:
    """The shipped network in a town of the country, whose tiles of z15 and z16 are asked for in two orders."""
    layer = LayerSettings(country=1, max_zoom=16)
    west, south, east, north = CountrySource(1).bounds
    middle = mercantile.tile((west + east) / 2, (south + north) / 2, 15)
    beside = mercantile.neighbors(middle)[0]
    tiles = [middle, mercantile.children(middle)[0], mercantile.children(beside)[1]]
    results = []
    for seed in (0, 1):
        order = random.Random(seed).sample(tiles, len(tiles))

        async def story(resolver: TileResolver, order: list[Tile] = order) -> dict[Tile, bytes]:
            assert resolver.layer.finish == "cartographic"
            return {tile: (await resolver.find(tile)).data for tile in order}

        settings = make_settings(weights=WEIGHTS_DIR / "default", data_dir=tmp_path / str(seed))
        results.append(run(settings, layer, story))
    assert results[0] == results[1]
    assert len(set(results[0].values())) > 1


def street_map(ragged: float = 0.0, gap: int = 0) -> Pixels:
    """A map of houses along two streets; with ragged walls and broken streets where wanted."""
    rng = np.random.default_rng(0)
    canvas = MapCanvas(np.full((256, 256, 3), COLOUR["land"], dtype=np.uint8), 17)
    turn = np.array([[np.cos(0.3), np.sin(0.3)], [-np.sin(0.3), np.cos(0.3)]])
    for x in range(20, 256, 50):
        for y in (30, 80, 190, 220):
            corners = np.array([(0, 0), (24, 0), (24, 14), (0, 14)]) @ turn + (x, y)
            dense = np.concatenate(
                [np.linspace(a, b, 8)[:-1] for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True)]
            )
            canvas.building(dense + rng.normal(0, ragged, dense.shape))
    streets = [np.array([(0, 140), (256, 140)], dtype=float), np.array([(130, 0), (130, 256)], dtype=float)]
    if gap:
        streets = [np.array([(x, 140), (x + gap, 140)], dtype=float) for x in range(0, 256, 2 * gap)]
    canvas.roads({"residential": streets})
    return canvas.finish()


def test_likeness_is_ideal_on_a_true_map_and_worse_on_a_ragged_one() -> None:
    truth = street_map()
    same, ragged, broken = Likeness(), Likeness(), Likeness()
    same.add(truth, truth)
    ideal = same.summary()
    assert (ideal["building_precision"], ideal["building_recall"], ideal["connectivity"]) == (1, 1, 1)
    assert ideal["rectangularity"] > 0.8
    assert ideal["deviation"] < 8
    assert all(ideal[name] == ideal[f"true_{name}"] for name in ("pieces", "sharp", "rectangularity", "deviation"))
    ragged.add(street_map(ragged=2.5), truth)
    assert ragged.summary()["deviation"] > ideal["deviation"] + 5
    broken.add(street_map(gap=24), truth)
    assert broken.summary()["connectivity"] < 0.5
    assert broken.summary()["pieces"] > 2 * ideal["pieces"]
