"""The denoiser: diffusion about the draft, then one step of it against a discriminator."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from tilecascade.model.data.pairs import Pixels
from tilecascade.model.palette import PALETTE
from tilecascade.model.sgdm.autoencoder import Draft
from tilecascade.model.sgdm.network import SGDM
from tilecascade.model.sgdm.sampler import TRAIN_STEPS, Sampler
from tilecascade.model.training.config import StageConfig
from tilecascade.model.training.losses import map_loss
from tilecascade.model.training.samples import Batch, SampleSource
from tilecascade.model.training.stages import (
    condition_images,
    frozen,
    grid,
    guess,
    logged,
    mean_iou,
    need_palette,
    psnr,
    quarter,
    to_pixels,
    true_latent,
    validation_batch,
)


@torch.no_grad()
def measure_deviation(parts: Any, train: SampleSource, stage: StageConfig) -> None:
    """Set the prior's scale, the sampler's unit: the deviation of true latents from the draft's, over a few batches."""
    rng, errors = np.random.default_rng(0), []
    for _ in range(4):
        batch = train.batch(stage, rng)
        draft = parts["prior"].draft(*guess(parts, batch), parts["autoencoder"])
        errors.append((true_latent(parts["autoencoder"], batch.labels) - draft.mean).square().mean(dim=(0, 2, 3)))
    parts["prior"].scale.copy_(torch.stack(errors).mean(0).sqrt())


class DiffusionTask:
    """The denoiser with its adapter, about the prior of a finished encoder.

    The loss is the squared error of the clean sample that the predicted velocity means, in units of the deviation from
    the draft. Tried before: predicting that sample itself (240 steps had not taught it to pass a clear one on), a
    cross-entropy of the decoded colours (nothing holds the latents where the sampler's next step expects them, and
    two steps drew worse than one) and L1 of the colours (its median answer is the draft).
    """

    def __init__(self, network: SGDM, train: SampleSource, val: SampleSource, stage: StageConfig) -> None:
        self.sampler = Sampler(network.config.diffusion)
        self.prior, self.autoencoder = need_palette(network)
        self.finished = frozen(network, "encoder", "prior", "autoencoder", "text")
        self.module: Any = nn.ModuleDict({name: getattr(network, name) for name in ("adapter", "unet")})
        self.train, self.stage = train, stage
        self.check = validation_batch(val, False)
        measure_deviation(self.finished, train, stage)

    def groups(self) -> list[dict[str, object]]:
        """All parameters alike."""
        return [{"params": list(self.module.parameters())}]

    def batch(self, rng: np.random.Generator) -> Batch:
        """Augmented pairs."""
        return self.train.batch(self.stage, rng)

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Error of the predicted clean sample; half of the steps are those of the sampler."""
        scale = self.prior.scale.view(1, -1, 1, 1)
        with torch.no_grad():
            condition, fine = self.finished["encoder"](batch.imagery, batch.reference, batch.trusted)
            text = self.finished["text"](batch.texts)
            logits, hidden = self.prior(condition, fine, text)
            draft = self.prior.draft(logits, hidden, condition_images(batch), self.autoencoder)
            clean = (true_latent(self.autoencoder, batch.labels) - draft.mean) / scale
        count = clean.shape[0]
        t = torch.randint(0, TRAIN_STEPS, (count,), generator=generator)
        choice = torch.randint(0, len(self.sampler.steps), (count,), generator=generator)
        served = torch.tensor(self.sampler.steps)[choice]
        t = torch.where(torch.rand(count, generator=generator) < 0.5, served, t)
        noise = torch.randn(clean.shape, generator=generator)
        x = self.sampler.add_noise(clean, noise, t)
        output = self.module["unet"](x, t, text, self.module["adapter"](condition))
        known = F.avg_pool2d((batch.labels < len(PALETTE)).float().unsqueeze(1), 8)
        generated, _ = self.sampler.split(x, output.float(), t)
        error = ((generated - clean).square() * known).mean(dim=(1, 2, 3))
        first = t == self.sampler.steps[0]
        if not first.any():
            return error.mean(), {}
        # what is left of the draft's error where there is nothing but noise to begin with
        left = error[first].detach().sum() / (clean.square() * known)[first].mean(dim=(1, 2, 3)).sum().clamp(min=1e-6)
        return error.mean(), {"left": left}

    def validate(self, module: Any) -> tuple[dict[str, float], Pixels]:
        """IoU of sampled maps from imagery alone, and the grid imagery / prior / generated / truth."""
        parts = {**self.finished, **module}
        with torch.no_grad():
            latent, draft = sample_latents(parts, self.sampler, self.check, torch.Generator().manual_seed(1))
            generated, first = (to_pixels(self.autoencoder.decode(x, draft)) for x in (latent, draft.mean))
        truth, seen = to_pixels(self.check.map), to_pixels(self.check.imagery)
        scores = mean_iou(generated, truth) | {"prior_miou": mean_iou(first, truth)["miou"]}
        return scores, grid([seen[::3], first[::3], generated[::3], truth[::3]])


def sample_latents(parts: Any, sampler: Sampler, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Draft]:
    """Sample as in serving, with noise from `generator`: the latents to decode, and the drafts."""
    condition, fine = parts["encoder"](batch.imagery, batch.reference, batch.trusted)
    context = parts["text"](batch.texts)
    guessed = parts["prior"](condition, fine, context)
    draft = parts["prior"].draft(*guessed, condition_images(batch), parts["autoencoder"])
    mean = draft.mean
    features = parts["adapter"](condition)
    x = sampler.start(torch.randn(mean.shape, generator=generator))
    walk = sampler.walk()
    for index, t in enumerate(sampler.steps):
        output = parts["unet"](x, torch.full((x.shape[0],), t), context, features)
        fresh = torch.randn(mean.shape, generator=generator) if sampler.needs_step_noise else None
        x = walk.step(x, output, index, fresh)
    return mean + parts["prior"].scale.view(1, -1, 1, 1) * x, draft


class Discriminator(nn.Module):
    """Is this patch of embedded colours (N x 8 x H x W) a piece of a map? With spectral normalisation (Miyato 2018)."""

    def __init__(self, width: int = 32, channels: int = 8) -> None:
        super().__init__()
        sizes = (
            (channels, width, 4, 2),
            (width, 2 * width, 4, 2),
            (2 * width, 4 * width, 4, 2),
            (4 * width, 4 * width, 3, 1),
        )
        self.layers = nn.ModuleList(
            spectral_norm(nn.Conv2d(a, b, kernel, stride, padding=1)) for a, b, kernel, stride in sizes
        )
        self.score = spectral_norm(nn.Conv2d(4 * width, 1, 3, padding=1))

    def forward(self, embedded: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Scores of overlapping patches, N x 1 x H/8 x W/8, and the features they were read from."""
        x, features = embedded, []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return self.score(x), features


