"""What an SGDM is built from: one frozen description per part, and the two presets.

`sd21` has the sizes of the published network (C2GM's code on Stable Diffusion 2.1). `default` is the small
network that this project trains and ships; where it departs from the publication, the field says so.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from tilecascade.model.cascade import WindowConfig

WEIGHTS_DIR = Path(__file__).resolve().parent.parent / "weights"
"""Where the shipped networks lie."""

STEM = "network"
"""What the files of a model folder are called, before .safetensors and .json."""

Finish = Literal["none", "cartographic"]
"""How a map is drawn: each pixel's likely colours, or objects that are made of them (see `model.cartography`)."""

LATENT_STRIDE = 8
"""Pixels per latent cell along one axis (three halvings in the autoencoder)."""


def stem_of(path: Path) -> Path:
    """A model folder or a .safetensors file -> where its files are, without their suffixes."""
    if path.is_dir():
        return path / STEM
    return path.with_suffix("") if path.suffix == ".safetensors" else path


@dataclass(frozen=True)
class EncoderConfig:
    """MFEncoder (C2GM section 3.2.2) and SFAdapter (section 3.2.3).

    imagery_branch: "conv" is the published residual branch; "efficientnet_lite0" or "_lite2" a pretrained
        backbone with a top-down path, which makes the network trainable on little data.
    reference: "spade" merges both branches by SPADE modulation (published default), "concat" drops the
        modulation, "none" drops the reference branch.
    norm: what SPADE normalises with: "batch" as published, "channel" per position (no statistics of the window).
    backbone_levels: how deep the pretrained backbone goes: 4 (stride 16) or 5 (stride 32).
    downsample_first: PixelUnshuffle before a stage's convolution instead of after it: a quarter of the cost.
    generated_contrast: what a reference is multiplied by where the cascade has generated it; where it is a trusted map
    it
        stays as it is. The network so knows how far to trust it.
    """

    imagery_branch: Literal["conv", "efficientnet_lite0", "efficientnet_lite2"] = "conv"
    reference: Literal["spade", "concat", "none"] = "spade"
    norm: Literal["batch", "channel"] = "batch"
    backbone_levels: int = 5
    downsample_first: bool = False
    generated_contrast: float = 1.0
    stem: int = 32
    widths: tuple[int, int, int] = (64, 128, 256)
    spade_hidden: int = 128
    condition_channels: int = 384
    adapter_blocks: int = 2
    feature_scale: float = 0.18215


@dataclass(frozen=True)
class UNetConfig:
    """The denoiser: a diffusers `UNet2DConditionModel` with three injected features.

    local: per-position normalisation instead of GroupNorm and no self-attention between positions, so that the
        output at a position depends on a bounded neighbourhood only.
    finer_levels: levels finer than those that features are injected into; plain blocks.
    """

    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    head_dim: int = 64
    context_dim: int = 1024
    local: bool = False
    finer_levels: int = 0


@dataclass(frozen=True)
class TextConfig:
    """The text tower (open_clip classes) that reads the scale text.

    compact_vocabulary: keep only the tokens that occur in scale texts (a few hundred of 49,408).
    constant: read an empty text whatever the scale (for ablations).
    profile: how a scale text is worded: "short", or "published" word for word (see `scale_text.PROFILES`).
    caption_share: how much cross-attention takes from a caption's segments, where there is one; the scale text has the
        rest. Their part of it changes over the denoising (see `model.text.segments.Schedule`).
    """

    open_clip_model: str | None = "ViT-H-14"
    width: int = 1024
    layers: int = 24
    heads: int = 16
    context_length: int = 77
    compact_vocabulary: bool = False
    constant: bool = False
    profile: Literal["short", "published"] = "short"
    caption_share: float = 0.5


@dataclass(frozen=True)
class AutoencoderConfig:
    """kind: "kl" is diffusers' `AutoencoderKL` (published), of which the next four fields speak; "palette" a linear
        encoder of palette colours with a learned decoder that says which palette colour each pixel has.
    logit_scale: what a palette's decoded logits are multiplied by. They are trained to say how likely a colour is; a
        map shows the likeliest, and a mixture of two is often a third (validation mIoU 0.44 at 1, 0.50 at 2, 0.51 at
        4; PSNR 24.9, 24.3, 24.0).
    building_contrast, road_contrast: how far the logits of a class are moved away from their mean around. Where houses
        stand close, or a street is one among many, each is likely nearly everywhere and the generated map one ground:
        what is likelier than around it is the house. A decoder must be trained with the scale and contrast that it is
        served with: given to another they cost 1 dB where the reference is trusted.
    trusted_contrast: the part of the contrast that is left where the reference is trusted and less is uncertain
        (validation PSNR_Y above the enlarged parent at z16, z17: 1.82, 1.53 dB at 1; 1.86, 1.63 at 0.5; 1.63, 1.63 at
        0, which the decoder has not been trained with).
    palette: RGB of the colours of another map style than the default one, as many; none for the default one.
    """

    kind: Literal["kl", "palette"] = "kl"
    latent_channels: int = 4
    widths: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    scale: float = 0.18215
    logit_scale: float = 3.4
    building_contrast: float = 4.0
    road_contrast: float = 2.4
    trusted_contrast: float = 0.5
    palette: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True)
