"""From conditions to map pixels: check -> encode conditions -> denoise -> decode -> blend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tilecascade.model.blending import WindowKey, WindowPool, blend, windows_over
from tilecascade.model.captioned import CaptionContexts
from tilecascade.model.cascade import Pixels, Window, cut_pixels
from tilecascade.model.conditions import Conditions, Stage, as_images
from tilecascade.model.confidence import SAMPLES
from tilecascade.model.drawing import MapDrawer
from tilecascade.model.generated import Drawing, GeneratedMap, Uncertainty, pixels_of, uncertainties
from tilecascade.model.noise import noise_of
from tilecascade.model.sgdm.autoencoder import Draft, PaletteAutoencoder
from tilecascade.model.sgdm.config import LATENT_STRIDE
from tilecascade.model.sgdm.graphs import Graphed
from tilecascade.model.sgdm.layers import cut, store_products_as
from tilecascade.model.sgdm.mf_encoder import BackboneBranch
from tilecascade.model.sgdm.network import SGDM, Encoded
from tilecascade.model.sgdm.sampler import Sampler


def noise_batch(stage: Stage, windows: Sequence[Window], phase: int, channels: int, device: torch.device) -> Tensor:
    """The noise field under windows of pixels, N x channels x h x w, for one phase of the sampler."""
    corners = [(window.left // LATENT_STRIDE, window.top // LATENT_STRIDE) for window in windows]
    width, height = windows[0].width // LATENT_STRIDE, windows[0].height // LATENT_STRIDE
    return noise_of(stage.seed, stage.zoom, corners, width, height, channels, device, phase)


def _inner(field: Pixels, ring: int) -> Drawing:
    """A field without its ring is the map, without a finish."""
    return Drawing(cut_pixels(field, ring))


class CascadePipeline:
    """An SGDM on a device that generates blocks.

    Deterministic: there is no global random state, and a call has a fixed batch shape. On a CPU every call uses one
    core, because sums that are split among threads round differently; call it from several threads to use several
    cores. The network is prepared for inference in place (memory layout, folded BatchNorm) and cannot be trained
    afterwards.
    """

    def __init__(self, network: SGDM, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        """dtype: of the products in encoder, adapter and U-Net (autocast); latents and colours stay float32."""
        for part in list(network.eval().modules()):
            if isinstance(part, BackboneBranch):
                part.fold()
        if dtype != torch.float32:
            for name, part in network.named_children():
                if name not in ("text", "perception"):  # which are read outside autocast, in part
                    store_products_as(part, dtype)
        self.network = network.to(device).to(memory_format=torch.channels_last).eval()
        self.windows = network.config.windows
        self.sampler = Sampler(network.config.diffusion)
        self.device = torch.device(device)
        self.dtype = dtype
        self._contexts: dict[tuple[int, int | None], Tensor] = {}
        self._captions = CaptionContexts(network, len(self.sampler.steps), self.device)
        self._nothing: Tensor | None = None
        self._pool = WindowPool()
        on_cuda = self.device.type == "cuda"
        # a recorded call must keep no copy of weights that autocast made for it
        self._unet = Graphed(network.unet, partial(self._precision, cache=False)) if on_cuda else self._plain_unet
        self.drawer: MapDrawer | None = None
        if network.perception is not None and not self.windows.blend:
            self.drawer = MapDrawer(network.perception, self.windows, self.device, dtype)

    @property
    def has_palette(self) -> bool:
        """Whether the network says how likely each colour of the palette is, so that objects can be made."""
        return self.drawer is not None

    @torch.inference_mode()
    def __call__(self, stage: Stage, batch: Sequence[Conditions]) -> list[GeneratedMap]:
        """Generate the blocks of a batch.

        Raises ValueError if the conditions do not fit the stage.
        """
        self._check(stage, batch)
        if self.drawer is not None and stage.finish != "none":
            return self.drawer(stage, batch)
        if self.windows.blend:
            fields = self._blended(stage, batch)
        else:
            latent, draft = self._latents(stage, batch)
            fields = self._decode(latent, draft, stage.ring)
        return [GeneratedMap(field, partial(_inner, field, stage.ring)) for field in fields]

    @torch.inference_mode()
    def uncertainty(self, stage: Stage, batch: Sequence[Conditions], samples: int = SAMPLES) -> list[Uncertainty]:
        """How far `samples` maps generated with different noise disagree about classes, for every block.

        Raises ValueError if the conditions do not fit the stage, or if the network has no palette.
        """
        self._check(stage, batch)
        if self.drawer is not None and stage.finish != "none":
            return self.drawer.uncertainty(stage, batch)
        autoencoder = self.network.autoencoder
        encoded, context = self._condition(stage, batch)
        draft = encoded.draft
        if draft is None or self.windows.blend or not isinstance(autoencoder, PaletteAutoencoder):
            raise ValueError(f"preset {self.network.config.name!r} has no palette, so its uncertainty is not known")
        shares, generated = [], torch.zeros(())
        for sample in range(samples):
            noise = replace(stage, seed=stage.seed + sample)
            latent = self._denoise(noise, batch, context, encoded.features)
            with self._precision():
                logits, keep = autoencoder.decode_logits(self.network.latent(latent, draft), draft)
            share, generated = autoencoder.class_shares(logits, keep, draft.images)
            shares.append(share)
        mean = torch.stack(shares).mean(0)
        disagreement = (1 - mean.square().sum(1)) * generated.squeeze(1)
        return uncertainties(disagreement, mean, self.windows.denoise, 1)

    def _check(self, stage: Stage, batch: Sequence[Conditions]) -> None:
        if self.device.type == "cpu" and torch.get_num_threads() != 1:
            torch.set_num_threads(1)
        if not batch:
            raise ValueError("a batch needs at least one block")
        if stage.size % 32:
            raise ValueError(f"the block size must be a multiple of 32, not {stage.size}")
        if stage.finish != "none" and not self.has_palette:
            raise ValueError(f"preset {self.network.config.name!r} has no palette to make map objects of")
        if not 0 <= stage.ring <= self.windows.denoise:
            raise ValueError(f"a ring of {stage.ring} pixels is not denoised; at most {self.windows.denoise} are")
        wanted = stage.size + 2 * self.windows.margin
        for item in batch:
            if item.imagery.shape != (wanted, wanted, 3) or item.imagery.dtype != np.uint8:
                raise ValueError(f"imagery must be {wanted} x {wanted} x 3 uint8, not {item.imagery.shape}")
            if (item.reference is None) != (stage.reference_zoom is None):
                raise ValueError("every stage but the root's takes a reference, and only those")
            if item.window.left % 32 or item.window.top % 32:
                raise ValueError(f"{item.window} is not on the lattice of 32 pixels")

    @property
    def windows_generated(self) -> int:
        """Windows that have been generated to be blended."""
        return self._pool.made

    def _blended(self, stage: Stage, batch: Sequence[Conditions]) -> list[Pixels]:
        """The pixels of blocks, blended from the windows that meet any of them, each of which is generated once.

        Windows are generated as many at once as there are blocks in a batch; the last ones are padded.
        """
        places = [item.window.grown(-self.windows.margin) for item in batch]
        seen = {window: item for place, item in zip(places, batch, strict=True) for window in windows_over(place)}

        def make(keys: Sequence[WindowKey]) -> Sequence[Pixels]:
            windows = [window for *_, window in keys]
            padded = windows + windows[:1] * (len(batch) - len(windows))
            latent, draft = self._latents(stage, [seen[window].cut(window) for window in padded])
            return self._decode(latent, draft, 0)[: len(windows)]

        keys = [(stage.reference_zoom, stage.seed, stage.fields, window) for window in seen]
        images = self._pool.get(keys, make, len(batch))
        by_window = {window: image for (*_, window), image in images.items()}
        return [blend(place, by_window) for place in places]

    def _latents(self, stage: Stage, batch: Sequence[Conditions]) -> tuple[Tensor, Draft | None]:
        """Conditions -> latents, N x C x h x w, and drafts, as far as is denoised."""
        encoded, context = self._condition(stage, batch)
        sample = self._denoise(stage, batch, context, encoded.features)
        return self.network.latent(sample, encoded.draft), encoded.draft

    def _condition(self, stage: Stage, batch: Sequence[Conditions]) -> tuple[Encoded, Tensor]:
        """What the conditions say, as far as is denoised, and the scale text."""
        context = self._context(stage).expand(len(batch), -1, -1)
        images = as_images(batch, self.device)
        with self._precision():
            return self.network.condition(*images, context, self._context_pixels), context

    def _denoised(self, batch: Sequence[Conditions]) -> list[Window]:
        """The windows that are denoised."""
        return [item.window.grown(-self._context_pixels) for item in batch]

    @property
    def _context_pixels(self) -> int:
        """How far conditions are seen beyond what is denoised."""
        return 0 if self.windows.blend else self.windows.encode - self.windows.denoise

    def _precision(self, cache: bool = True) -> torch.autocast:
        """The context of matrix products. cache: keep the weights that are converted while it lasts."""
        return torch.autocast(self.device.type, self.dtype, self.dtype != torch.float32, cache)

    def _plain_unet(self, *arguments: Any) -> Tensor:
        with self._precision():
            output: Tensor = self.network.unet(*arguments)
        return output

    def _context(self, stage: Stage) -> Tensor:
        key = (stage.zoom, stage.reference_zoom)
        if key not in self._contexts:
            self._contexts[key] = self.network.text([self.network.text.of_scale(*key)])
        return self._contexts[key]

    def _empty(self, count: int) -> Tensor:
        """The embedding of an empty text, for guidance."""
        if self._nothing is None:
            self._nothing = self.network.text([""])
        return self._nothing.expand(count, -1, -1)

    def _denoise(self, stage: Stage, batch: Sequence[Conditions], context: Tensor, features: list[Tensor]) -> Tensor:
        windows, captioned = self._denoised(batch), self._captions.with_captions(batch, context)
        channels = self.network.config.autoencoder.latent_channels
        latent, walk = self.sampler.start(noise_batch(stage, windows, 0, channels, self.device)), self.sampler.walk()
        for index, t in enumerate(self.sampler.steps):
            steps = torch.full((len(windows),), t, device=self.device)
            if captioned is None:
                output = self._unet(latent, steps, context, features).float()
            else:  # not recorded: what is recorded has one text
                texts, there = captioned
                output = self._plain_unet(latent, steps, texts, features, self._captions.weights(there, index)).float()
            if self.sampler.config.guidance != 1:
                plain = self._unet(latent, steps, self._empty(len(windows)), features).float()
                output = plain + self.sampler.config.guidance * (output - plain)
            fresh = None
            if self.sampler.needs_step_noise:
                fresh = noise_batch(stage, windows, index + 1, channels, self.device)
            latent = walk.step(latent, output, index, fresh)
        return latent

    def _decode(self, latent: Tensor, draft: Draft | None, ring: int) -> list[Pixels]:
        """Latents and drafts as far as is denoised -> the pixels of each block and its ring, or of each window."""
        beyond = 0 if self.windows.blend else self.windows.denoise
        around = min(beyond, self.windows.decode + ring)
        if beyond > around:
            latent = cut(latent, (beyond - around) // LATENT_STRIDE)
            draft = None if draft is None else draft.cut(beyond - around)
        with self._precision():
            image = self.network.autoencoder.decode(latent.contiguous(memory_format=torch.channels_last), draft)
        if around > ring:
            image = cut(image, around - ring)
        return list(pixels_of(image))
