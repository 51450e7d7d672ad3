"""Images at twice their resolution, by the network of imagery: the mean of each 2 x 2 pixels is the pixel before.

MMM-RS enlarges small images with ESRGAN. Here it is the octave network in one go; with its noise left out it gives the
detail that is to be expected, with noise one that might be there.
(24 validation tiles of z15 to z17, halved and doubled: PSNR 30.8 dB and three quarters of the gradients; bicubic 29.8
and 0.62; with noise 29.0 and 0.90.)
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from tilecascade.model.cascade import Pixels
from tilecascade.model.imagery.network import DEVIATION, OctaveNet, sample
from tilecascade.model.imagery.octave import CHANNELS, join

STEP = 8
"""The sides that the network takes are multiples of it."""


def enlarged(net: OctaveNet, image: Pixels, metres: float, seed: int | None = None) -> Pixels:
    """H x W x 3 uint8 -> 2H x 2W x 3.

    metres: per pixel of the image, at most some tens. seed: of the noise that detail is painted from; None for the
    expected detail.
    """
    height, width = image.shape[:2]
    below, right = -height % STEP, -width % STEP
    above = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
    above = F.pad(above, (0, right, 0, below), mode="replicate")
    shape = (1, CHANNELS, *above.shape[2:])
    noise = torch.zeros(shape)
    if seed is not None:
        values = np.random.default_rng(seed).standard_normal(shape)
        noise = torch.from_numpy(values.astype(np.float32))
    with torch.inference_mode():
        detail = sample(net, noise, above, torch.tensor([metres / 2]), torch.zeros(1), net.config.steps)
        made = join(above, detail.float() * DEVIATION)[0, :, : 2 * height, : 2 * width]
    return np.asarray(((made.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())
