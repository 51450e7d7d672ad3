"""Training the generator of layouts, and the tower that judges it, on map tiles and their computed captions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tilecascade.model.data.pairs import Pixels
from tilecascade.model.evaluation.captions import (
    CaptionTower,
    TowerConfig,
    agreement,
    contrast,
    retrieval,
    save_tower,
)
from tilecascade.model.layout.layout import EDGE, NUMBER, Layout, caption_of, layout_of, shown
from tilecascade.model.layout.network import LayoutConfig, LayoutNet, one_hot
from tilecascade.model.layout.sampling import LayoutGenerator, Wanted, cross_entropy, known_cells, save_layouts
from tilecascade.model.text.captions import Caption, parse
from tilecascade.model.text.segments import LENGTHS, SEGMENTS, Vocabulary
from tilecascade.model.training.config import StageConfig, TrainConfig
from tilecascade.model.training.loop import run
from tilecascade.model.training.stages import grid, logged

FILE = "layouts.npz"
"""Name of the file of layouts in a folder."""

UNSAID, SILENT = 0.1, 0.12
"""How often a segment by itself, and all of a caption, is not told."""

TIMES = (0.8, 3.6, 0.65)
"""Middles of the logits of the times that are trained, and how often the second one counts: at a time of 0.97, where
cells are hidden, sides can be seen still, and a caption teaches nothing (3,500 steps about the first middle alone: a
caption with all sides exchanged was as good as the right one)."""

CHECKED = 96
"""Held-out captions that validation generates layouts of."""


@dataclass(frozen=True)
class Layouts:
    """layouts: N x EDGE x EDGE. captions: of each. held_out: whether it is for validation."""

    layouts: NDArray[np.uint8]
    captions: list[Caption]
    held_out: NDArray[np.bool_]

    def write(self, folder: Path) -> None:
        """Write FOLDER/layouts.npz."""
        folder.mkdir(parents=True, exist_ok=True)
        texts = np.array([caption.text() for caption in self.captions])
        np.savez_compressed(folder / FILE, layouts=self.layouts, captions=texts, held_out=self.held_out)

    @classmethod
    def read(cls, folder: Path) -> Layouts:
        """Raises ValueError if there is none."""
        path = folder / FILE
        if not path.is_file():
            raise ValueError(f"{path} does not exist; make it by: tilecascade dataset layouts")
        with np.load(path) as stored:
            captions = [parse(text) for text in stored["captions"].tolist()]
            return cls(stored["layouts"], captions, stored["held_out"])

    def part(self, held_out: bool) -> Layouts:
        """Those for training, or those for validation."""
        chosen = np.flatnonzero(self.held_out == held_out)
        return Layouts(self.layouts[chosen], [self.captions[i] for i in chosen], self.held_out[chosen])


def layouts_of(tile: Pixels, rng: np.random.Generator, count: int) -> Iterator[tuple[Layout, Caption]]:
    """Different parts of a map tile, turned and mirrored, with their captions."""
    free = tile.shape[0] - EDGE * 5
    for turn in rng.permutation(8)[:count]:
        layout = layout_of(tile, int(rng.integers(free + 1)), int(rng.integers(free + 1)))
        layout = np.ascontiguousarray(np.rot90(layout, int(turn) % 4)[:, :: -1 if turn > 3 else 1])
        yield layout, caption_of(layout).fitted()


def sample_weights(captions: Sequence[Caption]) -> NDArray[np.float64]:
    """How often each is trained with: rare scenes and rare relations more often than they occur."""
    said = [[caption.scene, *caption.relations] for caption in captions]
    counts = Counter(text for texts in said for text in texts)
    weights = np.array([sum(counts[text] ** -0.6 for text in texts) for texts in said])
    return weights / weights.sum()


class LayoutTask:
    """Cross-entropy of the finished layout, at all times of the noise."""

    def __init__(self, net: LayoutNet, data: Layouts, stage: StageConfig) -> None:
        self.module: Any = net
        self.stage = stage
        train, self.held_out = data.part(False), data.part(True)
        self.layouts = train.layouts
        self.weights = sample_weights(train.captions)
        vocabulary = Vocabulary(net.config.words)
        self.tokens = torch.stack([vocabulary.tokens(caption) for caption in train.captions])
        rng = np.random.default_rng(5)
        weights = sample_weights(self.held_out.captions)
        count = min(CHECKED, len(weights))
        self.checked = rng.choice(len(weights), count, replace=False, p=weights)

    def groups(self) -> list[dict[str, object]]:
        """All parameters alike."""
        return [{"params": list(self.module.parameters())}]

    def batch(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Layouts, what is known of each, tokens, and which segments are told."""
        n = self.stage.batch
        chosen = rng.choice(len(self.layouts), n, p=self.weights)
        layouts = self.layouts[chosen]
        known = torch.stack([known_cells(layout, any_mask(layout, rng)) for layout in layouts])
        said = (rng.random((n, len(SEGMENTS))) > UNSAID) & (rng.random((n, 1)) > SILENT)
        return torch.from_numpy(layouts.astype(np.int64)), known, self.tokens[chosen], torch.from_numpy(said)

    def loss(
        self, batch: tuple[Tensor, Tensor, Tensor, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss of one random time each."""
        layouts, known, tokens, said = batch
        middle = torch.where(torch.rand(len(layouts), generator=generator) < TIMES[2], TIMES[1], TIMES[0])
        time = torch.sigmoid(1.2 * torch.randn(len(layouts), generator=generator) + middle)
        t = time.view(-1, 1, 1, 1)
        clean = one_hot(layouts)
        state = (1 - t) * clean + t * torch.randn(clean.shape, generator=generator)
        loss = cross_entropy(self.module(state, known, time, tokens, said), layouts)
        return loss, logged({"entropy": loss})

    def validate(self, module: Any) -> tuple[dict[str, float], Pixels]:
        """Whether layouts of held-out captions show what these say, as `describe` reads them."""
        captions = [self.held_out.captions[i] for i in self.checked]
        made = LayoutGenerator(module)([Wanted(caption, seed) for seed, caption in enumerate(captions)])
        module.train()
        true = [self.held_out.layouts[i] for i in self.checked]
        some = slice(0, 16)
        return agreement(captions, made), grid(
            [np.stack([shown(layout) for layout in layouts[some]]) for layouts in (true, made)]
        )


class TowerTask:
    """The tower that tells whether a layout shows what a caption says, on the same layouts, some of them noisy."""

    def __init__(self, tower: CaptionTower, data: Layouts, stage: StageConfig) -> None:
        self.module: Any = tower
        self.stage = stage
        train, held_out = data.part(False), data.part(True)
        self.layouts, self.weights = train.layouts, sample_weights(train.captions)
        self.tokens = tower.tokens(train.captions)
        chosen = np.random.default_rng(5).permutation(len(held_out.captions))[:400]
        self.checked = [held_out.layouts[i] for i in chosen], [held_out.captions[i] for i in chosen]

    def groups(self) -> list[dict[str, object]]:
        """All parameters alike."""
        return [{"params": list(self.module.parameters())}]

    def batch(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Layouts with some wrong cells, and captions of which some lack a segment."""
        chosen = rng.choice(len(self.layouts), self.stage.batch, p=self.weights)
        layouts = self.layouts[chosen].copy()
        wrong = rng.random(layouts.shape) < 0.03
        layouts[wrong] = rng.permutation(layouts[wrong])
        tokens, start = self.tokens[chosen].clone(), 0
        for length in LENGTHS[:-1]:
            tokens[torch.from_numpy(rng.random(len(chosen)) < UNSAID), start : start + length] = 0
            start += length
        return torch.from_numpy(layouts), tokens

    def loss(self, batch: tuple[Tensor, Tensor], generator: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        """See `contrast`."""
        loss = contrast(self.module, *batch)
        return loss, logged({"contrast": loss})

    def validate(self, module: Any) -> tuple[dict[str, float], Pixels]:
        """Retrieval of true captions of held-out layouts."""
        found = {"retrieval": round(retrieval(module, *self.checked), 3)}
        return found, grid([np.stack([shown(layout) for layout in self.checked[0][:8]])])


def any_mask(layout: Layout, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which cells are given: none, those around a random shape, the water, or both."""
    mask = np.zeros_like(layout, dtype=bool)
    if rng.random() < 0.5:
        return mask
    if rng.random() < 0.7:
        rows, columns = np.indices(layout.shape)
        middle, reach = rng.uniform(18, 30, 2), rng.uniform(12, 23, 2)
        power = rng.choice([2.0, 8.0])
        inside = (
            np.abs((rows - middle[0]) / reach[0]) ** power + np.abs((columns - middle[1]) / reach[1]) ** power
        ) < 1
        mask |= ~inside
    if rng.random() < 0.4:
        mask |= layout == NUMBER["water"]
    return mask


def train_layouts(config: TrainConfig) -> Path:
    """Run the stages of a configuration of the generator of layouts; returns the stem of the network."""
    data = Layouts.read(config.data[0].pairs)
    torch.manual_seed(config.seed)
    words = Vocabulary.of(data.captions).words
    net = LayoutNet(LayoutConfig(words))
    for stage in config.stages:
        if stage.name == "tower":
            tower = run(TowerTask(CaptionTower(TowerConfig(words)), data, stage), stage, config.out, config.seed)
            save_tower(tower, config.out / "tower")
            continue
        average = run(LayoutTask(net, data, stage), stage, config.out, config.seed)
        net.load_state_dict(average.state_dict())
    save_layouts(net, config.out / "layout")
    return config.out / "layout"
