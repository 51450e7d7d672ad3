"""Perception with objects in it: palette colours, and outlines, contacts and centrelines beside them.

The stage goes on from a trained encoder, on whole batches of a device. Labels are noisy: much wood and many houses are
not mapped, so what a pixel of unmapped ground may cost can be bounded, and a network that is sure of a wood there is
not pulled back. References are the cascade's own earlier maps, generated anew as training goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tilecascade.model.data.labels import ALLOWED, ANYTHING
from tilecascade.model.data.pairs import Pair, Pixels
from tilecascade.model.palette import CLASS_OF_COLOUR, COLOURS, PALETTE
from tilecascade.model.sgdm.autoencoder import DRAFT_CHANNELS
from tilecascade.model.sgdm.network import SGDM
from tilecascade.model.sgdm.scale_text import scale_text
from tilecascade.model.training.batches import Batches, Drawn, unit_images
from tilecascade.model.training.config import StageConfig
from tilecascade.model.training.losses import LABEL_WEIGHT
from tilecascade.model.training.objects import KINDS, Planes, halved
from tilecascade.model.training.samples import ROOT_ZOOM, SampleSource
from tilecascade.model.training.stages import grid, groups_of, logged, mean_iou, need_palette
from tilecascade.model.training.tensor_augment import Augmenter
from tilecascade.model.training.tile_bank import EDGE, SPANS

CAP = 2.5
"""Most that a pixel of ground may cost where nothing is mapped: minus the log of a probability of 0.08."""

_ALLOWED = torch.from_numpy(ALLOWED)
_LAND = torch.from_numpy(CLASS_OF_COLOUR == 0)


def capped_loss(logits: Tensor, labels: Tensor, calibrated: bool = False) -> Tensor:
    """Cross-entropy of the allowed colours; unless `calibrated`, weighted, and bounded on unmapped ground (see CAP).

    logits: N x P x h x w, at the labels' resolution, or at half of it against all four pixels of each cell; labels:
    N x H x W indices into `labels.ALLOWED`.
    """
    device, last = logits.device, len(PALETTE) - 1
    allowed_by, land, weight_of = (table.to(device) for table in (_ALLOWED, _LAND, LABEL_WEIGHT))
    chances = logits.float().log_softmax(dim=1)
    stride = labels.shape[-1] // logits.shape[-1]
    total, weights = chances.new_zeros(()), chances.new_zeros(())
    for row in range(stride):
        for column in range(stride):
            here = labels[:, row::stride, column::stride]
            single = here <= last
            cost = -chances.gather(1, here.clamp(max=last).unsqueeze(1)).squeeze(1)
            some = ~single & (here != ANYTHING)
            among = chances.permute(0, 2, 3, 1)[some].masked_fill(~allowed_by[here[some]], -1e4).logsumexp(1)
            cost = cost.masked_scatter(some, -among)
            if not calibrated:
                cost = torch.where(single & land[here.clamp(max=last)], cost.clamp(max=CAP), cost)
            weight = weight_of[here].sign() if calibrated else weight_of[here]
            total, weights = total + (cost * weight).sum(), weights + weight.sum()
    return total / weights.clamp(min=1)


def object_loss(logits: Tensor, wanted: Tensor) -> dict[str, Tensor]:
    """Cross-entropy and Dice of each plane of objects, by name.

    logits, wanted: N x len(KINDS) x H/2 x W/2; wanted is NaN where a map does not tell. Rare as their pixels are, Dice
    keeps a network from saying nothing.
    """
    known = ~wanted.isnan()
    truth = wanted.nan_to_num()
    scores = logits.float()
    cost = F.binary_cross_entropy_with_logits(scores, truth, reduction="none") * known
    share = scores.sigmoid() * known
    overlap = (share * truth).sum(dim=(0, 2, 3))
    dice = 1 - (2 * overlap + 1) / ((share + truth * known).sum(dim=(0, 2, 3)) + 1)
    entropy = cost.sum(dim=(0, 2, 3)) / known.sum(dim=(0, 2, 3)).clamp(min=1)
    return dict(zip(KINDS, 4 * entropy + dice, strict=True))


def perceiving(network: SGDM) -> nn.Module:
    """What has the encoder, prior and text tower that objects are made of. Raises ValueError without a prior."""
    need_palette(network)
    return network if network.perception is None else network.perception


@dataclass(frozen=True)
class Perceived:
    """What the network makes of a batch: palette logits and what they are read from, at half resolution; the condition
    map, the features at stride 2 and the scale text's embedding."""

    logits: Tensor
    hidden: Tensor
    condition: Tensor
    fine: Tensor
    text: Tensor


@dataclass(frozen=True)
class Seen:
    """Conditions of tiles, as tensors of a device: imagery and references N x 3 x S x S in [-1, 1], 0 where unknown."""

    imagery: Tensor
    reference: Tensor
    trusted: Tensor
    texts: list[str]


