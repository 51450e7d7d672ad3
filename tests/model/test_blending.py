"""Blended windows: weights add up to one, and a network that looks at its whole window shows no window borders."""

import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilecascade.model.blending import PERIOD, SIDE, STARTS, WindowKey, WindowPool, blend, ramp, windows_over
from tilecascade.model.cascade import BLENDED_MARGIN, Block, Ladder, Pixels, Window, WindowConfig
from tilecascade.model.conditions import Conditions, Stage
from tilecascade.model.pipeline import CascadePipeline
from tilecascade.model.sgdm.config import (
    AutoencoderConfig,
    DiffusionConfig,
    EncoderConfig,
    SGDMConfig,
    UNetConfig,
    tiny,
)
from tilecascade.model.sgdm.network import SGDM, random_network

COLUMN, ROW = 5000, 3000


@given(st.integers(-3000, 3000), st.integers(-3000, 3000), st.integers(1, 700), st.integers(1, 700))
def test_windows_of_one_picture_blend_to_the_picture(left: int, top: int, width: int, height: int) -> None:
    place = Window(12, left, top, width, height)

    def picture(window: Window) -> Pixels:
        y, x = np.mgrid[window.top : window.top + window.height, window.left : window.left + window.width]
        return np.stack([(x * 7 + y) % 251, (x + y * 5) % 241, (x ^ y) % 256], -1).astype(np.uint8)

    windows = windows_over(place)
    assert (blend(place, {window: picture(window) for window in windows}) == picture(place)).all()
    assert all(window.left % 16 == 0 and window.width == SIDE for window in windows)


@pytest.mark.parametrize("row", STARTS)
def test_the_weights_of_all_windows_add_up_to_one(row: int) -> None:
    total = np.zeros(3 * PERIOD, dtype=np.float32)
    for window in windows_over(Window(12, 0, row, 3 * PERIOD, 1)):
        if window.top == row and window.left >= 0 and window.left + SIDE <= 3 * PERIOD:
            total[window.left : window.left + SIDE] += ramp(window.left)
    assert np.allclose(total[SIDE:-SIDE], 1, atol=1e-6)


def test_every_window_that_meets_a_block_lies_within_its_margin() -> None:
    for size in (256, 512, 1024):
        for column in range(8):
            block = Window(14, column * size, 5 * size, size, size)
            around = block.grown(BLENDED_MARGIN)
            for window in windows_over(block):
                assert around.left <= window.left
                assert window.left + SIDE <= around.left + around.width
                assert around.top <= window.top
                assert window.top + SIDE <= around.top + around.height


