"""Perception and the diffusion of colours in one stage, on whole batches of a device.

The encoder learns palette colours and objects from imagery and references; the denoiser, behind it and with it, learns
to draw the map. Both see the cascade's own earlier maps as references, which are generated anew as training goes on.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tilecascade.model.data.labels import ANYTHING
from tilecascade.model.data.pairs import Pixels
from tilecascade.model.palette import COLOURS, PALETTE
from tilecascade.model.sgdm.autoencoder import FINE_STRIDE, kept
from tilecascade.model.sgdm.colour_denoiser import Guess
from tilecascade.model.sgdm.colour_sampler import DiffusionPath
from tilecascade.model.sgdm.network import SGDM
from tilecascade.model.training.batches import Drawn
from tilecascade.model.training.colours import new_denoiser, noise_like
from tilecascade.model.training.config import StageConfig
from tilecascade.model.training.diffusion import Discriminator, verdict
from tilecascade.model.training.losses import COLOUR, colour_loss
from tilecascade.model.training.perceive import PerceiveTask, Seen, capped_loss
from tilecascade.model.training.samples import SampleSource
from tilecascade.model.training.stages import grid, logged, mean_iou

_SINGLE = len(PALETTE)


class DrawTask(PerceiveTask):
    """What perceives, and the denoiser of colours behind it, with a critic if the stage asks for one."""

    def __init__(self, network: SGDM, train: SampleSource, val: SampleSource, stage: StageConfig) -> None:
        super().__init__(network, train, val, stage)
        kind: Literal["noise", "bridge"] = "noise" if stage.path == "noise" else "bridge"
        self.path = DiffusionPath(kind, amplitude=stage.amplitude)
        self.colours = (torch.from_numpy(COLOURS).float().to(self.device) / 127.5 - 1).T[:, :, None, None]

    def more(self, network: SGDM, stage: StageConfig) -> dict[str, nn.Module]:
        """The denoiser and the critic."""
        parts: dict[str, nn.Module] = {"denoiser": new_denoiser(network, stage)}
        return parts | ({"critic": Discriminator(48, 11)} if stage.critic else {})

    def groups(self) -> list[dict[str, object]]:
        """The pretrained backbone learns more slowly, the critic faster."""
        critic = list(self.module["critic"].parameters()) if "critic" in self.module else []
        known = {id(p) for p in critic}
        own = [
            {**group, "params": [p for p in group["params"] if id(p) not in known]}  # type: ignore[attr-defined]
            for group in super().groups()
        ]
        return [*own, *([{"params": critic, "scale": 2.0, "betas": (0.5, 0.99)}] if critic else [])]

    def loss(self, batch: Drawn, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Colours and objects of what the encoder sees; colours of what the denoiser draws."""
        found = self.perceived(self.module, batch)
        total, parts = self.perception_loss(batch, found)
        exact = slice(batch.exact)
        images = torch.cat([batch.imagery, batch.reference, batch.trusted], dim=1)[exact]
        guess = Guess(found.logits[exact], found.hidden[exact], images)
        drawn, more = self.drawn(batch, guess, found.condition[exact], found.text[exact], generator)
        return total + drawn, logged(parts | more)

    def drawn(
        self, batch: Drawn, guess: Guess, condition: Tensor, text: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What the denoiser's maps of the samples of the default style cost, at times of its path."""
        denoiser, count = self.module["denoiser"], batch.exact
        labels, shown = batch.labels[:count], batch.shown[:count]
        draft = denoiser.mean(guess.logits.detach())
        clean = F.avg_pool2d(denoiser.embedding[shown].permute(0, 3, 1, 2), FINE_STRIDE)
        noise = noise_like(clean, generator)
        t = (torch.rand(count, generator=generator) + torch.arange(count)) / count
        features = denoiser.features(condition)
        if self.stage.critic:
            # the steps that are served; half of the second ones begin at what the first has made
            t = torch.where(torch.arange(count) % 2 == 0, 1.0, 0.5)
            with torch.no_grad():
                state, level = self.path.state(clean, draft, noise, torch.ones_like(draft[:, 0, 0, 0]))
                made = denoiser.mean(denoiser(state, level, guess, text, features)[0])
            clean_or_made = torch.where((torch.arange(count) % 4 == 1).view(-1, 1, 1, 1).to(self.device), made, clean)
        else:
            clean_or_made = clean
        state, level = self.path.state(clean_or_made, draft, noise, t.to(self.device))
        logits, found = denoiser(state, level, guess, text, features)
        full, keep = denoiser.finest(logits, found, guess.images)
        parts = {"half": capped_loss(logits, labels), "full": capped_loss(full, labels)}
        total = parts["half"] + parts["full"]
        shares = full.float().softmax(1)
        image = kept(F.conv2d(shares, self.colours), keep, guess.images)
        parts["colour"] = colour_loss(image, batch.map[:count], labels, guess.images[:, 6:])
        total = total + COLOUR * parts["colour"]
        if self.stage.critic:
            judged, more = self.judged(shares, shown, labels, guess.images)
            total, parts = total + judged, parts | more
        return total, parts

    def judged(self, shares: Tensor, shown: Tensor, labels: Tensor, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """What a critic says of the likeliest colours (straight-through), beside the imagery."""
        critic, embedding = self.module["critic"], self.module["denoiser"].embedding
        hard = F.one_hot(shares.argmax(1), _SINGLE).permute(0, 3, 1, 2) + shares - shares.detach()
        known = (labels != ANYTHING).unsqueeze(1)
        seen = images[:, :3]
        fake = torch.cat([F.conv2d(hard, embedding.T[:, :, None, None]) * known, seen], 1)
        real = torch.cat([embedding[shown].permute(0, 3, 1, 2) * known, seen], 1)
        score, match, hinge = verdict(critic, fake, real)
        parts = {"score": score, "match": match, "hinge": hinge}
        return self.stage.critic * (-0.1 * score + match) + hinge, parts

    @torch.no_grad()
    def sampled(self, module: Any, seen: Seen, steps: int, seed: int = 1) -> tuple[Tensor, Tensor]:
        """Logits of single pixels after sampling, and the draft's at half resolution; the reference is generated."""
        with torch.autocast(self.device.type, torch.bfloat16):
            found = self.perceived(module, seen)
            denoiser = module["denoiser"]
            guess = Guess(found.logits, found.hidden, torch.cat([seen.imagery, seen.reference, seen.trusted], 1))
            features, draft = denoiser.features(found.condition), denoiser.mean(found.logits)

            def one(state: Tensor, level: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
                made = denoiser(state, level, guess, found.text, features)
                return denoiser.mean(made[0]), made

            noise = noise_like(draft, torch.Generator().manual_seed(seed))
            last = self.path.sample(one, draft, noise, steps)
            return denoiser.finest(*last, guess.images)[0].float(), found.logits.float()

    def pictures(self, module: Any, seen: Seen, steps: int) -> tuple[Pixels, Pixels]:
        """Likeliest colours after sampling, and of the draft, each N x S x S x 3 uint8."""
        logits, draft = self.sampled(module, seen, steps)
        colours = COLOURS.astype(np.uint8)
        rough = draft.argmax(1).repeat_interleave(2, 1).repeat_interleave(2, 2)
        return colours[logits.argmax(1).cpu().numpy()], colours[rough.cpu().numpy()]

    def maps(self, module: Any, seen: Seen) -> Pixels:
        """What finer zooms get for a reference: sampled maps."""
        return self.pictures(module, seen, self.stage.sampled)[0]

    def validate(self, module: Any) -> tuple[dict[str, float], Pixels]:
        """IoU of drafts and of samples in 1, 2 and 4 steps from imagery alone."""
        scores: dict[str, float] = {}
        truth, imagery = np.stack([p.map for p in self.check]), [p.imagery for p in self.check]
        shown = [np.stack(imagery)]
        seen = self.conditions(imagery, [None] * len(imagery), [p.zoom for p in self.check], False)
        for steps in (1, 2, 4):
            made, rough = self.pictures(module, seen, steps)
            if steps == 1:
                scores |= {f"draft_{key}": value for key, value in mean_iou(rough, truth).items()}
                shown.append(rough)
            scores |= {f"{steps}_{key}": value for key, value in mean_iou(made, truth).items()}
            shown.append(made)
        return scores, grid([images[::4] for images in [*shown, truth]])
