"""Map tiles <-> latents of an eighth of their size, two ways.

`KLAutoencoder` is the published one (Stable Diffusion's, from diffusers). `PaletteAutoencoder` is the default's. A map
is an image of few colours: its encoder embeds each pixel's palette colour and takes the principal components of 8 x 8
patches, its decoder says which palette colour each pixel has. Measured on the validation maps, linear reconstruction:
32 components keep an mIoU of 0.93 (roads 0.87; of plain RGB patches 0.90 and 0.86), where a small KL autoencoder had
reached 0.63 (roads 0.09) after half an hour of training; and the latents are known before anything is trained.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from tilecascade.model.palette import CLASS_OF_COLOUR, CLASSES, DEFAULT, PALETTE, Palette, palette_of
from tilecascade.model.sgdm.config import LATENT_STRIDE, AutoencoderConfig
from tilecascade.model.sgdm.layers import cut


class KLAutoencoder(nn.Module):
    """diffusers' `AutoencoderKL` with the latent scale applied; the posterior's mean is the latent."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.scale = config.scale
        levels = len(config.widths)
        self.vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=config.widths,
            layers_per_block=config.layers_per_block,
            latent_channels=config.latent_channels,
            norm_num_groups=32,
            sample_size=256,
        )

    def encode(self, image: Tensor) -> Tensor:
        """N x 3 x H x W in [-1, 1] -> N x C x H/8 x W/8, scaled to about unit variance."""
        return self.vae.encode(image).latent_dist.mode() * self.scale

    def decode(self, latent: Tensor, draft: Draft | None = None) -> Tensor:
        """N x C x h x w -> N x 3 x 8h x 8w, about [-1, 1] (not clipped). There is never a draft."""
        return self.vae.decode(latent / self.scale, return_dict=False)[0]


def colour_embedding(palette: Palette = DEFAULT) -> Tensor:
    """P x 8: each palette colour's class as one-hot, and its RGB in [-1, 1].

    Of RGB alone, uncertainty between forest and building would be a third colour; of the class alone, shades would be
    lost.
    """
    classes = torch.eye(len(CLASSES))[torch.from_numpy(palette.classes).long()]
    return torch.cat([classes, torch.from_numpy(palette.colours).float() / 127.5 - 1], dim=1)


def by_class(shares: Tensor) -> Tensor:
    """Shares of palette colours, N x P x H x W -> of their classes, N x K x H x W."""
    kinds = F.one_hot(torch.from_numpy(CLASS_OF_COLOUR).long(), len(CLASSES)).to(shares)
    return torch.einsum("nphw,pk->nkhw", shares, kinds)


FINE_STRIDE = 2
"""Pixels per position of a draft."""

IMAGES = 7
"""Channels of the condition images that a decoder sees: imagery, reference, whether the reference is trusted."""

DRAFT_CHANNELS = 48
"""Channels of the features that the prior reads its palette colours from."""

AROUND, RADIUS = 2.0, 5
"""Deviation of the Gaussian that says what is around a pixel, for contrast, and how far it is taken, in pixels."""


