"""A stem: what stands before the map network for another sensor than a colour camera, and gives it colours to see.

The network behind it stays as it is, and what the stem makes can be looked at: radar as a colour picture. It sees a
bounded neighbourhood, so that windows agree.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from tilecascade.model.cascade import Pixels
from tilecascade.model.sensors.modality import MODALITIES, Bands, Sensor
from tilecascade.model.sgdm.layers import ChannelNorm

REACH = 32
"""Pixels as far as which a stem looks, a multiple of its coarsest step."""

WIDTHS = (24, 48, 64)
"""Channels at full resolution, a half and a quarter of it."""


class Residual(nn.Module):
    """Two convolutions around which the input goes on."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(width)
        self.first, self.second = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """N x C x H x W -> the same shape."""
        return x + self.second(F.silu(self.first(F.silu(self.norm(x)))))


class Stem(nn.Module):
    """N x B x H x W in [0, 1] -> colours, N x 3 x H x W in [0, 1]. H and W are multiples of 4."""

    def __init__(self, sensor: Sensor, widths: tuple[int, int, int] = WIDTHS) -> None:
        super().__init__()
        self.sensor = sensor
        first, second, third = widths
        self.stem = nn.Conv2d(MODALITIES[sensor].bands, first, 3, padding=1)
        self.halve = nn.ModuleList([nn.Conv2d(first, second, 2, stride=2), nn.Conv2d(second, third, 2, stride=2)])
        self.down = nn.ModuleList([Residual(first), Residual(second), Residual(third)])
        self.enlarge = nn.ModuleList([nn.Conv2d(second, first, 1), nn.Conv2d(third, second, 1)])
        self.up = nn.ModuleList([Residual(first), Residual(second)])
        self.out = nn.Conv2d(first, 3, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, bands: Tensor) -> Tensor:
        """Colours: those of the bands that are colours, or their mean, changed by what the network says."""
        shown = bands[:, :3] if bands.shape[1] >= 3 else bands.mean(1, keepdim=True).expand(-1, 3, -1, -1)
        kept, x = [], self.down[0](self.stem(2 * bands - 1))
        for level in (0, 1):
            kept.append(x)
            x = self.down[level + 1](self.halve[level](x))
        for level in (1, 0):
            x = F.interpolate(self.enlarge[level](x), scale_factor=2.0, mode="nearest") + kept[level]
            x = self.up[level](x)
        return shown + self.out(x)


def colours(stem: Stem, bands: Bands) -> Pixels:
    """The colours of a window, H x W x 3 uint8: what is REACH pixels from its edge is the same in any window whose
    corner lies on a multiple of 4 pixels."""
    if torch.get_num_threads() != 1:  # of this thread; sums that are split among several round differently
        torch.set_num_threads(1)
    with torch.inference_mode():
        made = stem(torch.from_numpy(bands)[None])[0]
    return np.asarray((made.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())


def save_stems(stems: dict[Sensor, Stem], path: Path) -> None:
    """Write PATH.safetensors and PATH.json, in half precision."""
    state = {f"{name}.{key}": value.half() for name, stem in stems.items() for key, value in stem.state_dict().items()}
    save_file({key: value.contiguous() for key, value in state.items()}, path.with_suffix(".safetensors"))
    path.with_suffix(".json").write_text(json.dumps({"sensors": list(stems), "widths": WIDTHS}) + "\n")


def load_stem(path: Path, sensor: Sensor) -> Stem:
    """One of what `save_stems` wrote. Raises OSError, or ValueError if there is none for this sensor."""
    described = json.loads(path.with_suffix(".json").read_text())
    if sensor not in described["sensors"]:
        raise ValueError(f"{path} has stems for {', '.join(described['sensors'])}, and none for {sensor}")
    stem = Stem(sensor, tuple(described["widths"]))
    given = load_file(path.with_suffix(".safetensors"))
    own = {
        key.removeprefix(f"{sensor}."): value.float() for key, value in given.items() if key.startswith(f"{sensor}.")
    }
    stem.load_state_dict(own)
    return stem.eval()
