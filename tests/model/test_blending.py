"""Blended windows: weights add up to one, and a network that looks at its whole window shows no window borders."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tilecascade.model.blending import WindowCache, blend, ramp
from tilecascade.model.cascade import Block, Ladder, Pixels, WindowConfig
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


@pytest.mark.parametrize(("cell", "overlap"), [(32, 8), (64, 8), (16, 8)])
def test_windows_of_one_field_blend_to_the_field(cell: int, overlap: int) -> None:
    field = torch.randn(3, 3 * cell + 2 * overlap, 3 * cell + 2 * overlap)
    windows = {
        (i, j): field[:, (j + 1) * cell : (j + 2) * cell + 2 * overlap, (i + 1) * cell : (i + 2) * cell + 2 * overlap]
        for i in (-1, 0, 1)
        for j in (-1, 0, 1)
    }
    out = blend(windows, cell, overlap)
    assert torch.allclose(out, field[:, cell : 2 * cell + 2 * overlap, cell : 2 * cell + 2 * overlap], atol=1e-5)
    axis = ramp(cell, overlap)
    assert torch.allclose(axis[: 2 * overlap] + axis[-2 * overlap :], torch.ones(2 * overlap))


def looks_everywhere(windows: WindowConfig) -> SGDM:
    """A small network of the published kind: self-attention and GroupNorm over the whole window."""
    config = SGDMConfig(
        name="global",
        encoder=EncoderConfig(stem=8, widths=(8, 8, 16), spade_hidden=8, condition_channels=16, adapter_blocks=1),
        unet=UNetConfig(widths=(32, 32, 32), layers_per_block=1, head_dim=32, context_dim=32),
        text=tiny().text,
        autoencoder=AutoencoderConfig(widths=(32, 32, 32, 32), layers_per_block=1),
        diffusion=DiffusionConfig(sampler="ddim", steps=2, temperature=0.0),
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


def draw(pipeline: CascadePipeline, columns: list[int], fields: str = "") -> Pixels:
    """Blocks of one row, side by side, drawn in the order given."""
    ladder, image = Ladder(14, windows=pipeline.windows), scenery()
    drawn = {}
    for column in columns:
        block = Block(14, COLUMN + column, ROW, 0)
        window = ladder.window(block)
        top, left = window.top - (ROW - 3) * 256, window.left - (COLUMN - 3) * 256
        box = image[top : top + window.height, left : left + window.width]
        known = np.ones(box.shape[:2], dtype=bool)
        stage = Stage(14, None, 256, fields=fields)
        drawn[column] = pipeline(stage, [Conditions(window, box, known, None, None)])[0].pixels
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


def test_the_window_cache_forgets_the_oldest() -> None:
    cache = WindowCache(2)
    for key in "aba":
        cache.put(key, torch.zeros(1))
    cache.put("c", torch.ones(1))
    assert cache.get("b") is None
    assert cache.get("a") is not None
    assert cache.get("c") is not None
