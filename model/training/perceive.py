"""Perception with objects in it: palette colours, and outlines, contacts and centrelines beside them.

The stage goes on from a trained encoder. Labels are noisy: much wood and many houses are not mapped, so what a pixel of
unmapped ground may cost is bounded, and a network that is sure of a wood there is not pulled back.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tilecascade.model.data.labels import ALLOWED, ANYTHING
from tilecascade.model.data.pairs import Pixels
from tilecascade.model.palette import CLASS_OF_COLOUR, COLOURS, PALETTE
from tilecascade.model.sgdm.autoencoder import DRAFT_CHANNELS
from tilecascade.model.sgdm.network import SGDM
from tilecascade.model.training.config import StageConfig
from tilecascade.model.training.losses import LABEL_WEIGHT
from tilecascade.model.training.objects import KINDS
from tilecascade.model.training.samples import Batch, SampleSource
from tilecascade.model.training.stages import (
    grid,
    groups_of,
    logged,
    mean_iou,
    need_palette,
    to_pixels,
    validation_batch,
)

CAP = 2.5
"""Most that a pixel of ground may cost where nothing is mapped: minus the log of a probability of 0.08."""

_ALLOWED = torch.from_numpy(ALLOWED)
_LAND = torch.from_numpy(CLASS_OF_COLOUR == 0)


def capped_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the allowed colours, weighted; bounded on unmapped ground (see CAP).

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
            cost = torch.where(single & land[here.clamp(max=last)], cost.clamp(max=CAP), cost)
            weight = weight_of[here]
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


class PerceiveTask:
    """Encoder, prior and text tower on palette colours and objects; the object heads are the stage's own.

    With `objects = 0` in the stage's table there are no heads and only the colours are learned.
    """

    def __init__(self, network: SGDM, train: SampleSource, val: SampleSource, stage: StageConfig) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # whatever stages ran before in this process
            heads = nn.Conv2d(DRAFT_CHANNELS, len(KINDS), 1)
            seen = nn.Conv2d(network.config.encoder.widths[0], len(PALETTE), 1)
        nn.init.constant_(heads.bias, -3.0)  # type: ignore[arg-type]
        own: Any = perceiving(network)
        parts = {"encoder": own.encoder, "prior": own.prior, "text": own.text}
        self.module: Any = nn.ModuleDict({**parts, "heads": heads, "seen": seen}).requires_grad_(True)
        self.train, self.stage = train, stage
        self.check, self.check_true = validation_batch(val, False), validation_batch(val, True)

    def groups(self) -> list[dict[str, object]]:
        """The pretrained backbone learns more slowly."""
        return groups_of(self.module, self.stage.backbone_rate)

    def batch(self, rng: np.random.Generator) -> Batch:
        """Augmented pairs, with their objects."""
        return self.train.batch(self.stage, rng)

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Colours of all that the prior sees and of the imagery branch alone, and objects."""
        condition, fine = self.module["encoder"](batch.imagery, batch.reference, batch.trusted)
        logits, hidden = self.module["prior"](condition, fine, self.module["text"](batch.texts))
        seen = self.module["seen"]
        parts = {"through": capped_loss(logits, batch.labels)}
        parts["alone"] = capped_loss(seen(fine[:, : seen.in_channels]), batch.labels)
        total = parts["through"] + 0.3 * parts["alone"]
        if self.stage.objects and batch.objects is not None:
            objects = object_loss(self.module["heads"](hidden), batch.objects)
            parts |= objects
            total = total + self.stage.objects * torch.stack(list(objects.values())).mean()
        return total, logged(parts)

    def validate(self, module: Any) -> tuple[dict[str, float], Pixels]:
        """IoU of the most likely colours, from imagery alone and with true references; F of each plane of objects."""
        scores: dict[str, float] = {}
        pictures = []
        for name, check in (("", self.check), ("true_", self.check_true)):
            with torch.no_grad():
                encoded = module["encoder"](check.imagery, check.reference, check.trusted)
                logits, hidden = module["prior"](*encoded, module["text"](check.texts))
                planes = module["heads"](hidden) > 0
            large = logits.argmax(1).repeat_interleave(2, 1).repeat_interleave(2, 2).numpy()
            generated = COLOURS.astype(np.uint8)[large]
            scores |= {name + key: value for key, value in mean_iou(generated, to_pixels(check.map)).items()}
            assert check.objects is not None
            for kind, mine, truth in zip(KINDS, planes.unbind(1), check.objects.unbind(1), strict=True):
                both = float((mine & (truth > 0)).sum())
                scores[f"{name}{kind}"] = round(2 * both / max(1.0, float(mine.sum() + truth.sum())), 3)
            pictures.append(generated)
            lines = planes[:, [0, 2, 1]].permute(0, 2, 3, 1).numpy().astype(np.uint8) * 255
            pictures.append(lines.repeat(2, 1).repeat(2, 2))
        pictures = [to_pixels(self.check.imagery), *pictures, to_pixels(self.check.map)]
        return scores, grid([image[::3] for image in pictures])
