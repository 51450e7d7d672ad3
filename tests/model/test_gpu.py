"""What only a graphics processor can show: `pytest -m gpu` on a machine that has one."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.model.engine.test_engine import conditions
from tilecascade.model.engine.device import choose_dtype, free_memory
from tilecascade.model.noise import noise_on_device, noise_window
from tilecascade.model.pipeline import CascadePipeline
from tilecascade.model.sgdm.config import tiny
from tilecascade.model.sgdm.network import random_network

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device on this machine"),
]


def test_noise_of_the_device_is_that_of_numpy() -> None:
    corners = [(-40, -40), ((32 << 14) - 30, 5), (12_345, 1 << 31)]
    there = noise_on_device(2**63 + 5, 14, corners, 256, 256, 8, torch.device("cuda"), 3)
    here = np.stack([noise_window(2**63 + 5, 14, left, top, 256, 256, 8, 3) for left, top in corners])
    assert (there.cpu().numpy() == here).all()


@pytest.mark.parametrize("blend", [False, True])
def test_a_batch_gives_the_same_bytes_twice_and_in_every_slot(blend: bool) -> None:
    config = replace(tiny(), windows=replace(tiny().windows, blend=blend))
    network = random_network(config)
    stage, _ = conditions(0, 16, config.windows)
    batch = [conditions(i, 16, config.windows)[1] for i in range(4)]
    dtype = choose_dtype("auto", "cuda")
    first = [each.pixels for each in CascadePipeline(network, "cuda", dtype)(stage, batch)]
    again = CascadePipeline(random_network(config), "cuda", dtype)
    turned = [each.pixels for each in again(stage, batch[1:] + batch[:1])]
    assert all((a == b).all() for a, b in zip(first[1:] + first[:1], turned, strict=True))


def test_the_free_memory_is_less_than_the_whole() -> None:
    assert 0 < free_memory("cuda") <= torch.cuda.get_device_properties(0).total_memory


def test_recorded_calls_of_the_unet_give_the_bytes_of_plain_ones() -> None:
    network, dtype = random_network(tiny()), choose_dtype("auto", "cuda")
    stage, _ = conditions(0, 16, tiny().windows)
    batch = [conditions(i, 16, tiny().windows)[1] for i in range(4)]
    plain, recorded = CascadePipeline(network, "cuda", dtype), CascadePipeline(network, "cuda", dtype)
    plain._unet = plain._plain_unet
    for _ in range(2):
        pairs = zip(plain(stage, batch), recorded(stage, batch), strict=True)
        assert all((a.pixels == b.pixels).all() for a, b in pairs)
