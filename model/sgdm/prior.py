"""A first guess of the map from the condition alone, about which the diffusion then works (default preset only).

The published network starts every tile from pure noise and learns all of the map from eps. With little training that
is out of reach: after 2,400 samples nothing of the imagery showed. Here the encoder also predicts palette colours at
half resolution, from its condition map and, for what is small, from its features at stride 2; these, encoded, are a
latent mean, and the diffusion models the difference to it (the idea of PriorGrad, Lee et al. 2022). What is certain is
there from the start; the U-Net learns to draw it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.palette import PALETTE
from model.sgdm.autoencoder import PaletteAutoencoder
from model.sgdm.config import LATENT_STRIDE

STRIDE = 2
"""Pixels per predicted palette cell."""

SHARPNESS = 2.0
"""What logits are multiplied by for the mean. A mixture of maps is not a map, and the decoder draws it as a blur: on
validation tiles mIoU 0.48 at 1, 0.525 at 2, 0.528 at 4; PSNR falls by 0.3 dB from 2 to 4."""


class PalettePrior(nn.Module):
    """Condition map and fine features -> palette logits -> mean latent.

    scale: C, what the sampler's output is multiplied by: a fixed share of the deviation of true latents from this
        mean, measured on training maps.
    """

    HIDDEN = 32

    scale: Tensor

    def __init__(self, condition_channels: int, fine_channels: int, latent_channels: int) -> None:
        super().__init__()
        self.cells = LATENT_STRIDE // STRIDE
        self.logits = nn.Conv2d(condition_channels, len(PALETTE) * self.cells**2, 1)
        self.fine = nn.Sequential(
            nn.Conv2d(fine_channels, self.HIDDEN, 3, padding=1), nn.ReLU(), nn.Conv2d(self.HIDDEN, len(PALETTE), 1)
        )
        self.register_buffer("scale", torch.ones(latent_channels))

    def forward(self, condition: Tensor, fine: Tensor) -> Tensor:
        """N x C x h x w and N x F x 4h x 4w -> palette logits, N x P x 4h x 4w (half of the map's resolution).

        Smoothed twice over 3 x 3 positions: each cell of the condition map predicts 4 x 4 of them by itself, and the
        cells' borders showed as a comb of 8 px (steps 2.7 times those elsewhere; 1.3 times smoothed).
        """
        logits = F.pixel_shuffle(self.logits(condition), self.cells) + self.fine(fine)
        for _ in range(2):
            logits = F.avg_pool2d(logits, 3, 1, 1, count_include_pad=False)
        return logits

    def mean(self, condition: Tensor, fine: Tensor, autoencoder: PaletteAutoencoder) -> Tensor:
        """The latent of the likely colours, N x C x h x w: encoding is linear in the shares of the colours."""
        logits = SHARPNESS * self(condition, fine).float()
        with torch.autocast(logits.device.type, enabled=False):
            return self._encode(logits, autoencoder)

    @staticmethod
    def _encode(logits: Tensor, autoencoder: PaletteAutoencoder) -> Tensor:
        share = logits.permute(1, 0, 2, 3).flatten(1).softmax(dim=0)
        embedded = (autoencoder.embedding.T @ share).view(-1, len(logits), *logits.shape[2:]).transpose(0, 1)
        return autoencoder.encode_embedded(F.interpolate(embedded, scale_factor=float(STRIDE), mode="nearest"))
