"""The golden vectors of the published network, and weights and inputs made from names (shared/golden/README.md)."""

import json
import os
import zlib
from pathlib import Path

import numpy as np
import torch

SHARED = Path(os.environ.get("TILECASCADE_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def weights_by_name(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The golden rule: a tensor is a function of its published name."""
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, dtype=np.int64)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("running_var"):
        return (0.5 + rng.random(shape)).astype(np.float32)
    a = rng.standard_normal(shape).astype(np.float32)
    if len(shape) >= 2:
        return a / np.float32(np.sqrt(np.prod(shape[1:])))
    return 1 + np.float32(0.1) * a if name.endswith("weight") else np.float32(0.1) * a


def published_state(size: str) -> dict[str, torch.Tensor]:
    """The whole published state dict of one golden size."""
    shapes = json.loads((SHARED / "golden" / f"{size}.shapes.json").read_text())
    return {name: torch.from_numpy(np.asarray(weights_by_name(name, tuple(s)))) for name, s in shapes.items()}


def golden_inputs(batch: int, context: int) -> dict[str, torch.Tensor]:
    """The inputs: imagery and reference in [0, 1], latent and context."""

    def rng(name: str) -> np.random.Generator:
        return np.random.default_rng(zlib.crc32(name.encode()))

    return {
        "rs": torch.from_numpy(rng("input.rs").random((batch, 3, 256, 256)).astype(np.float32)),
        "ref": torch.from_numpy(rng("input.ref").random((batch, 3, 256, 256)).astype(np.float32)),
        "latent": torch.from_numpy(rng("input.latent").standard_normal((batch, 4, 32, 32)).astype(np.float32)),
        "context": torch.from_numpy(rng("input.context").standard_normal((batch, 77, context)).astype(np.float32)),
    }
