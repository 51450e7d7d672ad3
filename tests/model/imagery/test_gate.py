"""The gate of painted imagery: what is accepted is learned, what is rejected is painted again, in any order alike."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tilecascade.model.cascade import Block, Mask, Pixels, Window
from tilecascade.model.conditions import Stage
from tilecascade.model.imagery.gate import FEWEST, SLACK, Gate, learn_gate, strength
from tilecascade.model.imagery.network import OctaveNet
from tilecascade.model.imagery.painter import (
    BLOCK,
    MARGIN,
    MOST_ATTEMPTS,
    Above,
    ImageryCascade,
    OctavePainter,
    load_octaves,
)
from tilecascade.model.sgdm.config import WEIGHTS_DIR

TOP = 12
FIRST = Block(TOP + 1, 40, 20, 1)
PLACE = FIRST.footprint()
STAGE = Stage(TOP + 1, TOP, BLOCK, 3)


def grain(seed: int, coarse: float, fine: float, size: int = 64) -> Pixels:
    """An image with detail of two octaves."""
    rng = np.random.default_rng(seed)
    above = rng.normal(0, coarse, (size // 2, size // 2, 3)).repeat(2, 0).repeat(2, 1)
    image = (above + rng.normal(0, fine, (size, size, 3))).clip(-1, 1)
    return ((image + 1) * 127.5).round().astype(np.uint8)


def ground(window: Window) -> tuple[Pixels, Mask]:
    """The same pixels at the same place."""
    rows, columns = np.arange(window.height) + window.top, np.arange(window.width) + window.left
    value = 128 + 40 * np.sin(rows[:, None] / 3.1) + 40 * np.cos(columns[None, :] / 4.7)
    known = np.ones((window.height, window.width), dtype=np.bool_)
    return np.repeat(value[..., None], 3, axis=2).astype(np.uint8), known


def above(place: Window = PLACE) -> Above:
    return Above(place, *ground(place.above(1).grown(MARGIN)), 0.0)


def painter(net: OctaveNet, gate: Gate) -> OctavePainter:
    return OctavePainter(lambda: (net, gate))


def test_strength_is_octaves_between_a_zoom_and_the_one_above() -> None:
    even, twice = strength(grain(1, 0.1, 0.1)), strength(grain(1, 0.1, 0.2))
    assert ((twice - even > 0.4) & (twice - even < 1.1)).all()
    assert np.allclose(strength(np.full((32, 32, 3), 90, np.uint8)), 0)  # a lake: nothing to say


def test_ranges_are_learned_by_resolution() -> None:
    images = [grain(i, 0.1, fine) for fine in (0.05, 0.2) for i in range(FEWEST)]
    metres = [1.0] * FEWEST + [4.4] * FEWEST
    gate = learn_gate([*images, grain(0, 0.1, 0.1)], [*metres, 64.0])
    assert [row[0] for row in gate.ranges] == [1.0, 4.0]  # of 64 m there are too few
    assert gate.excess(grain(99, 0.1, 0.05), 0.9) == 0
    assert gate.excess(grain(99, 0.1, 0.2), 0.9) > SLACK
    assert gate.excess(grain(99, 0.1, 0.2), 5.0) == 0
    assert gate.excess(grain(99, 0.1, 0.05), 100.0) == 0  # nothing is known of such a resolution
    assert Gate.from_list(gate.to_list()) == gate
    assert Gate().excess(grain(1, 0.1, 0.9), 1.0) == 0


def narrow(net: OctaveNet) -> Gate:
    """A range that the first attempt at PLACE leaves, and one of the next comes nearer to."""
    found = [strength(painter(net, Gate()).paint(STAGE, [above()], attempt)[0]) for attempt in range(2)]
    bound = (found[0] + found[1]) / 2
    low = tuple(np.where(found[1] > found[0], bound, -9.0).tolist())
    high = tuple(np.where(found[1] > found[0], 9.0, bound).tolist())
    return Gate(((above().metres, low, high),))


@pytest.mark.slow
def test_what_is_rejected_is_painted_again_the_same_in_any_order(net: OctaveNet) -> None:
    gate = narrow(net)
    windows = [PLACE, Window(TOP + 1, PLACE.left + 300, PLACE.top + 300, 256, 256),
               Window(TOP + 2, 2 * PLACE.left, 2 * PLACE.top, 256, 256)]  # fmt: skip
    results = []
    for order in itertools.permutations(windows):
        source = ImageryCascade(ground, TOP, painter(net, gate), 3)
        results.append({window: source.read(window)[0] for window in order})
        first = source.block(FIRST)
        assert first.attempts == 2
        assert len(first.rejected) == 1
        assert first.accepted
    assert all((each[window] == results[0][window]).all() for each in results for window in windows)
    once = ImageryCascade(ground, TOP, painter(net, Gate()), 3)
    assert (once.read(PLACE)[0] != results[0][PLACE]).any()


def test_a_batch_is_judged_block_by_block(net: OctaveNet) -> None:
    """Blocks that are painted together are what each is by itself, though only one of them is painted again."""
    other = Block(TOP + 1, 41, 20, 1).footprint()
    paint = painter(net, narrow(net))
    alone = [paint(STAGE, [above(place)])[0] for place in (PLACE, other)]
    together = paint(STAGE, [above(), above(other)])
    assert [block.attempts for block in together] == [block.attempts for block in alone]
    for one, same in zip(alone, together, strict=True):
        assert np.abs(one.pixels.astype(int) - same.pixels).max() <= 1  # a batch of another size may round otherwise


def test_every_attempt_has_the_same_edge(net: OctaveNet) -> None:
    """So that two neighbours join, whichever attempt is kept of each."""
    first, second = (painter(net, Gate()).paint(STAGE, [above()], attempt)[0] for attempt in (0, 1))
    assert (first != second).any()
    edge = 8
    for side in (np.s_[:edge], np.s_[-edge:], np.s_[:, :edge], np.s_[:, -edge:]):
        assert (first[side] == second[side]).all()
    inner = np.s_[200:-200, 200:-200]
    assert (first[inner] != second[inner]).mean() > 0.5


def test_what_never_fits_ends(net: OctaveNet) -> None:
    impossible = Gate(((above().metres, (50.0,) * 3, (60.0,) * 3),))
    (block,) = painter(net, impossible)(STAGE, [above()])
    assert 2 <= block.attempts <= MOST_ATTEMPTS
    assert len(block.rejected) == block.attempts - 1
    assert not block.accepted


def test_the_shipped_gate_takes_most_of_what_the_shipped_network_paints() -> None:
    net, gate = load_octaves(WEIGHTS_DIR / "imagery")
    assert len(gate.ranges) >= 4
    rng = np.random.default_rng(0)
    taken = 0
    for i in range(4):
        window = Window(16, (3000 + 7 * i) * 512, 1500 * 512, 256, 256)
        image = (rng.normal(0, 0.1, (128 + 80, 128 + 80, 3)) * 127.5 + 127.5).clip(0, 255).astype(np.uint8)
        item = Above(window, image, np.ones(image.shape[:2], dtype=np.bool_), 0.0)
        taken += painter(net, gate)(Stage(16, 15, 256, 5), [item])[0].accepted
    assert taken >= 1