def verdict(critic: nn.Module, fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What a critic says: the generator's score, how far the features of its maps are from those of true ones (both
    without gradients for the critic), and the critic's own hinge loss."""
    critic.requires_grad_(False)
    score, features = critic(fake)
    with torch.no_grad():
        _, wanted = critic(real)
    critic.requires_grad_(True)
    match = torch.stack([F.l1_loss(a.float(), b.float()) for a, b in zip(features, wanted, strict=True)]).mean()
    hinge = F.relu(1 - critic(real)[0]).mean() + F.relu(1 + critic(fake.detach())[0]).mean()
    return score.float().mean(), match, hinge.float()


class AdversarialTask:
    """One step of the denoiser, with its decoder, generated until a discriminator takes it for a map.

    The losses of `RefineTask` keep it where the map is; the hinge loss and the matching of features (Wang et al. 2018,
    pix2pixHD) give it straight edges and whole buildings where the cross-entropy alone leaves blurs. One-step
    adversarial distillation is an idea of Sauer et al. (2023).
    """

    HINGE, MATCH = 0.1, 1.0

    def __init__(self, network: SGDM, train: SampleSource, val: SampleSource, stage: StageConfig) -> None:
        self.sampler = Sampler(network.config.diffusion)
        if len(self.sampler.steps) != 1:
            raise ValueError(f"the adversarial stage trains one step; the preset samples {len(self.sampler.steps)}")
        self.prior, auto = need_palette(network)
        self.finished = frozen(network, "encoder", "prior", "text")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # whatever stages ran before in this process
            critic = Discriminator()
        parts = {"adapter": network.adapter, "unet": network.unet, "autoencoder": auto, "critic": critic}
        self.module: Any = nn.ModuleDict(parts).requires_grad_(True)
        self.train, self.stage = train, stage
        self.check = validation_batch(val, False)
        measure_deviation({**self.finished, "autoencoder": auto}, train, stage)

    def groups(self) -> list[dict[str, object]]:
        """The decoder is finished already and moves slowly; the critic faster."""
        slow = list(self.module["autoencoder"].parameters())
        critic = list(self.module["critic"].parameters())
        known = {id(p) for p in (*slow, *critic)}
        rest = [p for p in self.module.parameters() if id(p) not in known]
        return [
            {"params": rest},
            {"params": slow, "scale": 0.3},
            {"params": critic, "scale": 2.0, "betas": (0.5, 0.99)},
        ]

    def batch(self, rng: np.random.Generator) -> Batch:
        """Augmented pairs."""
        return self.train.batch(self.stage, rng)

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Generator's and critic's loss in one: each sees the other's weights as constants."""
        auto, critic = self.module["autoencoder"], self.module["critic"]
        latent, draft = sample_latents({**self.finished, **self.module}, self.sampler, batch, generator)
        latent, draft, box = quarter(latent, draft, generator)
        labels = batch.labels[box]
        logits, keep = auto.decode_logits(latent, draft)
        image = auto.shown(logits, keep, draft)
        total, parts = map_loss(logits, image, batch.map[box], labels, batch.trusted[box])
        shares = (auto.logit_scale * logits).softmax(dim=1)
        generated = torch.einsum("nphw,pd->ndhw", shares, auto.embedding)
        known = (labels < len(PALETTE)).unsqueeze(1)
        generated = torch.where(known, generated, 0)
        real = torch.where(known, auto.embed(torch.where(known[:, 0], labels, 0)), 0)
        score, match, hinge = verdict(critic, generated, real)
        critique = self.HINGE * -score + self.MATCH * match
        parts |= {"match": match, "score": score, "hinge": hinge}
        return total + self.stage.critic * critique + hinge, logged(parts)

    def validate(self, module: Any) -> tuple[dict[str, float], Pixels]:
        """IoU of one-step maps from imagery alone, and the grid imagery / draft / generated / truth."""
        parts = {**self.finished, **module}
        with torch.no_grad():
            latent, draft = sample_latents(parts, self.sampler, self.check, torch.Generator().manual_seed(1))
            generated, first = (to_pixels(parts["autoencoder"].decode(x, draft)) for x in (latent, draft.mean))
        truth, seen = to_pixels(self.check.map), to_pixels(self.check.imagery)
        scores = mean_iou(generated, truth) | {"psnr": psnr(generated, truth)}
        scores |= {"draft_miou": mean_iou(first, truth)["miou"]}
        return scores, grid([seen[::3], first[::3], generated[::3], truth[::3]])
