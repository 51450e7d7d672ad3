"""A tiny network of imagery with random weights."""

from __future__ import annotations

import pytest
import torch

from tilecascade.model.imagery.network import OctaveConfig, OctaveNet


@pytest.fixture(scope="module")
def net() -> OctaveNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = OctaveNet(OctaveConfig((8, 12, 16), (1, 1, 1), 16, 2)).eval()
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter, 0.0, 0.08)
    return made
