"""What frozen stages say about the training pairs, computed once and read from a memory-mapped file.

The encoder takes most of a training step of what follows it. Its outputs are kept for a few augmented variants of every
pair, each with its own symmetry, colours and reference; training then reads crops of them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from tilecascade.model.data.pairs import Pair
from tilecascade.model.palette import COLOURS
from tilecascade.model.sgdm.autoencoder import DRAFT_CHANNELS
from tilecascade.model.sgdm.network import Perception
from tilecascade.model.sgdm.scale_text import ZOOM_TABLE, scale_text
from tilecascade.model.training.config import StageConfig
from tilecascade.model.training.samples import Batch, Sample, SampleSource, collate

EDGE = 256
"""Pixels of a cached tile along one axis."""


TEXTS = [
    scale_text(zoom, reference)
    for zoom in ZOOM_TABLE
    for reference in (None, zoom - 1, zoom - 2)
    if reference is None or reference >= 0
]
"""Every scale text that occurs in training."""


def record(condition_channels: int) -> np.dtype[Any]:
    """One tile: condition map (float16, stride 8), the prior's features (8 bits with a scale per channel, stride 2),
    condition images (8 bits), labels, whether the reference is trusted, and the number of the scale text."""
    return np.dtype(
        [
            ("condition", np.float16, (condition_channels, EDGE // 8, EDGE // 8)),
            ("hidden", np.uint8, (DRAFT_CHANNELS, EDGE // 2, EDGE // 2)),
            ("scale", np.float32, (DRAFT_CHANNELS,)),
            ("images", np.uint8, (6, EDGE, EDGE)),
            ("labels", np.uint8, (EDGE, EDGE)),
            ("trusted", np.float32),
            ("text", np.int32),
        ]
    )


@dataclass(frozen=True)
class Crops:
    """Parts of cached tiles as tensors; see `ColourDenoiser.forward`. labels: N x S x S of `labels.ALLOWED`."""

    condition: Tensor
    hidden: Tensor
    images: Tensor
    labels: Tensor
    texts: list[str]


@torch.no_grad()
def encode(network: Perception, batch: Batch) -> NDArray[Any]:
    """What the frozen encoder and prior say about a batch, as records."""
    with torch.autocast("cpu", torch.bfloat16):
        condition, fine = network.encoder(batch.imagery, batch.reference, batch.trusted)
        _, hidden = network.prior(condition, fine, network.text(batch.texts))
    out = np.zeros(len(batch.texts), dtype=record(condition.shape[1]))
    out["condition"] = condition.float().numpy()
    hidden = hidden.float()
    scale = hidden.amax(dim=(2, 3)).clamp(min=1e-6) / 255
    out["scale"] = scale.numpy()
    out["hidden"] = (hidden / scale[:, :, None, None]).round().byte().numpy()
    images = torch.cat([batch.imagery, batch.reference], dim=1)
    out["images"] = ((images + 1) * 127.5).round().byte().numpy()
    out["labels"] = batch.labels.numpy()
    out["trusted"] = batch.trusted.amax(dim=(1, 2, 3)).numpy()
    out["text"] = [TEXTS.index(text) for text in batch.texts]
    return out


def crops(records: Sequence[Any], box: tuple[slice, slice]) -> Crops:
    """One box of pixels of every record; its edges are multiples of 32."""

    def part(field: str, stride: int) -> Tensor:
        rows, columns = (slice(side.start // stride, side.stop // stride) for side in box)
        return torch.from_numpy(np.stack([one[field][..., rows, columns] for one in records]))

    scale = torch.from_numpy(np.stack([one["scale"] for one in records]))[:, :, None, None]
    images = part("images", 1).float() / 127.5 - 1
    # 0 means unknown, which 8 bits cannot say
    images = torch.where(images.abs() < 0.005, 0, images)
    trusted = torch.tensor([float(one["trusted"]) for one in records]).view(-1, 1, 1, 1)
    trusted = trusted * (images[:, 3:6] != 0).any(1, keepdim=True)
    return Crops(
        part("condition", 8).float().contiguous(memory_format=torch.channels_last),
        (part("hidden", 2).float() * scale).contiguous(memory_format=torch.channels_last),
        torch.cat([images, trusted], dim=1).contiguous(memory_format=torch.channels_last),
        part("labels", 1).long(),
        [TEXTS[one["text"]] for one in records],
    )


@torch.no_grad()
def likely_references(network: Perception, source: SampleSource) -> None:
    """Fill `source.generated` with the likeliest colours of the network's own cascade of drafts, coarse zooms first."""
    above = {(p.zoom - span, p.x >> span, p.y >> span) for p in source.pairs for span in (1, 2)}
    rng = np.random.default_rng(0)
    for zoom in sorted({pair.zoom for pair in source.pairs}):
        pairs = [p for p in source.pairs if p.zoom == zoom and (zoom, p.x, p.y) in above]
        for first in tqdm(range(0, len(pairs), 8), desc=f"references of zoom {zoom}", mininterval=10):
            some = pairs[first : first + 8]
            batch = collate([source.relit(pair, rng) for pair in some])
            with torch.autocast("cpu", torch.bfloat16):
                encoded = network.encoder(batch.imagery, batch.reference, batch.trusted)
                logits, _ = network.prior(*encoded, network.text(batch.texts))
            wide = F.interpolate(logits.float(), scale_factor=2.0, mode="bilinear").argmax(1).numpy()
            for pair, image in zip(some, COLOURS.astype(np.uint8)[wide], strict=True):
                source.generated[pair.zoom, pair.x, pair.y] = image


