"""Noise is a function of coordinates."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from tilecascade.model.noise import noise_on_device, noise_window, philox


def test_philox_known_answers() -> None:
    """From the Random123 distribution (kat_vectors)."""

    def run(counter: list[int], key: tuple[int, int]) -> list[int]:
        words = philox(tuple(np.array([c], dtype=np.uint64) for c in counter), key)  # type: ignore[arg-type]
        return [int(w[0]) for w in words]

    ones = 0xFFFFFFFF
    assert run([0] * 4, (0, 0)) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert run([ones] * 4, (ones, ones)) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]


@given(st.integers(0, 2**64 - 1), st.integers(0, 20), st.integers(-100, 100), st.integers(-100, 100))
def test_overlapping_windows_read_the_same_noise(seed: int, zoom: int, dx: int, dy: int) -> None:
    left, top = 4000, 900
    a = noise_window(seed, zoom, left, top, 120, 120, 2)
    b = noise_window(seed, zoom, left + dx, top + dy, 120, 120, 2)
    rows = slice(max(0, dy), min(120, 120 + dy))
    columns = slice(max(0, dx), min(120, 120 + dx))
    moved_rows = slice(rows.start - dy, rows.stop - dy)
    moved_columns = slice(columns.start - dx, columns.stop - dx)
    assert (a[:, rows, columns] == b[:, moved_rows, moved_columns]).all()


def test_noise_repeats_round_the_world_and_only_there() -> None:
    zoom = 3
    world = 32 << zoom
    a = noise_window(5, zoom, -8, 0, 16, 4, 1)
    assert (a[:, :, :8] == noise_window(5, zoom, world - 8, 0, 8, 4, 1)).all()
    assert not (a[:, :, :8] == a[:, :, 8:]).any()


def test_seed_zoom_channel_and_phase_all_matter() -> None:
    base = noise_window(1, 14, 100, 100, 16, 16, 2)
    others = [
        noise_window(2, 14, 100, 100, 16, 16, 2),
        noise_window(1 + 2**32, 14, 100, 100, 16, 16, 2),
        noise_window(1, 15, 100, 100, 16, 16, 2),
        noise_window(1, 14, 100, 100, 16, 16, 2, phase=1),
        base[::-1],
    ]
    for other in others:
        assert abs(np.corrcoef(base.ravel(), other.ravel())[0, 1]) < 0.2


def test_noise_is_standard_normal_and_uncorrelated() -> None:
    a = noise_window(11, 17, 0, 0, 256, 256, 4)
    assert a.dtype == np.float32
    assert abs(a.mean()) < 0.01
    assert abs(a.std() - 1) < 0.01
    assert abs((a**4).mean() - 3) < 0.2  # Irwin-Hall of eight: 2.85
    assert abs((a[:, 1:] * a[:, :-1]).mean()) < 0.01
    assert abs((a[:, :, 1:] * a[:, :, :-1]).mean()) < 0.01
    assert abs((a[1:] * a[:-1]).mean()) < 0.01


def test_noise_of_a_device_is_that_of_numpy() -> None:
    """A million values: at the poles, on both sides of the antimeridian, and with every bit of a seed set."""
    for seed, zoom, phase in [(0, 0, 0), (2**64 - 1, 20, 50), (2**63 + 5, 14, 1), (7, 22, 255)]:
        world = 32 << zoom
        corners = [(-40, -40), (world - 30, 5), (world // 2, -(1 << 31)), (12_345 % world, (1 << 32) - 20)]
        there = noise_on_device(seed, zoom, corners, 72, 56, 16, torch.device("cpu"), phase)
        here = [noise_window(seed, zoom, left, top, 72, 56, 16, phase) for left, top in corners]
        assert (there.numpy() == np.stack(here)).all()
        assert there.numel() > 250_000


def test_the_same_bytes_for_ever() -> None:
    """A change here changes every tile that was ever served."""
    values = noise_window(42, 17, 87_000, 40_000, 3, 1, 1)[0, 0]
    expected = np.array(VALUES, dtype=np.float32)
    assert (values == expected).all()


VALUES = [1.4291555881500244, 0.5193803310394287, -0.5665865540504456]
