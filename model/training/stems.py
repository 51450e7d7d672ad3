"""Training stems: a sensor's bands become colours in which the finished map network finds what is on the map.

The map network is not trained. The loss is how far the colours are from the camera's, and what the map network makes of
them against the labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tilecascade.model.data.labels import READERS
from tilecascade.model.data.pairs import Pair, Pixels, read_pairs
from tilecascade.model.palette import COLOURS, classify
from tilecascade.model.sensors.modality import SENSORS, Sensor
from tilecascade.model.sensors.simulate import simulate
from tilecascade.model.sensors.stem import Stem, colours, save_stems
from tilecascade.model.sgdm.network import SGDM, load_network
from tilecascade.model.sgdm.scale_text import scale_text
from tilecascade.model.training.config import StageConfig, TrainConfig
from tilecascade.model.training.loop import run
from tilecascade.model.training.perceive import capped_loss, perceiving
from tilecascade.model.training.stages import grid, logged, mean_iou

COLOURS_WEIGHT = 8.0
"""Of the distance of colours. At 2 the map network found as much in radar, in colours that nobody has seen."""

CHECKED = 36
"""Held-out tiles that validation looks at."""


class StemTask:
    """One sensor's stem before a network that stays as it is."""

    def __init__(
        self, sensor: Sensor, network: SGDM, pairs: list[Pair], held_out: list[Pair], stage: StageConfig
    ) -> None:
        self.sensor, self.stage = sensor, stage
        self.network: Any = perceiving(network).eval().requires_grad_(False)
        self.module: Any = Stem(sensor).to(memory_format=torch.channels_last)
        self.pairs = pairs
        usable = [pair for pair in held_out if pair.zoom in (15, 16, 17)]
        self.checked = usable[:: max(1, len(usable) // CHECKED)][:CHECKED]

    def groups(self) -> list[dict[str, object]]:
        """All parameters alike."""
        return [{"params": list(self.module.parameters())}]

    def batch(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor, list[str]]:
        """Bands, colours in [0, 1], labels, and scale texts."""
        size = self.stage.crop
        bands, images, labels, texts = [], [], [], []
        for number in rng.integers(len(self.pairs), size=self.stage.batch):
            pair = self.pairs[number]
            top, left = rng.integers(0, 257 - size, 2)
            turn, mirrored = int(rng.integers(4)), bool(rng.integers(2))

            def part(image: Any, at: tuple[int, int] = (top, left), turn: int = turn, mirrored: bool = mirrored) -> Any:
                cut = np.rot90(image[at[0] : at[0] + size, at[1] : at[1] + size], turn)
                return np.ascontiguousarray(cut[:, ::-1] if mirrored else cut)

            image, drawn = part(pair.imagery), part(pair.map)
            bands.append(simulate(self.sensor, image, classify(drawn), rng))
            images.append(image)
            labels.append(READERS[pair.reading](drawn).astype(np.int64))
            texts.append(scale_text(pair.zoom, None))
        wanted = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
        return torch.from_numpy(np.stack(bands)), wanted, torch.from_numpy(np.stack(labels)), texts

    def loss(
        self, batch: tuple[Tensor, Tensor, Tensor, list[str]], generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The distance of colours, and the map network's cross-entropy."""
        bands, wanted, labels, texts = batch
        made = self.module(bands.contiguous(memory_format=torch.channels_last)).float()
        off = F.l1_loss(made, wanted) + 0.5 * F.l1_loss(F.avg_pool2d(made, 4), F.avg_pool2d(wanted, 4))
        mapped = capped_loss(self.logits(made, texts), labels, True)
        return COLOURS_WEIGHT * off + mapped, logged({"colours": off, "map": mapped})

    def logits(self, image: Tensor, texts: list[str]) -> Tensor:
        """What the network makes of colours in [0, 1] without a reference."""
        blank = torch.zeros_like(image)
        condition, fine = self.network.encoder(2 * image - 1, blank, blank[:, :1])
        different = sorted(set(texts))
        text = self.network.text(different)[[different.index(text) for text in texts]]
        return self.network.prior(condition, fine, text)[0]

    def validate(self, module: Any) -> tuple[dict[str, float], Pixels]:
        """mIoU of the most likely colours from this sensor, and from the camera."""
        truth = np.stack([pair.map for pair in self.checked])
        images = np.stack([pair.imagery for pair in self.checked])
        texts = [scale_text(pair.zoom, None) for pair in self.checked]
        seen = [
            simulate(self.sensor, pair.imagery, classify(pair.map), np.random.default_rng(place))
            for place, pair in enumerate(self.checked)
        ]
        made = np.stack([colours(module, bands) for bands in seen])
        maps = [self._map(each, texts) for each in (made, images)]
        scores = {"miou": mean_iou(maps[0], truth)["miou"], "camera": mean_iou(maps[1], truth)["miou"]}
        bands = np.stack([(255 * each[-1:].repeat(3, 0)).astype(np.uint8).transpose(1, 2, 0) for each in seen])
        rows = [bands, made, images, maps[0], maps[1], truth]
        return scores, grid([row[::6] for row in rows])

    @torch.no_grad()
    def _map(self, images: Pixels, texts: list[str]) -> Pixels:
        found = []
        for first in range(0, len(images), 6):
            some = torch.from_numpy(images[first : first + 6]).permute(0, 3, 1, 2).float() / 255
            logits = self.logits(some, texts[first : first + 6])
            rough = logits.argmax(1).repeat_interleave(2, 1).repeat_interleave(2, 2).numpy()
            found.append(COLOURS.astype(np.uint8)[rough])
        return np.concatenate(found)


def train_stems(config: TrainConfig) -> Path:
    """Run the stages of a configuration, each named by its sensor; returns the stem of the weights' files.

    Raises ValueError without a network to train them for (`init`).
    """
    if config.init is None:
        raise ValueError("stems are trained for a network: give it as init")
    network = load_network(config.init)
    train, val = [], []
    for source in config.data:
        train += read_pairs(source.pairs, source.source, "train", reading=source.reading)
        val += read_pairs(source.pairs, source.source, "val", reading=source.reading)
    made: dict[Sensor, Stem] = {}
    for stage in config.stages:
        sensor = next(name for name in SENSORS if name == stage.name)
        average: nn.Module = run(StemTask(sensor, network, train, val, stage), stage, config.out, config.seed)
        made[sensor] = Stem(sensor)
        made[sensor].load_state_dict(average.state_dict())
    save_stems(made, config.out / "sensors")
    return config.out / "sensors"
