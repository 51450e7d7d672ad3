"""MFEncoder: two images (imagery and cascade reference) -> one condition map (C2GM section 3.2.2).

Paper and released code disagree on SPADE (Eq. 16-18): the paper normalises the imagery features and multiplies by
gamma; the code normalises the *reference* features and multiplies by 1 + gamma. This follows the code, because the
published weights were trained that way.
"""

from __future__ import annotations

import itertools

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tilecascade.model.cascade import MERGE_REACH
from tilecascade.model.sgdm.config import EncoderConfig
from tilecascade.model.sgdm.layers import ChannelNorm, cut

NEGATIVE_SLOPE = 0.1

STAGES_OF_LEVELS = {4: 5, 5: 7}
"""EfficientNet's stages of blocks that lead to stride 16, and to stride 32."""


class ResidualBlock(nn.Module):
    """conv3 - LeakyReLU - conv3 + identity, no normalisation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape out."""
        return x + self.conv2(F.leaky_relu(self.conv1(x), NEGATIVE_SLOPE))


class Downsample(nn.Module):
    """PixelUnshuffle(2), then a 1x1 convolution from 4 C to `out` channels, as the one convolution that they are."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4 * channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """N x C x H x W -> N x out x H/2 x W/2."""
        # unshuffled channels are ordered as a kernel of 2 x 2 is; unshuffling alone took four times as long as this
        kernel = self.conv.weight.view(self.conv.out_channels, x.shape[1], 2, 2)
        return F.conv2d(x, kernel, self.conv.bias, stride=2)


class Stage(nn.Module):
    """One halving of a branch: convolution, LeakyReLU, optionally a residual block, and the downsampling.

    As published the downsampling comes last; with `downsample_first` it comes first, at a quarter of the cost.
    """

    def __init__(self, channels: int, out: int, residual: bool, downsample_first: bool) -> None:
        super().__init__()
        self.downsample_first = downsample_first
        self.down = Downsample(channels if downsample_first else out, out)
        self.conv = nn.Conv2d(out if downsample_first else channels, out, 3, padding=1)
        self.residual = ResidualBlock(out) if residual else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """N x C x H x W -> N x out x H/2 x W/2."""
        if self.downsample_first:
            return self.residual(F.leaky_relu(self.conv(self.down(x)), NEGATIVE_SLOPE))
        return self.down(self.residual(F.leaky_relu(self.conv(x), NEGATIVE_SLOPE)))


class ConvBranch(nn.Module):
    """Stem and three stages; `stages[i]` may be called one by one, so that SPADE can act between them."""

    def __init__(self, config: EncoderConfig, residual: bool) -> None:
        super().__init__()
        first = config.downsample_first
        self.stem: nn.Module = nn.Identity() if first else nn.Conv2d(3, config.stem, 3, padding=1)
        widths = (3 if first else config.stem, *config.widths)
        self.stages = nn.ModuleList(Stage(a, b, residual, first) for a, b in itertools.pairwise(widths))

    def start(self, image: Tensor) -> Tensor:
        """The stem: N x 3 x H x W -> N x stem x H x W."""
        x = self.stem(image)
        return x if isinstance(self.stem, nn.Identity) else F.leaky_relu(x, NEGATIVE_SLOPE)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Features at strides 2, 4, 8."""
        x, features = self.start(image), []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class BackboneBranch(nn.Module):
    """EfficientNet-Lite (no squeeze-and-excite: all operations local) with a top-down path to strides 8, 4, 2.

    Input in [-1, 1], as the backbone was trained. BatchNorm always uses its running statistics. `levels` says how deep
    the backbone goes: 4 ends at stride 16, 5 at stride 32.
    """

    TOP = 96

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        levels = config.backbone_levels
        self.backbone = timm.create_model(
            f"tf_{config.imagery_branch}", features_only=True, pretrained=False, out_indices=tuple(range(levels))
        )
        self.backbone.blocks = self.backbone.blocks[: STAGES_OF_LEVELS[levels]]
        channels = self.backbone.feature_info.channels()  # strides 2, 4, 8, 16 (and 32)
        widths = (*config.widths, *(self.TOP,) * (levels - 3))
        self.lateral = nn.ModuleList(nn.Conv2d(c, w, 1) for c, w in zip(channels, widths, strict=True))
        self.top_down = nn.ModuleList(
            nn.Conv2d(above, here, 1) for above, here in zip(widths[1:], widths[:-1], strict=True)
        )
        self.smooth = nn.ModuleList(nn.Conv2d(w, w, 3, padding=1) for w in widths)
        for conv in (*self.lateral, *self.top_down, *self.smooth):
            # torch's default shrinks what passes to a third a layer: the deep levels would hardly be heard
            nn.init.kaiming_normal_(conv.weight, a=NEGATIVE_SLOPE)
            nn.init.zeros_(conv.bias)

    def train(self, mode: bool = True) -> BackboneBranch:
        """Train the weights but never the batch statistics."""
        super().train(mode)
        for module in self.backbone.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def fold(self) -> None:
        """Fold each BatchNorm into the convolution before it, in place: a quarter of the time, for inference only."""
        for module in self.backbone.modules():
            conv = ""
            for name, child in list(module.named_children()):
                if isinstance(child, nn.Conv2d):
                    conv = name
                elif isinstance(child, nn.modules.batchnorm._BatchNorm):
                    setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), child))
                    # timm's BatchNorm carries the activation
                    setattr(module, name, getattr(child, "act", nn.Identity()))

    def forward(self, image: Tensor) -> list[Tensor]:
        """N x 3 x H x W -> features at strides 2, 4, 8 of `config.widths` channels."""
        features = self.backbone(image.contiguous(memory_format=torch.channels_last))
        x, out = None, []
        for level in reversed(range(len(features))):
            here = self.lateral[level](features[level])
            if x is not None:
                here = here + F.interpolate(self.top_down[level](x), scale_factor=2.0, mode="nearest")
            x = F.leaky_relu(self.smooth[level](here), NEGATIVE_SLOPE)
            out.append(x)
        return out[::-1][:3]


