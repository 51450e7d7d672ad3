"""From conditions to map pixels: check -> encode conditions -> denoise -> decode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.cascade import HALO, Mask, Pixels, Window
from model.noise import noise_window
from model.sgdm.config import LATENT_STRIDE
from model.sgdm.network import SGDM
from model.sgdm.sampler import Sampler
from model.sgdm.scale_text import scale_text

DECODE_HALO = 32
"""Pixels decoded beyond the block on each side and thrown away; at most HALO, a multiple of 8."""


@dataclass(frozen=True)
class Stage:
    """What a batch has in common: the zooms that the text speaks of, the window size in pixels, the noise's seed."""

    zoom: int
    reference_zoom: int | None
    size: int
    seed: int = 0


@dataclass(frozen=True)
class Conditions:
    """One window's input. Images are size x size x 3 uint8, masks size x size bool; no reference at the root."""

    window: Window
    imagery: Pixels
    imagery_known: Mask
    reference: Pixels | None
    reference_known: Mask | None


class CascadePipeline:
    """An SGDM on a device, drawing windows. Deterministic: no global random state, a fixed batch shape per call."""

    def __init__(self, network: SGDM, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.network = network.to(device=device, dtype=dtype).to(memory_format=torch.channels_last).eval()
        self.sampler = Sampler(network.config.diffusion)
        self.device = torch.device(device)
        self.dtype = dtype
        self._contexts: dict[tuple[int, int | None], Tensor] = {}

    @torch.inference_mode()
    def __call__(self, stage: Stage, batch: Sequence[Conditions]) -> list[Pixels]:
        """Draw: one size x size x 3 uint8 image per window; its outer HALO - DECODE_HALO pixels are 0.

        Raises ValueError if the conditions do not fit the stage.
        """
        self._check(stage, batch)
        features, mean = self._encode(batch)
        latent = self._denoise(stage, batch, features)
        return self._decode(stage, latent, mean)

    @staticmethod
    def _check(stage: Stage, batch: Sequence[Conditions]) -> None:
        if not batch:
            raise ValueError("a batch needs at least one window")
        if stage.size % 32:
            raise ValueError(f"the window size must be a multiple of 32, not {stage.size}")
        for item in batch:
            if item.imagery.shape != (stage.size, stage.size, 3) or item.imagery.dtype != np.uint8:
                raise ValueError(f"imagery must be {stage.size} x {stage.size} x 3 uint8, not {item.imagery.shape}")
            if (item.reference is None) != (stage.reference_zoom is None):
                raise ValueError("every stage but the root's takes a reference, and only those")
            if item.window.left % 32 or item.window.top % 32:
                raise ValueError(f"{item.window} is not on the lattice of 32 pixels")

    def _encode(self, batch: Sequence[Conditions]) -> tuple[list[Tensor], Tensor | None]:
        """Fields to [-1, 1], 0 where unknown; then MFEncoder, SFAdapter and the prior's mean."""
        imagery = self._images([item.imagery for item in batch], [item.imagery_known for item in batch])
        if batch[0].reference is None:
            reference = torch.zeros_like(imagery)
        else:
            reference = self._images(
                [item.reference for item in batch if item.reference is not None],
                [item.reference_known for item in batch if item.reference_known is not None],
            )
        return self.network.condition(imagery, reference)

    def _images(self, images: list[Pixels], masks: list[Mask]) -> Tensor:
        pixels = torch.from_numpy(np.stack(images)).to(self.device).permute(0, 3, 1, 2)
        known = torch.from_numpy(np.stack(masks)).to(self.device).unsqueeze(1)
        return ((pixels.to(self.dtype) / 127.5 - 1) * known).contiguous(memory_format=torch.channels_last)

    def _noise(self, stage: Stage, batch: Sequence[Conditions], phase: int) -> Tensor:
        channels = self.network.config.autoencoder.latent_channels
        cells = stage.size // LATENT_STRIDE
        fields = [
            noise_window(
                stage.seed,
                stage.zoom,
                item.window.left // LATENT_STRIDE,
                item.window.top // LATENT_STRIDE,
                cells,
                cells,
                channels,
                phase,
            )
            for item in batch
        ]
        noise = torch.from_numpy(np.stack(fields)).to(device=self.device, dtype=self.dtype)
        return noise.contiguous(memory_format=torch.channels_last)

    def _context(self, stage: Stage) -> Tensor:
        key = (stage.zoom, stage.reference_zoom)
        if key not in self._contexts:
            self._contexts[key] = self.network.text([scale_text(*key)])
        return self._contexts[key]

    def _denoise(self, stage: Stage, batch: Sequence[Conditions], features: list[Tensor]) -> Tensor:
        latent = self.sampler.start(self._noise(stage, batch, phase=0))
        context = self._context(stage).expand(len(batch), -1, -1)
        for index, t in enumerate(self.sampler.steps):
            steps = torch.full((len(batch),), t, device=self.device)
            output = self.network.unet(latent, steps, context, features)
            fresh = self._noise(stage, batch, index + 1) if self.sampler.needs_step_noise else None
            latent = self.sampler.step(latent, output, index, fresh)
        return latent

    def _decode(self, stage: Stage, latent: Tensor, mean: Tensor | None) -> list[Pixels]:
        margin = HALO - DECODE_HALO
        inner = slice(margin // LATENT_STRIDE, (stage.size - margin) // LATENT_STRIDE)
        image = self.network.decode(latent[:, :, inner, inner], None if mean is None else mean[:, :, inner, inner])
        pixels = ((image.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        out = np.zeros((latent.shape[0], stage.size, stage.size, 3), dtype=np.uint8)
        out[:, margin : stage.size - margin, margin : stage.size - margin] = pixels.permute(0, 2, 3, 1).cpu().numpy()
        return list(out)
