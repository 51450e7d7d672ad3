"""Training of the baselines, on the same samples as the network's own stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from tilecascade.model.data.pairs import Pixels
from tilecascade.model.evaluation.baselines import BASELINES, ImageryNetwork, colours_of, save_baseline
from tilecascade.model.training.config import StageConfig, TrainConfig
from tilecascade.model.training.loop import run
from tilecascade.model.training.losses import LABEL_WEIGHT, label_loss
from tilecascade.model.training.samples import Batch, SampleSource
from tilecascade.model.training.stages import (
    backbone_of,
    grid,
    load_backbone,
    mean_iou,
    psnr,
    to_pixels,
    validation_batch,
)


def imagery_branch(stem: Path) -> dict[str, Tensor]:
    """The tensors of a network's imagery branch. Raises ValueError if there are none."""
    path, prefix = stem.with_suffix(".safetensors"), "encoder.imagery."
    if not path.is_file():
        raise ValueError(f"init {path} does not exist")
    own = {k.removeprefix(prefix): v.float() for k, v in load_file(path).items() if k.startswith(prefix)}
    if not own:
        raise ValueError(f"{path} has no imagery branch")
    return own


class BaselineTask:
    """One baseline network. The sharpener's samples must have a reference: set reference_dropout to 0."""

    def __init__(self, name: str, train: SampleSource, val: SampleSource, stage: StageConfig) -> None:
        self.name, self.train, self.stage = name, train, stage
        self.module: Any = BASELINES[name]().to(memory_format=torch.channels_last)
        self.check = validation_batch(val, name == "sharpener")

    def groups(self) -> list[dict[str, object]]:
        """The pretrained backbone learns more slowly."""
        backbone = list(backbone_of(self.module)) if isinstance(self.module, ImageryNetwork) else []
        known = {id(p) for p in backbone}
        rest = [p for p in self.module.parameters() if id(p) not in known]
        return [{"params": rest}, *([{"params": backbone, "scale": self.stage.backbone_rate}] if backbone else [])]

    def batch(self, rng: np.random.Generator) -> Batch:
        """Augmented pairs."""
        return self.train.batch(self.stage, rng)

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """L1 of RGB weighted by class, or the cross-entropy of palette colours."""
        out = self.module(batch.imagery, batch.reference, batch.zooms)
        if self.name == "segmentation":
            return label_loss(out, batch.labels), {}
        error = (out.float() - batch.map).abs().mean(1)
        # without a reference there is nothing to sharpen
        given = batch.reference.flatten(1).any(1) if self.name == "sharpener" else torch.ones(len(error)).bool()
        weight = LABEL_WEIGHT[batch.labels] * given.view(-1, 1, 1)
        return (error * weight).sum() / weight.sum().clamp(min=1), {}

    def validate(self, module: Any) -> tuple[dict[str, float], Pixels]:
        """IoU and PSNR."""
        with torch.no_grad():
            generated = to_pixels(colours_of(module(self.check.imagery, self.check.reference, self.check.zooms)))
        truth, seen = to_pixels(self.check.map), to_pixels(self.check.imagery)
        return mean_iou(generated, truth) | {"psnr": psnr(generated, truth)}, grid(
            [seen[::3], generated[::3], truth[::3]]
        )


def train_baselines(config: TrainConfig) -> Path:
    """Run the stages of a configuration that are named after baselines; returns the folder of their weights.

    With `init`, imagery branches begin as that network's own, so that they have seen as much as it has.
    """
    torch.manual_seed(config.seed)
    data, val = SampleSource(config, "train"), SampleSource(config, "val")
    for stage in config.stages:
        task = BaselineTask(stage.name, data, val, stage)
        if config.backbone is not None and isinstance(task.module, ImageryNetwork):
            load_backbone(task.module.imagery, config.backbone)
        if config.init is not None and isinstance(task.module, ImageryNetwork):
            task.module.imagery.load_state_dict(imagery_branch(config.init))
        average = run(task, stage, config.out, config.seed)
        save_baseline(average, config.out / f"{stage.name}.safetensors")
    return config.out
