"""Paths from noise to a map for the diffusion of palette colours, and the deterministic sampler along them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

Found = TypeVar("Found")

SCALES = (1, 2, 4, 8)
"""Cells over which the parts of the noise change: whether two houses are one is as uncertain as where a wall is."""

_SPREAD = 1.51
"""Deviation of the sum of the enlarged parts (bilinear enlarging makes the coarse ones smaller)."""


def blended_noise(parts: Sequence[Tensor]) -> Tensor:
    """Standard normal noise that changes over one to eight cells.

    parts: for each of SCALES, normal noise on a lattice of that many cells, N x C x h/scale x w/scale. Returns
    N x C x h x w of mean 0 and deviation 1.
    """
    total = parts[0]
    for scale, part in zip(SCALES[1:], parts[1:], strict=True):
        total = total + F.interpolate(part, scale_factor=float(scale), mode="bilinear")
    return total / _SPREAD


@dataclass(frozen=True)
class DiffusionPath:
    """Where the state is at time t from 1 (start) to 0 (the map): `keep` clean + `draft` draft + `noise` normal noise.

    kind: "noise" adds noise to the clean state, `most` at t = 1 (Karras et al. 2022); "bridge" leads from the draft to
    the map (Liu et al. 2023, I2SB), with noise of `amplitude` at the draft.
    """

    kind: Literal["noise", "bridge"] = "noise"
    most: float = 20.0
    least: float = 0.1
    amplitude: float = 1.0

    def at(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """N times -> keep, draft, noise, each N."""
        if self.kind == "noise":
            level = self.least * (self.most / self.least) ** t
            return torch.ones_like(t), torch.zeros_like(t), level
        return 1 - t, t, self.amplitude * t.sqrt().clamp(min=0.05)

    def state(self, clean: Tensor, draft: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The state at N times, and the noise's amplitude, N."""
        keep, part, level = self.at(t)

        def wide(x: Tensor) -> Tensor:
            return x.view(-1, 1, 1, 1)

        return wide(keep) * clean + wide(part) * draft + wide(level) * noise, level

    def sample(
        self, guess: Callable[[Tensor, Tensor], tuple[Tensor, Found]], draft: Tensor, noise: Tensor, steps: int
    ) -> Found:
        """From noise to a map in `steps` calls of `guess`, without further noise (DDIM, Song et al. 2021, Eq. 12).

        guess: state and amplitude of its noise, N -> the mean embedding that it means, and what is returned of the last
        call. draft: the draft's mean embedding, N x 8 x h x w; noise: the same shape, standard normal.
        """
        count = len(noise)
        times = torch.linspace(1, 0, steps + 1, device=noise.device)[:-1]
        state, level = self.state(draft, draft, noise, times[:1].expand(count))
        for index in range(steps):
            clean, found = guess(state, level)
            if index + 1 < steps:
                keep, part, amount = (x.view(-1, 1, 1, 1) for x in self.at(times[index].expand(count)))
                left = (state - keep * clean - part * draft) / amount
                state, level = self.state(clean, draft, left, times[index + 1].expand(count))
        return found
