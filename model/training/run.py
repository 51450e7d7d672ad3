"""`tilecascade train CONFIG`: run the stages of a configuration in order and write the network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from tilecascade.model.sgdm.autoencoder import PaletteAutoencoder
from tilecascade.model.sgdm.config import PRESETS, SGDMConfig
from tilecascade.model.sgdm.network import SGDM, save_network
from tilecascade.model.training.colours import ColourTask
from tilecascade.model.training.config import TrainConfig
from tilecascade.model.training.diffusion import AdversarialTask, DiffusionTask
from tilecascade.model.training.draw import DrawTask
from tilecascade.model.training.loop import Task, run
from tilecascade.model.training.perceive import PerceiveTask, perceiving
from tilecascade.model.training.samples import ROOT_ZOOM, SampleSource
from tilecascade.model.training.stages import (
    AutoencoderTask,
    ConditionTask,
    RefineTask,
    generate_references,
    load_backbone,
)
from tilecascade.model.training.style import PARTS, StyleTask

TASKS: dict[str, tuple[Callable[..., Task], tuple[str, ...]]] = {
    "condition": (ConditionTask, ("encoder", "prior", "text")),
    "autoencoder": (AutoencoderTask, ("autoencoder",)),
    "perceive": (PerceiveTask, ("encoder", "prior", "text")),
    "refine": (RefineTask, ("encoder", "prior", "text", "autoencoder")),
    "draw": (DrawTask, ("encoder", "prior", "text")),
    "colours": (ColourTask, ()),
    "diffusion": (DiffusionTask, ("adapter", "unet")),
    "style": (StyleTask, PARTS),
    "adversarial": (AdversarialTask, ("adapter", "unet", "autoencoder")),
}
"""What trains in each stage, and which parts of the network that changes. The denoiser of colours is no part of a
served network yet: its weights are in the checkpoint."""


STYLE_SCALE = 1.3
"""Logit scale of a style of its own. What is fine in it, such as contours and letters, is nowhere the likeliest colour:
as its share in a mean it darkens the ground as much as it should. (Held-out topographic tiles: PSNR_Y 14.7 dB at 1,
14.5 at 1.5, 14.2 at 2.2, 14.0 at 3.4; KID x 1000 464, 438, 439, 453.)"""


def fit_encoder(network: SGDM, source: SampleSource) -> None:
    """Take the linear encoder's basis from the training maps. The same maps give the same basis: no checkpoint."""
    if isinstance(network.autoencoder, PaletteAutoencoder):
        maps = (pair.map for pair in source.pairs[: source.first] if pair.zoom > ROOT_ZOOM)
        nearest = network.autoencoder.palette.nearest
        network.autoencoder.fit(torch.from_numpy(nearest(image).astype(np.int64)) for image in maps)


def start_network(config: TrainConfig) -> SGDM:
    """The network that a run begins with. Raises ValueError for a configuration that cannot be trained."""
    torch.manual_seed(config.seed)
    if config.preset not in PRESETS:
        raise ValueError(f"unknown preset {config.preset!r}; there are {', '.join(PRESETS)}")
    # one memory layout from the start: another one rounds differently, and a resumed run would drift
    network = SGDM(_network_config(config)).to(memory_format=torch.channels_last)
    # the denoiser begins at the draft itself
    nn.init.zeros_(network.unet.unet.conv_out.weight)
    nn.init.zeros_(network.unet.unet.conv_out.bias)
    if config.backbone is not None:
        load_backbone(network.encoder.imagery, config.backbone)
    if config.init is not None:
        _start_from(network, config.init)
    return network


def _has_basis(stem: Path, network: SGDM) -> bool:
    """Whether a stored network has latents of its own, like this network's."""
    name, own = "autoencoder.basis", network.state_dict()
    with safe_open(stem.with_suffix(".safetensors"), "pt") as file:
        there = name in own and name in file.keys()  # noqa: SIM118
        return there and file.get_slice(name).get_shape() == list(own[name].shape)