class FeatureCache:
    """Variants of all pairs of the default style, each a memory-mapped file that is named after what it depends on."""

    def __init__(self, network: Perception, source: SampleSource, stage: StageConfig, folder: Path) -> None:
        self.network, self.source, self.stage, self.folder = network.eval(), source, stage, folder
        exact = [i for i, pair in enumerate(source.pairs) if pair.reading == "exact"]
        self.pairs: list[Pair] = [source.pairs[i] for i in exact]
        weights = source.probabilities[exact]
        self.weights = weights / weights.sum()
        self._files: dict[int, NDArray[Any]] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def name(self, variant: int) -> str:
        """Of the file of a variant: changes with the weights, the pairs, and how they are augmented."""
        digest = hashlib.sha256()
        for part in (self.network.encoder, self.network.prior, self.network.text):
            for key, value in part.state_dict().items():
                digest.update(key.encode())
                digest.update(value.contiguous().numpy().tobytes())
        told = {k: asdict(self.stage)[k] for k in ("self_reference", "reference_dropout", "degraded", "outdated")}
        places = [(pair.zoom, pair.x, pair.y, int(pair.map.sum())) for pair in self.pairs]
        digest.update(json.dumps([told, places, variant]).encode())
        return f"features-{digest.hexdigest()[:16]}"

    def variant(self, number: int) -> NDArray[Any]:
        """The records of all pairs in one variant; made if missing."""
        if number not in self._files:
            path = self.folder / f"{self.name(number)}.npy"
            if not path.exists():
                self._make(path, number)
            self._files[number] = np.load(path, mmap_mode="r")
        return self._files[number]

    def _make(self, path: Path, number: int) -> None:
        stage = StageConfig(**{**asdict(self.stage), "crop": EDGE})
        if self.stage.self_reference and not self.source.generated:
            likely_references(self.network, self.source)
        kind = record(self.network.encoder.config.condition_channels)
        partial = path.with_suffix(".part")
        out = np.lib.format.open_memmap(partial, mode="w+", dtype=kind, shape=(len(self.pairs),))
        step = 8
        for first in tqdm(range(0, len(self.pairs), step), desc=f"features {number}", mininterval=10):
            samples: list[Sample] = []
            for place in range(first, min(first + step, len(self.pairs))):
                rng = np.random.default_rng([number, place])
                samples.append(self.source.sample(self.pairs[place], stage, rng))
            out[first : first + len(samples)] = encode(self.network, collate(samples))
        out.flush()
        os.replace(partial, path)

    def batch(self, variants: int, count: int, size: int, rng: np.random.Generator) -> Crops:
        """Crops of `size` pixels of `count` pairs of one variant, by the pairs' probabilities."""
        records = self.variant(int(rng.integers(variants)))
        chosen = rng.choice(len(self.pairs), size=count, p=self.weights)
        top, left = 32 * rng.integers(0, (EDGE - size) // 32 + 1, 2)
        box = slice(int(top), int(top) + size), slice(int(left), int(left) + size)
        return crops([records[i] for i in chosen], box)
