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
from tilecascade.model.sgdm.autoencoder import DRAFT_CHANNELS, FINE_STRIDE, kept
from tilecascade.model.sgdm.colour_denoiser import Guess
from tilecascade.model.sgdm.colour_sampler import DiffusionPath
from tilecascade.model.sgdm.network import SGDM
from tilecascade.model.sgdm.scale_text import scale_text
from tilecascade.model.training.batches import Batches, Drawn, unit_images
from tilecascade.model.training.colours import new_denoiser, noise_like
from tilecascade.model.training.config import StageConfig
from tilecascade.model.training.diffusion import Discriminator, verdict
from tilecascade.model.training.losses import COLOUR, colour_loss
from tilecascade.model.training.objects import KINDS
from tilecascade.model.training.perceive import capped_loss, object_loss, perceiving
from tilecascade.model.training.samples import SampleSource
from tilecascade.model.training.stages import grid, groups_of, logged, mean_iou
from tilecascade.model.training.tensor_augment import Augmenter
from tilecascade.model.training.tile_bank import EDGE, SPANS

_SINGLE = len(PALETTE)


class DrawTask:
    """Encoder, prior, text tower, object heads and the denoiser of colours, with a critic if the stage asks for one."""

    def __init__(self, network: SGDM, train: SampleSource, val: SampleSource, stage: StageConfig) -> None:
        own: Any = perceiving(network)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # whatever stages ran before in this process
            parts: dict[str, nn.Module] = {
                "encoder": own.encoder,
                "prior": own.prior,
                "text": own.text,
                "heads": nn.Conv2d(DRAFT_CHANNELS, len(KINDS), 1),
                "seen": nn.Conv2d(network.config.encoder.widths[0], len(PALETTE), 1),
                "denoiser": new_denoiser(network, stage),
            }
            if stage.critic:
                parts["critic"] = Discriminator(48, 11)
        nn.init.constant_(parts["heads"].bias, -3.0)  # type: ignore[arg-type]
        self.batches = Batches(train, stage)
        self.bank = self.batches.bank
        self.device = torch.device(stage.device)
        self.module: Any = (
            nn.ModuleDict(parts).requires_grad_(True).to(self.device).to(memory_format=torch.channels_last)
        )
        self.stage = stage
        kind: Literal["noise", "bridge"] = "noise" if stage.path == "noise" else "bridge"
        self.path = DiffusionPath(kind, amplitude=stage.amplitude)
        self.colours = (torch.from_numpy(COLOURS).float().to(self.device) / 127.5 - 1).T[:, :, None, None]
        self.above = {(p.zoom - span, p.x >> span, p.y >> span) for p in train.pairs for span in SPANS}
        checked = [pair for pair in val.pairs if pair.zoom in (15, 16, 17)]
        self.check = checked[:: max(1, len(checked) // 48)][:48]

    def groups(self) -> list[dict[str, object]]:
        """The pretrained backbone learns more slowly, the critic faster."""
        critic = list(self.module["critic"].parameters()) if "critic" in self.module else []
        known = {id(p) for p in critic}
        own = [
            {**group, "params": [p for p in group["params"] if id(p) not in known]}  # type: ignore[attr-defined]
            for group in groups_of(self.module, self.stage.backbone_rate)
        ]
        return [*own, *([{"params": critic, "scale": 2.0, "betas": (0.5, 0.99)}] if critic else [])]

    def batch(self, rng: np.random.Generator) -> Drawn:
        """Augmented samples, some of them with a reference."""
        return self.batches.batch(rng)

    def text(self, module: Any, texts: list[str]) -> Tensor:
        """The scale texts, each encoded once."""
        different = sorted(set(texts))
        return module["text"](different)[[different.index(text) for text in texts]]

    def loss(self, batch: Drawn, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Colours and objects of what the encoder sees; colours of what the denoiser draws."""
        module = self.module
        condition, fine = module["encoder"](batch.imagery, batch.reference, batch.trusted)
        text = self.text(module, batch.texts)
        logits, hidden = module["prior"](condition, fine, text)
        seen = module["seen"]
        parts = {"through": capped_loss(logits, batch.labels)}
        parts["alone"] = capped_loss(seen(fine[:, : seen.in_channels]), batch.labels)
        objects = object_loss(module["heads"](hidden), batch.objects)
        total = parts["through"] + 0.3 * parts["alone"]
        total = total + self.stage.objects * torch.stack(list(objects.values())).mean()
        parts |= objects
        exact = slice(batch.exact)
        images = torch.cat([batch.imagery, batch.reference, batch.trusted], dim=1)[exact]
        guess = Guess(logits[exact], hidden[exact], images)
        drawn, more = self.drawn(batch, guess, condition[exact], text[exact], generator)
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
    def sampled(
        self, module: Any, imagery: Tensor, reference: Tensor, texts: list[str], steps: int, seed: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Logits of single pixels after sampling, and the draft's at half resolution; the reference is generated."""
        trusted = torch.zeros_like(imagery[:, :1])
        with torch.autocast(self.device.type, torch.bfloat16):
            condition, fine = module["encoder"](imagery, reference, trusted)
            text = self.text(module, texts)
            logits, hidden = module["prior"](condition, fine, text)
            denoiser = module["denoiser"]
            guess = Guess(logits, hidden, torch.cat([imagery, reference, trusted], 1))
            features, draft = denoiser.features(condition), denoiser.mean(logits)

            def one(state: Tensor, level: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
                found = denoiser(state, level, guess, text, features)
                return denoiser.mean(found[0]), found

            noise = noise_like(draft, torch.Generator().manual_seed(seed))
            last = self.path.sample(one, draft, noise, steps)
            return denoiser.finest(*last, guess.images)[0].float(), logits.float()

    def pictures(self, module: Any, imagery: list[Pixels], reference: list[Pixels | None], zooms: list[int], steps: int
                 ) -> tuple[Pixels, Pixels]:  # fmt: skip
        """Likeliest colours after sampling, and of the draft, each N x S x S x 3 uint8."""
        blank = np.full((EDGE, EDGE, 3), 127.5)
        seen, above = (
            (torch.from_numpy(np.stack(images)).to(self.device).float() / 127.5 - 1)
            .permute(0, 3, 1, 2)
            .contiguous(memory_format=torch.channels_last)
            for images in (imagery, [blank if image is None else image for image in reference])
        )
        texts = [scale_text(z, None if r is None else z - 1) for z, r in zip(zooms, reference, strict=True)]
        logits, draft = self.sampled(module, seen, above, texts, steps)
        colours = COLOURS.astype(np.uint8)
        rough = draft.argmax(1).repeat_interleave(2, 1).repeat_interleave(2, 2)
        return colours[logits.argmax(1).cpu().numpy()], colours[rough.cpu().numpy()]

    def refresh(self, module: Any, step: int) -> None:
        """Generate the cascade over the training pairs, coarse zooms first, under another light at each step."""
        if not self.stage.self_reference:
            return
        source, change = self.bank, Augmenter(torch.Generator(self.device).manual_seed(step))
        for zoom in sorted({pair.zoom for pair in source.pairs}):
            numbers = [i for i, p in enumerate(source.pairs) if p.zoom == zoom and (zoom, p.x, p.y) in self.above]
            found: dict[tuple[int, int, int], Pixels] = {}
            for first in range(0, len(numbers), 64):
                some = numbers[first : first + 64]
                imagery = unit_images(source.imagery[some])
                lit = (change.imagery(imagery) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
                references = [
                    source.references[i, len(SPANS)].cpu().numpy() if source.known[i, len(SPANS)] else None
                    for i in some
                ]
                made, _ = self.pictures(module, list(lit), references, [zoom] * len(some), self.stage.sampled)
                pairs = [source.pairs[i] for i in some]
                found |= {(p.zoom, p.x, p.y): m for p, m in zip(pairs, made, strict=True)}
            source.keep_generated(found)

    def validate(self, module: Any) -> tuple[dict[str, float], Pixels]:
        """IoU of drafts and of samples in 1, 2 and 4 steps from imagery alone."""
        scores: dict[str, float] = {}
        truth, imagery = np.stack([p.map for p in self.check]), [p.imagery for p in self.check]
        shown = [np.stack(imagery)]
        for steps in (1, 2, 4):
            made, rough = self.pictures(module, imagery, [None] * len(imagery), [p.zoom for p in self.check], steps)
            if steps == 1:
                scores |= {f"draft_{key}": value for key, value in mean_iou(rough, truth).items()}
                shown.append(rough)
            scores |= {f"{steps}_{key}": value for key, value in mean_iou(made, truth).items()}
            shown.append(made)
        return scores, grid([images[::4] for images in [*shown, truth]])
