"""Layouts from captions: denoising from noise that is a function of a seed, guided by what is said."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from tilecascade.model.layout.layout import EDGE, KINDS, NUMBER, Layout, caption_of
from tilecascade.model.layout.network import AMPLITUDE, LayoutConfig, LayoutNet, mean_of, one_hot, times
from tilecascade.model.text.captions import Caption
from tilecascade.model.text.segments import SEGMENTS, Vocabulary

EDGE_COST = 6.0

NEVER = -30.0
"""Logit of what must not be."""

CANDIDATES = 8
"""Layouts that the best one is chosen from."""

BATCH = 16
"""Layouts that are denoised at once."""


@dataclass(frozen=True)
class Wanted:
    """One layout. caption: None for any. known, mask: cells that are given, EDGE x EDGE of KINDS and booleans.
    off: names of SEGMENTS that are not told. dry: there is no other water than is given. draw: another one: another
    layout of the same seed."""

    caption: Caption | None
    seed: int = 0
    known: Layout | None = None
    mask: np.ndarray | None = None
    off: tuple[str, ...] = ()
    dry: bool = False
    draw: int = 0


class LayoutGenerator:
    """Generates layouts. Deterministic: one layout at a time where it must be the same for ever."""

    def __init__(self, net: LayoutNet) -> None:
        self.net, self.config = net.eval(), net.config
        self.vocabulary = Vocabulary(net.config.words)

    @torch.inference_mode()
    def __call__(
        self, wanted: Sequence[Wanted], guidance: float | None = None, steps: int | None = None
    ) -> list[Layout]:
        """The layouts. Raises CaptionError for a caption that cannot be told."""
        found: list[Layout] = []
        for start in range(0, len(wanted), BATCH):
            found += self._batch(wanted[start : start + BATCH], guidance, steps)
        return found

    def best(self, wanted: Wanted, candidates: int = CANDIDATES) -> Layout:
        """The layout of several that shows most of what its caption says, as geometry tells; the first of equal ones.

        As the captions paper draws candidates until one has a valid relation. Raises CaptionError.
        """
        if wanted.caption is None:
            return self([wanted])[0]
        made = self([replace(wanted, draw=number) for number in range(candidates)])
        caption, mask = wanted.caption, wanted.mask
        return max(made, key=lambda layout: fidelity(caption, layout) - (0 if mask is None else shores(layout, mask)))

    def _batch(self, wanted: Sequence[Wanted], guidance: float | None, steps: int | None) -> list[Layout]:
        strength = self.config.guidance if guidance is None else guidance
        tokens, said = self._told(wanted)
        known = torch.stack([known_cells(each.known, each.mask) for each in wanted])
        dry = torch.tensor([each.dry for each in wanted])
        state = torch.stack([_noise(each.seed, each.draw) for each in wanted])
        visited = [*times(steps or self.config.steps), 0.0]
        mean = state
        for time, after in itertools.pairwise(visited):
            logits = self.guided(state, known, time, tokens, said, strength)
            logits[dry, NUMBER["water"]] = NEVER
            mean = mean_of(logits)
            state = state + (after - time) * (state - mean) / time
        chosen = mean.argmax(1).to(torch.uint8).numpy()
        for each, made in zip(wanted, chosen, strict=True):
            if each.mask is not None and each.known is not None:
                made[each.mask] = each.known[each.mask]
        return list(chosen)

    def _told(self, wanted: Sequence[Wanted]) -> tuple[Tensor, Tensor]:
        """The tokens of captions, and which of their segments are told."""
        empty = Caption("", (), ())
        tokens = torch.stack([self.vocabulary.tokens(each.caption or empty) for each in wanted])
        said = [[each.caption is not None and name not in each.off for name in SEGMENTS] for each in wanted]
        return tokens, torch.tensor(said)

    def guided(
        self, state: Tensor, known: Tensor, time: float, tokens: Tensor, said: Tensor, strength: float
    ) -> Tensor:
        """The logits at one time, moved away from those without a caption (classifier-free guidance)."""
        times_ = torch.full((len(state),), time)
        logits = self.net(state, known, times_, tokens, said)
        if strength == 1.0:
            return logits
        plain = self.net(state, known, times_, tokens, torch.zeros_like(said))
        return plain + strength * (logits - plain)


def known_cells(known: Layout | None, mask: np.ndarray | None) -> Tensor:
    """What is given, as the network reads it: (K + 1) x EDGE x EDGE."""
    if known is None or mask is None:
        return torch.zeros(len(KINDS) + 1, EDGE, EDGE)
    there = torch.from_numpy(mask).float()[None]
    return torch.cat([one_hot(torch.from_numpy(known.astype(np.int64))[None])[0] / AMPLITUDE * there, there])


def fidelity(caption: Caption, layout: Layout) -> float:
    """How much of a caption a layout shows: its scene, its relations and its elements count alike."""
    found = caption_of(layout)

    def share(said: tuple[str, ...], shown: tuple[str, ...]) -> float:
        return sum(text in shown for text in said) / len(said) if said else 1.0

    same = caption.scene == found.scene
    return same + share(caption.relations, found.relations) + share(caption.elements, found.elements)


def shores(layout: Layout, mask: np.ndarray) -> float:
    """How much water ends at the edge of what is given, or begins there: the share of cells along it, times EDGE_COST.

    A lake that is cut off along the edge of an area looks like what it is.
    """
    water, differing, pairs = layout == NUMBER["water"], 0, 0
    for axis in (0, 1):
        first, second = (np.take(water, np.arange(i, EDGE - 1 + i), axis) for i in (0, 1))
        between = np.logical_xor(*(np.take(mask, np.arange(i, EDGE - 1 + i), axis) for i in (0, 1)))
        differing += int((between & (first != second)).sum())
        pairs += int(between.sum())
    return EDGE_COST * differing / max(1, pairs)


def _noise(seed: int, draw: int) -> Tensor:
    values = np.random.default_rng([seed, draw, 0x1A7]).standard_normal((len(KINDS), EDGE, EDGE))
    return torch.from_numpy(values.astype(np.float32))


def save_layouts(net: LayoutNet, stem: Path) -> None:
    """Write STEM.json and STEM.safetensors, in half precision."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {key: value.half().contiguous() for key, value in net.state_dict().items()}, stem.with_suffix(".safetensors")
    )
    stem.with_suffix(".json").write_text(json.dumps(net.config.to_dict(), indent=1) + "\n")


def load_layouts(stem: Path) -> LayoutGenerator:
    """What `save_layouts` wrote. Raises OSError or ValueError."""
    net = LayoutNet(LayoutConfig.from_dict(json.loads(stem.with_suffix(".json").read_text())))
    net.load_state_dict({key: value.float() for key, value in load_file(stem.with_suffix(".safetensors")).items()})
    return LayoutGenerator(net)


def cross_entropy(logits: Tensor, layouts: Tensor) -> Tensor:
    """The loss that the network is trained with: mean over all cells."""
    return F.cross_entropy(logits.float(), layouts.long())
