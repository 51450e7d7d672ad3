"""The published network, loaded through the checkpoint converter, reproduces its authors' outputs."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.golden import SHARED, golden_inputs, published_state
from tilecascade.model.sgdm.config import SGDMConfig, TextConfig, UNetConfig, sd21
from tilecascade.model.sgdm.importing import fill_denoiser
from tilecascade.model.sgdm.mf_encoder import MFEncoder
from tilecascade.model.sgdm.sf_adapter import SFAdapter
from tilecascade.model.sgdm.unet import InjectedUNet

BAR = 1e-4

needs_golden = pytest.mark.skipif(
    not (SHARED / "golden").is_dir(), reason="the golden vectors are not on this machine (set TILECASCADE_SHARED)"
)


class Parts(torch.nn.Module):
    """The three parts that golden vectors exist for: no text tower, no autoencoder."""

    def __init__(self, config: SGDMConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = MFEncoder(config.encoder)
        self.adapter = SFAdapter(config.encoder, config.unet.widths)
        self.unet = InjectedUNet(config.unet, 4)


def compare(config: SGDMConfig, size: str, steps: list[int]) -> dict[str, float]:
    golden = np.load(SHARED / "golden" / f"{size}.npz")
    network = Parts(config).eval()
    fill_denoiser(network, published_state(size))
    given = golden_inputs(len(steps), config.unet.context_dim)
    t = torch.tensor(steps)
    out: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        imagery, reference = given["rs"] * 2 - 1, given["ref"] * 2 - 1
        out["f_cond"], _ = network.encoder(imagery, reference, torch.zeros_like(imagery[:, :1]))
        features = network.adapter(out["f_cond"])
        out |= {f"feature{i}": f for i, f in enumerate(features)}
        out["eps"] = network.unet(given["latent"], t, given["context"], features)
        zeros = [torch.zeros_like(f) for f in features]
        out["eps_zero_features"] = network.unet(given["latent"], t, given["context"], zeros)
    assert set(golden.files) <= set(out)
    return {name: float(np.abs(out[name].numpy() - golden[name]).max()) for name in golden.files}


@needs_golden
def test_small() -> None:
    published = sd21()
    config = replace(
        published,
        unet=UNetConfig(widths=(32, 64, 128, 128), head_dim=32, context_dim=64),
        text=TextConfig(open_clip_model=None, width=64, layers=2, heads=2),
    )
    differences = compare(config, "small", [981, 21])
    print(differences)
    assert max(differences.values()) <= BAR


@needs_golden
@pytest.mark.slow
def test_full() -> None:
    differences = compare(sd21(), "full", [981])
    print(differences)
    assert max(differences.values()) <= BAR
