"""SFAdapter: the condition map -> one feature for each of three U-Net levels (C2GM section 3.2.3)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from tilecascade.model.sgdm.config import EncoderConfig


class AdapterBlock(nn.Module):
    """Optional stride-2 convolution and 1x1 widening, then conv3 - ReLU - conv1 + identity."""

    def __init__(self, channels: int, out: int, down: bool) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, channels, 3, stride=2, padding=1) if down else None
        self.widen = nn.Conv2d(channels, out, 1) if channels != out or down else None
        self.conv1 = nn.Conv2d(out, out, 3, padding=1)
        self.conv2 = nn.Conv2d(out, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """N x C x H x W -> N x out x H/s x W/s, s = 2 with `down`."""
        if self.down is not None:
            x = self.down(x)
        if self.widen is not None:
            x = self.widen(x)
        return x + self.conv2(F.relu(self.conv1(x)))


class SFAdapter(nn.Module):
    """Condition map at stride 8 -> features at U-Net levels 0, 1, 2 (strides 8, 16, 32)."""

    def __init__(self, config: EncoderConfig, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.scale = config.feature_scale
        self.conv_in = nn.Conv2d(config.condition_channels, widths[0], 3, padding=1)
        self.groups = nn.ModuleList(
            nn.Sequential(
                AdapterBlock(widths[level], widths[level + 1], down=True),
                *(
                    AdapterBlock(widths[level + 1], widths[level + 1], down=False)
                    for _ in range(config.adapter_blocks - 1)
                ),
            )
            for level in range(2)
        )

    def forward(self, condition: Tensor) -> list[Tensor]:
        """N x C x h x w -> three features, each multiplied by `feature_scale`."""
        x = self.conv_in(condition)
        features = [x]
        for group in self.groups:
            x = group(x)
            features.append(x)
        return [f * self.scale for f in features]
