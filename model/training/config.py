"""A training run as one TOML file: the data, then one table per stage, run in order."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tilecascade.model.data.labels import READERS
from tilecascade.model.evaluation.baselines import BASELINES

STAGES = ("condition", "autoencoder", "refine", "perceive", "draw", "colours", "diffusion", "adversarial", "style")

BASELINE_PRESET = "baselines"
"""The preset whose stages are the networks of `evaluation.baselines`."""


IMAGERY_PRESET = "imagery"
"""The preset whose stages train the network of imagery."""

IMAGERY_STAGES = ("octaves", "octave_steps")

STEMS_PRESET = "stems"
"""The preset of the stems of other sensors; its stages are named by them."""

LAYOUT_PRESET = "layout"
"""The preset of the generator of layouts; its data is a folder with layouts.npz; the stage `tower` trains
what tells whether a layout shows what a caption says."""

PUBLISHED_PRESET = "published"
"""The preset of the published recipe, which goes on from an imported model: its stage is `published`."""


@dataclass(frozen=True)
class StageConfig:
    """One stage of a run.

    crop: edge of the training crop in pixels (a multiple of 32). after: name of a stage whose result is needed.
    bfloat16: matrix products in bfloat16 (autocast): twice as fast where the processor has such instructions.
    self_reference: probability that a sample's reference is the network's own earlier map instead of the true map.
    degraded: probability that a true reference is made soft, shifted and wrong in places; as it is, the network learns
        how far to trust a good one.
    outdated: probability that a reference that is marked as trusted contradicts the imagery, as a map of another day
        does; without such samples the network never looks whether it does.
    critic: weight of what the discriminator of the adversarial stage says; 0 leaves the losses of the refining stage.
    rotated: probability that a sample is turned by any angle and enlarged or reduced by up to a tenth.
    weather: probability that a sample has fog, low light or snow (see `imagery.weather`), of any strength.
    calibrated: each pixel weighs alike, and unmapped ground may cost what it will; otherwise see `losses.LABEL_WEIGHT`
        and `perceive.CAP`.
    all_sources: sample from every source, not only from the first, whose style the network generates.
    objects: weight of the outlines, contacts and centrelines that the perceiving stage learns beside colours.
    path, amplitude: of the colours stage, see `ColourTask` and `DiffusionPath`. widths: channels of its U-Net, at
        strides 4, 8, 16 and 32. variants: augmented variants of every pair whose features it caches in the folder
        `cache`.
    device: what the stage runs on ("cpu" or "cuda"). sampled: steps of the sampler that makes the references of the
        drawing stage. lora, checkpointing: of the published stage: ranks of LoRA (0: the projections themselves are
        trained), and whether activations are computed again instead of kept, for less memory. tensorboard: write its
        events, too.
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
    degraded: float = 0.8
    outdated: float = 0.0
    critic: float = 1.0
    all_sources: bool = False
    rotated: float = 0.0
    weather: float = 0.0
    calibrated: bool = False
    objects: float = 0.0
    path: Literal["noise", "bridge", "critic"] = "noise"
    amplitude: float = 1.0
    widths: tuple[int, ...] = (48, 64, 96, 128)
    variants: int = 8
    cache: str = ""
    device: str = "cpu"
    sampled: int = 2
    lora: int = 0
    checkpointing: bool = False
    tensorboard: bool = False


@dataclass(frozen=True)
class DataConfig:
    """One source of pairs: `pairs` holds manifest.csv. share: its part of the samples, relative to the others'.

    reading: how its maps are read (a key of `labels.READERS`).
    """

    pairs: Path
    source: str
    share: float = 1.0
    reading: str = "exact"


@dataclass(frozen=True)
class TrainConfig:
    """The whole run. `out` receives checkpoints, logs, grids and the network. The first source of `data` has the style
    that is learned, and validates. backbone: ImageNet weights of the imagery branch. init: a network whose tensors of
    the same name and shape are the start. spans: levels between a tile and its reference, each as likely as it occurs
    here; none: no references. encoder, text: fields of the preset's EncoderConfig and TextConfig to change. palette: of
    `AutoencoderConfig`."""

    preset: str
    data: tuple[DataConfig, ...]
    out: Path
    backbone: Path | None = None
    init: Path | None = None
    seed: int = 231
    spans: tuple[int, ...] = (1, 1, 1, 1, 2)
    encoder: dict[str, Any] = field(default_factory=dict)
    text: dict[str, Any] = field(default_factory=dict)
    zoom_weights: dict[int, float] = field(default_factory=dict)
    palette: tuple[tuple[int, int, int], ...] = ()
    stages: tuple[StageConfig, ...] = ()


def _stage(base: Path, name: str, table: dict[str, Any]) -> StageConfig:
    """A stage's table; its cache is relative to the file."""
    if "cache" in table:
        table["cache"] = str((base / table["cache"]).resolve())
    if "widths" in table:
        table["widths"] = tuple(table["widths"])
    return StageConfig(name=name, **table)


def read_config(path: Path) -> TrainConfig:
    """Parse a training TOML; relative paths are relative to the file. Raises ValueError naming what is wrong."""
    try:
        data: dict[str, Any] = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from None
    base = path.resolve().parent
    try:
        stages = tuple(_stage(base, name, table) for name, table in data.pop("stage", {}).items())
        weights = {int(zoom): float(weight) for zoom, weight in data.pop("zoom_weights", {}).items()}
        for key in ("out", "backbone", "init"):
            if key in data:
                data[key] = (base / data[key]).resolve()
        sources = tuple(
            DataConfig(pairs=(base / table.pop("pairs")).resolve(), **table) for table in data.pop("data", [])
        )
        if "spans" in data:
            data["spans"] = tuple(data["spans"])
        config = TrainConfig(stages=stages, zoom_weights=weights, data=sources, **data)
    except KeyError as missing:
        raise ValueError(f"{path}: every [[data]] table needs {missing}") from None
    except TypeError as error:
        raise ValueError(f"{path}: {error}") from None
    if not config.data:
        raise ValueError(f"{path}: there is no [[data]] table: a source of pairs")
    for source in config.data:
        if source.reading not in READERS:
            raise ValueError(f"{path}: reading is one of {', '.join(READERS)}, not {source.reading!r}")
    known = {
        BASELINE_PRESET: tuple(BASELINES),
        IMAGERY_PRESET: IMAGERY_STAGES,
        PUBLISHED_PRESET: ("published",),
        LAYOUT_PRESET: ("layouts", "tower"),
        STEMS_PRESET: ("sar", "nir", "pan"),
    }.get(config.preset, STAGES)
    unknown = [stage.name for stage in config.stages if stage.name not in known]
    if unknown or not config.stages:
        raise ValueError(f"{path}: stages are {', '.join(known)}; got {', '.join(unknown) or 'none'}")
    return config
