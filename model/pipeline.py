"""From conditions to map pixels: check -> encode conditions -> denoise -> blend -> decode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from model.blending import WindowCache, blend
from model.cascade import Mask, Pixels, Window
from model.confidence import SMOOTH
from model.noise import noise_window
from model.sgdm.autoencoder import Draft, PaletteAutoencoder
from model.sgdm.config import LATENT_STRIDE
from model.sgdm.layers import cut
from model.sgdm.mf_encoder import BackboneBranch
from model.sgdm.network import SGDM, Encoded
from model.sgdm.sampler import Sampler
from model.sgdm.scale_text import scale_text


@dataclass(frozen=True)
class Stage:
    """What a batch has in common: the zooms that the text speaks of, the block's edge in pixels, the noise's seed.

    fields: names what the conditions are read from (a layer's version): with equal names, equal windows mean equal
        conditions. samples: if not 0, not the map is wanted but how far so many drawings disagree.
    """

    zoom: int
    reference_zoom: int | None
    size: int
    seed: int = 0
    fields: str = ""
    samples: int = 0


@dataclass(frozen=True)
class Conditions:
    """One block's input over `window` (see Ladder.window), H x W x 3 uint8 and H x W bool; no reference at the root.

    surveyed: where the reference is a surveyed map; None if nowhere.
    """

    window: Window
    imagery: Pixels
    imagery_known: Mask
    reference: Pixels | None
    reference_known: Mask | None
    surveyed: Mask | None = None

    def cut(self, window: Window) -> Conditions:
        """The conditions of a window inside this one."""
        top, left = window.top - self.window.top, window.left - self.window.left
        box = (slice(top, top + window.height), slice(left, left + window.width))
        reference = None if self.reference is None else self.reference[box]
        known = None if self.reference_known is None else self.reference_known[box]
        surveyed = None if self.surveyed is None else self.surveyed[box]
        return Conditions(window, self.imagery[box], self.imagery_known[box], reference, known, surveyed)


class CascadePipeline:
    """An SGDM on a device, drawing blocks. Deterministic: no global random state, a fixed batch shape per call; on a
    CPU every call uses one core, because sums that are split among threads round differently. Call it from several
    threads for several cores.

    The network is made ready for inference in place (layout, folded BatchNorm) and cannot be trained afterwards.
    """

    def __init__(self, network: SGDM, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        """dtype: of the products in encoder, adapter and U-Net (autocast); latents and colours stay float32."""
        branch = network.eval().encoder.imagery
        if isinstance(branch, BackboneBranch):
            branch.fold()
        self.network = network.to(device).to(memory_format=torch.channels_last).eval()
        self.windows = network.config.windows
        self.sampler = Sampler(network.config.diffusion)
        self.device = torch.device(device)
        self.dtype = dtype
        self._contexts: dict[tuple[int, int | None], Tensor] = {}
        self._drawn = WindowCache()

    @torch.inference_mode()
    def __call__(self, stage: Stage, batch: Sequence[Conditions]) -> list[Pixels]:
        """Draw: one size x size x 3 uint8 image per block.

        With `stage.samples` not the map but its doubt: in the first channel 255 where no two drawings agree, in the
        others the class that is drawn around.
        Raises ValueError if the conditions do not fit the stage.
        """
        self._check(stage, batch)
        if self.device.type == "cpu" and torch.get_num_threads() != 1:
            torch.set_num_threads(1)
        if stage.samples:
            return self._doubt(stage, batch)
        if self.windows.blend:
            # without a draft: it is a window's own, and only latents are blended
            return self._decode(torch.stack([self._blended(stage, item, len(batch)) for item in batch]), None)
        return self._decode(*self._latents(stage, batch))

    def _check(self, stage: Stage, batch: Sequence[Conditions]) -> None:
        if not batch:
            raise ValueError("a batch needs at least one block")
        if stage.size % 32:
            raise ValueError(f"the block size must be a multiple of 32, not {stage.size}")
        wanted = stage.size + 2 * (self.windows.encode + (stage.size if self.windows.blend else 0))
        for item in batch:
            if item.imagery.shape != (wanted, wanted, 3) or item.imagery.dtype != np.uint8:
                raise ValueError(f"imagery must be {wanted} x {wanted} x 3 uint8, not {item.imagery.shape}")
            if (item.reference is None) != (stage.reference_zoom is None):
                raise ValueError("every stage but the root's takes a reference, and only those")
            if item.window.left % 32 or item.window.top % 32:
                raise ValueError(f"{item.window} is not on the lattice of 32 pixels")

    def _blended(self, stage: Stage, item: Conditions, count: int) -> Tensor:
        """The latent of one block, C x h x w with `denoise` around it, blended from the nine windows about it."""
        size, reach = stage.size, self.windows.encode
        top, left = item.window.top + reach, item.window.left + reach
        drawn: dict[tuple[int, int], Tensor] = {}
        missing: list[tuple[tuple[int, int], Window]] = []
        for row in (-1, 0, 1):
            for column in (-1, 0, 1):
                cell = Window(stage.zoom, left + (column + 1) * size, top + (row + 1) * size, size, size)
                kept = self._drawn.get((stage, cell))
                if kept is None:
                    missing.append(((column, row), cell))
                else:
                    drawn[column, row] = kept
        for first in range(0, len(missing), count):
            some = missing[first : first + count]
            windows = [item.cut(cell.grown(reach)) for _, cell in some]
            latents, _ = self._latents(stage, windows + [windows[0]] * (count - len(some)))
            for (place, cell), latent in zip(some, latents, strict=False):
                drawn[place] = latent
                self._drawn.put((stage, cell), latent)
        return blend(drawn, size // LATENT_STRIDE, self.windows.denoise // LATENT_STRIDE)

    def _latents(self, stage: Stage, batch: Sequence[Conditions]) -> tuple[Tensor, Draft | None]:
        """Windows that reach `encode` beyond their cell -> latents, N x C x h x w, and drafts, that reach `denoise`
        beyond it."""
        encoded, context = self._condition(stage, batch)
        sample = self._denoise(stage, self._drawn_windows(batch), context, encoded.features)
        return self.network.latent(sample, encoded.draft), encoded.draft

    def _condition(self, stage: Stage, batch: Sequence[Conditions]) -> tuple[Encoded, Tensor]:
        """What the conditions say, `denoise` around each cell, and the scale text."""
        context = self._context(stage).expand(len(batch), -1, -1)
        with self._precision():
            crop = self.windows.encode - self.windows.denoise
            return self.network.condition(*self._encode(batch), context, crop), context

    def _drawn_windows(self, batch: Sequence[Conditions]) -> list[Window]:
        return [item.window.grown(self.windows.denoise - self.windows.encode) for item in batch]

    def _doubt(self, stage: Stage, batch: Sequence[Conditions]) -> list[Pixels]:
        """How far drawings with different noise disagree about classes (model/confidence.py)."""
        autoencoder = self.network.autoencoder
        encoded, context = self._condition(stage, batch)
        draft = encoded.draft
        if draft is None or not isinstance(autoencoder, PaletteAutoencoder):
            raise ValueError(f"preset {self.network.config.name!r} cannot say how sure it is: it has no palette")
        shares, drawn = [], torch.zeros(())
        for sample in range(stage.samples):
            noise = replace(stage, seed=stage.seed + sample)
            latent = self._denoise(noise, self._drawn_windows(batch), context, encoded.features)
            with self._precision():
                logits, keep = autoencoder.decode_logits(self.network.latent(latent, draft), draft)
            share, drawn = autoencoder.doubt(logits, keep, draft.images)
            shares.append(share)
        mean = torch.stack(shares).mean(0)
        doubt = ((1 - mean.square().sum(1)) * drawn.squeeze(1)).cpu().numpy()
        beyond = self.windows.denoise
        inner = (slice(beyond, -beyond),) * 2
        images = []
        for level, kinds in zip(doubt, mean.cpu().numpy(), strict=True):
            around = np.stack([ndimage.gaussian_filter(plane, SMOOTH)[inner] for plane in (level, *kinds)])
            kind = around[1:].argmax(0).astype(np.uint8)
            images.append(np.stack([(around[0] * 255).round().astype(np.uint8), kind, kind], axis=-1))
        return images

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def _encode(self, batch: Sequence[Conditions]) -> tuple[Tensor, Tensor, Tensor]:
        """Imagery and reference as N x 3 x H x W in [-1, 1], 0 where unknown; where it is surveyed, N x 1 x H x W."""
        imagery = self._images([item.imagery for item in batch], [item.imagery_known for item in batch])
        surveyed = torch.zeros_like(imagery[:, :1])
        if batch[0].reference is None:
            return imagery, torch.zeros_like(imagery), surveyed
        for place, item in enumerate(batch):
            if item.surveyed is not None and item.reference_known is not None:
                surveyed[place, 0] = torch.from_numpy(item.surveyed & item.reference_known).to(surveyed)
        images = [item.reference for item in batch if item.reference is not None]
        masks = [item.reference_known for item in batch if item.reference_known is not None]
        return imagery, self._images(images, masks), surveyed

    def _images(self, images: list[Pixels], masks: list[Mask]) -> Tensor:
        pixels = torch.from_numpy(np.stack(images)).to(self.device).permute(0, 3, 1, 2)
        known = torch.from_numpy(np.stack(masks)).to(self.device).unsqueeze(1)
        unit = pixels.float().div_(127.5).sub_(1).mul_(known)
        return unit.contiguous(memory_format=torch.channels_last)

    def _noise(self, stage: Stage, windows: Sequence[Window], phase: int) -> Tensor:
        channels = self.network.config.autoencoder.latent_channels
        fields = [
            noise_window(
                stage.seed,
                stage.zoom,
                window.left // LATENT_STRIDE,
                window.top // LATENT_STRIDE,
                window.width // LATENT_STRIDE,
                window.height // LATENT_STRIDE,
                channels,
                phase,
            )
            for window in windows
        ]
        noise = torch.from_numpy(np.stack(fields)).to(self.device)
        return noise.contiguous(memory_format=torch.channels_last)

    def _context(self, stage: Stage) -> Tensor:
        key = (stage.zoom, stage.reference_zoom)
        if key not in self._contexts:
            self._contexts[key] = self.network.text([scale_text(*key)])
        return self._contexts[key]

    def _denoise(self, stage: Stage, windows: Sequence[Window], context: Tensor, features: list[Tensor]) -> Tensor:
        latent = self.sampler.start(self._noise(stage, windows, phase=0))
        for index, t in enumerate(self.sampler.steps):
            steps = torch.full((len(windows),), t, device=self.device)
            with self._precision():
                output = self.network.unet(latent, steps, context, features).float()
            fresh = self._noise(stage, windows, index + 1) if self.sampler.needs_step_noise else None
            latent = self.sampler.step(latent, output, index, fresh)
        return latent

    def _decode(self, latent: Tensor, draft: Draft | None) -> list[Pixels]:
        """Latents and drafts that reach `denoise` beyond the block -> the block's pixels."""
        beyond = self.windows.denoise - self.windows.decode
        if beyond:
            latent = cut(latent, beyond // LATENT_STRIDE)
            draft = None if draft is None else draft.cut(beyond)
        with self._precision():
            image = self.network.autoencoder.decode(latent.contiguous(memory_format=torch.channels_last), draft)
        if self.windows.decode:
            image = cut(image, self.windows.decode)
        pixels = ((image.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return list(pixels.permute(0, 2, 3, 1).cpu().numpy())
