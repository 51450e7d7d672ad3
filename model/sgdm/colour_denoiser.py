"""The denoiser of palette colours: diffusion of what every pixel shows, which can hold an edge.

The state is each pixel's embedded palette colour, at full resolution; the network says how likely each palette colour
is, and the mean embedding of these is the clean state that the sampler goes on with (Dieleman et al. 2022, CDCD). So
there is no autoencoder between the diffusion and the map, and the loss is a cross-entropy.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tilecascade.model.palette import PALETTE
from tilecascade.model.sgdm.autoencoder import DRAFT_CHANNELS, FINE_STRIDE, IMAGES, colour_embedding
from tilecascade.model.sgdm.config import EncoderConfig, UNetConfig
from tilecascade.model.sgdm.sf_adapter import SFAdapter
from tilecascade.model.sgdm.unet import InjectedUNet

CELL = 4
"""Pixels per position of the U-Net's first level along one axis."""

LEAST, MOST = 0.05, 20.0
"""Amplitudes of noise between which the U-Net's time runs."""


def embedding() -> Tensor:
    """P x 8: each palette colour as the diffusion sees it, with mean 0 and mean square 1 over the palette."""
    plain = colour_embedding()
    plain = plain - plain.mean(0)
    return plain / plain.square().mean().sqrt()


class ColourDenoiser(nn.Module):
    """SFAdapter and U-Net at stride 4, and layers at full resolution that read and write single pixels.

    Starts as the draft: what the U-Net says is added to the draft's own logits.
    """

    PIXEL, LAST = 12, 24

    embedding: Tensor

    def __init__(self, encoder: EncoderConfig, unet: UNetConfig) -> None:
        super().__init__()
        if unet.finer_levels != 1:
            raise ValueError("the U-Net of colours has one level that is finer than the condition map")
        width = unet.widths[0]
        self.register_buffer("embedding", embedding(), persistent=False)
        self.adapter = SFAdapter(encoder, unet.widths[1:])
        self.unet = InjectedUNet(unet, width)
        depth = self.embedding.shape[1]
        self.fine = nn.Conv2d(DRAFT_CHANNELS * (CELL // FINE_STRIDE) ** 2, width, 1)
        self.pixels = nn.Conv2d((depth + IMAGES) * CELL**2, width, 1)
        self.unfold = nn.Conv2d(width, self.PIXEL * CELL**2, 1)
        self.single = nn.Conv2d(self.PIXEL + depth + IMAGES, self.LAST, 3, padding=1)
        self.logits = nn.Conv2d(self.LAST, len(PALETTE), 1)
        nn.init.zeros_(self.logits.weight)
        nn.init.zeros_(self.logits.bias)  # type: ignore[arg-type]

    def features(self, condition: Tensor) -> list[Tensor]:
        """What is injected, the same for every step."""
        return self.adapter(condition)

    def forward(
        self,
        state: Tensor,
        level: Tensor,
        images: Tensor,
        hidden: Tensor,
        draft: Tensor,
        text: Tensor,
        features: list[Tensor],
    ) -> Tensor:
        """Predict the palette colour of every pixel.

        state: N x 8 x H x W, noisy embedded colours; level: N, the noise's amplitude; images: N x IMAGES x H x W, the
        condition images; hidden: N x DRAFT_CHANNELS x H/2 x W/2; draft: N x P x H/2 x W/2, the prior's logits; text:
        N x L x D; features: of `features`. Returns logits, N x P x H x W.
        """
        scaled = state / (1 + level.square()).sqrt().view(-1, 1, 1, 1)
        seen = torch.cat([scaled, images], dim=1).contiguous(memory_format=torch.channels_last)
        x = self.pixels(F.pixel_unshuffle(seen, CELL)) + self.fine(F.pixel_unshuffle(hidden, CELL // FINE_STRIDE))
        time = 1000 * (level / LEAST).log() / math.log(MOST / LEAST)
        x = x + self.unet(x, time, text, features)
        x = F.pixel_shuffle(self.unfold(F.relu(x)), CELL)
        more = self.logits(F.relu(self.single(torch.cat([x, seen.to(x.dtype)], dim=1))))
        return more + F.interpolate(draft, scale_factor=float(FINE_STRIDE), mode="bilinear")

    def mean(self, logits: Tensor) -> Tensor:
        """N x P x H x W logits -> the mean embedding of the colours, N x 8 x H x W."""
        return F.conv2d(logits.float().softmax(1), self.embedding.T[:, :, None, None])