class DiffusionConfig:
    """Noise schedule and sampler.

    prediction: what the U-Net outputs: the noise (published) or the velocity sqrt(a) noise - sqrt(1 - a) clean
        (Salimans & Ho 2022), of which 0 means the best guess without looking at any condition.
    sampler: "ddim" (eta 0), "ddpm" (the published respaced ancestral one, here with step noise keyed by coordinates) or
        "dpmpp" (DPM-Solver++, deterministic, as good in 10 to 20 steps).
    zero_snr: rescale the schedule so that the last step is pure noise. palette_prior: diffuse about a mean that the
        condition predicts (prior.py) instead of about zero. temperature: amplitude of the noise that sampling uses;
        below 1 it generates what is likely rather than what is possible.
    guidance: how many times the difference that the scale text makes is taken (classifier-free guidance); other than 1
        only for networks that were trained with some texts empty, and at twice the cost.
    """

    prediction: Literal["epsilon", "velocity"] = "epsilon"
    sampler: Literal["ddim", "ddpm", "dpmpp"] = "ddpm"
    steps: int = 50
    zero_snr: bool = False
    palette_prior: bool = False
    temperature: float = 1.0
    guidance: float = 1.0

    def __post_init__(self) -> None:
        if self.prediction not in ("epsilon", "velocity"):
            raise ValueError(f"prediction is epsilon or velocity, not {self.prediction!r}: weights of another version?")


RENAMED = {"drawn_contrast": "generated_contrast", "surveyed_contrast": "trusted_contrast"}
"""Fields that the shipped weights' description has under another name. (Their file names the layer version, so it stays
as it is.)"""


@dataclass(frozen=True)
class SGDMConfig:
    """A whole network. `name` is the preset it came from. calibration: see `model.confidence`; none if unknown. finish:
    the one that makes the better maps of it. perception: whether maps that are drawn of objects have an encoder, prior
    and text tower of their own."""

    name: str
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    unet: UNetConfig = field(default_factory=UNetConfig)
    text: TextConfig = field(default_factory=TextConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    windows: WindowConfig = field(default_factory=WindowConfig)
    calibration: tuple[tuple[float, ...], ...] = ()
    finish: Finish = "none"
    perception: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SGDMConfig:
        """Inverse of `to_dict`. Raises TypeError on an unknown field."""
        parts: dict[str, Any] = {
            "encoder": EncoderConfig,
            "unet": UNetConfig,
            "text": TextConfig,
            "autoencoder": AutoencoderConfig,
            "diffusion": DiffusionConfig,
            "windows": WindowConfig,
        }
        built = {
            key: kind(**{RENAMED.get(k, k): _without_lists(v) for k, v in data.get(key, {}).items()})
            for key, kind in parts.items()
        }
        calibration = tuple(tuple(row) for row in data.get("calibration", ()))
        flags = {"finish": data.get("finish", "none"), "perception": data.get("perception", False)}
        return cls(name=data["name"], calibration=calibration, **flags, **built)

    @classmethod
    def from_file(cls, path: Path) -> SGDMConfig:
        """Read the JSON written beside a weights file."""
        return cls.from_dict(json.loads(path.read_text()))


def _without_lists(value: Any) -> Any:
    """Lists as tuples, which JSON does not know."""
    return tuple(_without_lists(each) for each in value) if isinstance(value, list) else value


def sd21() -> SGDMConfig:
    """The published sizes: 866 M U-Net, 53 M encoder and adapter, ViT-H-14 text tower, SD's autoencoder."""
    return SGDMConfig(name="sd21", text=TextConfig(profile="published"))


def default() -> SGDMConfig:
    """The small network that is trained here and shipped in `model/weights`."""
    return SGDMConfig(
        name="default",
        encoder=EncoderConfig(
            imagery_branch="efficientnet_lite0",
            norm="channel",
            downsample_first=True,
            generated_contrast=0.5,
            backbone_levels=4,
            widths=(16, 40, 96),
            spade_hidden=24,
            condition_channels=192,
            adapter_blocks=1,
            feature_scale=1.0,
        ),
        unet=UNetConfig(widths=(48, 96, 128), layers_per_block=1, head_dim=16, context_dim=128, local=True),
        text=TextConfig(open_clip_model=None, width=128, layers=3, heads=4, context_length=48, compact_vocabulary=True),
        autoencoder=AutoencoderConfig(kind="palette", latent_channels=64),
        diffusion=DiffusionConfig(
            prediction="velocity", sampler="ddim", steps=1, zero_snr=True, palette_prior=True, temperature=0.25
        ),
        windows=WindowConfig(encode=160, denoise=64, decode=16, blend=False),
        finish="cartographic",
        perception=True,
    )


def tiny() -> SGDMConfig:
    """Random-weight tests: every part of `default`'s design at the smallest width that still runs."""
    return SGDMConfig(
        name="tiny",
        encoder=EncoderConfig(
            norm="channel",
            downsample_first=True,
            generated_contrast=0.5,
            widths=(8, 8, 16),
            spade_hidden=8,
            condition_channels=16,
            adapter_blocks=1,
            feature_scale=1.0,
        ),
        unet=UNetConfig(widths=(16, 16, 16), layers_per_block=1, head_dim=8, context_dim=32, local=True),
        text=TextConfig(open_clip_model=None, width=32, layers=2, heads=2, context_length=48, compact_vocabulary=True),
        autoencoder=AutoencoderConfig(kind="palette", latent_channels=4),
        diffusion=DiffusionConfig(prediction="velocity", sampler="ddim", steps=1, zero_snr=True, palette_prior=True),
        windows=WindowConfig(encode=64, denoise=64, decode=32, blend=False),
        perception=True,
    )


PRESETS = {"default": default, "sd21": sd21, "tiny": tiny}