def test_a_prefetch_costs_less_than_twice_the_papers_work() -> None:
    """The paper generates each tile in one window of its size."""
    area = {window for n in range(16) for window in windows_over(Window(15, n % 4 * 512, n // 4 * 512, 512, 512))}
    tiles = 16 * 4
    assert len(area) / tiles < 1.9
    # all that the area costs for itself are 25 windows of each period
    assert len(area) / (25 * 4) < 1.4
    lone = [len(windows_over(Window(15, x * 512, y * 512, 512, 512))) for x in range(2) for y in range(2)]
    assert max(lone) == 16
    assert sum(lone) / 16 < 3.1


def looks_everywhere(windows: WindowConfig, temperature: float = 0.0) -> SGDM:
    """A small network of the published kind: self-attention and GroupNorm over the whole window."""
    config = SGDMConfig(
        name="global",
        encoder=EncoderConfig(stem=8, widths=(8, 8, 16), spade_hidden=8, condition_channels=16, adapter_blocks=1),
        unet=UNetConfig(widths=(32, 32, 32), layers_per_block=1, head_dim=32, context_dim=32),
        text=tiny().text,
        autoencoder=AutoencoderConfig(widths=(32, 32, 32, 32), layers_per_block=1),
        diffusion=DiffusionConfig(sampler="ddim", steps=2, temperature=temperature),
        windows=windows,
    )
    return random_network(config, seed=4)


def scenery() -> Pixels:
    """Imagery of 7 x 7 root tiles that is unlike itself from window to window."""
    size = 7 * 256
    y, x = np.mgrid[:size, :size] / size
    rng = np.random.default_rng(5)
    waves = sum(np.sin(rng.uniform(2, 9) * x + rng.uniform(2, 9) * y + k) for k in range(6))
    return np.clip(128 + 40 * np.stack([waves, waves[::-1], waves[:, ::-1]], -1), 0, 255).astype(np.uint8)


def draw(pipeline: CascadePipeline, columns: list[int], fields: str = "", at_once: bool = False) -> Pixels:
    """Blocks of one row, side by side, drawn in the order given, or in one batch."""
    ladder, image = Ladder(14, windows=pipeline.windows), scenery()
    items = {}
    stage = Stage(14, None, 256, fields=fields)
    for column in columns:
        block = Block(14, COLUMN + column, ROW, 0)
        window = ladder.window(block)
        top, left = window.top - (ROW - 3) * 256, window.left - (COLUMN - 3) * 256
        box = image[top : top + window.height, left : left + window.width]
        known = np.ones(box.shape[:2], dtype=bool)
        items[column] = Conditions(window, box, known, None, None)
    batches = [columns] if at_once else [[column] for column in columns]
    made = [(batch, pipeline(stage, [items[c] for c in batch])) for batch in batches]
    drawn = {c: each.pixels for batch, blocks in made for c, each in zip(batch, blocks, strict=True)}
    return np.concatenate([drawn[c] for c in sorted(drawn)], axis=1)


def border_step(image: Pixels) -> float:
    """The step at the middle column over that at the three latent cells on either side (median)."""
    steps = np.abs(np.diff(image.astype(float), axis=1)).mean(axis=(0, 2))[7::8]
    middle = len(steps) // 2
    return float(steps[middle] / np.median(np.r_[steps[middle - 3 : middle], steps[middle + 1 : middle + 4]]))


def test_blended_windows_show_no_border_where_plain_ones_do() -> None:
    windows = WindowConfig(encode=64, denoise=64, decode=64, blend=True)
    plain = draw(CascadePipeline(looks_everywhere(replace(windows, blend=False))), [0, 1])
    blended = draw(CascadePipeline(looks_everywhere(windows)), [0, 1])
    assert border_step(plain) > 2
    assert border_step(blended) < 1.25


def test_blended_blocks_are_the_same_in_any_order_and_from_a_cold_start() -> None:
    network = looks_everywhere(WindowConfig(blend=True))
    warm = CascadePipeline(network)
    forth = draw(warm, [0, 1])
    assert (draw(warm, [1, 0]) == forth).all()
    assert (draw(CascadePipeline(network), [1, 0]) == forth).all()
    assert (draw(warm, [0, 1], fields="another layer") == forth).all()


def test_blocks_of_a_batch_share_windows_and_later_ones_find_them() -> None:
    network = looks_everywhere(WindowConfig(blend=True), temperature=1.0)
    pipeline = CascadePipeline(network)
    together = draw(pipeline, [0, 1], at_once=True)
    area = Window(14, COLUMN * 256, ROW * 256, 512, 256)
    assert pipeline.windows_generated == len(windows_over(area))
    draw(pipeline, [1])
    assert pipeline.windows_generated == len(windows_over(area))
    alone = draw(CascadePipeline(network), [0, 1])
    # a batch of two rounds in other places than one of one
    assert np.abs(together.astype(int) - alone).max() <= 1


def key(name: str) -> WindowKey:
    return None, 0, name, Window(14, 0, 0, SIDE, SIDE)


def images(keys: Sequence[WindowKey]) -> list[Pixels]:
    return [np.full((SIDE, SIDE, 3), ord(fields), dtype=np.uint8) for _, _, fields, _ in keys]


def test_the_window_pool_forgets_the_oldest() -> None:
    pool = WindowPool(2)
    for name in "abac":
        pool.get([key(name)], images, 1)
    assert pool.made == 3
    pool.get([key("a"), key("c")], images, 1)
    assert pool.made == 3
    pool.get([key("b")], images, 1)
    assert pool.made == 4


def test_threads_that_want_the_same_windows_generate_each_once() -> None:
    pool, calls, gate = WindowPool(), Counter[str](), threading.Barrier(4)

    def slow(keys: Sequence[WindowKey]) -> list[Pixels]:
        calls.update(fields for _, _, fields, _ in keys)
        time.sleep(0.01)
        return images(keys)

    def ask(names: str) -> bool:
        gate.wait()
        found = pool.get([key(name) for name in names], slow, 2)
        return all((found[key(name)] == ord(name)).all() for name in names)

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(ask, ["abcd", "dcba", "bcde", "abde"]))
    assert calls == Counter("abcde")


def test_a_window_that_fails_in_one_thread_is_generated_in_another() -> None:
    pool, failing, waiting = WindowPool(), threading.Event(), threading.Event()

    def fail(keys: Sequence[WindowKey]) -> list[Pixels]:
        failing.set()
        waiting.wait(10)
        raise MemoryError

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(pool.get, [key("a")], fail, 1)
        failing.wait(10)
        second = threads.submit(pool.get, [key("a")], images, 1)
        waiting.set()
        assert (second.result(10)[key("a")] == ord("a")).all()
        with pytest.raises(MemoryError):
            first.result(10)
    assert pool.made == 1
