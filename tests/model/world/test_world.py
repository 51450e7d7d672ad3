"""The fictional country: one seed, one country; tiles fit their neighbours, their parents and their map."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mercantile import Tile
from PIL import Image

from tilecascade.app.errors import SettingsError
from tilecascade.app.settings import DataDir, LayerSettings, load_settings, read_configuration
from tilecascade.app.sources.country import CountrySource
from tilecascade.app.tiles.layer import ModelInfo, build_layer
from tilecascade.model.cascade import Pixels, WindowConfig, tile_window
from tilecascade.model.data.pairs import read_pairs
from tilecascade.model.palette import CLASSES, COLOURS, PALETTE, classify, nearest_colour
from tilecascade.model.world import blocks, land
from tilecascade.model.world.features import PLACE, Frame
from tilecascade.model.world.imagery_rendering import Look, any_look, render_imagery
from tilecascade.model.world.lattice import distance_to_line, fractal, smooth_line
from tilecascade.model.world.map_rendering import render_map
from tilecascade.model.world.pairs import write_pairs
from tilecascade.model.world.places import RANKS, links, places

SEED = 7


def tile_at(x: float, y: float, zoom: int) -> Tile:
    """The tile over a place in the country's metres."""
    size = land.EXTENT / 2 ** (zoom - PLACE[2])
    return Tile(
        *(int((side << (zoom - PLACE[2])) + v // size) for side, v in zip(PLACE[:2], (x, y), strict=True)), zoom
    )


CITY = places(SEED)[0]

some_tiles = st.builds(
    lambda index, dx, dy, zoom: tile_at(places(SEED)[index].x + dx, places(SEED)[index].y + dy, zoom),
    st.integers(0, 120),
    st.floats(-1500, 1500),
    st.floats(-1500, 1500),
    st.integers(14, 18),
)
few = settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow], derandomize=True)


def pair_of_tiles(draw: object, tile: Tile) -> tuple[Pixels, Pixels]:
    """A tile by itself and cut out of a window that reaches 256 pixels further east and south."""
    window = tile_window(tile)
    wide = type(window)(tile.z, window.left, window.top, 512, 512)
    return draw(SEED, window), draw(SEED, wide)[:256, :256]  # type: ignore[operator]


def test_same_seed_same_bytes_and_another_seed_another_country() -> None:
    window = tile_window(tile_at(CITY.x, CITY.y, 15))
    first = render_imagery(SEED, window), render_map(SEED, window)
    for cache in (land.plan_grid, land.rivers, places, links, blocks.town, blocks.block):
        cache.cache_clear()
    again = render_imagery(SEED, window), render_map(SEED, window)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert (render_imagery(SEED + 1, window) != first[0]).any()
    assert (render_map(SEED + 1, window) != first[1]).any()


@few
@given(some_tiles)
def test_what_a_window_shows_does_not_depend_on_how_far_it_reaches(tile: Tile) -> None:
    for draw, most in ((render_map, 0.01), (render_imagery, 0.03)):
        alone, cut = pair_of_tiles(draw, tile)
        # light and shade look a few pixels aside
        inside = np.abs(alone.astype(int) - cut)[:-24, :-24]
        assert (inside.max(axis=2) > 3).mean() < most, draw.__name__


@few
@given(some_tiles.filter(lambda tile: tile.z > 14))
def test_a_child_agrees_with_its_parent(tile: Tile) -> None:
    parent = Tile(tile.x >> 1, tile.y >> 1, tile.z - 1)
    box = (slice(128 * (tile.y & 1), 128 * (tile.y & 1) + 128), slice(128 * (tile.x & 1), 128 * (tile.x & 1) + 128))
    quiet = Look(noise=0)
    child = render_imagery(SEED, tile_window(tile), quiet).reshape(128, 2, 128, 2, 3).mean(axis=(1, 3))
    above = render_imagery(SEED, tile_window(parent), quiet)[box]
    assert np.abs(child.mean(axis=(0, 1)) - above.mean(axis=(0, 1))).max() < 14
    rendered = classify(render_map(SEED, tile_window(tile))[::2, ::2])
    coarse = classify(render_map(SEED, tile_window(parent))[box])
    large = np.isin(coarse, [CLASSES.index("water"), CLASSES.index("vegetation")])
    if large.sum() > 1000:
        assert (rendered == coarse)[large].mean() > 0.75


