"""A training run as one TOML file: the data, then one table per stage, run in order."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STAGES = ("autoencoder", "condition", "refine", "diffusion")


@dataclass(frozen=True)
class StageConfig:
    """One stage of a run.

    crop: edge of the training crop in pixels (a multiple of 32). after: name of a stage whose result is needed.
    bfloat16: matrix products in bfloat16 (autocast): twice as fast where the processor has such instructions.
    self_reference: probability that a sample's reference is the network's own earlier drawing instead of the true map.
    """

    name: str
    steps: int
    batch: int = 8
    crop: int = 256
    rate: float = 1e-3
    warmup: int = 100
    weight_decay: float = 0.01
    ema: float = 0.998
    checkpoint_every: int = 200
    threads: int = 2
    bfloat16: bool = False
    backbone_rate: float = 0.3
    reference_dropout: float = 0.3
    text_dropout: float = 0.0
    self_reference: float = 0.0


@dataclass(frozen=True)
class TrainConfig:
    """The whole run. `pairs` holds manifest.csv; `out` receives checkpoints, logs, grids and the network."""

    preset: str
    pairs: Path
    source: str
    out: Path
    backbone: Path | None = None
    seed: int = 231
    zoom_weights: dict[int, float] = field(default_factory=dict)
    stages: tuple[StageConfig, ...] = ()


def read_config(path: Path) -> TrainConfig:
    """Parse a training TOML; relative paths are relative to the file. Raises ValueError naming what is wrong."""
    try:
        data: dict[str, Any] = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from None
    base = path.resolve().parent
    try:
        stages = tuple(StageConfig(name=name, **table) for name, table in data.pop("stage", {}).items())
        weights = {int(zoom): float(weight) for zoom, weight in data.pop("zoom_weights", {}).items()}
        for key in ("pairs", "out", "backbone"):
            if key in data:
                data[key] = (base / data[key]).resolve()
        config = TrainConfig(stages=stages, zoom_weights=weights, **data)
    except TypeError as error:
        raise ValueError(f"{path}: {error}") from None
    unknown = [stage.name for stage in config.stages if stage.name not in STAGES]
    if unknown or not config.stages:
        raise ValueError(f"{path}: stages are {', '.join(STAGES)}; got {', '.join(unknown) or 'none'}")
    return config
