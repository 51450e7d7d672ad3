"""Small layers shared by the parts of SGDM."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of each position of an N x C x H x W tensor.

    Unlike GroupNorm it takes no statistics over the window, so a pixel's value does not depend on how far the
    window reaches: what seamless tiles need.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise; same shape and dtype out."""
        channels_last = x.permute(0, 2, 3, 1)
        out = F.layer_norm(channels_last, (x.shape[1],), self.weight, self.bias, self.eps)
        return out.permute(0, 3, 1, 2)


def cut(x: Tensor, margin: int) -> Tensor:
    """Leave out `margin` positions on every side."""
    return x[:, :, margin:-margin, margin:-margin].contiguous(memory_format=torch.channels_last)


def make_local(module: nn.Module) -> None:
    """Replace every GroupNorm inside `module` by a ChannelNorm of the same width, in place."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.GroupNorm):
                setattr(parent, name, ChannelNorm(child.num_channels, child.eps))


def store_products_as(module: nn.Module, dtype: torch.dtype) -> None:
    """Store the weights of convolutions and linear layers in the type that autocast multiplies them in, in place.

    The products are the same bit by bit, nothing is converted in each call, and the weights take less memory. Norms
    keep float32.
    """
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            part.to(dtype)