def test_neighbours_of_the_served_imagery_match() -> None:
    imagery = CountrySource(SEED)
    tile = tile_at(CITY.x, CITY.y, 16)
    window = tile_window(tile)
    both, known = imagery.read(type(window)(16, window.left, window.top, 512, 256))
    assert known.all()
    assert (both[:, :256] == imagery.read(window)[0]).all()
    steps = np.abs(np.diff(both.astype(int), axis=1)).mean(axis=(0, 2))
    assert steps[255] < np.percentile(steps, 99)
    assert not imagery.covers(Tile(0, 0, 14))
    assert not imagery.covers(Tile(0, 0, 3))
    outside, nothing = imagery.read(tile_window(Tile(0, 0, 14)))
    assert not nothing.any()
    assert not outside.any()


def test_map_and_imagery_show_the_same_things() -> None:
    colours: dict[str, list[np.ndarray]] = {"water": [], "vegetation": [], "road": []}
    for place in places(SEED)[:12]:
        tile = tile_at(place.x + place.radius, place.y, 15)
        seen = render_imagery(SEED, tile_window(tile), Look(noise=0))
        kind = classify(render_map(SEED, tile_window(tile)))
        for name, pixels in colours.items():
            pixels.append(seen[kind == CLASSES.index(name)])
    mean = {name: np.concatenate(pixels).mean(axis=0) for name, pixels in colours.items()}
    assert mean["water"][2] > mean["water"][0]
    assert mean["vegetation"][1] > mean["vegetation"][[0, 2]].max()
    assert np.ptp(mean["road"]) < 30
    assert mean["road"].mean() > mean["vegetation"].mean() > mean["water"].mean()


def test_maps_use_the_palette_and_its_generalisation() -> None:
    shares = {}
    building = [name for name, _, _ in PALETTE].index("building")
    for zoom in (12, 13, 14, 16, 18):
        rendered = render_map(SEED, tile_window(tile_at(CITY.x + 900, CITY.y, zoom)))
        nearest = nearest_colour(rendered)
        distance = np.abs(rendered.astype(int) - COLOURS[nearest]).max(axis=2)
        assert (distance <= 4).mean() > 0.6, zoom
        shares[zoom] = (rendered == COLOURS[building]).all(axis=2).mean()
    assert shares[12] == shares[13] == 0
    assert shares[14] > 0
    assert shares[16] > 0
    with pytest.raises(ValueError, match="z8"):
        render_map(SEED, tile_window(Tile(0, 0, 4)))


def test_rivers_reach_water_and_roads_reach_every_place() -> None:
    high, water = land.plan_grid(SEED)
    found = land.rivers(SEED)
    assert len(found) > 50
    ends = []
    for river in found:
        column, row = (river.points[-1] / land.CELL).astype(int)
        near = water[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3].any()
        joined = any(
            distance_to_line(river.points[-1:], other.points)[0] < 1.5 * land.CELL
            for other in found
            if other is not river
        )
        ends.append(near or joined)
    assert np.mean(ends) > 0.98
    drop = [
        high[tuple((r.points[0] / land.CELL).astype(int)[::-1])]
        - high[tuple((r.points[-1] / land.CELL).astype(int)[::-1])]
        for r in found
    ]
    assert np.mean(np.array(drop) > -0.05) > 0.97
    roads = [link for link in links(SEED) if link.kind != "rail"]
    for place in places(SEED):
        spot = np.array([[place.x, place.y]])
        assert min(distance_to_line(spot, road.points)[0] for road in roads) < 1.5 * land.CELL, place