class PerceiveTask:
    """Encoder, prior and text tower on palette colours and objects; the object heads are the stage's own.

    With `objects = 0` in the stage's table there are no heads and only the colours are learned.
    """

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
                **self.more(network, stage),
            }
        nn.init.constant_(parts["heads"].bias, -3.0)  # type: ignore[arg-type]
        self.stage, self.device = stage, torch.device(stage.device)
        self.batches = Batches(train, stage)
        self.bank = self.batches.bank
        self.module: Any = (
            nn.ModuleDict(parts).requires_grad_(True).to(self.device).to(memory_format=torch.channels_last)
        )
        self.above = {(p.zoom - span, p.x >> span, p.y >> span) for p in train.pairs for span in SPANS}
        checked = [pair for pair in val.pairs if pair.zoom in (15, 16, 17)]
        self.check = checked[:: max(1, len(checked) // 48)][:48]
        self.val = val

    def more(self, network: SGDM, stage: StageConfig) -> dict[str, nn.Module]:
        """Other parts that are trained with these."""
        return {}

    def groups(self) -> list[dict[str, object]]:
        """The pretrained backbone learns more slowly."""
        return groups_of(self.module, self.stage.backbone_rate)

    def batch(self, rng: np.random.Generator) -> Drawn:
        """Augmented samples, some of them with a reference."""
        return self.batches.batch(rng)

    def perceived(self, module: Any, batch: Drawn | Seen) -> Perceived:
        """What the network makes of conditions; each scale text is encoded once."""
        condition, fine = module["encoder"](batch.imagery, batch.reference, batch.trusted)
        different = sorted(set(batch.texts))
        text = module["text"](different)[[different.index(text) for text in batch.texts]]
        logits, hidden = module["prior"](condition, fine, text)
        return Perceived(logits, hidden, condition, fine, text)

    def loss(self, batch: Drawn, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Colours of all that the prior sees and of the imagery branch alone, and objects."""
        total, parts = self.perception_loss(batch, self.perceived(self.module, batch))
        return total, logged(parts)

    def perception_loss(self, batch: Drawn, found: Perceived) -> tuple[Tensor, dict[str, Tensor]]:
        """What was perceived against the labels, and the parts of it by name."""
        module, calibrated = self.module, self.stage.calibrated
        seen = module["seen"]
        parts = {"through": capped_loss(found.logits, batch.labels, calibrated)}
        parts["alone"] = capped_loss(seen(found.fine[:, : seen.in_channels]), batch.labels, calibrated)
        total = parts["through"] + 0.3 * parts["alone"]
        if self.stage.objects:
            objects = object_loss(module["heads"](found.hidden), batch.objects)
            parts |= objects
            total = total + self.stage.objects * torch.stack(list(objects.values())).mean()
        return total, parts

    def conditions(
        self, imagery: Sequence[Pixels], references: Sequence[Pixels | None], zooms: Sequence[int], trusted: bool
    ) -> Seen:
        """Images of 256 x 256 x 3 uint8 as what the network sees; a reference lies one zoom up."""
        shown = torch.tensor([reference is not None for reference in references], device=self.device).view(-1, 1, 1, 1)
        blank = np.zeros((EDGE, EDGE, 3), dtype=np.uint8)
        seen, above = (
            (2 * unit_images(torch.from_numpy(np.stack(images)).to(self.device)) - 1)
            for images in (imagery, [blank if image is None else image for image in references])
        )
        return Seen(
            seen.contiguous(memory_format=torch.channels_last),
            (above * shown).contiguous(memory_format=torch.channels_last),
            torch.ones_like(seen[:, :1]) * shown * trusted,
            [scale_text(z, None if r is None else z - 1) for z, r in zip(zooms, references, strict=True)],
        )

    @torch.no_grad()
    def maps(self, module: Any, seen: Seen) -> Pixels:
        """What finer zooms get for a reference: the mean of the likely colours, N x S x S x 3 uint8."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.stage.bfloat16):
            logits = self.perceived(module, seen).logits
        shown = module["prior"].shown(logits)
        return np.asarray(((shown + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy())

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
                lit = change.imagery(unit_images(source.imagery[some]))
                images = list((lit * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy())
                references = [
                    source.references[i, len(SPANS)].cpu().numpy() if source.known[i, len(SPANS)] else None
                    for i in some
                ]
                made = self.maps(module, self.conditions(images, references, [zoom] * len(some), False))
                pairs = [source.pairs[i] for i in some]
                found |= {(p.zoom, p.x, p.y): m for p, m in zip(pairs, made, strict=True)}
            source.keep_generated(found)

    def validate(self, module: Any) -> tuple[dict[str, float], Pixels]:
        """IoU of the most likely colours, from imagery alone and with true references; F of each plane of objects."""
        scores: dict[str, float] = {}
        truth, imagery = np.stack([p.map for p in self.check]), [p.imagery for p in self.check]
        pictures = [np.stack(imagery)]
        for name in ("", "true_"):
            above = [self._true_reference(pair) if name else None for pair in self.check]
            seen = self.conditions(imagery, above, [p.zoom for p in self.check], True)
            with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.stage.bfloat16):
                found = self.perceived(module, seen)
                planes = module["heads"](found.hidden) > 0
            rough = found.logits.argmax(1).repeat_interleave(2, 1).repeat_interleave(2, 2).cpu().numpy()
            pictures.append(COLOURS.astype(np.uint8)[rough])
            scores |= {name + key: value for key, value in mean_iou(pictures[-1], truth).items()}
            wanted = np.stack([halved(self._planes(pair)) for pair in self.check])
            for kind, mine, true in zip(KINDS, planes.cpu().numpy().swapaxes(0, 1), wanted.swapaxes(0, 1), strict=True):
                both = float((mine & true).sum())
                scores[f"{name}{kind}"] = round(2 * both / max(1.0, float(mine.sum() + true.sum())), 3)
        return scores, grid([images[::4] for images in [*pictures, truth]])

    def _true_reference(self, pair: Pair) -> Pixels | None:
        return self.val.reference(pair, 1) if pair.zoom > ROOT_ZOOM else None

    def _planes(self, pair: Pair) -> Planes:
        planes = self.val.objects(pair)
        assert planes is not None  # the first source has the style that tells
        return planes
