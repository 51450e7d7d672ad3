"""A first guess of the map from the condition alone, about which the diffusion then works (default preset only).

The published network starts every tile from pure noise and learns all of the map from eps. With little training that
is out of reach: after 2,400 samples nothing of the imagery showed. Here the condition map also predicts palette
colours at half resolution; these, encoded, are a latent mean, and the diffusion models the difference to it (the idea
of PriorGrad, Lee et al. 2022). What is certain is there from the start; the U-Net learns to draw it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.palette import COLOURS, PALETTE
from model.sgdm.autoencoder import KLAutoencoder, PatchAutoencoder
from model.sgdm.config import LATENT_STRIDE

STRIDE = 2
"""Pixels per predicted palette cell."""

SHARPNESS = 4.0
"""What logits are multiplied by: 1 would mix doubtful colours into a third one (mIoU 0.38 against 0.48 at 4)."""


class PalettePrior(nn.Module):
    """Condition map -> palette logits -> mean latent.

    scale: C, what the sampler's output is multiplied by: a fixed share of the deviation of true latents from this
        mean, measured on training maps.
    """

    colours: Tensor
    scale: Tensor

    def __init__(self, condition_channels: int, latent_channels: int) -> None:
        super().__init__()
        cells = LATENT_STRIDE // STRIDE
        self.cells = cells
        self.logits = nn.Conv2d(condition_channels, len(PALETTE) * cells**2, 1)
        self.register_buffer("colours", torch.from_numpy(COLOURS).float() / 127.5 - 1, persistent=False)
        self.register_buffer("scale", torch.ones(latent_channels))

    def forward(self, condition: Tensor) -> Tensor:
        """N x C x h x w -> palette logits, N x P x 4h x 4w (half of the map's resolution)."""
        return F.pixel_shuffle(self.logits(condition), self.cells)

    def mean(self, condition: Tensor, autoencoder: KLAutoencoder | PatchAutoencoder) -> Tensor:
        """The latent of the likely colours: N x C x h x w."""
        share = (SHARPNESS * self(condition)).softmax(dim=1)
        image = torch.einsum("nphw,pc->nchw", share, self.colours.to(share.dtype))
        return autoencoder.encode(F.interpolate(image, scale_factor=float(STRIDE), mode="nearest"))
