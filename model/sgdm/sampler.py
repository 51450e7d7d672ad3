"""Noise schedule and samplers: DDIM with eta 0, the published 50-step respaced DDPM, and DPM-Solver++.

The first two are one update (DDIM, Song et al. 2021, Eq. 12): eta 0 is deterministic; eta 1 over a respaced list of
steps is the ancestral sampler with the small fixed variance. DPM-Solver++ (Lu et al. 2022, second order, multistep) is
diffusers'; it is deterministic and needs 10 to 20 steps. Random numbers never come from a global generator: the caller
passes the noise of each step as a function of coordinates.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor

from tilecascade.model.sgdm.config import DiffusionConfig

TRAIN_STEPS = 1000


def alphas_cumprod(zero_snr: bool) -> Tensor:
    """Cumulative signal fraction of the latent-diffusion schedule, 1000 float32 values, falling.

    beta = linspace(sqrt 0.00085, sqrt 0.012)^2. With `zero_snr` the square roots are shifted and scaled so that the
    last is 0 (Lin et al. 2024, algorithm 1): sampling then starts from pure noise without a mismatch.
    """
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, TRAIN_STEPS, dtype=torch.float64) ** 2
    signal = torch.cumprod(1 - betas, 0)
    if zero_snr:
        root = signal.sqrt()
        signal = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    return signal.float()


def timesteps(config: DiffusionConfig) -> list[int]:
    """The steps to visit, falling from 999. "ddpm": even spacing to 0 (IDDPM); "ddim": trailing spacing; "dpmpp":
    even spacing of the logarithm of signal to noise, from 999 to 0 (Lu et al. 2022, section 5.1), which are fewer than
    wanted where two would be the same."""
    if config.sampler == "ddpm":
        return [int(t) for t in np.linspace(0, TRAIN_STEPS - 1, config.steps).round()[::-1]]
    if config.sampler == "dpmpp":
        signal = alphas_cumprod(config.zero_snr).double().clamp(min=1e-6)
        ratio = (signal / (1 - signal)).log().numpy()
        wanted = np.linspace(ratio[-1], ratio[0], config.steps)
        nearest = [int(np.abs(ratio - value).argmin()) for value in wanted]
        return sorted(set(nearest), reverse=True)
    stride = TRAIN_STEPS / config.steps
    return [round(TRAIN_STEPS - i * stride) - 1 for i in range(config.steps)]


class Walk(Protocol):
    """One way from noise to a clean latent."""

    def step(self, x: Tensor, output: Tensor, index: int, noise: Tensor | None = None) -> Tensor:
        """From step `index` of the sampler's to the next; after the last one the predicted clean latent."""
        ...


class SolverWalk:
    """DPM-Solver++, which remembers the step before."""

    def __init__(self, config: DiffusionConfig, steps: list[int]) -> None:
        self._solver = DPMSolverMultistepScheduler(
            num_train_timesteps=TRAIN_STEPS,
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            prediction_type="epsilon" if config.prediction == "epsilon" else "v_prediction",
            timestep_spacing="trailing",
            rescale_betas_zero_snr=config.zero_snr,
            final_sigmas_type="zero",
        )
        self._solver.set_timesteps(timesteps=steps)

    def step(self, x: Tensor, output: Tensor, index: int, noise: Tensor | None = None) -> Tensor:
        """See Walk. Steps are taken in their order."""
        return self._solver.step(output.float(), self._solver.timesteps[index], x.float(), return_dict=False)[0]


class Sampler:
    """Steps through `timesteps(config)`; stateless between calls."""

    def __init__(self, config: DiffusionConfig) -> None:
        self.config = config
        self.prediction = config.prediction
        self.eta = 1.0 if config.sampler == "ddpm" else 0.0
        self.temperature = config.temperature
        self.steps = timesteps(config)
        self.alphas = alphas_cumprod(config.zero_snr)

    def walk(self) -> Walk:
        """A way through the steps, for one batch."""
        return SolverWalk(self.config, self.steps) if self.config.sampler == "dpmpp" else self

    @property
    def needs_step_noise(self) -> bool:
        """Whether `step` wants fresh noise."""
        return self.eta > 0

    def start(self, noise: Tensor) -> Tensor:
        """What sampling begins with, from standard normal noise."""
        return self.temperature * noise

    def add_noise(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """q(x_t | x_0): N x C x h x w latents, N integer steps."""
        a = self.alphas.to(clean.device)[t].view(-1, 1, 1, 1)
        return a.sqrt() * clean + (1 - a).sqrt() * noise

    def split(self, x: Tensor, output: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Network output -> (predicted clean latent, predicted noise)."""
        a = self.alphas.to(x.device)[t].view(-1, 1, 1, 1)
        if self.prediction == "epsilon":
            return (x - (1 - a).sqrt() * output) / a.sqrt(), output
        return a.sqrt() * x - (1 - a).sqrt() * output, (1 - a).sqrt() * x + a.sqrt() * output

    def step(self, x: Tensor, output: Tensor, index: int, noise: Tensor | None = None) -> Tensor:
        """From step `index` of `steps` to the next; after the last one the predicted clean latent."""
        t = self.steps[index]
        clean, eps = self.split(x, output, torch.full((x.shape[0],), t, device=x.device))
        if index + 1 == len(self.steps):
            return clean
        a = float(self.alphas[t])
        b = float(self.alphas[self.steps[index + 1]])
        variance = self.eta**2 * (1 - b) / (1 - a) * (1 - a / b)
        x = b**0.5 * clean + (1 - b - variance) ** 0.5 * eps
        if variance > 0:
            if noise is None:
                raise ValueError("the ancestral sampler needs the noise of each step")
            x = x + self.temperature * variance**0.5 * noise
        return x
