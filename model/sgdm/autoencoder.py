"""The KL autoencoder (diffusers): map tiles <-> latents of an eighth of their size."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor, nn
from torch.nn import functional as F

from model.sgdm.config import AutoencoderConfig
from model.sgdm.layers import make_local


class MapAutoencoder(nn.Module):
    """`AutoencoderKL` with the latent scale applied; the mean of the posterior is the latent."""

    centre: Tensor

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.scale = config.scale
        levels = len(config.widths)
        self.patch = config.patch
        self.contrast = config.contrast
        self.register_buffer("centre", torch.tensor(config.centre).view(1, 3, 1, 1), persistent=False)
        self.vae = AutoencoderKL(
            in_channels=3 * config.patch**2,
            out_channels=3 * config.patch**2,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=config.widths,
            layers_per_block=config.layers_per_block,
            latent_channels=config.latent_channels,
            norm_num_groups=8 if config.local else 32,
            mid_block_add_attention=config.attention,
            sample_size=256,
        )
        if config.local:
            make_local(self.vae)

    def posterior(self, image: Tensor) -> DiagonalGaussianDistribution:
        """The unscaled distribution of the latent (training needs its mean, a sample and the KL term)."""
        spread = (image - self.centre) * self.contrast
        return self.vae.encode(F.pixel_unshuffle(spread, self.patch)).latent_dist

    def encode(self, image: Tensor) -> Tensor:
        """N x 3 x H x W in [-1, 1] -> N x C x H/8 x W/8, scaled to about unit variance."""
        return self.posterior(image).mode() * self.scale

    def decode(self, latent: Tensor) -> Tensor:
        """N x C x h x w -> N x 3 x 8h x 8w, about [-1, 1] (not clipped)."""
        spread = F.pixel_shuffle(self.vae.decode(latent / self.scale, return_dict=False)[0], self.patch)
        return spread / self.contrast + self.centre
