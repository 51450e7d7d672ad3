"""Weather on training batches is what `imagery.weather` puts on images, with other patches."""

from __future__ import annotations

import numpy as np
import torch

from tests.conftest import picture
from tilecascade.model.imagery.weather import KINDS, Weather, weathered
from tilecascade.model.training.tensor_augment import Augmenter

IMAGE = picture(256, 7)
AXIS = (np.arange(256) + 0.5) * 0.6


def test_each_kind_changes_a_batch_as_it_changes_an_image() -> None:
    change = Augmenter(torch.Generator().manual_seed(3))
    batch = (torch.from_numpy(IMAGE.copy()).permute(2, 0, 1)[None].float() / 255).repeat(32, 1, 1, 1)
    strength = torch.full((32, 1, 1, 1), 0.5)
    for kind, made in zip(KINDS, (change._fog, change._low_light, change._snow), strict=True):
        here = made(batch, strength).mean(dim=(0, 2, 3)).numpy() * 255
        images = [weathered(IMAGE, AXIS + 5e3 * i, AXIS, Weather(kind, 0.5, i)) for i in range(12)]
        assert np.abs(here - np.mean(images, axis=(0, 1, 2))).max() < 16, kind


def test_samples_differ_and_stay_in_range() -> None:
    change = Augmenter(torch.Generator().manual_seed(5))
    batch = torch.rand(12, 3, 64, 64)
    made = change.weather(batch)
    assert made.shape == batch.shape
    assert 0 <= made.min() <= made.max() <= 1
    moved = (made - batch).mean(dim=(1, 2, 3))
    assert moved.min() < -0.1 < 0.05 < moved.max(), "some darker, some whiter"