class SPADE(nn.Module):
    """Spatially-adaptive (de)normalisation: out = norm(x) * (1 + gamma(guide)) + beta(guide)."""

    def __init__(self, channels: int, guide: int, hidden: int, norm: str) -> None:
        super().__init__()
        self.norm: nn.Module = nn.BatchNorm2d(channels) if norm == "batch" else ChannelNorm(channels)
        self.shared = nn.Conv2d(guide, hidden, 3, padding=1)
        self.gamma = nn.Conv2d(hidden, channels, 3, padding=1)
        self.beta = nn.Conv2d(hidden, channels, 3, padding=1)

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        """Modulate `x` (N x C x H x W) by `guide` (N x G x H x W)."""
        hidden = F.relu(self.shared(guide))
        return self.norm(x) * (1 + self.gamma(hidden)) + self.beta(hidden)


class MFEncoder(nn.Module):
    """Imagery and cascade reference -> condition map of `condition_channels` at stride 8."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.imagery: nn.Module = (
            ConvBranch(config, residual=True) if config.imagery_branch == "conv" else BackboneBranch(config)
        )
        if config.reference == "none":
            self.merge = nn.Conv2d(config.widths[-1], config.condition_channels, 3, padding=1)
            return
        self.reference = ConvBranch(config, residual=False)
        if config.reference == "spade":
            self.spade = nn.ModuleList(SPADE(w, 2 * w, config.spade_hidden, config.norm) for w in config.widths)
        self.merge = nn.Conv2d(2 * config.widths[-1], config.condition_channels, 1, bias=False)

    @property
    def fine_channels(self) -> int:
        """Channels of the second output of `forward`."""
        return self.config.widths[0] * (1 if self.config.reference == "none" else 2)

    def forward(self, imagery: Tensor, reference: Tensor, trusted: Tensor, crop: int = 0) -> tuple[Tensor, Tensor]:
        """Encode.

        imagery, reference: N x 3 x H x W in [-1, 1], 0 where unknown; H and W multiples of 32.
        trusted: N x 1 x H x W, 1 where the reference is a trusted map, 0 where the cascade has generated it.
        crop: pixels of context, a multiple of 8, to cut off on every side; the imagery branch sees them.
        Returns the condition map (N x condition_channels x H/8 x W/8) and the features at stride 2, of the imagery and
        then of the merged reference (N x fine_channels x H/2 x W/2), which only the palette prior uses.
        """
        seen = self.imagery(imagery)
        # as far as MERGE_REACH the merged features are the same without what lies beyond
        early = max(0, crop - MERGE_REACH)
        if early:
            seen = [cut(features, early >> (level + 1)) for level, features in enumerate(seen)]
            reference, trusted = cut(reference, early), cut(trusted, early)
        condition, fine = self._merge(seen, reference, trusted)
        if crop:
            condition, fine = cut(condition, (crop - early) // 8), cut(fine, (crop - early) // 2)
        return condition, fine

    def _merge(self, seen: list[Tensor], reference: Tensor, trusted: Tensor) -> tuple[Tensor, Tensor]:
        if self.config.reference == "none":
            return self.merge(seen[-1]), seen[0]
        if self.config.generated_contrast != 1:
            reference = reference * (self.config.generated_contrast + (1 - self.config.generated_contrast) * trusted)
        x, fine = self.reference.start(reference), seen[0]
        for level, stage in enumerate(self.reference.stages):
            x = stage(x)
            if self.config.reference == "spade":
                x = self.spade[level](x, torch.cat([x, seen[level]], dim=1))
            if level == 0:
                fine = torch.cat([fine, x], dim=1)
        return self.merge(torch.cat([x, seen[-1]], dim=1)), fine
