"""What the cascade is held against: a sharpener of the reference, and two networks that map imagery straight to a map.

`sharpener`: five convolutions on the enlarged reference, without imagery, L1 on RGB. `regression`: the imagery branch
of the default and a small head at stride 2, L1 on RGB. `segmentation`: the same with a cross-entropy of palette
colours, the likeliest generated. All see the zoom as a plane of constants.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from tilecascade.model.data.pairs import Pixels
from tilecascade.model.palette import COLOURS, PALETTE
from tilecascade.model.sgdm.config import default
from tilecascade.model.sgdm.mf_encoder import BackboneBranch

ZOOM_SCALE = 8.0
"""The zoom's plane is (zoom - 16) / this."""

Baseline = Callable[[Pixels, Pixels | None, int], Pixels]
"""(imagery, enlarged reference or None, zoom) -> map, all H x W x 3 uint8."""


def with_zoom(x: Tensor, zoom: Tensor) -> Tensor:
    """Append the zoom's plane: N x C x H x W and N -> N x (C + 1) x H x W."""
    plane = ((zoom.to(x) - 16) / ZOOM_SCALE).view(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:])
    return torch.cat([x, plane], dim=1)


class Sharpener(nn.Module):
    """Reference -> map, RGB in [-1, 1]; starts as the identity."""

    WIDTH = 32

    def __init__(self) -> None:
        super().__init__()
        widths = (4, *(self.WIDTH,) * 4)
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(widths))
        self.last = nn.Conv2d(self.WIDTH, 3, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, imagery: Tensor, reference: Tensor, zoom: Tensor) -> Tensor:
        """N x 3 x H x W twice, N zooms -> N x 3 x H x W. Imagery is not looked at."""
        x = with_zoom(reference, zoom)
        for conv in self.convs:
            x = F.relu(conv(x))
        return reference + self.last(x)


class ImageryNetwork(nn.Module):
    """Imagery -> `out` channels at full resolution."""

    HIDDEN = 48

    def __init__(self, out: int) -> None:
        super().__init__()
        config = default().encoder
        self.imagery = BackboneBranch(config)
        self.hidden = nn.Conv2d(config.widths[0] + 1, self.HIDDEN, 3, padding=1)
        self.head = nn.Conv2d(self.HIDDEN, 4 * out, 1)

    def forward(self, imagery: Tensor, reference: Tensor, zoom: Tensor) -> Tensor:
        """N x 3 x H x W, N zooms -> N x out x H x W. The reference is not looked at."""
        fine = self.imagery(imagery)[0]
        return F.pixel_shuffle(self.head(F.relu(self.hidden(with_zoom(fine, zoom)))), 2)


BASELINES: dict[str, Callable[[], nn.Module]] = {
    "sharpener": Sharpener,
    "regression": lambda: ImageryNetwork(3),
    "segmentation": lambda: ImageryNetwork(len(PALETTE)),
}


def colours_of(output: Tensor) -> Tensor:
    """A baseline's output as RGB in [-1, 1]: the likeliest colour of palette logits, RGB as it is."""
    if output.shape[1] == 3:
        return output.clamp(-1, 1)
    colours = torch.from_numpy(COLOURS).float() / 127.5 - 1
    return colours[output.argmax(1)].permute(0, 3, 1, 2)


def save_baseline(network: nn.Module, path: Path) -> None:
    """Write a baseline's weights."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, path)


def load_baselines(folder: Path) -> dict[str, Baseline]:
    """Every baseline whose {name}.safetensors lies in the folder. Raises ValueError if there is none."""
    found: dict[str, Baseline] = {}
    for name, build in BASELINES.items():
        path = folder / f"{name}.safetensors"
        if path.is_file():
            network = build()
            network.load_state_dict(load_file(path))
            found[name] = as_baseline(network.eval(), needs_reference=name == "sharpener")
    if not found:
        raise ValueError(f"{folder} holds none of {', '.join(f'{name}.safetensors' for name in BASELINES)}")
    return found


def as_baseline(network: nn.Module, needs_reference: bool) -> Baseline:
    """A network as a function of images. Without a reference, one that needs it generates nothing but land."""

    @torch.inference_mode()
    def apply(imagery: Pixels, reference: Pixels | None, zoom: int) -> Pixels:
        if needs_reference and reference is None:
            return np.broadcast_to(COLOURS[0].astype(np.uint8), imagery.shape).copy()
        images = [imagery, imagery if reference is None else reference]
        tensors = [torch.from_numpy(np.array(i)).permute(2, 0, 1)[None].float() / 127.5 - 1 for i in images]
        out = colours_of(network(*tensors, torch.tensor([zoom])))[0]
        return ((out + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()

    return apply
