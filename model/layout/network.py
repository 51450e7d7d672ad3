"""The denoiser of layouts: a small U-Net with attention that reads a caption segment by segment.

A layout is continuous while it is denoised: one channel for each kind, 1 where it is and 0 elsewhere, shifted and
scaled. The network says how likely each kind is in each cell; the mean of that is the finished layout as it is expected
(continuous diffusion for categorical data, Dieleman et al. 2022).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tilecascade.model.imagery.network import FREQUENCIES, Block, encoded
from tilecascade.model.layout.layout import KINDS
from tilecascade.model.sgdm.layers import ChannelNorm
from tilecascade.model.text.segments import BREAK, LENGTHS, PADDING, Schedule

AMPLITUDE = 1.5
"""What a channel is at a cell of its kind more than elsewhere."""

WAVES = 3
"""Frequencies of rows and columns by which positions know where they are."""

PATCH = 2
"""Cells along a side that are one position of the network."""


@dataclass(frozen=True)
class LayoutConfig:
    """words: the vocabulary. widths: channels at three levels. text: width of the encoder of captions, and its layers.
    steps, guidance: of the sampler. schedule: see `Schedule`."""

    words: tuple[str, ...]
    widths: tuple[int, int, int] = (64, 128, 192)
    text: int = 128
    text_layers: int = 2
    heads: int = 4
    steps: int = 24
    guidance: float = 2.0
    schedule: Schedule = field(default_factory=Schedule)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> LayoutConfig:
        """Inverse of `to_dict`."""
        given: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()
        }
        schedule = given["schedule"]
        given["schedule"] = Schedule(tuple(schedule["peaks"]), schedule["width"], schedule["floor"])
        return cls(**given)


def one_hot(layouts: Tensor) -> Tensor:
    """N x H x W numbers of KINDS -> N x K x H x W of about unit size, as it is denoised."""
    return AMPLITUDE * (F.one_hot(layouts.long(), len(KINDS)).permute(0, 3, 1, 2).float() - 1 / len(KINDS))


def attended(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """What positions see of others, N x heads x L x D. mask: what counts. Written out, because the fused form's
    gradients in bfloat16 took two thirds of a step on a processor."""
    scores = queries @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(-1).to(values.dtype) @ values


class CaptionEncoder(nn.Module):
    """Reads each segment by itself; what one says does not depend on the others."""

    def __init__(self, config: LayoutConfig) -> None:
        super().__init__()
        width = config.text
        self.embedding = nn.Embedding(len(config.words) + BREAK + 1, width)
        self.place = nn.Parameter(0.02 * torch.randn(sum(LENGTHS), width))
        self.missing = nn.Parameter(0.02 * torch.randn(len(LENGTHS), 1, width))
        layer = nn.TransformerEncoderLayer(
            width, config.heads, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, config.text_layers, enable_nested_tensor=False)

    def forward(self, tokens: Tensor, said: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """N x 75 integers, and which segments are said at all (N x 3 booleans) -> for each segment N x (1 + L) x W
        and the N x (1 + L) mask of what counts. The first position stands for a segment that is not said."""
        found, masks = [], []
        words = self.embedding(tokens) + self.place
        for number, (numbers, text) in enumerate(zip(tokens.split(LENGTHS, 1), words.split(LENGTHS, 1), strict=True)):
            counts = (numbers != PADDING) & said[:, number, None]
            first = self.missing[number].expand(len(tokens), 1, -1)
            mask = torch.cat([torch.ones_like(counts[:, :1]), counts], 1)
            found.append(self.layers(torch.cat([first, text], 1), src_key_padding_mask=~mask))
            masks.append(mask)
        return found, masks


class SegmentAttention(nn.Module):
    """Positions look at each segment by itself; what they see is summed with the segments' weights."""

    def __init__(self, width: int, config: LayoutConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm = ChannelNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.place = nn.Linear(4 * WAVES, width, bias=False)
        self.keys = nn.Linear(config.text, 2 * width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, segments: list[Tensor], masks: list[Tensor], weights: Tensor) -> Tensor:
        """x: N x C x h x w. weights: N x 3. Returns the same shape as x."""
        n, c, h, w = x.shape

        def apart(values: Tensor) -> Tensor:
            return values.view(n, -1, self.heads, c // self.heads).transpose(1, 2)

        # words such as "south" are looked at by where a position is
        queries = apart(self.query(self.norm(x).flatten(2).transpose(1, 2)) + self.place(_waves(h, w, x)))
        total = torch.zeros((), device=x.device)
        for number, (text, mask) in enumerate(zip(segments, masks, strict=True)):
            keys, values = (apart(part) for part in self.keys(text).chunk(2, 2))
            seen = attended(queries, keys, values, mask[:, None, None])
            total = total + weights[:, number].view(-1, 1, 1, 1) * seen
        return x + self.out(total.transpose(1, 2).flatten(2)).transpose(1, 2).view(n, c, h, w)


def _waves(height: int, width: int, like: Tensor) -> Tensor:
    """Sines and cosines of half a turn to some turns over the picture: 1 x height width x 4 WAVES."""
    rows, columns = torch.linspace(-1, 1, height), torch.linspace(-1, 1, width)
    axes = torch.stack(torch.meshgrid(rows, columns, indexing="ij")).flatten(1).T
    phases = math.pi / 2 * axes[..., None] * 2.0 ** torch.arange(WAVES)
    return torch.cat([phases.sin(), phases.cos()], -1).flatten(1).to(like)[None]


class SelfAttention(nn.Module):
    """Positions look at each other."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.norm = heads, ChannelNorm(width)
        self.inner, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """N x C x h x w -> the same shape."""
        n, c, h, w = x.shape
        parts = self.inner(self.norm(x).flatten(2).transpose(1, 2)).chunk(3, 2)
        q, k, v = (part.view(n, h * w, self.heads, c // self.heads).transpose(1, 2) for part in parts)
        return x + self.out(attended(q, k, v).transpose(1, 2).flatten(2)).transpose(1, 2).view(n, c, h, w)


class Level(nn.Module):
    """A residual block; below the finest level attention over the picture; and attention to the caption."""

    def __init__(self, width: int, config: LayoutConfig, attends: bool) -> None:
        super().__init__()
        self.block = Block(width, config.text)
        self.own = SelfAttention(width, config.heads) if attends else nn.Identity()
        self.caption = SegmentAttention(width, config)

    def forward(
        self, x: Tensor, steering: Tensor, segments: list[Tensor], masks: list[Tensor], weights: Tensor
    ) -> Tensor:
        """See `SegmentAttention`."""
        return self.caption(self.own(self.block(x, steering)), segments, masks, weights)


class LayoutNet(nn.Module):
    """Noisy layouts, what is known of them, the time and a caption -> how likely each kind is in each cell.

    Captions come in twice, by the same schedule: every position attends to their words, and their means steer all
    blocks. By attention alone 3,000 steps learned scenes and elements, and no sides (relations right: 0.19).
    """

    def __init__(self, config: LayoutConfig) -> None:
        super().__init__()
        self.config = config
        kinds, (first, second, third) = len(KINDS), config.widths
        width = config.text
        self.text = CaptionEncoder(config)
        self.time = nn.Sequential(nn.Linear(2 * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        # where a position is, because relations speak of sides
        self.stem = nn.Conv2d((2 * kinds + 3) * PATCH**2, first, 3, padding=1)
        self.pooled = nn.ModuleList(nn.Linear(width, width) for _ in LENGTHS)
        for each in self.pooled:
            nn.init.zeros_(each.weight)  # type: ignore[arg-type]
            nn.init.zeros_(each.bias)  # type: ignore[arg-type]
        self.place = nn.ParameterList(
            [0.02 * torch.randn(1, second, 12, 12), 0.02 * torch.randn(1, third, 6, 6)],
        )
        self.down = nn.ModuleList(
            Level(size, config, attends) for size, attends in ((first, False), (second, True), (third, True))
        )
        self.middle = Level(third, config, True)
        self.up = nn.ModuleList([Level(first, config, False), Level(second, config, True)])
        self.halve = nn.ModuleList(
            [nn.Conv2d(first, second, 2, stride=2), nn.Conv2d(second, third, 2, stride=2)],
        )
        self.enlarge = nn.ModuleList([nn.Conv2d(second, first, 1), nn.Conv2d(third, second, 1)])
        self.merge = nn.ModuleList([nn.Conv2d(2 * first, first, 1), nn.Conv2d(2 * second, second, 1)])
        self.last = Block(first, width)
        self.norm = ChannelNorm(first)
        self.out = nn.Conv2d(first, kinds * PATCH**2, 3, padding=1)

    def forward(self, state: Tensor, known: Tensor, time: Tensor, tokens: Tensor, said: Tensor) -> Tensor:
        """Predict N x K x H x W logits of the finished layout.

        state: N x K x H x W, (1 - time) layout + time noise. known: N x (K + 1) x H x W, `one_hot` of what is given,
        times the mask of where it is, and that mask. tokens, said: see `CaptionEncoder`.
        """
        segments, masks = self.text(tokens, said)
        weights = self.config.schedule.tensor(1 - time)
        steering = F.silu(self.time(encoded(time)) + self._summary(segments, masks, weights))
        conditions = steering, segments, masks, weights
        x = self.stem(F.pixel_unshuffle(torch.cat([state, known, _sides(state)], 1), PATCH))
        kept = []
        for number, level in enumerate(self.down):
            x = level(x if number == 0 else x + self.place[number - 1], *conditions)
            if number < 2:
                kept.append(x)
                x = self.halve[number](x)
        x = self.middle(x, *conditions)
        for number in (1, 0):
            wide = F.interpolate(self.enlarge[number](x), scale_factor=2.0, mode="nearest")
            x = self.up[number](self.merge[number](torch.cat([wide, kept[number]], 1)), *conditions)
        return F.pixel_shuffle(self.out(F.silu(self.norm(self.last(x, steering)))), PATCH)

    def _summary(self, segments: list[Tensor], masks: list[Tensor], weights: Tensor) -> Tensor:
        """The mean of each segment's words, with its weight: what steers all positions alike, N x W."""
        total = torch.zeros((), device=weights.device)
        for number, (text, mask) in enumerate(zip(segments, masks, strict=True)):
            share = mask[..., None].float() / mask.sum(1)[:, None, None]
            total = total + weights[:, number, None] * self.pooled[number]((text * share).sum(1))
        return len(segments) * total


def _sides(like: Tensor) -> Tensor:
    """Where cells are: rows and columns from -1 to 1, N x 2 x H x W."""
    n, _, height, width = like.shape
    rows, columns = torch.linspace(-1, 1, height), torch.linspace(-1, 1, width)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij")).to(like).expand(n, 2, height, width)


def mean_of(logits: Tensor) -> Tensor:
    """The expected layout of N x K x H x W logits, as it is denoised."""
    return AMPLITUDE * (logits.float().softmax(1) - 1 / len(KINDS))


def times(steps: int) -> list[float]:
    """The times that a sampler visits, from 1: equally far apart in the logarithm of signal to noise.

    Where water and woods lie is told by hundreds of cells together, so it can be seen through noise that hides each of
    them: what a caption says of sides counts at times near 1 only (see `TIMES` in `model.training.layouts`).
    """
    noisiest, clearest = 6.0, -3.0
    logits = [noisiest + (clearest - noisiest) * step / max(1, steps - 1) for step in range(1, steps)]
    return [1.0, *(1 / (1 + math.exp(-value)) for value in logits)]