@dataclass(frozen=True)
class Draft:
    """The prior's guess of a map: its latent (N x C x H/8 x W/8), its embedded colours (N x 8 x H/2 x W/2), the
    features that these were read from (N x DRAFT_CHANNELS x H/2 x W/2), and the condition images themselves
    (N x IMAGES x H x W)."""

    mean: Tensor
    embedded: Tensor
    hidden: Tensor
    images: Tensor

    def cut(self, pixels: int) -> Draft:
        """Without `pixels` on every side (a multiple of 8)."""
        fine = pixels // FINE_STRIDE
        return Draft(
            cut(self.mean, pixels // LATENT_STRIDE),
            cut(self.embedded, fine),
            cut(self.hidden, fine),
            cut(self.images, pixels),
        )

    def part(self, top: int, left: int, cells: int) -> Draft:
        """The square of `cells` x `cells` latent cells that begins at (top, left)."""

        def box(x: Tensor, scale: int) -> Tensor:
            return x[..., scale * top : scale * (top + cells), scale * left : scale * (left + cells)]

        fine = LATENT_STRIDE // FINE_STRIDE
        images = box(self.images, LATENT_STRIDE)
        return Draft(box(self.mean, 1), box(self.embedded, fine), box(self.hidden, fine), images)


def enlarge(embedded: Tensor) -> Tensor:
    """A draft's embedded colours at full resolution, bilinearly."""
    return F.interpolate(embedded, scale_factor=float(FINE_STRIDE), mode="bilinear")


def kept(image: Tensor, keep: Tensor, images: Tensor) -> Tensor:
    """Where the reference is trusted, keep it to the share that `keep` is the logit of.

    image: N x 3 x H x W; keep: N x 1 x H x W; images: N x IMAGES x H x W.
    """
    reference, trusted = images[:, 3:6].float(), images[:, 6:].float()
    if not trusted.any():
        return image
    return image + trusted * keep.sigmoid() * (reference - image)


JOIN = 0.08
"""Part of the step between two cells of FINE_STRIDE pixels that is taken off on either side of it."""


def join_cells(image: Tensor) -> Tensor:
    """Make the steps between a decoder's cells, N x 3 x H x W that begin with one, as large as those within them.

    A decoder that generates a cell at once leaves more of an edge between cells (1.15 of the mean step on validation
    maps) than within (0.85), and every border of a tile lies between two.
    """
    for _ in range(2):
        step = image[..., 2::FINE_STRIDE] - image[..., 1:-1:FINE_STRIDE]
        moved = F.pad(torch.stack([step, -step], dim=-1).flatten(-2), (1, 1))
        image = (image + JOIN * moved).transpose(2, 3)
    return image


class Decoder(nn.Module):
    """Embedded colours -> palette logits, in view of the draft, so that edges need not pass through the latent and
    uncertainty between two colours is not a third one.

    Two layers at half resolution, then one that sees single pixels: of the colours, and of the condition images. Cells
    of eight pixels leave no comb this way. Starts as zero, to be added to the plain distances from the palette's
    colours. (A decoder that sees the condition: the idea of Zhu et al. 2023, Asymmetric VQGAN.) The last channel says
    how far a trusted reference is to be kept as it is: a map's own pixels are sharper than any generated map of them.
    """

    HIDDEN, PIXEL, LAST = 48, 8, 16

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(depth * FINE_STRIDE**2 + DRAFT_CHANNELS, self.HIDDEN, 3, padding=1)
        self.conv2 = nn.Conv2d(self.HIDDEN, self.PIXEL * FINE_STRIDE**2, 3, padding=1)
        self.conv3 = nn.Conv2d(self.PIXEL + depth + IMAGES, self.LAST, 3, padding=1)
        self.conv4 = nn.Conv2d(self.LAST, len(PALETTE) + 1, 1)
        nn.init.zeros_(self.conv4.weight)
        nn.init.zeros_(self.conv4.bias)  # type: ignore[arg-type]

    def forward(self, embedded: Tensor, draft: Draft | None) -> Tensor:
        """N x 8 x H x W -> N x (P + 1) x H x W: logits to add, and that of keeping the reference.

        Without a draft its features and images are zeros.
        """
        if draft is None:
            images = torch.zeros_like(embedded[:, :IMAGES])
            half = embedded.shape[2] // FINE_STRIDE, embedded.shape[3] // FINE_STRIDE
            hidden = embedded.new_zeros(len(embedded), DRAFT_CHANNELS, *half)
        else:
            hidden, images = draft.hidden, draft.images
        # in the type and layout that the convolutions compute in: joined in others, all would be copied once more
        embedded, images = (x.to(hidden.dtype, memory_format=torch.channels_last) for x in (embedded, images))
        x = F.relu(self.conv1(torch.cat([F.pixel_unshuffle(embedded, FINE_STRIDE), hidden], dim=1)))
        x = F.pixel_shuffle(F.relu(self.conv2(x)), FINE_STRIDE)
        x = F.relu(self.conv3(torch.cat([x, embedded, images], dim=1)))
        return self.conv4(x)


def principal_components(patches: Iterable[Tensor], count: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Patches, each size x N, -> their mean (size), the `count` strongest components (count x size, rows orthonormal)
    and the deviations along these (count); float64."""
    number = 0
    total, products = torch.zeros(size, dtype=torch.float64), torch.zeros(size, size, dtype=torch.float64)
    for some in patches:
        total += some.double().sum(1)
        products += (some @ some.T).double()
        number += some.shape[1]
    mean = total / number
    values, vectors = torch.linalg.eigh(products / number - torch.outer(mean, mean))
    order = torch.arange(size - 1, size - 1 - count, -1)
    rows = vectors[:, order].T
    # an eigenvector's sign is arbitrary: make the largest entry positive
    rows = rows * rows.gather(1, rows.abs().argmax(1, keepdim=True)).sign()
    return mean, rows, values[order].clamp(min=1e-12).sqrt()


class PaletteAutoencoder(nn.Module):
    """Principal components of patches of embedded palette colours; the decoder adds what they leave out.

    basis: C x 512, rows orthonormal, over the 8 x 8 x 8 values of a patch (embedding, row, column).
    mean: 512. gain: C, what each component is multiplied by to make a latent.
    An untrained decoder gives the plain linear reconstruction. Where there is a draft, the latent says only how to
    change it: what the components leave out of the draft stays.
    """

    PIECE = 1 << 14

    basis: Tensor
    mean: Tensor
    gain: Tensor
    embedding: Tensor
    colours: Tensor
    contrast: Tensor
    around: Tensor

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.logit_scale, self.trusted_contrast = config.logit_scale, config.trusted_contrast
        contrast = {"building": config.building_contrast, "road": config.road_contrast}
        amounts = torch.tensor([contrast.get(CLASSES[kind], 0.0) for kind in CLASS_OF_COLOUR])
        some = amounts.nonzero().flatten().tolist()
        # one run of colours: taken by their numbers they cost 30 ms a block, half of the decoder's convolutions
        self.contrasted = slice(min(some), max(some) + 1) if some else slice(0, 0)
        self.register_buffer("contrast", amounts[self.contrasted].view(-1, 1, 1), persistent=False)
        bell = torch.exp(-(torch.arange(-RADIUS, RADIUS + 1) ** 2) / (2 * AROUND**2))
        self.register_buffer("around", (bell / bell.sum()).view(1, 1, 1, -1), persistent=False)
        self.palette = palette_of(config.palette)
        self.register_buffer("embedding", colour_embedding(self.palette), persistent=False)
        self.register_buffer("colours", torch.from_numpy(self.palette.colours).float() / 127.5 - 1, persistent=False)
        depth = self.embedding.shape[1]
        channels, values = config.latent_channels, depth * LATENT_STRIDE**2
        self.register_buffer("basis", torch.eye(values)[:channels].clone())
        self.register_buffer("mean", torch.zeros(values))
        self.register_buffer("gain", torch.ones(channels))
        self.sharpness = nn.Parameter(torch.tensor(8.0))
        self.decoder = Decoder(depth)

    @torch.no_grad()
    def fit(self, palettes: Iterable[Tensor]) -> None:
        """Take the basis from maps, each H x W palette indices.

        Gains are the components' deviations to the power -1/2, scaled to unit variance over all: between equal weight
        for faint detail (-1) and none (0).
        """
        patches = (F.pixel_unshuffle(self.embed(palette[None])[0], LATENT_STRIDE).flatten(1) for palette in palettes)
        mean, rows, deviation = principal_components(patches, *self.basis.shape)
        gain = deviation**-0.5
        gain = gain / ((deviation * gain) ** 2).mean().sqrt()
        self.basis.copy_(rows)
        self.mean.copy_(mean)
        self.gain.copy_(gain)

    def embed(self, palette: Tensor) -> Tensor:
        """N x H x W palette indices -> N x 8 x H x W."""
        return self.embedding[palette].permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)

    def encode(self, image: Tensor) -> Tensor:
        """N x 3 x H x W in [-1, 1] -> N x C x H/8 x W/8, by each pixel's nearest palette colour."""
        pixels = ((image.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        palette = torch.from_numpy(self.palette.nearest(pixels).astype(np.int64)).to(image.device)
        return self.encode_embedded(self.embed(palette).to(image.dtype))

    def encode_embedded(self, embedded: Tensor) -> Tensor:
        """N x 8 x H x W, of `embed` or a mean of such -> N x C x H/8 x W/8. Linear."""
        patches = F.pixel_unshuffle(embedded, LATENT_STRIDE) - self.mean.view(1, -1, 1, 1)
        weight = self.basis * self.gain[:, None]
        return F.conv2d(patches, weight[:, :, None, None])

    def encode_draft(self, embedded: Tensor) -> Tensor:
        """A draft's N x 8 x 4h x 4w -> N x C x h x w: what `encode_embedded` gives of it enlarged, which is linear too,
        in one convolution at half resolution."""
        cells = LATENT_STRIDE // FINE_STRIDE
        # what each pixel of a cell takes from the draft's values in it and beside it
        parts = F.interpolate(torch.eye(cells + 2).to(embedded)[None], scale_factor=float(FINE_STRIDE), mode="linear")
        parts = parts[0, :, FINE_STRIDE:-FINE_STRIDE]
        weight = (self.basis * self.gain[:, None]).view(len(self.basis), -1, LATENT_STRIDE, LATENT_STRIDE)
        weight = torch.einsum("cdij,ai,bj->cdab", weight, parts, parts)
        bias = -(self.basis * self.gain[:, None]) @ self.mean
        return F.conv2d(F.pad(embedded, (1, 1, 1, 1), mode="replicate"), weight, bias, stride=cells)

    def decode_linear(self, latent: Tensor) -> Tensor:
        """N x C x h x w -> N x 8 x 8h x 8w: the inverse of `encode_embedded` as far as the components go."""
        weight = (self.basis / self.gain[:, None]).T
        return F.pixel_shuffle(F.conv2d(latent, weight[:, :, None, None], self.mean), LATENT_STRIDE)

    def change(self, difference: Tensor) -> Tensor:
        """A difference of latents, N x C x h x w -> what it changes, N x 8 x 8h x 8w: the mean of each cell, joined
        smoothly.

        Changed pixel by pixel, cells showed: steps at their borders were 1.1 of the mean, the rank of tile borders 1.0.
        By means of quarters they showed as a grid of dots where a strong contrast met uncertainty.
        """
        weight = (self.basis / self.gain[:, None]).view(len(self.basis), -1, LATENT_STRIDE**2).mean(dim=2).T
        means = F.conv2d(difference, weight[:, :, None, None])
        return F.interpolate(means, scale_factor=float(LATENT_STRIDE), mode="bilinear")

    def logits(self, embedded: Tensor) -> Tensor:
        """N x 8 x H x W -> N x P x H x W: minus the squared distance to each palette colour, times the sharpness."""
        weight = 2 * self.embedding
        bias = -self.embedding.square().sum(1)
        return self.sharpness * F.conv2d(embedded, weight[:, :, None, None], bias)

    def decode_embedded(self, latent: Tensor, draft: Draft | None) -> Tensor:
        """N x C x h x w -> N x 8 x 8h x 8w float32: bfloat16 has too few digits for colours."""
        with torch.autocast(latent.device.type, enabled=False):
            if draft is None:
                return self.decode_linear(latent.float())
            return enlarge(draft.embedded) + self.change(latent.float() - draft.mean)

    def decode_logits(self, latent: Tensor, draft: Draft | None = None) -> tuple[Tensor, Tensor]:
        """N x C x h x w -> how likely each palette colour is, N x P x 8h x 8w; and the logit of keeping the reference,
        N x 1 x 8h x 8w."""
        embedded = self.decode_embedded(latent, draft)
        more = self.decoder(embedded, draft)
        with torch.autocast(latent.device.type, enabled=False):
            return self.logits(embedded) + more[:, :-1].float(), more[:, -1:].float()

    def class_shares(self, logits: Tensor, keep: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """What `decode_logits` gave -> the shares of the classes, N x K x H x W, and how much of a pixel is generated
        and not kept from a trusted reference, N x 1 x H x W."""
        return by_class(logits.float().softmax(dim=1)), 1 - images[:, 6:].float() * keep.sigmoid()

    def standing_out(self, logits: Tensor, draft: Draft | None) -> Tensor:
        """Logits, N x P x H x W -> what contrast adds to those in `self.contrasted`, N x K x H x W: less where the
        reference is trusted."""
        logits = logits[:, self.contrasted]
        planes = F.pad(logits, (RADIUS,) * 4, mode="replicate")
        # by groups: one plane a sample gives the same bytes and takes nine times as long on a processor
        groups = logits.shape[1]
        kernel = self.around.expand(groups, -1, -1, -1)
        mean = F.conv2d(F.conv2d(planes, kernel, groups=groups), kernel.transpose(2, 3), groups=groups)
        more = self.contrast * (logits - mean)
        if draft is None or not draft.images[:, 6:].any():
            return more
        return more * (1 - (1 - self.trusted_contrast) * draft.images[:, 6:].float())

    def shown(self, logits: Tensor, keep: Tensor, draft: Draft | None = None) -> Tensor:
        """What `decode_logits` gave -> N x 3 x H x W in [-1, 1]: the likely colours' mean, or a trusted reference."""
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits.float()
            if len(self.contrast):
                first, last = self.contrasted.start, self.contrasted.stop
                more = self.standing_out(logits, draft)
                logits = logits + F.pad(more, (0, 0, 0, 0, first, logits.shape[1] - last))
            shares = (self.logit_scale * logits).softmax(dim=1)
            image = join_cells(torch.einsum("nphw,pc->nchw", shares, self.colours))
        return image if draft is None else kept(image, keep, draft.images)

    def decode(self, latent: Tensor, draft: Draft | None = None) -> Tensor:
        """N x C x h x w -> N x 3 x 8h x 8w in [-1, 1]: what `shown` gives of `decode_logits`, without gradients.

        In place, pixel by pixel, and the shares in pieces that fit a processor's cache: the other way, the shares of
        26 colours take longer than the decoder.
        """
        embedded = self.decode_embedded(latent, draft)
        decoded = self.decoder(embedded, draft).permute(0, 2, 3, 1)
        count, depth, height, width = embedded.shape
        weight = self.sharpness * 2 * self.embedding.T
        bias = -self.sharpness * self.embedding.square().sum(1)
        with torch.autocast(latent.device.type, enabled=False):
            flat = torch.addmm(bias, embedded.permute(0, 2, 3, 1).reshape(-1, depth), weight)
            pieces = flat.split(self.PIECE)
            for piece, more in zip(pieces, decoded.flatten(0, 2).split(self.PIECE), strict=True):
                piece += more.float()[:, :-1]
            if len(self.contrast):
                logits = flat.view(count, height, width, -1).permute(0, 3, 1, 2)
                logits[:, self.contrasted] += self.standing_out(logits, draft)
            colours = [F.linear(piece.mul_(self.logit_scale).softmax(dim=1), self.colours.T) for piece in pieces]
            image = join_cells(torch.cat(colours).view(count, height, width, 3).permute(0, 3, 1, 2))
        return image if draft is None else kept(image, decoded[..., -1].unsqueeze(1).float(), draft.images)


Autoencoder = KLAutoencoder | PaletteAutoencoder


def build_autoencoder(config: AutoencoderConfig) -> Autoencoder:
    """The autoencoder of a configuration."""
    return KLAutoencoder(config) if config.kind == "kl" else PaletteAutoencoder(config)
