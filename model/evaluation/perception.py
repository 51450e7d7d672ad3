"""Map feature perception (C2GM, section 3.5, eqs. 20 and 21) with a DINO vision transformer that the user gives.

The two parts are kept apart. The paper adds them (eq. 22), though more of the first is better and less of the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import timm
import torch
from torch import Tensor
from torch.nn import functional as F

from tilecascade.model.data.pairs import Pixels
from tilecascade.model.evaluation.features import read_weights

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's colours, as DINO was trained on them."""

MODELS = {(384, 8): "vit_small_patch8_224", (384, 16): "vit_small_patch16_224",
          (768, 8): "vit_base_patch8_224", (768, 16): "vit_base_patch16_224"}  # fmt: skip
"""timm's name of each transformer that DINO was published for, by (width, patch edge)."""


class Perception:
    """A DINO ViT-S or ViT-B, patches of 8 or 16 (its authors' file, or timm's)."""

    def __init__(self, weights: Path) -> None:
        """Raises ValueError if the file is not such a network."""
        state = read_weights(weights)
        patches = state.get("patch_embed.proj.weight")
        name = None if patches is None else MODELS.get((patches.shape[0], patches.shape[-1]))
        if name is None:
            raise ValueError(f"{weights} is not a DINO ViT-S or ViT-B with patches of 8 or 16 pixels")
        self._vit = timm.create_model(name, pretrained=False, num_classes=0, dynamic_img_size=True).eval()
        try:
            self._vit.load_state_dict({key: value for key, value in state.items() if not key.startswith("head")})
        except RuntimeError as error:
            raise ValueError(f"{weights} is not a DINO {name}: {error}") from None
        self.description = f"DINO {name}, keys of the patches"

    @torch.inference_mode()
    def _look(self, images: Sequence[Pixels]) -> tuple[Tensor, Tensor]:
        """N images -> class tokens N x D, and cosine similarities of the last layer's keys N x P x P."""
        seen: list[Tensor] = []
        attention = self._vit.blocks[-1].attn
        hook = attention.qkv.register_forward_hook(lambda module, given, out: seen.append(out))
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
        pixels = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
        try:
            tokens = self._vit.forward_features(pixels)
        finally:
            hook.remove()
        keys = F.normalize(seen[0].chunk(3, dim=-1)[1][:, 1:], dim=-1)
        return tokens[:, 0], keys @ keys.transpose(1, 2)

    def __call__(self, generated: Sequence[Pixels], truth: Sequence[Pixels]) -> tuple[float, float]:
        """Means over pairs of 256 x 256 x 3 uint8: L_G = 1 - MSE of class tokens (1 is alike, more is better), and
        L_S = Frobenius norm of the difference of self-similarities (0 is alike, less is better)."""
        alike, apart = [], []
        for one, other in zip(generated, truth, strict=True):
            tokens, similar = self._look([one, other])
            alike.append(1 - float(((tokens[0] - tokens[1]) ** 2).mean()))
            apart.append(float(torch.linalg.matrix_norm(similar[0] - similar[1])))
        return float(np.mean(alike)), float(np.mean(apart))
