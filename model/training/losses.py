"""What a generated map is held against: labels that may allow more than one colour."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tilecascade.model.data.labels import ALLOWED, ANYTHING, LABEL_OF
from tilecascade.model.palette import CLASS_OF_COLOUR, PALETTE

_CLASS_WEIGHT = torch.where(torch.from_numpy(CLASS_OF_COLOUR) == 0, 0.7, 1.3).float()
_ALLOWED = torch.from_numpy(ALLOWED)
LABEL_WEIGHT = (_ALLOWED * _CLASS_WEIGHT).sum(1) / _ALLOWED.sum(1)
"""Weight of each label: roads, buildings, water and vegetation weigh more than land; sets as their mean."""
LABEL_WEIGHT[ANYTHING] = 0


_ROAD = [name for name, _, _ in PALETTE].index("road")


def shown_colour(labels: Tensor) -> Tensor:
    """N x S x S labels -> palette colours: casings are road, other sets land."""
    return torch.where(labels < len(PALETTE), labels, torch.where(labels == LABEL_OF["casing"], _ROAD, 0))


def label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Weighted mean of minus the log of the probability given to the allowed colours.

    logits: N x P x H x W; labels: N x H x W indices into `labels.ALLOWED`. With single colours it is the cross-entropy.
    """
    logits = logits.float()
    partial = ((labels >= len(PALETTE)) & (labels != ANYTHING)).flatten(1).any(1)
    weight = LABEL_WEIGHT[labels].sum().clamp(min=1)
    total = F.cross_entropy(logits[~partial], labels[~partial], _CLASS_WEIGHT, ignore_index=ANYTHING, reduction="sum")
    if partial.any():
        here = labels[partial]
        allowed = _ALLOWED[here].permute(0, 3, 1, 2)
        among = logits[partial].masked_fill(~allowed, -1e4).logsumexp(1)
        total = total + ((logits[partial].logsumexp(1) - among) * LABEL_WEIGHT[here]).sum()
    return total / weight


def cell_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """`label_loss` of logits at half resolution against all four pixels of each cell.

    logits: N x P x H/2 x W/2; labels: N x H x W. Against one of the four, edges settled between cells: shares that are
    true of the whole cell tell where in it an edge lies.
    """
    parts = [label_loss(logits, labels[:, row::2, column::2]) for row in (0, 1) for column in (0, 1)]
    return torch.stack(parts).mean()


CLOSE = 0.004
"""Mean squared error at which a generated map counts as close to its map: 30 dB."""


TRUSTED = 2.0
"""Weight of samples with a trusted reference: there colours can be right."""


def colour_loss(image: Tensor, truth: Tensor, labels: Tensor, trusted: Tensor) -> Tensor:
    """How far colours are off, by sample, of the mean squared error m: m / (m + CLOSE), 0 to 1; where the reference is
    trusted, the logarithm of m, which is what PSNR counts.

    image, truth: N x 3 x H x W in [-1, 1]; labels: N x H x W; trusted: N x 1 x H x W. Samples with sets of colours, of
    another style, cost 0.
    Without a good reference, what is far off counts little: where the condition leaves uncertainty, the best colour by
    squares is a mixture, and a map has none. Where a good reference leaves none, soft edges are learned.
    """
    sets = ((labels >= len(PALETTE)) & (labels != ANYTHING)).flatten(1).any(1)
    exact = ((labels < len(PALETTE)) & ~sets[:, None, None]).unsqueeze(1)
    squares = ((image - truth).square() * exact).sum(dim=(1, 2, 3))
    mean = squares / (3 * exact.sum(dim=(1, 2, 3))).clamp(min=1)
    beside = TRUSTED * (1 + mean / (CLOSE / 40)).log()
    return torch.where(trusted.amax(dim=(1, 2, 3)) > 0, beside, mean / (mean + CLOSE)).mean()


PERIOD = 8
"""Pixels per latent cell: what a network of cells may leave a comb of."""


def comb_loss(image: Tensor) -> Tensor:
    """How much the steps along a row or column differ by their place in a cell: about 0 for maps, which know no cells.

    image: N x C x H x W, its cells begin at 0. The squared relative deviation of the mean absolute step, averaged over
    the PERIOD phases. Steps are taken between means of two pixels: between single ones the network learned to weave
    a texture of period 2 that made all of them equally large.
    """
    total = image.new_zeros(())
    for x in (image, image.transpose(2, 3)):
        pairs = x[..., 1:] + x[..., :-1]
        step = (pairs[..., 2:] - pairs[..., :-2]).abs().mean(dim=(0, 1, 2))
        phases = torch.stack([step[phase::PERIOD].mean() for phase in range(PERIOD)])
        total = total + (phases / phases.mean().clamp(min=1e-6) - 1).square().mean()
    return total / 2


FAINT = 0.01
"""Amplitude of a lattice, in [-1, 1], that costs 1: about one level of 255."""

REGION = 8
"""Cells of two pixels over which a lattice must keep its phase to count as one."""


def lattice_loss(image: Tensor) -> Tensor:
    """How much of a lattice of period two is in the image: the decoder generates four pixels at once from one
    position, and where it is uncertain each of the four is uncertain in its own way.

    image: N x C x H x W, its cells of two pixels begin at 0. The step within a cell less the mean of the steps on both
    sides of it, which is nothing on any slope; averaged over regions of 16 pixels, so that edges, which have no phase,
    cancel; squared. Every second row by itself, or a chequered lattice would cancel too.
    """
    total = image.new_zeros(())
    for x in (image, image.transpose(2, 3)):
        step = x[..., 1:] - x[..., :-1]
        within = step[..., 2:-1:2] - (step[..., 1:-2:2] + step[..., 3::2]) / 2
        for rows in (within[..., 0::2, :], within[..., 1::2, :]):
            total = total + (F.avg_pool2d(rows, REGION) / FAINT).square().mean()
    return total / 4


COLOUR = 0.5
"""Weight of `colour_loss`."""

COMB = 1.0
"""Weight of `comb_loss`: a comb of a tenth costs 0.01."""

LATTICE = 0.05
"""Weight of `lattice_loss`. Without it generated maps had lattices of 2.2 FAINT on the mean, several times that in
uncertainty."""


def map_loss(
    logits: Tensor, image: Tensor, truth: Tensor, labels: Tensor, trusted: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """What a decoded generated map costs, and its parts by name.

    logits: N x P x H x W, and the image that they show, N x 3 x H x W; truth, labels, trusted as in `colour_loss`.
    """
    parts = {
        "generated": label_loss(logits, labels),
        "colour": colour_loss(image, truth, labels, trusted),
        "comb": comb_loss(image),
        "lattice": lattice_loss(image),
    }
    return parts["generated"] + COLOUR * parts["colour"] + COMB * parts["comb"] + LATTICE * parts["lattice"], parts
