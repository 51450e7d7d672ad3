"""An image as half as large an image and the detail that it lacks (an orthogonal Haar step).

The cascade of imagery keeps what is above: the mean of each 2 x 2 pixels of a child *is* its parent's pixel, because
only the detail is generated. What other cascades reach by replacing low frequencies afterwards is true here from the
start.
"""

from __future__ import annotations

import torch
from torch import Tensor

CHANNELS = 9
"""Detail of three colours along three directions."""


def split(image: Tensor) -> tuple[Tensor, Tensor]:
    """N x 3 x 2H x 2W -> the means of 2 x 2 pixels, N x 3 x H x W, and the detail, N x 9 x H x W."""
    a, b = image[..., ::2, ::2], image[..., ::2, 1::2]
    c, d = image[..., 1::2, ::2], image[..., 1::2, 1::2]
    detail = torch.cat([a - b + c - d, a + b - c - d, a - b - c + d], dim=1) / 4
    return (a + b + c + d) / 4, detail


def join(coarse: Tensor, detail: Tensor) -> Tensor:
    """The inverse of `split`: N x 3 x H x W and N x 9 x H x W -> N x 3 x 2H x 2W."""
    right, down, both = detail.chunk(3, dim=1)
    upper = torch.stack([coarse + right + down + both, coarse - right + down - both], dim=-1).flatten(-2)
    lower = torch.stack([coarse + right - down - both, coarse - right - down + both], dim=-1).flatten(-2)
    return torch.stack([upper, lower], dim=-2).flatten(-3, -2)
