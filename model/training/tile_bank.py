"""All training pairs as tensors on the device that trains, and batches of them that cross tile borders.

A batch is a pure function of its generator. Everything after the start happens on the device, so that a GPU does not
wait for a processor.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tilecascade.model.data.labels import READERS
from tilecascade.model.data.pairs import Pair, Pixels
from tilecascade.model.training.objects import KINDS, halved, object_planes
from tilecascade.model.training.samples import ROOT_ZOOM, SampleSource

EDGE = 256
"""Pixels of a pair along one axis."""

REACH = 128
"""Pixels that a sample may be moved off its pair, where its neighbours are known."""

UNKNOWN = 1 << len(KINDS)
"""Stands for objects of a map that does not tell."""

SPANS = (1, 2)
"""Levels between a tile and its references."""


def _told(pair: Pair) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A pair's labels, and the bits of its object planes at half resolution."""
    labels = READERS[pair.reading](pair.map).astype(np.uint8)
    if pair.reading != "exact":
        return labels, np.full((EDGE // 2, EDGE // 2), UNKNOWN, dtype=np.uint8)
    planes = halved(object_planes(pair.map))
    return labels, np.asarray(sum(plane.astype(np.uint8) << bit for bit, plane in enumerate(planes)), dtype=np.uint8)


@dataclass(frozen=True)
class Places:
    """Where the pixels of a batch are: pair, row and column of each, N x S x S; and at half resolution. The pair is -1
    where there is none."""

    pixels: tuple[Tensor, Tensor, Tensor]
    cells: tuple[Tensor, Tensor, Tensor]


def symmetries(numbers: Tensor) -> Tensor:
    """N numbers, 0 to 7 -> N x 2 x 2, what takes rows and columns of a sample to those of its tile."""
    flip, half, quarter = numbers >= 4, numbers % 4 >= 2, numbers % 2 == 1
    sign = torch.where(half, -1.0, 1.0)
    row, column = torch.where(flip, -sign, sign), sign
    nothing = torch.zeros_like(sign)
    plain = torch.stack([torch.stack([row, nothing], -1), torch.stack([nothing, column], -1)], -2)
    turned = torch.stack([torch.stack([nothing, column], -1), torch.stack([-row, nothing], -1)], -2)
    return torch.where(quarter.view(-1, 1, 1), turned, plain)


def rotations(angles: Tensor, scales: Tensor) -> Tensor:
    """N angles and N scales -> N x 2 x 2, as `symmetries` gives them."""
    sine, cosine = scales * angles.sin(), scales * angles.cos()
    return torch.stack([torch.stack([cosine, -sine], -1), torch.stack([sine, cosine], -1)], -2)


class TileBank:
    """The pairs of a `SampleSource`. Images are N x 256 x 256 x 3 uint8.

    references: N x 2 len(SPANS) x 256 x 256 x 3 uint8, the true ones by span and then the generated ones, which
    `keep_generated` fills; known: N x 2 len(SPANS) bool, which there are.
    """

    def __init__(self, source: SampleSource, device: str) -> None:
        pairs = source.pairs
        self.device, self.pairs = torch.device(device), pairs
        with ProcessPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
            told = list(pool.map(_told, pairs, chunksize=8))
        self.imagery = self._images([pair.imagery for pair in pairs])
        self.maps = self._images([pair.map for pair in pairs])
        self.labels = torch.from_numpy(np.stack([labels for labels, _ in told])).to(self.device)
        self.objects = torch.from_numpy(np.stack([planes for _, planes in told])).to(self.device)
        coarser = [source.coarser.get((pair.zoom, pair.x, pair.y)) for pair in pairs]
        own = [image for image in coarser if image is not None]
        self.coarser = self._images(own or [pairs[0].imagery])
        numbers = np.cumsum([image is not None for image in coarser]) - 1
        self.has_coarser = torch.tensor([image is not None for image in coarser], device=self.device)
        self.coarser_of = torch.from_numpy(numbers.clip(0)).to(self.device)
        self.neighbours = torch.from_numpy(_neighbours(pairs)).to(self.device)
        self.exact = torch.tensor([pair.reading == "exact" for pair in pairs])
        self.zooms = torch.tensor([pair.zoom for pair in pairs])
        self.references = torch.zeros(len(pairs), 2 * len(SPANS), EDGE, EDGE, 3, dtype=torch.uint8, device=self.device)
        self.known = torch.zeros(len(pairs), 2 * len(SPANS), dtype=torch.bool)
        self._source = source
        self._keep_references(range(len(pairs)), generated=False)

    def _images(self, images: Sequence[Pixels]) -> Tensor:
        return torch.from_numpy(np.stack(images)).to(self.device)

    def _keep_references(self, numbers: Iterable[int], generated: bool) -> None:
        for number in numbers:
            pair = self.pairs[number]
            for place, span in enumerate(SPANS):
                if pair.zoom - span < ROOT_ZOOM:
                    continue
                image = self._source.reference(pair, span, generated)
                if image is not None:
                    slot = place + len(SPANS) * generated
                    self.references[number, slot] = torch.from_numpy(np.array(image)).to(self.device)
                    self.known[number, slot] = True

    def keep_generated(self, images: dict[tuple[int, int, int], Pixels]) -> None:
        """Take generated maps, by (zoom, x, y), as what the references of a cascade are enlarged from."""
        self._source.generated.update(images)
        zooms = {zoom + span for zoom, _, _ in images for span in SPANS}
        self._keep_references((i for i, pair in enumerate(self.pairs) if pair.zoom in zooms), generated=True)

    def places(self, chosen: Tensor, turns: Tensor, down: Tensor, right: Tensor, size: int) -> Places:
        """Where the pixels of samples are.

        chosen: N pairs; turns: N x 2 x 2, see `symmetries` and `rotations`; down, right: N, pixels that a sample is
        moved off its pair, even, and 0 where there is no neighbour.
        """
        moves = torch.stack(self._possible(chosen, down, right), 1).view(-1, 2, 1, 1)
        pair = chosen.view(-1, 1, 1)

        def grid(step: int) -> tuple[Tensor, Tensor, Tensor]:
            """Of every `step`-th pixel; in cells of as many pixels."""
            axis = step * torch.arange(size // step, device=self.device) + (step - size) / 2
            offsets = torch.stack(torch.meshgrid(axis, axis, indexing="ij"))
            where = torch.einsum("nij,jrc->nirc", turns, offsets) + moves + EDGE / 2
            where = torch.div(where, step, rounding_mode="floor").long()
            beside = 1 + torch.div(where, EDGE // step, rounding_mode="floor").clamp(-1, 1)
            row, column = (where % (EDGE // step)).unbind(1)
            return self.neighbours[pair, beside[:, 0], beside[:, 1]], row, column

        return Places(grid(1), grid(2))

    def _possible(self, chosen: Tensor, down: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """Moves without those towards pairs that there are not."""
        near = self.neighbours[chosen]
        rows, columns = 1 + down.sign(), 1 + right.sign()
        every = torch.arange(len(chosen), device=self.device)
        down = torch.where(near[every, rows, 1] < 0, 0, down)
        right = torch.where(near[every, 1, columns] < 0, 0, right)
        corner = near[every, 1 + down.sign(), 1 + right.sign()] < 0
        return torch.where(corner, 0, down), right


def _neighbours(pairs: Sequence[Pair]) -> NDArray[np.int64]:
    """For each pair the numbers of the nine pairs around it, row by row, -1 for none; they read the map alike."""
    numbers = {(pair.reading, pair.split, pair.zoom, pair.x, pair.y): i for i, pair in enumerate(pairs)}
    found = np.full((len(pairs), 3, 3), -1, dtype=np.int64)
    for i, pair in enumerate(pairs):
        for row in (-1, 0, 1):
            for column in (-1, 0, 1):
                key = (pair.reading, pair.split, pair.zoom, pair.x + column, pair.y + row)
                found[i, 1 + row, 1 + column] = numbers.get(key, -1)
        found[i, 1, 1] = i
    return found
