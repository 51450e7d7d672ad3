"""What is done to batches on a device before the network sees them (see `augment` for the same by image).

Images are N x 3 x H x W in [0, 1]; each sample gets its own strength.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from tilecascade.model.imagery.weather import (
    AIRLIGHT,
    CANOPY_COVER,
    DARK_GROUND,
    DARKEST,
    GAMMA,
    MOONLIGHT,
    READ,
    SHADE,
    SHOT,
    SNOW,
    THICKEST,
)


def _colour(colour: NDArray[np.float64], like: Tensor) -> Tensor:
    return torch.from_numpy(colour).to(like).view(1, 3, 1, 1)


class Augmenter:
    """Random changes from one generator, on its device."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator
        self.device = generator.device

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Values between two limits."""
        return low + (high - low) * torch.rand(*shape, generator=self.generator, device=self.device)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal values."""
        return torch.randn(*shape, generator=self.generator, device=self.device)

    def numbers(self, low: int, high: int, *shape: int) -> Tensor:
        """Integers from low to high - 1."""
        return torch.randint(low, high, shape, generator=self.generator, device=self.device)

    def some(self, images: Tensor, chance: float, change: Callable[[Tensor], Tensor]) -> Tensor:
        """Change samples with a chance each."""
        chosen = self.uniform(len(images)) < chance
        return images if not chosen.any() else images.index_put((chosen,), change(images[chosen]))

    def imagery(self, images: Tensor) -> Tensor:
        """Exposure, contrast, white balance, saturation, haze, coarse pixels, blur, noise, JPEG and shadows."""
        images = self.colours(images)
        images = self.some(images, 0.3, self.colours)
        images = self.some(images, 0.15, self.coarse)
        images = self.some(images, 0.2, self.blurred)
        images = self.some(images, 0.3, self.noisy)
        images = self.some(images, 0.2, self.packed)
        return self.some(images, 0.2, self.shadows)

    def colours(self, x: Tensor) -> Tensor:
        """Exposure, white balance, saturation and haze."""
        n = len(x)
        x = x.clamp(1e-4, 1) ** (0.25 * self.normal(n, 1, 1, 1)).exp()
        x = x * (1 + 0.08 * self.normal(n, 3, 1, 1)) * (0.12 * self.normal(n, 1, 1, 1)).exp()
        grey = x.mean(1, keepdim=True)
        x = grey + (x - grey) * (1 + 0.25 * self.normal(n, 1, 1, 1)).clamp(0.2, 2)
        haze = self.uniform(n, 1, 1, 1, high=0.3) * (self.uniform(n, 1, 1, 1) < 0.2)
        return (x * (1 - haze) + haze * self.uniform(n, 1, 1, 1, low=0.6, high=0.9)).clamp(0, 1)

    def coarse(self, x: Tensor) -> Tensor:
        """As of a sensor with larger pixels."""
        small = int(x.shape[-1] * float(self.uniform(1, low=0.35, high=0.9)))
        down = F.interpolate(x, size=(small, small), mode="area")
        return F.interpolate(down, size=x.shape[-2:], mode="bicubic").clamp(0, 1)

    def blurred(self, x: Tensor) -> Tensor:
        """Out of focus by up to 1.5 pixels."""
        return blur(x, float(self.uniform(1, low=0.3, high=1.5)))

    def noisy(self, x: Tensor) -> Tensor:
        """A sensor's noise."""
        amount = self.uniform(len(x), 1, 1, 1, low=1, high=8) / 255
        return (x + amount * self.normal(*x.shape)).clamp(0, 1)

    def packed(self, x: Tensor) -> Tensor:
        """Quantised as JPEG does it: cosine components of 8 x 8 pixels, the finer the coarser."""
        k = torch.arange(8, device=self.device, dtype=torch.float32)
        basis = torch.cos(math.pi * (k[None] + 0.5) * k[:, None] / 8) / 2
        basis[0] /= math.sqrt(2)
        n, channels, height, width = x.shape
        tiles = x.view(n, channels, height // 8, 8, width // 8, 8).permute(0, 1, 2, 4, 3, 5)
        step = self.uniform(n, 1, 1, 1, 1, 1, low=0.01, high=0.08) * (1 + (k[:, None] + k[None]) / 2)
        parts = ((basis @ tiles @ basis.T) / step).round() * step
        back = (basis.T @ parts @ basis).permute(0, 1, 2, 4, 3, 5)
        return back.reshape(x.shape).clamp(0, 1)

    def shadows(self, x: Tensor) -> Tensor:
        """A part darker, with a soft irregular edge and a bluish tint."""
        n = len(x)
        edge = self.uniform(n, 1, 1, 1, low=0.02, high=0.3)
        depth = ((self.field(x) - (0.3 + 0.5 * self.normal(n, 1, 1, 1))) / edge).clamp(0, 1)
        tint = torch.tensor([0.9, 1.0, 1.15], device=self.device).view(1, 3, 1, 1)
        return (x * (1 - depth * (1 - self.uniform(n, 1, 1, 1, low=0.2, high=0.6) * tint))).clamp(0, 1)

    def weather(self, x: Tensor) -> Tensor:
        """Fog, low light or snow, as `imagery.weather` has them, with patches of any size."""
        n = len(x)
        kind, strength = self.numbers(0, 3, n).view(n, 1, 1, 1), self.uniform(n, 1, 1, 1, low=0.15, high=0.8)
        made = [made(x, strength) for made in (self._fog, self._low_light, self._snow)]
        return torch.where(kind == 0, made[0], torch.where(kind == 1, made[1], made[2])).clamp(0, 1)

    def _fog(self, x: Tensor, strength: Tensor) -> Tensor:
        through = (-(THICKEST * strength * (1 + 0.45 * self.field(x))).clamp(min=0)).exp()
        return x * through + _colour(AIRLIGHT, x) * (1 - through)

    def _low_light(self, x: Tensor, strength: Tensor) -> Tensor:
        light = x.clamp(1e-4, 1) ** GAMMA * DARKEST**strength * (1 + strength * (_colour(MOONLIGHT, x) - 1))
        noisy = light + strength * self.normal(*x.shape) * (SHOT * light + READ**2).sqrt()
        return noisy.clamp(1e-5, 1) ** (1 / GAMMA)

    def _snow(self, x: Tensor, strength: Tensor) -> Tensor:
        bright = x.mean(1, keepdim=True)
        around = blur(bright, SHADE)
        dark = ((DARK_GROUND - around) / 0.08).clamp(0, 1)
        green = blur(((x[:, 1:2] - x[:, 2:3] - 0.01) / 0.03).clamp(0, 1), 2.0)
        lies = (1 - dark) + dark * green * CANOPY_COVER
        cover = (1.7 * strength - 0.25 + 0.3 * self.field(x)).clamp(0, 1) * lies
        shading = (bright / around.clamp(min=0.05)).clamp(0.6, 1.2)
        return x * (1 - cover) + _colour(SNOW, x) * shading * cover

    def field(self, like: Tensor) -> Tensor:
        """N x 1 x H x W of about a standard normal distribution that changes over a sixth of the edge to half of it."""
        coarse = int(self.numbers(2, 7, 1))
        return F.interpolate(self.normal(len(like), 1, coarse, coarse), size=like.shape[-2:], mode="bicubic")

    def scene_edge(self, like: Tensor) -> Tensor:
        """N x 1 x H x W bool, false where imagery is missing: on one side of a random line."""
        n, size = len(like), like.shape[-1]
        angle, offset = self.uniform(n, 1, 1, high=2 * math.pi), self.uniform(n, 1, 1, low=-0.35, high=0.35) * size
        axis = torch.arange(size, device=self.device) - size / 2
        side = angle.cos() * axis.view(1, 1, -1) + angle.sin() * axis.view(1, -1, 1)
        return (side < offset + size * 0.25).unsqueeze(1)

    def degraded(self, reference: Tensor, other: Tensor, land: Tensor) -> Tensor:
        """True references as generated ones are: soft, moved by a pixel or two, and wrong in places."""
        n, _, height, width = reference.shape
        rows, columns = torch.arange(height, device=self.device), torch.arange(width, device=self.device)
        for _ in range(3):
            h, w = (self.numbers(size // 16, size // 2, n) for size in (height, width))
            top, left = (self.uniform(n) * (size - s) for size, s in ((height, h), (width, w)))
            inside = (rows >= top[:, None]) & (rows < (top + h)[:, None])
            across = (columns >= left[:, None]) & (columns < (left + w)[:, None])
            patch = (inside[:, None, :, None] & across[:, None, None, :]) & (self.uniform(n, 1, 1, 1) < 0.5)
            filling = torch.where(self.uniform(n, 1, 1, 1) < 0.5, land, other)
            reference = torch.where(patch, filling, reference)
        down, right = (int(self.numbers(-3, 4, 1)) for _ in range(2))
        reference = self.some(reference, 0.5, lambda x: x.roll((down, right), (2, 3)))
        reference = self.some(reference, 0.35, self.coarse)
        return self.some(reference, 0.7, lambda x: blur(x, float(self.uniform(1, low=0.05, high=2.5))))

    def outdated(self, reference: Tensor, other: Tensor, land: Tensor) -> Tensor:
        """True references that the imagery contradicts: of another day, or of another place."""
        n = len(reference)
        then = torch.where(self.uniform(n, 1, 1, 1) < 0.3, land, other)
        changed = self.field(reference) > self.uniform(n, 1, 1, 1, low=-0.3, high=0.8)
        elsewhere = self.uniform(n, 1, 1, 1) < 1 / 3
        return torch.where(elsewhere, other, torch.where(changed, then, reference))


def blur(x: Tensor, deviation: float) -> Tensor:
    """A Gaussian blur of N x C x H x W, edges repeated."""
    radius = max(1, math.ceil(3 * deviation))
    axis = torch.arange(-radius, radius + 1, device=x.device, dtype=torch.float32)
    bell = (-(axis**2) / (2 * deviation**2)).exp()
    bell = (bell / bell.sum()).view(1, 1, 1, -1).expand(x.shape[1], 1, 1, -1).contiguous()
    x = F.conv2d(F.pad(x, (radius, radius, 0, 0), mode="replicate"), bell, groups=x.shape[1])
    return F.conv2d(F.pad(x, (0, 0, radius, radius), mode="replicate"), bell.transpose(2, 3), groups=x.shape[1])