def test_every_rank_and_culture_occurs_and_blocks_are_filled() -> None:
    everywhere = [place for seed in (SEED, SEED + 1) for place in places(seed)]
    assert {place.rank for place in everywhere} == set(RANKS)
    assert {place.culture for place in everywhere} == set(blocks.BLOCK)
    here = blocks.town(SEED, 0)
    built = [blocks.block(SEED, 0, int(j), int(i)) for j, i in np.argwhere(here.valid)[:150]]
    assert {"residential", "park"} <= {block.kind for block in built}
    assert sum(len(block.buildings) for block in built) > 500
    for block in built:
        for building in block.buildings:
            middle = building.corners.mean(axis=0)
            assert (middle > block.corners.min(axis=0) - 1).all()
            assert (middle < block.corners.max(axis=0) + 1).all()


def test_looks_change_the_picture_and_not_the_map() -> None:
    window = tile_window(tile_at(CITY.x, CITY.y, 16))
    rng = np.random.default_rng(0)
    pictures = [render_imagery(SEED, window, any_look(rng)) for _ in range(4)]
    assert min(np.abs(a.astype(int) - b).mean() for i, a in enumerate(pictures) for b in pictures[:i]) > 3
    winter = render_imagery(SEED, window, Look(snow=1.0))
    assert winter.mean() > render_imagery(SEED, window).mean() + 20


def test_noise_is_the_same_in_every_window_and_coarse_noise_is_the_mean_of_fine() -> None:
    axis = np.arange(400) * 10.0
    whole = fractal(3, 1, axis, axis, 2000, 6)
    assert np.allclose(whole[100:200, 50:90], fractal(3, 1, axis[50:90], axis[100:200], 2000, 6))
    assert 0.4 < whole.std() < 1.6
    coarse = fractal(3, 1, axis[2::5], axis[2::5], 2000, 6)
    mean = whole.reshape(80, 5, 80, 5).mean(axis=(1, 3))
    assert np.corrcoef(coarse.ravel(), mean.ravel())[0, 1] > 0.97
    line = np.array([[0.0, 0.0], [10.0, 0.0], [10.0, 10.0]])
    bent = smooth_line(line)
    assert (bent[[0, -1]] == line[[0, -1]]).all()
    assert len(bent) == 10
    assert distance_to_line(np.array([[5.0, 3.0]]), line)[0] == pytest.approx(3)
    frame = Frame.of(tile_window(Tile(*PLACE)))
    assert frame.pixel * 256 == pytest.approx(land.EXTENT)
    assert (frame.west, frame.north) == (0, 0)


def test_pairs_are_written_in_the_layout_that_training_reads(tmp_path: Path) -> None:
    write_pairs(tmp_path, SEED, 3)
    write_pairs(tmp_path, SEED + 1, 2)
    pairs = read_pairs(tmp_path, "country", "train")
    assert len(pairs) == 5
    assert all(pair.parent is not None for pair in pairs)
    rows = list(csv.DictReader((tmp_path / "manifest.csv").open()))
    with Image.open(tmp_path / rows[0]["map"]) as image:
        tile = Tile(int(rows[0]["x"]), int(rows[0]["y"]), int(rows[0]["zoom"]))
        assert (np.asarray(image.convert("RGB")) == render_map(SEED, tile_window(tile))).all()


def test_a_layer_is_made_of_scenes_or_of_a_country(tmp_path: Path) -> None:
    generator = ModelInfo("m", "r", WindowConfig())
    layer = build_layer(LayerSettings(country=3), generator, DataDir(tmp_path))
    assert layer.max_zoom == 18
    assert layer.version != build_layer(LayerSettings(country=4), generator, DataDir(tmp_path)).version
    assert "fictional" in layer.attribution
    with pytest.raises(ValueError, match="only a territory can have scenes, too"):
        LayerSettings()
    path = tmp_path / "layers.toml"
    path.write_text('[[layer]]\ncountry = 5\n[[layer]]\nname = "two"\nscenes = ["a.tif"]\ncountry = 1\n')
    with pytest.raises(SettingsError, match="give scenes, the seed of a country or a territory"):
        read_configuration(path)
    path.write_text("[[layer]]\ncountry = 5\n")
    assert read_configuration(path)[1][0].country == 5
    assert load_settings(data_dir=tmp_path).data_dir == tmp_path
