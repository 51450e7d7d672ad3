"""Geometry: every tile has one block, windows lie on the lattice, fields read the same everywhere."""

import itertools

import mercantile
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mercantile import Tile

from tilecascade.model.cascade import (
    ENLARGE_MARGIN,
    Block,
    Ladder,
    Window,
    WindowConfig,
    assemble,
    enlarge,
    enlarge_part,
    tile_window,
)
from tilecascade.model.sgdm.config import default, sd21

WINDOWS = (default().windows, sd21().windows)

ladders = st.builds(Ladder, root=st.integers(0, 16), span=st.sampled_from([0, 1, 2]), windows=st.sampled_from(WINDOWS))


@st.composite
def ladder_tiles(draw: st.DrawFn) -> tuple[Ladder, Tile]:
    ladder = draw(ladders)
    z = draw(st.integers(ladder.root, 20))
    side = st.integers(0, 2**z - 1)
    return ladder, Tile(draw(side), draw(side), z)


@given(ladder_tiles())
def test_a_tile_is_in_its_own_block_and_siblings_share_it(case: tuple[Ladder, Tile]) -> None:
    ladder, tile = case
    block = ladder.block(tile)
    assert tile in block.tiles()
    assert {ladder.block(sibling) for sibling in block.tiles()} == {block}
    assert len(block.tiles()) == 4**block.levels


@given(ladder_tiles())
def test_a_block_has_one_canonical_parent(case: tuple[Ladder, Tile]) -> None:
    ladder, tile = case
    reference = ladder.reference_zoom(tile.z)
    if reference is None:
        assert tile.z == ladder.root or ladder.span == 0
        assert ladder.block(tile).tiles() == [tile]
        return
    shift = tile.z - reference
    parents = {Tile(t.x >> shift, t.y >> shift, reference) for t in ladder.block(tile).tiles()}
    assert len(parents) == 1
    assert 1 <= shift <= ladder.span


@given(ladder_tiles())
def test_the_chain_rises_from_the_root(case: tuple[Ladder, Tile]) -> None:
    ladder, tile = case
    chain = ladder.chain(tile.z)
    assert chain[0] == (ladder.root if ladder.span else tile.z)
    assert chain[-1] == tile.z
    assert all(ladder.reference_zoom(b) == a for a, b in itertools.pairwise(chain))


@given(ladder_tiles())
def test_windows_lie_on_the_lattice_and_hold_their_block(case: tuple[Ladder, Tile]) -> None:
    ladder, tile = case
    window = ladder.window(ladder.block(tile))
    reach = ladder.windows.margin
    assert window.left % 32 == window.top % 32 == window.width % 32 == 0
    assert window.left + reach <= tile.x * 256
    assert window.left + window.width >= tile.x * 256 + 256 + reach


@given(ladder_tiles())
def test_the_reference_window_is_the_same_ground(case: tuple[Ladder, Tile]) -> None:
    ladder, tile = case
    block = ladder.block(tile)
    reference = ladder.reference_window(ladder.window(block))
    if reference is None:
        return
    window, factor = ladder.window(block).grown(-ladder.windows.without_reference), 2**block.levels
    assert (reference.left + ENLARGE_MARGIN) * factor == window.left
    assert (reference.height - 2 * ENLARGE_MARGIN) * factor == window.height
    needed = ladder.reference_blocks(block)
    assert len(needed) == len(set(needed)) <= (9 if ladder.windows.blend else 1)
    for other in needed:
        assert other.zoom == reference.zoom
    assert ladder.block(Tile(block.column, block.row, reference.zoom)) in needed


@pytest.mark.parametrize(("windows", "bound"), [(default().windows, 1), (sd21().windows, 36)])
def test_a_cold_tile_needs_a_bounded_number_of_blocks_per_zoom(windows: WindowConfig, bound: int) -> None:
    ladder = Ladder(4, windows=windows)
    worst = 0
    for x in range(40_000, 40_064):
        blocks = {ladder.block(Tile(x, 31_337 + x, 18))}
        while next(iter(blocks)).zoom > ladder.root:
            blocks = {other for block in blocks for other in ladder.reference_blocks(block)}
            worst = max(worst, len(blocks) if next(iter(blocks)).zoom > ladder.root else 0)
    assert worst <= bound


def test_below_the_root_there_is_no_reference() -> None:
    with pytest.raises(ValueError, match="below the root"):
        Ladder(10).reference_zoom(9)


