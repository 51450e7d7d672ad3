"""Captions in the published kind of network: segments in cross-attention, each at its time, for the windows of an
area."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tilecascade.model.cascade import Window, WindowConfig
from tilecascade.model.conditions import Conditions, Stage
from tilecascade.model.pipeline import CascadePipeline
from tilecascade.model.sgdm.config import DiffusionConfig, tiny
from tilecascade.model.sgdm.network import SGDM, random_network
from tilecascade.model.text.captions import Caption

TOWN = Caption("dense residential", ("a river from west to east",), ("building", "road", "water"))


@pytest.fixture(scope="module")
def network() -> SGDM:
    small = tiny()
    config = replace(
        small,
        text=replace(small.text, compact_vocabulary=False),
        diffusion=DiffusionConfig(steps=4),
        windows=WindowConfig(blend=True),
    )
    return random_network(config)


def conditions(left: int, caption: Caption | None, edge: int = 512) -> Conditions:
    window = Window(16, left, 1 << 20, 256, 256)
    image = np.random.default_rng(3).integers(0, 256, (256, 256, 3)).astype(np.uint8)
    return Conditions(
        window,
        image,
        np.ones((256, 256), dtype=bool),
        None,
        None,
        caption_at=lambda seen: caption if seen.left < edge else None,
    )


def test_without_a_caption_nothing_is_different(network: SGDM) -> None:
    latent, steps = torch.randn(2, network.config.autoencoder.latent_channels, 8, 8), torch.tensor([7, 7])
    pipeline = CascadePipeline(network)
    stage = Stage(16, None, 256)
    with torch.inference_mode():
        context = pipeline._context(stage).expand(2, -1, -1)
        widths = network.config.unet.widths
        features = [torch.randn(2, widths[i], 8 >> i, 8 >> i) for i in range(3)]
        plain = network.unet(latent, steps, context, features)
        again = network.unet(latent, steps, torch.cat([context] * 4, 1), features, torch.full((2, 4), 0.25))
        assert torch.allclose(plain, again, atol=1e-5), "the same text four times is that text"
        assert pipeline._captions.with_captions([conditions(0, None)], context[:1]) is None


def test_each_segment_counts_at_its_own_time(network: SGDM) -> None:
    pipeline = CascadePipeline(network)
    there = torch.tensor([[1.0], [0.0]])
    weights = torch.stack([pipeline._captions.weights(there, index) for index in range(4)])
    assert torch.allclose(weights.sum(2), torch.ones(4, 2))
    assert (weights[:, 1] == torch.tensor([1.0, 0, 0, 0])).all(), "no caption, no share"
    assert torch.allclose(weights[:, 0, 0], torch.tensor(1 - network.config.text.caption_share))
    scene, element = weights[:, 0, 1], weights[:, 0, 3]
    assert scene[0] > scene[-1]
    assert element[-1] > element[0]


def test_a_caption_changes_the_windows_of_its_area_only(network: SGDM) -> None:
    pipeline = CascadePipeline(network)
    stage = Stage(16, None, 256)
    channels = network.config.autoencoder.latent_channels

    def latents(caption: Caption | None, *lefts: int) -> torch.Tensor:
        batch = [conditions(left, caption) for left in lefts]
        with torch.inference_mode():
            encoded, context = pipeline._condition(stage, batch)
            return pipeline._denoise(stage, batch, context, encoded.features)

    plain, said = latents(None, 256, 512), latents(TOWN, 256, 512)
    assert plain.shape[1] == channels
    assert (said[0] - plain[0]).abs().mean() > 1e-3
    assert torch.allclose(said[1], plain[1], atol=1e-5)
    for part in ("scene", "relations", "elements"):
        other = replace(TOWN, **{part: "" if part == "scene" else ()})
        assert (latents(other, 256) - said[:1]).abs().mean() > 1e-4, part


def test_a_tower_that_knows_scale_texts_only_is_told_nothing() -> None:
    pipeline = CascadePipeline(random_network(tiny()))
    assert pipeline.network.config.text.compact_vocabulary
    with torch.inference_mode():
        context = pipeline._context(Stage(16, None, 256))
        assert pipeline._captions.with_captions([conditions(0, TOWN)], context) is None
