"""`tilecascade train CONFIG`: run the stages of a configuration in order and write the network."""

from __future__ import annotations

from pathlib import Path

import torch

from model.sgdm.autoencoder import PatchAutoencoder
from model.sgdm.config import PRESETS
from model.sgdm.network import SGDM, save_network
from model.training.augment import to_unit
from model.training.config import TrainConfig
from model.training.loop import run
from model.training.samples import ROOT_ZOOM, SampleSource
from model.training.stages import (
    AutoencoderTask,
    ConditionTask,
    DecoderTask,
    DiffusionTask,
    draw_references,
    load_backbone,
)

DRAWING_PARTS = ("encoder", "adapter", "unet", "text", "prior")
"""What the diffusion stage trains."""


def fit_encoder(network: SGDM, source: SampleSource) -> None:
    """Take the linear encoder's basis from the training maps. The same maps give the same basis: no checkpoint."""
    if isinstance(network.autoencoder, PatchAutoencoder):
        maps = (pair.map for pair in source.pairs if pair.zoom > ROOT_ZOOM)
        network.autoencoder.fit(torch.from_numpy(to_unit(image)) for image in maps)


def train(config: TrainConfig, only: str | None = None) -> Path:
    """Run every stage (or only the one named), each from its checkpoint if there is one.

    A stage loads the results of the stages before it from `config.out`. Returns the stem of the network written
    after the diffusion stage. Raises ValueError for a configuration that cannot be trained.
    """
    torch.manual_seed(config.seed)
    if config.preset not in PRESETS:
        raise ValueError(f"unknown preset {config.preset!r}; there are {', '.join(PRESETS)}")
    # one memory layout from the start: another one rounds differently, and a resumed run would drift
    network = SGDM(PRESETS[config.preset]()).to(memory_format=torch.channels_last)
    if config.backbone is not None:
        load_backbone(network, config.backbone)
    data, val = SampleSource(config, "train"), SampleSource(config, "val")
    fit_encoder(network, data)
    for stage in config.stages:
        if stage.self_reference and only in (None, stage.name):
            torch.set_num_threads(stage.threads)
            draw_references(network, data)
        if only is not None and stage.name != only:
            _load(network, config.out, stage.name)
        elif stage.name == "autoencoder":
            average = run(AutoencoderTask(network, data, val, stage), stage, config.out, config.seed)
            network.autoencoder.load_state_dict(average.state_dict())
        elif stage.name == "condition":
            task = ConditionTask(network, data, val, stage)
            average = run(task, stage, config.out, config.seed)
            for name in ("encoder", "prior"):
                getattr(network, name).load_state_dict(average[name].state_dict())
        elif stage.name in ("diffusion", "refine"):
            average = run(DiffusionTask(network, data, val, stage), stage, config.out, config.seed)
            for name in DRAWING_PARTS:
                getattr(network, name).load_state_dict(average[name].state_dict())
            save_network(network, config.out / "network")
        else:
            average = run(DecoderTask(network, data, val, stage), stage, config.out, config.seed)
            network.autoencoder.load_state_dict(average.state_dict())
            save_network(network, config.out / "network")
    return config.out / "network"


def _load(network: SGDM, out: Path, stage: str) -> None:
    """Take a stage's averaged weights from its checkpoint, if it has one."""
    path = out / f"{stage}.ckpt"
    if not path.exists():
        return
    average = torch.load(path, map_location="cpu", weights_only=True)["average"]
    if stage in ("autoencoder", "decoder"):
        network.autoencoder.load_state_dict(average)
        return
    for name in ("encoder", "prior") if stage == "condition" else DRAWING_PARTS:
        own = {k.removeprefix(f"{name}."): v for k, v in average.items() if k.startswith(f"{name}.")}
        getattr(network, name).load_state_dict(own)
