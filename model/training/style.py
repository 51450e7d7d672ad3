"""Another map style on a trained network: everything learns at once, the pretrained backbone slowly.

The style's own colours take the place of the default palette. What reads them is new: the last layers of prior and
decoder, and the U-Net's output. All else begins as what the network knows of imagery.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tilecascade.model.data.labels import ANYTHING
from tilecascade.model.data.pairs import Pixels
from tilecascade.model.palette import PALETTE
from tilecascade.model.sgdm.network import SGDM
from tilecascade.model.sgdm.sampler import Sampler
from tilecascade.model.training.config import StageConfig
from tilecascade.model.training.diffusion import Discriminator, sample_latents, verdict
from tilecascade.model.training.losses import comb_loss, lattice_loss
from tilecascade.model.training.samples import Batch, SampleSource, collate
from tilecascade.model.training.stages import (
    backbone_of,
    generate_own,
    grid,
    logged,
    need_palette,
    psnr,
    quarter,
    to_pixels,
)

PARTS = ("encoder", "prior", "text", "adapter", "unet", "autoencoder")


def colour_cost(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each pixel's palette colour, of logits at the labels' resolution or at half of it."""
    stride = labels.shape[-1] // logits.shape[-1]
    places = [labels[:, row::stride, column::stride] for row in range(stride) for column in range(stride)]
    costs = [F.cross_entropy(logits.float(), here, ignore_index=ANYTHING) for here in places]
    return torch.stack(costs).mean()


class StyleTask:
    """One step of the denoiser, trained with all that is before and after it.

    Cross-entropy says what is where, the error of colours and a critic how it is drawn (see `AdversarialTask`).
    """

    COLOUR, COMB, LATTICE, HINGE, MATCH = 4.0, 0.5, 0.02, 0.1, 1.0

    def __init__(self, network: SGDM, train: SampleSource, val: SampleSource, stage: StageConfig) -> None:
        self.sampler = Sampler(network.config.diffusion)
        if len(self.sampler.steps) != 1:
            raise ValueError(f"a style is learned with one step; this network samples {len(self.sampler.steps)}")
        self.prior, self.autoencoder = need_palette(network)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # whatever stages ran before in this process
            self.prior.logits.reset_parameters()
            critic = Discriminator()
        last = self.autoencoder.decoder.conv4
        nn.init.zeros_(last.weight[: len(PALETTE)])
        parts = {name: getattr(network, name) for name in PARTS}
        self.module: Any = nn.ModuleDict({**parts, "critic": critic}).requires_grad_(True)
        self.train, self.stage = train, stage
        step = max(1, len(val.pairs) // 12)
        self.check = collate([val.plain(pair, False) for pair in val.pairs[::step][:12]], val.palette)

    def groups(self) -> list[dict[str, object]]:
        """The pretrained backbone learns slowly, what is new and the critic fast."""
        slow = backbone_of(self.module["encoder"])
        fresh = [*self.prior.logits.parameters(), *self.autoencoder.decoder.conv4.parameters()]
        critic = list(self.module["critic"].parameters())
        known = {id(p) for p in (*slow, *fresh, *critic)}
        rest = [p for p in self.module.parameters() if id(p) not in known]
        return [
            {"params": rest},
            {"params": slow, "scale": self.stage.backbone_rate},
            {"params": fresh, "scale": 3.0},
            {"params": critic, "scale": 2.0, "betas": (0.5, 0.99)},
        ]

    def batch(self, rng: np.random.Generator) -> Batch:
        """Augmented pairs."""
        return self.train.batch(self.stage, rng)

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """What the map costs, what the critic says of it, and what the critic costs itself."""
        parts, auto = self.module, self.module["autoencoder"]
        latent, draft = sample_latents(parts, self.sampler, batch, generator)
        guessed = colour_cost(parts["prior"].logits(draft.hidden), batch.labels)
        latent, draft, box = quarter(latent, draft, generator)
        labels, truth = batch.labels[box], batch.map[box]
        logits, keep = auto.decode_logits(latent, draft)
        image = auto.shown(logits, keep, draft)
        known = labels != ANYTHING
        off = F.smooth_l1_loss(image, truth, reduction="none", beta=0.1).mean(1)[known].mean()
        generated = torch.einsum("nphw,pd->ndhw", (auto.logit_scale * logits).softmax(dim=1), auto.embedding)
        real = auto.embed(torch.where(known, labels, 0))
        score, match, hinge = verdict(parts["critic"], *(torch.where(known[:, None], x, 0) for x in (generated, real)))
        told = {"colours": colour_cost(logits, labels), "guessed": guessed, "off": off, "match": match, "hinge": hinge}
        total = told["colours"] + 0.5 * guessed + self.COLOUR * off
        total = total + self.COMB * comb_loss(image) + self.LATTICE * lattice_loss(image)
        critique = self.HINGE * -score + self.MATCH * match
        return total + self.stage.critic * critique + hinge, logged(told)

    def refresh(self, module: Any, step: int) -> None:
        """Generate the references of finer pairs, once there is something to see in them."""
        if step and self.stage.self_reference:
            generate_own(module, self.train)

    @torch.no_grad()
    def validate(self, module: Any) -> tuple[dict[str, float], Pixels]:
        """PSNR of maps from imagery alone, and the grid imagery / generated / truth."""
        latent, draft = sample_latents(module, self.sampler, self.check, torch.Generator().manual_seed(1))
        generated = to_pixels(module["autoencoder"].decode(latent, draft))
        truth, seen = to_pixels(self.check.map), to_pixels(self.check.imagery)
        return {"psnr": psnr(generated, truth)}, grid([seen[:6], generated[:6], truth[:6]])