def test_span_is_none_one_or_two() -> None:
    with pytest.raises(ValueError, match="span"):
        Ladder(10, 3)


def test_tiles_of_a_window_wrap_at_the_antimeridian_and_stop_at_the_poles() -> None:
    window = Window(2, -10, -10, 20, 20)
    assert set(window.tiles()) == {Tile(3, 0, 2), Tile(0, 0, 2)}
    assert list(Window(0, -64, -64, 384, 384).tiles()) == [Tile(0, 0, 0)]


@given(st.integers(0, 3), st.integers(-300, 600), st.integers(-300, 600), st.integers(1, 500), st.integers(1, 500))
def test_assembling_reads_one_field(levels: int, left: int, top: int, width: int, height: int) -> None:
    """Every pixel of a window equals the same pixel of the whole world's picture, wherever the window lies."""
    rng = np.random.default_rng(7)
    world = rng.integers(0, 256, (512, 512, 4), dtype=np.uint8)
    tiles = {Tile(x, y, 1): world[y * 256 : y * 256 + 256, x * 256 : x * 256 + 256] for x in (0, 1) for y in (0, 1)}
    colours, known = assemble(Window(1, left, top, width, height), tiles)
    rows, columns = np.arange(top, top + height), np.arange(left, left + width) % 512
    inside = (rows >= 0) & (rows < 512)
    expected = world[np.clip(rows, 0, 511)[:, None], columns[None, :]]
    mask = (expected[..., 3] > 127) & inside[:, None]
    assert (known == mask).all()
    assert (colours == expected[..., :3] * mask[..., None]).all()


@pytest.mark.parametrize("levels", [1, 2])
def test_enlarging_does_not_depend_on_the_window(levels: int) -> None:
    """Two windows that overlap see the same enlarged reference where they overlap."""
    rng = np.random.default_rng(1)
    field = rng.integers(0, 256, (200, 200, 3), dtype=np.uint8)
    known = rng.random((200, 200)) > 0.1
    m, f = ENLARGE_MARGIN, 2**levels
    a, ka = enlarge(field[:120, :120], known[:120, :120], levels, (1, 2, 3))
    b, kb = enlarge(field[40:160, 16:136], known[40:160, 16:136], levels, (1, 2, 3))
    overlap_a = slice(40 * f, (120 - 2 * m) * f), slice(16 * f, (120 - 2 * m) * f)
    overlap_b = slice(0, (80 - 2 * m) * f), slice(0, (104 - 2 * m) * f)
    assert a.shape == ((120 - 2 * m) * f, (120 - 2 * m) * f, 3)
    assert (a[overlap_a] == b[overlap_b]).all()
    assert (ka[overlap_a] == kb[overlap_b]).all()


def test_cutting_gives_back_the_tiles() -> None:
    block = Block(3, 1, 2, 1)
    size = block.footprint().width
    pixels = np.arange(size * size).reshape(size, size)
    parts = block.cut(pixels)
    assert list(parts) == block.tiles()
    assert parts[Tile(3, 5, 3)][0, 0] == 256 * size + 256


@pytest.mark.parametrize("levels", [1, 2])
def test_a_part_is_enlarged_as_the_whole_field_is(levels: int) -> None:
    rng = np.random.default_rng(levels)
    tiles = {
        Tile(x, y, 14): np.dstack([rng.integers(0, 256, (256, 256, 3)), np.full((256, 256), 255)]).astype(np.uint8)
        for x in (8, 9, 10)
        for y in (8, 9, 10)
    }
    middle = Tile(9, 9, 14)
    for child in mercantile.children(middle, zoom=14 + levels):
        field = tile_window(child).above(levels).grown(ENLARGE_MARGIN)
        whole, known = enlarge(*assemble(field, tiles), levels, (0, 0, 0))
        assert known.all()
        part = enlarge_part(tiles[middle], child, levels, lambda i, j: tiles[Tile(9 + i, 9 + j, 14)])
        assert np.array_equal(part[..., :3], whole)
        assert (part[..., 3] == 255).all()
        alone = enlarge_part(tiles[middle], child, levels)
        inner = slice(16, -16)
        assert np.array_equal(alone[inner, inner, :3], whole[inner, inner])
    assert (enlarge_part(tiles[middle], Tile(9 << 9, 9 << 9, 23), 9) == tiles[middle][0, 0]).all()
