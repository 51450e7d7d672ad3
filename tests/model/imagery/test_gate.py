"""The gate of painted imagery: what is accepted is learned, what is rejected is painted again, in any order alike."""

from __future__ import annotations

import itertools

import numpy as np

from tilecascade.model.cascade import Pixels, Window, metres_per_pixel
from tilecascade.model.imagery.gate import FEWEST, SLACK, Gate, learn_gate, strength
from tilecascade.model.imagery.network import OctaveNet
from tilecascade.model.imagery.painter import BLOCK, MOST_ATTEMPTS, ImageryCascade, OctavePainter, load_octaves
from tilecascade.model.sgdm.config import WEIGHTS_DIR

TOP = 12
PLACE = Window(TOP + 1, 40 * BLOCK, 20 * BLOCK, BLOCK, BLOCK)
METRES = metres_per_pixel(TOP + 1, (PLACE.top + BLOCK / 2) / 256 - 0.5)


def grain(seed: int, coarse: float, fine: float, size: int = 64) -> np.ndarray:
    """An image with detail of two octaves."""
    rng = np.random.default_rng(seed)
    above = rng.normal(0, coarse, (size // 2, size // 2, 3)).repeat(2, 0).repeat(2, 1)
    return (above + rng.normal(0, fine, (size, size, 3))).clip(-1, 1).astype(np.float32)


def ground(window: Window) -> Pixels:
    """The same pixels at the same place."""
    rows, columns = np.arange(window.height) + window.top, np.arange(window.width) + window.left
    value = 128 + 40 * np.sin(rows[:, None] / 3.1) + 40 * np.cos(columns[None, :] / 4.7)
    return np.repeat(value[..., None], 3, axis=2).astype(np.uint8)


def pixels(image: np.ndarray) -> np.ndarray:
    return ((image + 1) * 127.5).round().astype(np.uint8)


def test_strength_is_octaves_between_a_zoom_and_the_one_above() -> None:
    even, twice = strength(grain(1, 0.1, 0.1)), strength(grain(1, 0.1, 0.2))
    assert ((twice - even > 0.4) & (twice - even < 1.1)).all()
    assert np.allclose(strength(np.zeros((32, 32, 3), np.float32)), 0)  # a lake: nothing to say


def test_ranges_are_learned_by_resolution() -> None:
    images = [pixels(grain(i, 0.1, fine)) for fine in (0.05, 0.2) for i in range(FEWEST)]
    metres = [1.0] * FEWEST + [4.4] * FEWEST
    gate = learn_gate([*images, pixels(grain(0, 0.1, 0.1))], [*metres, 64.0])
    assert [row[0] for row in gate.ranges] == [1.0, 4.0]  # of 64 m there are too few
    assert gate.excess(grain(99, 0.1, 0.05), 0.9) == 0
    assert gate.excess(grain(99, 0.1, 0.2), 0.9) > SLACK
    assert gate.excess(grain(99, 0.1, 0.2), 5.0) == 0
    assert gate.excess(grain(99, 0.1, 0.05), 100.0) == 0  # nothing is known of such a resolution
    assert Gate.from_list(gate.to_list()) == gate
    assert Gate().excess(grain(1, 0.1, 0.9), 1.0) == 0


def narrow(net: OctaveNet) -> Gate:
    """A range that the first attempt at PLACE leaves, and one of the next comes nearer to."""
    painter = OctavePainter(net, 3)
    above = ground(PLACE.above(1).grown(40)).astype(np.float32) / 127.5 - 1
    found = [strength(painter.paint(PLACE, above, 0.0, attempt)) for attempt in range(2)]
    bound = (found[0] + found[1]) / 2
    low = tuple(np.where(found[1] > found[0], bound, -9.0).tolist())
    high = tuple(np.where(found[1] > found[0], 9.0, bound).tolist())
    return Gate(((METRES, low, high),))


def test_what_is_rejected_is_painted_again_the_same_in_any_order(net: OctaveNet) -> None:
    gate = narrow(net)
    windows = [PLACE, Window(TOP + 1, PLACE.left + 300, PLACE.top + 300, 256, 256),
               Window(TOP + 2, 2 * PLACE.left, 2 * PLACE.top, 256, 256)]  # fmt: skip
    results, attempts = [], []
    for order in itertools.permutations(windows):
        rejected: list[Window] = []
        source = ImageryCascade(
            ground, TOP, OctavePainter(net, 3, gate=gate), lambda w, _, kept=rejected: kept.append(w)
        )
        results.append({window: source.read(window) for window in order})
        attempts.append({window: source.attempts_at(window) for window in windows})
        assert rejected.count(PLACE) == 1
        assert max(source.attempts) <= MOST_ATTEMPTS
        assert source.attempts.total() == len(source._blocks)
    assert all((each[window] == results[0][window]).all() for each in results for window in windows)
    assert all(each == attempts[0] for each in attempts)
    assert attempts[0][PLACE] == 2
    once = ImageryCascade(ground, TOP, OctavePainter(net, 3))
    assert (once.read(PLACE) != results[0][PLACE]).any()
    assert once.attempts_at(PLACE.above(1)) == 0


def test_what_never_fits_ends(net: OctaveNet) -> None:
    impossible = Gate(((METRES, (50.0,) * 3, (60.0,) * 3),))
    source = ImageryCascade(ground, TOP, OctavePainter(net, 3, gate=impossible))
    source.read(PLACE)
    assert 2 <= source.attempts_at(PLACE) <= MOST_ATTEMPTS
    assert source.unaccepted == 1


def test_the_shipped_gate_takes_most_of_what_the_shipped_network_paints() -> None:
    net, gate = load_octaves(WEIGHTS_DIR / "imagery")
    assert len(gate.ranges) >= 4
    painter = OctavePainter(net, 5, gate=gate)
    rng = np.random.default_rng(0)
    taken = 0
    for i in range(4):
        window = Window(16, (3000 + 7 * i) * 512, 1500 * 512, 256, 256)
        above = rng.normal(0, 0.1, (128 + 80, 128 + 80, 3)).astype(np.float32)
        taken += painter.painted(window, above, 0.0, lambda w, i: None).accepted
    assert taken >= 1
