"""A painted picture becomes a territory: covers are read, borders wander, windows of any zoom show the same ground."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from tilecascade.model.cascade import Pixels, Window
from tilecascade.model.palette import PALETTE, nearest_colour
from tilecascade.model.world.sketch import COVERS, NUMBER, Line, Territory, is_painted, kinds_of, read_legend

BOX = (1_000_000.0, 5_000_000.0, 1_020_480.0, 5_020_480.0)


def painted(*names: str) -> Pixels:
    """Vertical stripes of covers, 64 x 64, their edges smoothed as by a brush."""
    image = Image.new("RGB", (256, 256))
    draw = ImageDraw.Draw(image)
    for number, name in enumerate(names):
        draw.rectangle((number * 256 // len(names), 0, 256, 256), fill=COVERS[NUMBER[name]].paint)
    return np.asarray(image.resize((64, 64), Image.Resampling.BILINEAR))


def territory(seed: int = 1, *names: str) -> Territory:
    return Territory(kinds_of(painted(*(names or ("water", "forest", "town", "farmland")))), BOX, seed)


def window_of(zoom: int, x: float, y: float, size: int = 128) -> Window:
    """A window whose middle is at a share of the box."""
    metres = 40_075_016.686 / (256 << zoom)
    left = (BOX[0] + x * (BOX[2] - BOX[0]) + 20_037_508.343) / metres
    top = (20_037_508.343 - BOX[3] + y * (BOX[3] - BOX[1])) / metres
    return Window(zoom, int(left) - size // 2, int(top) - size // 2, size, size)


def test_covers_are_those_of_the_nearest_colour_and_smoothed_edges_are_no_third_one() -> None:
    kinds = kinds_of(painted("water", "sand", "forest"))
    assert set(np.unique(kinds)) == {NUMBER["water"], NUMBER["sand"], NUMBER["forest"]}
    assert (kinds[:, 5] == NUMBER["water"]).all()
    assert (kinds[:, 60] == NUMBER["forest"]).all()
    legend = read_legend({"#0000ff": "sand", "#00FF00": "town"})
    own = np.zeros((16, 16, 3), dtype=np.uint8)
    own[:, :8], own[:, 8:] = (10, 0, 250), (0, 240, 5)
    assert (kinds_of(own, legend)[:, [0, -1]] == (NUMBER["sand"], NUMBER["town"])).all()


@pytest.mark.parametrize(
    ("legend", "words"),
    [({"blue": "water"}, "no colour"), ({"#0000ff": "sea"}, "none of water, forest"), ({}, "empty")],
)
def test_a_legend_that_cannot_be_read_gets_a_sentence(legend: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_legend(legend)


def test_other_flat_colours_are_the_nearest_cover() -> None:
    for colour, name in (((34, 139, 34), "forest"), ((255, 0, 0), "town"), ((128, 128, 128), "rock")):
        picture = np.broadcast_to(np.array(colour, dtype=np.uint8), (32, 32, 3))
        assert (kinds_of(picture) == NUMBER[name]).all(), name


def test_a_picture_of_another_shape_than_its_place_is_stretched_to_it() -> None:
    kinds = kinds_of(painted("water", "forest")).T.copy().repeat(3, 1)
    place = Territory(kinds, BOX, 1)  # water above, forest below, three times as wide as high
    for y, name in ((0.2, "water"), (0.35, "water"), (0.65, "forest"), (0.9, "forest")):
        assert (place.cover(*place.axes(window_of(13, 0.5, y, 32))) == NUMBER[name]).mean() > 0.95, (y, name)


def test_flat_colours_are_told_from_a_picture() -> None:
    assert is_painted(painted("water", "forest"))
    rng = np.random.default_rng(0)
    assert not is_painted(rng.integers(0, 256, (64, 64, 3)).astype(np.uint8))


@settings(max_examples=25)
@given(st.sampled_from([9, 12, 15, 16]), st.floats(0.1, 0.9), st.floats(0.1, 0.9), st.integers(-40, 40))
def test_windows_that_overlap_show_the_same_ground(zoom: int, x: float, y: float, by: int) -> None:
    place, window = territory(), window_of(zoom, x, y)
    moved = Window(zoom, window.left + by, window.top - by, window.width, window.height)
    a, b = place.imagery(window), place.imagery(moved)
    # light looks at the pixel beside
    inner = slice(abs(by) + 2, 128 - abs(by) - 2)
    rows = slice(inner.start + by, inner.stop + by)
    columns = slice(inner.start - by, inner.stop - by)
    difference = np.abs(a[inner, inner].astype(int) - b[rows, columns])
    assert difference.max(initial=0) <= 1
    assert (place.map(window)[inner, inner] == place.map(moved)[rows, columns]).mean(dtype=float) > 0.99


def test_the_sketch_survives_at_every_zoom_and_another_seed_changes_only_detail() -> None:
    colours = {name: colour for name, colour, _ in PALETTE}
    shown = {name: colours[COVERS[number].shown] for name, number in NUMBER.items()}
    for zoom in (10, 12, 14, 16):
        for x, name in ((0.12, "water"), (0.37, "forest"), (0.62, "town"), (0.87, "farmland")):
            size = 16 if zoom == 10 else 128
            pictures = [territory(seed).imagery(window_of(zoom, x, 0.5, size)).astype(float) for seed in (1, 2)]
            maps = [territory(seed).map(window_of(zoom, x, 0.5, size)) for seed in (1, 2)]
            for drawn in maps:
                # a town closer by is streets and houses, too
                least = 0.4 if name == "town" and zoom >= 14 else 0.8
                assert (drawn == shown[name]).all(axis=2).mean() > least, (zoom, name)
            assert np.abs(pictures[0] - pictures[1]).mean() > 1
            if zoom <= 12:  # closer by, a window may be one side of a hill
                assert np.abs(pictures[0].mean((0, 1)) - pictures[1].mean((0, 1))).max() < 25


def test_borders_wander_but_not_far() -> None:
    place = territory(3, "water", "forest")
    window = window_of(14, 0.5, 0.5, 512)
    wet = place.cover(*place.axes(window)) == NUMBER["water"]
    coast = wet.sum(axis=1)
    assert len(np.unique(coast)) > 40
    metres = 40_075_016.686 / (256 << 14)
    assert np.abs(coast - 256).max() * metres < 6 * place.pixel


def test_lines_show_on_the_map_and_from_above_and_outside_is_not_the_territory(tmp_path: Path) -> None:
    points = np.array([[BOX[0], 5_010_240.0], [BOX[2], 5_010_240.0]])
    bare = territory(1, "forest")
    given = Territory(bare.kinds, BOX, 1, [Line("primary", points), Line("river", points + np.array([0, 2_000]))])
    window = window_of(14, 0.5, 0.5, 512)
    changed = (given.map(window) != bare.map(window)).any(axis=2)
    assert changed[256].mean() > 0.9
    assert (given.imagery(window) != bare.imagery(window)).any(axis=2)[256].mean() > 0.5
    river = int(256 - 2_000 / (40_075_016.686 / (256 << 14)))
    assert (nearest_colour(given.map(window)[river]) == [name for name, *_ in PALETTE].index("water")).mean() > 0.9
    edge = window_of(14, 0.0, 0.5, 128)
    inside = given.inside(*given.axes(edge))
    assert 0.4 < inside.mean() < 0.6
    given.write(tmp_path / "map")
    again = Territory.read(tmp_path / "map")
    assert (again.map(window) == given.map(window)).all()
    assert (again.imagery(window) == given.imagery(window)).all()
    (tmp_path / "map.json").write_text('{"covers": []}')
    with pytest.raises(ValueError, match="another version"):
        Territory.read(tmp_path / "map")
