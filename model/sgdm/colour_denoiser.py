"""The denoiser of palette colours: diffusion of what every place shows, which can hold an edge.

The state is the embedded palette colour of every cell of two pixels; the network says how likely each palette colour
is, and the mean embedding of these is the clean state that the sampler goes on with (Dieleman et al. 2022, CDCD). So
there is no autoencoder between the diffusion and the map, and the loss is a cross-entropy. After the last step the
colours of single pixels are read from the same features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Guess:
    """The prior's guess that the diffusion works about, and the condition images.

    logits: N x P x H/2 x W/2; hidden: N x DRAFT_CHANNELS x H/2 x W/2; images: N x IMAGES x H x W.
    """

    logits: Tensor
    hidden: Tensor
    images: Tensor


class ColourDenoiser(nn.Module):
    """SFAdapter and U-Net at stride 4, and layers at strides 2 and 1 that write what they found.

    Starts as the draft: what the U-Net says is added to the draft's own logits.
    """

    HALF, PIXEL, LAST = 40, 12, 24

    embedding: Tensor

    def __init__(self, encoder: EncoderConfig, unet: UNetConfig) -> None:
        super().__init__()
        if unet.finer_levels != 1:
            raise ValueError("the U-Net of colours has one level that is finer than the condition map")
        width = unet.widths[0]
        self.register_buffer("embedding", embedding(), persistent=False)
        self.adapter = SFAdapter(encoder, unet.widths[1:])
        self.unet = InjectedUNet(unet, width)
        self.depth = self.embedding.shape[1]
        self.cells = nn.Conv2d((2 * self.depth + DRAFT_CHANNELS) * (CELL // FINE_STRIDE) ** 2, width, 1)
        self.pixels = nn.Conv2d(IMAGES * CELL**2, width, 1)
        self.unfold = nn.Conv2d(width, self.HALF * (CELL // FINE_STRIDE) ** 2, 1)
        self.join = nn.Conv2d(self.HALF + 2 * self.depth, self.HALF, 3, padding=1)
        self.cell_logits = nn.Conv2d(self.HALF, len(PALETTE), 1)
        self.unfold_pixels = nn.Conv2d(self.HALF, self.PIXEL * FINE_STRIDE**2, 1)
        self.single = nn.Conv2d(self.PIXEL + IMAGES, self.LAST, 3, padding=1)
        self.logits = nn.Conv2d(self.LAST, len(PALETTE) + 1, 1)
        for last in (self.cell_logits, self.logits):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)  # type: ignore[arg-type]

    def features(self, condition: Tensor) -> list[Tensor]:
        """What is injected, the same for every step."""
        return self.adapter(condition)

    def forward(
        self, state: Tensor, level: Tensor, guess: Guess, text: Tensor, features: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Predict the palette colour of every cell.

        state: N x 8 x H/2 x W/2, noisy embedded colours; level: N, the noise's amplitude; text: N x L x D; features: of
        `features`. Returns logits, N x P x H/2 x W/2, and what `finest` reads, N x HALF x H/2 x W/2.
        """
        scaled = state / (1 + level.square()).sqrt().view(-1, 1, 1, 1)
        beside = torch.cat([scaled, self.mean(guess.logits)], dim=1).to(guess.hidden.dtype)
        seen = torch.cat([beside, guess.hidden], dim=1).contiguous(memory_format=torch.channels_last)
        images = guess.images.contiguous(memory_format=torch.channels_last)
        x = self.cells(F.pixel_unshuffle(seen, CELL // FINE_STRIDE)) + self.pixels(F.pixel_unshuffle(images, CELL))
        time = 1000 * (level / LEAST).log() / math.log(MOST / LEAST)
        x = x + self.unet(x, time, text, features)
        x = F.pixel_shuffle(self.unfold(F.relu(x)), CELL // FINE_STRIDE)
        x = F.relu(self.join(torch.cat([x, beside.to(x.dtype)], dim=1)))
        return self.cell_logits(x) + guess.logits, x

    def finest(self, logits: Tensor, found: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """What `forward` gave -> logits of single pixels, N x P x H x W, and that of keeping a trusted reference as it
        is, N x 1 x H x W."""
        x = F.pixel_shuffle(F.relu(self.unfold_pixels(found)), FINE_STRIDE)
        x = torch.cat([x, images.to(x.dtype)], dim=1).contiguous(memory_format=torch.channels_last)
        more = self.logits(F.relu(self.single(x)))
        wide = F.interpolate(logits, scale_factor=float(FINE_STRIDE), mode="bilinear")
        return more[:, :-1] + wide, more[:, -1:]

    def mean(self, logits: Tensor) -> Tensor:
        """N x P x h x w logits -> the mean embedding of the colours, N x 8 x h x w float32."""
        return F.conv2d(logits.float().softmax(1), self.embedding.T[:, :, None, None])
