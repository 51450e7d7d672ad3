"""A first guess of the map from the condition alone, about which the diffusion then works (default preset only).

The published network starts every tile from pure noise and learns all of the map from eps. With little training that
is out of reach: after 2,400 samples nothing of the imagery showed. Here the encoder also predicts palette colours at
half resolution, from its condition map and, for what is small, from its features at stride 2; these, encoded, are a
latent mean, and the diffusion models the difference to it (the idea of PriorGrad, Lee et al. 2022). What is certain is
there from the start; the U-Net learns to generate it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tilecascade.model.palette import CLASS_OF_COLOUR, CLASSES, COLOURS, PALETTE
from tilecascade.model.sgdm.autoencoder import DRAFT_CHANNELS, FINE_STRIDE, Draft, PaletteAutoencoder
from tilecascade.model.sgdm.config import LATENT_STRIDE

SHARPNESS = 2.0
"""What logits are multiplied by for the draft. A mixture of maps is not a map, and the decoder generates it as a blur:
on validation tiles mIoU 0.48 at 1, 0.525 at 2, 0.528 at 4; PSNR falls by 0.3 dB from 2 to 4."""

CERTAINTY, BUILDING = 1.3, -0.2
"""What logits are multiplied by for the field that objects are made of, and what is added to buildings'. The shipped
weights are a fifth of a training that weighs a pixel of a building as 1.3 and one of land as 0.7, whose logarithms
differ by 0.6, and four fifths of one that weighs them alike."""

OPEN = 0.6
"""What logits are multiplied by for what finer zooms see of a zoom. What is likely but not drawn still tells them
something; what looks certain they believe. (As served, validation areas, z16 and z17: buildings found, F 0.08 and 0.26
at 1, 0.12 and 0.26 at 0.6; with each pixel's likeliest colour still fewer.)"""


class PalettePrior(nn.Module):
    """Condition map, fine features and scale text -> palette logits -> mean latent.

    The condition map is enlarged bilinearly, never unfolded: cells of 8 px that each predict their own pixels showed as
    a comb (steps at their borders 2.7 times those elsewhere, 1.3 times after smoothing). The text shifts what the ReLUs
    see, so that lines and buildings can depend on the zoom.

    scale: C, what the sampler's output is multiplied by: a fixed share of the deviation of true latents from this
        mean, measured on training maps.
    """

    CONTEXT, HIDDEN = 32, DRAFT_CHANNELS

    scale: Tensor

    def __init__(self, condition_channels: int, fine_channels: int, text_width: int, latent_channels: int) -> None:
        super().__init__()
        self.context = nn.Conv2d(condition_channels, self.CONTEXT, 1)
        self.mix = nn.Conv2d(self.CONTEXT + fine_channels, self.HIDDEN, 3, padding=1)
        self.text = nn.Linear(text_width, self.CONTEXT + self.HIDDEN)
        self.logits = nn.Conv2d(self.HIDDEN, len(PALETTE), 1)
        self.register_buffer("scale", torch.ones(latent_channels))

    def forward(self, condition: Tensor, fine: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """N x C x h x w, N x F x 4h x 4w and N x L x D -> palette logits, N x P x 4h x 4w, and what they are read from,
        N x HIDDEN x 4h x 4w, for the decoder."""
        shift = self.text(text.mean(dim=1))[:, :, None, None]
        context = F.relu(self.context(condition) + shift[:, : self.CONTEXT])
        wide = F.interpolate(context, scale_factor=float(LATENT_STRIDE // FINE_STRIDE), mode="bilinear")
        hidden = F.relu(self.mix(torch.cat([wide, fine.to(wide.dtype)], dim=1)) + shift[:, self.CONTEXT :])
        return self.logits(hidden), hidden

    def draft(self, logits: Tensor, hidden: Tensor, images: Tensor, autoencoder: PaletteAutoencoder) -> Draft:
        """What `forward` gave, and the condition images (N x 7 x H x W) -> the guess with its latent.

        Encoding is linear in the colours' shares.
        """
        with torch.autocast(logits.device.type, enabled=False):
            count, colours, height, width = logits.shape
            flat = logits.permute(0, 2, 3, 1).reshape(-1, colours)
            share = (SHARPNESS * flat.float()).softmax(dim=1)
            embedded = (share @ autoencoder.embedding).view(count, height, width, -1).permute(0, 3, 1, 2)
            return Draft(autoencoder.encode_draft(embedded), embedded, hidden, images)

    def shares(self, logits: Tensor) -> Tensor:
        """What `forward` gave -> how likely each palette colour is, N x P x H/2 x W/2 float32, adding up to 1."""
        added = BUILDING * (torch.from_numpy(CLASS_OF_COLOUR) == CLASSES.index("building"))
        with torch.autocast(logits.device.type, enabled=False):
            return torch.softmax(CERTAINTY * logits.float() + added.to(logits.device).view(1, -1, 1, 1), dim=1)

    def shown(self, logits: Tensor) -> Tensor:
        """What `forward` gave -> the mean of the likely colours, N x 3 x H x W in [-1, 1].

        This is what finer zooms have for their reference.
        """
        colours = torch.from_numpy(COLOURS).float().to(logits.device) / 127.5 - 1
        with torch.autocast(logits.device.type, enabled=False):
            image = F.conv2d((OPEN * logits.float()).softmax(dim=1), colours.T[:, :, None, None])
            return F.interpolate(image, scale_factor=float(FINE_STRIDE), mode="bilinear")
