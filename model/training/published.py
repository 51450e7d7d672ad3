"""The published recipe: eps with L1 about the autoencoder's latents; attention, MFEncoder and SFAdapter are trained.

C2GM's released code (its configuration, not its paper): AdamW 5e-5, batch 20, flips and quarter turns, true references,
no dropout of conditions. `text_dropout` replaces some texts by an empty one, so that sampling can be
guided (Ho & Salimans 2022). `lora` trains that many ranks beside each projection of attention instead of the
projections themselves (Hu et al. 2021).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from tilecascade.model.data.pairs import Pair, Pixels
from tilecascade.model.sgdm.autoencoder import KLAutoencoder
from tilecascade.model.sgdm.network import SGDM, load_network, save_network
from tilecascade.model.sgdm.sampler import TRAIN_STEPS, Sampler
from tilecascade.model.training.augment import symmetry, to_unit
from tilecascade.model.training.config import StageConfig, TrainConfig
from tilecascade.model.training.loop import run
from tilecascade.model.training.processes import Processes
from tilecascade.model.training.samples import ROOT_ZOOM, SampleSource
from tilecascade.model.training.stages import grid, logged, to_pixels

PROJECTIONS = ["to_q", "to_k", "to_v", "to_out.0"]
"""The linear layers of an attention block, as diffusers names them."""

CHECKED = 8
"""Validation pairs whose loss is measured and whose maps are sampled."""


class Conditions:
    """A batch: imagery, reference and map N x 3 x 256 x 256 in [-1, 1], and texts. No reference is 0, as served."""

    def __init__(self, images: list[tuple[Pixels, Pixels | None, Pixels]], texts: list[str]) -> None:
        imagery, references, maps = zip(*images, strict=True)
        nothing = np.zeros_like(to_unit(maps[0]))
        self.imagery, self.reference, self.map = (
            torch.from_numpy(np.stack(kind)).contiguous(memory_format=torch.channels_last)
            for kind in (
                [to_unit(image) for image in imagery],
                [nothing if image is None else to_unit(image) for image in references],
                [to_unit(image) for image in maps],
            )
        )
        self.texts = texts


def train_only_attention(unet: nn.Module) -> None:
    """Leave everything but the projections of attention out of training, as published ("attn" in the name)."""
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_("attn" in name)


def add_lora(unet: nn.Module, rank: int) -> None:
    """Give each projection of attention a low-rank change of its own, which is all that trains."""
    unet.requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=PROJECTIONS), unet)


def merge_lora(unet: nn.Module) -> None:
    """Add the low-rank changes to the weights, in place; the network gives the same as with them beside."""
    for parent in list(unet.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, BaseTunerLayer):
                child.merge()
                setattr(parent, name, child.get_base_layer())


def save_lora(unet: nn.Module, path: Path) -> None:
    """Write the low-rank changes by themselves."""
    state = get_peft_model_state_dict(unet)
    save_file({key: value.contiguous().cpu() for key, value in state.items()}, path)


def load_lora(unet: nn.Module, path: Path, rank: int) -> None:
    """Put low-rank changes of a file beside the weights. Raises ValueError if they are of another network."""
    add_lora(unet, rank)
    result = set_peft_model_state_dict(unet, load_file(path))
    if result is not None and result.unexpected_keys:
        raise ValueError(f"{path} is of another network: it has {result.unexpected_keys[0]}")


class PublishedTask:
    """U-Net, MFEncoder and SFAdapter of a network with the published autoencoder."""

    def __init__(self, network: SGDM, train: SampleSource, val: SampleSource, stage: StageConfig) -> None:
        if not isinstance(network.autoencoder, KLAutoencoder):
            raise ValueError(
                f"preset {network.config.name!r} is not trained by the published recipe: its stages differ"
            )
        self.device = torch.device(stage.device)
        self.sampler, self.train, self.stage = Sampler(network.config.diffusion), train, stage
        self.autoencoder = network.autoencoder.requires_grad_(False).to(self.device)
        self.text = network.text.requires_grad_(False).to(self.device)
        if stage.lora:
            add_lora(network.unet.unet, stage.lora)
        else:
            train_only_attention(network.unet)
        if stage.checkpointing:
            network.unet.unet.enable_gradient_checkpointing()
        parts = {name: getattr(network, name) for name in ("encoder", "adapter", "unet")}
        self.module: Any = nn.ModuleDict(parts).to(self.device).to(memory_format=torch.channels_last)
        checked = [pair for pair in val.pairs if pair.zoom > ROOT_ZOOM] or val.pairs
        some = checked[:: max(1, len(checked) // CHECKED)][:CHECKED]
        self.check = self._conditions(val, some, [0] * len(some), [1] * len(some))

    def groups(self) -> list[dict[str, object]]:
        """What is trained."""
        return [{"params": [p for p in self.module.parameters() if p.requires_grad]}]

    def batch(self, rng: np.random.Generator) -> Conditions:
        """Pairs, turned and mirrored, with the true reference of one of the spans."""
        chosen = rng.choice(len(self.train.pairs), size=self.stage.batch, p=self.train.probabilities)
        pairs = [self.train.pairs[i] for i in chosen]
        turns = rng.integers(8, size=len(pairs)).tolist()
        spans = [int(rng.choice(self.train.spans)) for _ in pairs]
        conditions = self._conditions(self.train, pairs, turns, spans)
        dropped = rng.random(len(pairs)) < self.stage.text_dropout
        conditions.texts = ["" if drop else text for drop, text in zip(dropped, conditions.texts, strict=True)]
        return conditions

    def _conditions(self, source: SampleSource, pairs: list[Pair], turns: list[int], spans: list[int]) -> Conditions:
        images, texts = [], []
        for pair, turn, span in zip(pairs, turns, spans, strict=True):
            span = min(span, pair.zoom - ROOT_ZOOM)
            above = source.reference(pair, span) if span > 0 else None
            texts.append(self.text.of_scale(pair.zoom, pair.zoom - span if above is not None else None))
            reference = None if above is None else symmetry(above, turn)
            images.append((symmetry(pair.imagery, turn), reference, symmetry(pair.map, turn)))
        return Conditions(images, texts)

    def loss(self, batch: Conditions, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """L1 between the noise that was added and the noise that is seen."""
        count = len(batch.texts)
        with torch.no_grad():
            posterior = self.autoencoder.vae.encode(batch.map.to(self.device)).latent_dist
            spread = torch.randn(posterior.mean.shape, generator=generator).to(self.device)
            clean = (posterior.mean.float() + posterior.std.float() * spread) * self.autoencoder.scale
            text = self.text(batch.texts)
        t = torch.randint(0, TRAIN_STEPS, (count,), generator=generator).to(self.device)
        noise = torch.randn(clean.shape, generator=generator).to(self.device)
        seen = self._noise(self.module, self.sampler.add_noise(clean, noise, t), t, text, self._features(batch))
        error = F.l1_loss(seen.float(), noise)
        return error, logged({"eps": error})

    def _features(self, batch: Conditions, module: Any = None) -> list[Tensor]:
        module = self.module if module is None else module
        imagery, reference = batch.imagery.to(self.device), batch.reference.to(self.device)
        condition, _ = module["encoder"](imagery, reference, torch.ones_like(imagery[:, :1]))
        features: list[Tensor] = module["adapter"](condition)
        return features

    @staticmethod
    def _noise(module: Any, x: Tensor, t: Tensor, text: Tensor, features: list[Tensor]) -> Tensor:
        seen: Tensor = module["unet"](x, t, text, features)
        return seen

    @torch.no_grad()
    def validate(self, module: Any) -> tuple[dict[str, float], Pixels]:
        """The loss on the same pairs, steps and noise each time, and the grid imagery / reference / sampled / truth."""
        own, self.module = self.module, module
        error, _ = self.loss(self.check, torch.Generator().manual_seed(7))
        self.module = own
        features, text = self._features(self.check, module), self.text(self.check.texts)
        generator = torch.Generator().manual_seed(1)
        shape = (len(self.check.texts), self.autoencoder.vae.config.latent_channels, 32, 32)
        x, walk = self.sampler.start(torch.randn(shape, generator=generator).to(self.device)), self.sampler.walk()
        for index, t in enumerate(self.sampler.steps):
            steps = torch.full((shape[0],), t, device=self.device)
            output = self._noise(module, x, steps, text, features).float()
            fresh = torch.randn(shape, generator=generator).to(self.device) if self.sampler.needs_step_noise else None
            x = walk.step(x, output, index, fresh)
        sampled = to_pixels(self.autoencoder.decode(x).float().cpu())
        rows = [to_pixels(image) for image in (self.check.imagery, self.check.reference)]
        return {"eps": round(float(error), 5)}, grid([*rows, sampled, to_pixels(self.check.map)])


def train_published(config: TrainConfig, on_checkpoint: Callable[[int], None] = lambda step: None) -> Path:
    """Train the network in `init` (an imported model) and write a model folder; returns the stem of its files.

    on_checkpoint: see `loop.run`. Interrupted runs go on where they stopped. Raises ValueError for a configuration that
    cannot be trained.
    """
    if config.init is None:
        raise ValueError("the published recipe goes on from a model: init is its folder (tilecascade model import)")
    (stage,) = config.stages
    processes = Processes(stage.device)  # first, because it says which card is this process's
    torch.manual_seed(config.seed)
    network = load_network(config.init)
    task = PublishedTask(network, SampleSource(config, "train"), SampleSource(config, "val"), stage)
    average = run(task, stage, config.out, config.seed, on_checkpoint)
    for name in ("encoder", "adapter", "unet"):
        getattr(network, name).load_state_dict(average[name].state_dict())
    if stage.lora:
        if processes.first:
            save_lora(network.unet.unet, config.out / "lora.safetensors")
        merge_lora(network.unet.unet)
    stem = config.out / "network"
    if processes.first:
        save_network(network.cpu(), stem, half=False)
    return stem
