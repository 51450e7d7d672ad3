"""Diffusion of palette colours behind a finished encoder, on crops of cached features."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tilecascade.model.data.pairs import Pixels
from tilecascade.model.evaluation.likeness import Likeness
from tilecascade.model.palette import COLOURS, PALETTE
from tilecascade.model.sgdm.autoencoder import FINE_STRIDE
from tilecascade.model.sgdm.colour_denoiser import ColourDenoiser, Guess
from tilecascade.model.sgdm.colour_sampler import SCALES, DiffusionPath, blended_noise
from tilecascade.model.sgdm.config import UNetConfig
from tilecascade.model.sgdm.network import SGDM
from tilecascade.model.training.config import StageConfig
from tilecascade.model.training.diffusion import Discriminator, verdict
from tilecascade.model.training.feature_cache import EDGE, Crops, FeatureCache, crops, encode
from tilecascade.model.training.losses import cell_loss, label_loss, shown_colour
from tilecascade.model.training.perceive import perceiving
from tilecascade.model.training.samples import SampleSource, collate
from tilecascade.model.training.stages import frozen, grid, logged, mean_iou


def new_denoiser(network: SGDM, stage: StageConfig) -> ColourDenoiser:
    """An untrained denoiser of a stage's widths behind a network's encoder."""
    unet = UNetConfig(
        widths=stage.widths,
        layers_per_block=1,
        head_dim=min(16, stage.widths[1]),
        context_dim=network.config.text.width,
        local=True,
        finer_levels=1,
    )
    return ColourDenoiser(network.config.encoder, unet)


class ColourTask:
    """The denoiser of colours, about the draft of a finished encoder.

    On the paths "noise" and "bridge" of `DiffusionPath` it learns each pixel's colour at any time of the path, by
    cross-entropy. On the path "critic" it learns one step from the draft, by cross-entropy and by what a discriminator
    says of the likeliest colours.
    """

    def __init__(self, network: SGDM, train: SampleSource, val: SampleSource, stage: StageConfig) -> None:
        own: Any = perceiving(network)
        self.finished = frozen(own, "encoder", "prior", "text")
        self.prior = own.prior
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # whatever stages ran before in this process
            self.module: Any = new_denoiser(network, stage).to(memory_format=torch.channels_last)
            if stage.path == "critic":
                self.module.critic = Discriminator().to(memory_format=torch.channels_last)
        kind: Literal["noise", "bridge"] = "noise" if stage.path == "noise" else "bridge"
        self.path = DiffusionPath(kind, amplitude=stage.amplitude)
        self.stage = stage
        self.cache = FeatureCache(own, train, stage, Path(stage.cache))
        for variant in range(stage.variants):
            self.cache.variant(variant)
        self._texts: dict[str, Tensor] = {}
        pairs = [pair for pair in val.pairs if pair.zoom in (16, 17)]
        pairs = pairs[:: max(1, len(pairs) // 24)][:24]
        whole = slice(0, EDGE), slice(0, EDGE)
        self.check = [
            crops(list(encode(own, collate([val.plain(pair, known) for pair in pairs]))), whole)
            for known in (False, True)
        ]
        self.truth = np.stack([pair.map for pair in pairs])
        self.imagery = np.stack([pair.imagery for pair in pairs])

    def groups(self) -> list[dict[str, object]]:
        """The critic learns faster."""
        critic = [p for name, p in self.module.named_parameters() if name.startswith("critic.")]
        rest = [p for name, p in self.module.named_parameters() if not name.startswith("critic.")]
        return [{"params": rest}, *([{"params": critic, "scale": 2.0, "betas": (0.5, 0.99)}] if critic else [])]

    def batch(self, rng: np.random.Generator) -> Crops:
        """Crops of cached tiles."""
        return self.cache.batch(self.stage.variants, self.stage.batch, self.stage.crop, rng)

    @torch.no_grad()
    def text(self, texts: list[str]) -> Tensor:
        """The scale texts, each encoded once."""
        for text in set(texts) - set(self._texts):
            with torch.autocast("cpu", enabled=False):
                self._texts[text] = self.finished["text"]([text])[0]
        return torch.stack([self._texts[text] for text in texts])

    @torch.no_grad()
    def guess(self, batch: Crops) -> Guess:
        """The prior's guess of crops."""
        return Guess(self.prior.logits(batch.hidden), batch.hidden, batch.images)

    def loss(self, batch: Crops, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy at a time drawn for every crop."""
        module, guess, labels = self.module, self.guess(batch), batch.labels
        draft = module.mean(guess.logits)
        shown = shown_colour(labels)
        clean = F.avg_pool2d(module.embedding[shown].permute(0, 3, 1, 2), FINE_STRIDE)
        count = len(clean)
        t = (torch.rand(count, generator=generator) + torch.arange(count)) / count
        if self.stage.path == "critic":
            t = torch.ones(count)
        state, level = self.path.state(clean, draft, noise_like(clean, generator), t)
        features = module.features(batch.condition)
        logits, found = module(state, level, guess, self.text(batch.texts), features)
        full, _ = module.finest(logits, found, batch.images)
        if self.stage.path == "critic":
            return self.judged(full.float(), shown, labels)
        half = count // 2  # the times rise within a batch
        with torch.no_grad():
            late, early = (label_loss(full[part], labels[part]) for part in (slice(half), slice(half, None)))
        loss = label_loss(full, labels) + cell_loss(logits, labels)
        return loss, logged({"late": late, "early": early})

    def judged(self, logits: Tensor, shown: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """What a critic says of the likeliest colours (straight-through), and their cross-entropy."""
        module, critic = self.module, self.module.critic
        entropy = label_loss(logits, labels)
        shares = logits.softmax(1)
        hard = F.one_hot(shares.argmax(1), shares.shape[1]).permute(0, 3, 1, 2) + shares - shares.detach()
        known = (labels < len(PALETTE)).unsqueeze(1)
        fake = F.conv2d(hard, module.embedding.T[:, :, None, None]) * known
        real = module.embedding[shown].permute(0, 3, 1, 2) * known
        score, match, hinge = verdict(critic, fake, real)
        loss = entropy + self.stage.critic * (-score + match) + hinge
        return loss, logged({"entropy": entropy, "score": score, "match": match, "hinge": hinge})

    def sampled(self, module: Any, batch: Crops, steps: int, seed: int = 1) -> tuple[Tensor, Tensor]:
        """Logits after sampling, and of the draft, at full resolution."""
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            guess = self.guess(batch)
            draft = module.mean(guess.logits).float()
            text, features = self.text(batch.texts), module.features(batch.condition)

            def one(state: Tensor, level: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
                found = module(state, level, guess, text, features)
                return module.mean(found[0]), found

            noise = noise_like(draft, torch.Generator().manual_seed(seed))
            logits, _ = module.finest(*self.path.sample(one, draft, noise, steps), batch.images)
            return logits.float(), F.interpolate(guess.logits.float(), scale_factor=2.0, mode="bilinear")

    def validate(self, module: Any) -> tuple[dict[str, float], Pixels]:
        """IoU and map-likeness of drafts and of samples in 1, 2, 4 and 8 steps, from imagery alone."""
        scores: dict[str, float] = {}
        shown = []
        for steps in (1, 2, 4, 8):
            logits, draft = self.sampled(module, self.check[0], steps)
            if steps == 1:
                scores |= measured("draft", draft, self.truth)
                shown.append(painted(draft))
            scores |= measured(str(steps), logits, self.truth)
            shown.append(painted(logits))
        logits, _ = self.sampled(module, self.check[1], 4)
        scores |= measured("true", logits, self.truth)
        shown.append(painted(logits))
        shown = [self.imagery, *shown, self.truth]
        return scores, grid([images[::4] for images in shown])


def noise_like(like: Tensor, generator: torch.Generator) -> Tensor:
    """`blended_noise` of the shape of N x C x h x w."""
    count, depth, height, width = like.shape
    shapes = [(count, depth, height // scale, width // scale) for scale in SCALES]
    device = like.device
    if device.type != "cpu":  # a generator belongs to a device
        generator = torch.Generator(device).manual_seed(generator.initial_seed())
    return blended_noise([torch.randn(shape, generator=generator, device=device) for shape in shapes])


def painted(logits: Tensor) -> Pixels:
    """The likeliest colours, N x H x W x 3 uint8."""
    return COLOURS.astype(np.uint8)[logits.argmax(1).numpy()]


def measured(name: str, logits: Tensor, truth: Pixels) -> dict[str, float]:
    """IoU and likeness of the likeliest colours, keys beginning with `name`."""
    images = painted(logits)
    likeness = Likeness()
    for image, true in zip(images, truth, strict=True):
        likeness.add(image, true)
    iou = mean_iou(images, truth)
    keep = {key: iou[key] for key in ("miou", "building", "road")}
    return {f"{name}_{key}": value for key, value in (keep | likeness.summary()).items()}