def train(
    config: TrainConfig, only: str | None = None, on_checkpoint: Callable[[int], None] = lambda step: None
) -> Path:
    """Run every stage (or only the one named), each from its checkpoint if there is one.

    on_checkpoint: see `loop.run`. A stage loads the results of the stages before it from `config.out`. Returns the
    stem of the network written after the diffusion stage. Raises ValueError for a configuration that cannot be trained.
    """
    network = start_network(config)
    data, val = SampleSource(config, "train"), SampleSource(config, "val")
    # a U-Net and a decoder fit the latents that they were trained with, of their palette
    if config.init is None or config.palette or not _has_basis(config.init, network):
        fit_encoder(network, data)
    for stage in config.stages:
        kind, parts = TASKS[stage.name]
        if only is not None and stage.name != only:
            _load(network, config.out, stage.name)
            continue
        if stage.self_reference and kind not in (PerceiveTask, ColourTask, DrawTask):  # which make their own
            torch.set_num_threads(stage.threads)
            generate_references(network, data)
        average = run(kind(network, data, val, stage), stage, config.out, config.seed, on_checkpoint)
        _take(_owner(network, stage.name), parts, average.state_dict())
    save_network(network, config.out / "network")
    return config.out / "network"


def _network_config(config: TrainConfig) -> SGDMConfig:
    """The preset with the run's changes. Raises ValueError for a field that there is not."""
    preset = PRESETS[config.preset]()
    # what no stage trains and no network gives would be random
    trained = any(stage.name in ("perceive", "draw") for stage in config.stages)
    perception = preset.perception and not config.palette and (config.init is not None or trained)
    preset = replace(preset, perception=perception, finish=preset.finish if perception else "none")
    if config.palette:  # contrast is between classes of the default style
        style = replace(
            preset.autoencoder,
            building_contrast=0.0,
            road_contrast=0.0,
            logit_scale=STYLE_SCALE,
            palette=config.palette,
        )
        preset = replace(preset, autoencoder=style)
    try:
        return replace(
            preset, encoder=replace(preset.encoder, **config.encoder), text=replace(preset.text, **config.text)
        )
    except TypeError as error:
        raise ValueError(f"preset {config.preset!r} cannot be changed so: {error}") from None


def _start_from(network: SGDM, stem: Path) -> None:
    """Take what fits from another network. Raises ValueError if nothing does."""
    path = stem.with_suffix(".safetensors")
    if not path.is_file():
        raise ValueError(f"init {path} does not exist")
    own = network.state_dict()
    given = load_file(path)
    if network.perception is None:
        # which has seen more imagery than the network's own encoder
        given |= {key.removeprefix("perception."): v for key, v in given.items() if key.startswith("perception.")}
    elif not any(key.startswith("perception.") for key in given):
        given |= {f"perception.{key}": value for key, value in given.items()}
    if network.config.autoencoder.palette:
        given = {key: value for key, value in given.items() if not key.startswith("unet.unet.conv_out.")}
    fitting = {k: v.to(own[k].dtype) for k, v in given.items() if k in own and v.shape == own[k].shape}
    if not fitting:
        raise ValueError(f"no tensor of {path} fits preset {network.config.name!r}")
    network.load_state_dict(fitting, strict=False)


def _owner(network: SGDM, stage: str) -> nn.Module:
    """What has the parts that a stage trains."""
    return perceiving(network) if TASKS[stage][0] in (PerceiveTask, DrawTask) else network


def _take(network: nn.Module, parts: tuple[str, ...], average: dict[str, Tensor]) -> None:
    """Copy a stage's averaged weights into the network; a single part is stored without its name."""
    for name in parts:
        own = average if parts == ("autoencoder",) else _under(average, name)
        getattr(network, name).load_state_dict(own)


def _under(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}


def _load(network: SGDM, out: Path, stage: str) -> None:
    """Take a stage's averaged weights from its checkpoint, if it has one."""
    path = out / f"{stage}.ckpt"
    if path.exists():
        _take(
            _owner(network, stage), TASKS[stage][1], torch.load(path, map_location="cpu", weights_only=True)["average"]
        )
