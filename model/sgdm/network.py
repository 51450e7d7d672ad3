"""The whole SGDM: its five parts, assembled from a configuration, and how they are stored."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tilecascade.model.sgdm.autoencoder import Draft, PaletteAutoencoder, build_autoencoder
from tilecascade.model.sgdm.config import SGDMConfig
from tilecascade.model.sgdm.layers import cut
from tilecascade.model.sgdm.mf_encoder import MFEncoder
from tilecascade.model.sgdm.prior import PalettePrior
from tilecascade.model.sgdm.sf_adapter import SFAdapter
from tilecascade.model.sgdm.text_tower import ScaleTextEncoder
from tilecascade.model.sgdm.unet import InjectedUNet


@dataclass(frozen=True)
class Encoded:
    """What the conditions say: injected features, and the draft of a network with a prior."""

    features: list[Tensor]
    draft: Draft | None


def _prior(config: SGDMConfig, encoder: MFEncoder) -> PalettePrior:
    """The palette prior behind an encoder."""
    return PalettePrior(
        config.encoder.condition_channels, encoder.fine_channels, config.text.width, config.autoencoder.latent_channels
    )


class Perception(nn.Module):
    """MFEncoder, palette prior and text tower of their own: how likely each palette colour is, for maps of objects."""

    def __init__(self, config: SGDMConfig) -> None:
        super().__init__()
        self.encoder = MFEncoder(config.encoder)
        self.text = ScaleTextEncoder(config.text)
        self.prior = _prior(config, self.encoder)

    def forward(self, imagery: Tensor, reference: Tensor, trusted: Tensor, text: Tensor, crop: int = 0) -> Tensor:
        """Conditions as `SGDM.condition` takes them, the text as its own tower says it -> palette logits,
        N x P x H/2 x W/2."""
        return self.prior(*self.encoder(imagery, reference, trusted, crop), text)[0]


class SGDM(nn.Module):
    """MFEncoder, SFAdapter, U-Net, text tower and autoencoder of one configuration."""

    def __init__(self, config: SGDMConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = MFEncoder(config.encoder)
        self.adapter = SFAdapter(config.encoder, config.unet.widths)
        self.unet = InjectedUNet(config.unet, config.autoencoder.latent_channels)
        self.text = ScaleTextEncoder(config.text)
        self.autoencoder = build_autoencoder(config.autoencoder)
        self.prior: PalettePrior | None = None
        if config.diffusion.palette_prior:
            self.prior = _prior(config, self.encoder)
        self.perception = Perception(config) if config.perception else None

    def condition(self, imagery: Tensor, reference: Tensor, trusted: Tensor, text: Tensor, crop: int = 0) -> Encoded:
        """Condition images (N x 3 x H x W in [-1, 1], 0 where unknown) and the scale text's embedding (N x L x D).

        trusted: N x 1 x H x W, 1 where the reference is a trusted map, 0 where it was generated.
        crop: pixels of context that only the encoder needs, cut off on every side (a multiple of 32).
        """
        condition, fine = self.encoder(imagery, reference, trusted, crop)
        features = self.adapter(condition)
        if self.prior is None or not isinstance(self.autoencoder, PaletteAutoencoder):
            return Encoded(features, None)
        logits, hidden = self.prior(condition, fine, text)
        if self.config.encoder.reference == "none":
            reference, trusted = torch.zeros_like(reference), torch.zeros_like(trusted)
        images = torch.cat([imagery, reference, trusted], dim=1)
        images = cut(images, crop) if crop else images
        return Encoded(features, self.prior.draft(logits, hidden, images, self.autoencoder))

    def latent(self, sample: Tensor, draft: Draft | None) -> Tensor:
        """What the sampler gave -> the latent to decode: the draft's mean + scale * sample, with a prior."""
        if self.prior is None or draft is None:
            return sample
        return draft.mean + self.prior.scale.view(1, -1, 1, 1) * sample

    def parameter_counts(self) -> dict[str, int]:
        """Parameters by part."""
        return {name: sum(p.numel() for p in part.parameters()) for name, part in self.named_children()}


CONFIG_KEY = "tilecascade"
"""Where the configuration stands in the metadata of a model in one file."""


def save_network(network: SGDM, stem: Path, half: bool = True) -> None:
    """Write `stem`.safetensors (float16 unless `half` is false) and `stem`.json beside it."""
    state = {
        key: (value.half() if half and value.is_floating_point() and value.dim() > 1 else value).contiguous().cpu()
        for key, value in network.state_dict().items()
    }
    stem.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, stem.with_suffix(".safetensors"))
    stem.with_suffix(".json").write_text(json.dumps(network.config.to_dict(), indent=2) + "\n")


def load_description(stem: Path) -> SGDMConfig:
    """The configuration of what `save_network` wrote. Raises FileNotFoundError with a hint if it is not there."""
    for suffix in (".safetensors", ".json"):
        path = stem.with_suffix(suffix)
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing; give a model folder, or the path of a .safetensors file with its .json beside it"
            )
    return SGDMConfig.from_file(stem.with_suffix(".json"))


def load_network(stem: Path) -> SGDM:
    """Read what `save_network` wrote; float32, eval mode. Raises FileNotFoundError with a hint if it is not there."""
    network = SGDM(load_description(stem))
    state = load_file(stem.with_suffix(".safetensors"))
    network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return network.eval()


def stored_values(stem: Path) -> int:
    """How many values the weights have, read without loading them. Raises ValueError for a damaged file."""
    try:
        with safe_open(stem.with_suffix(".safetensors"), "pt") as file:
            return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{stem.with_suffix('.safetensors')} is no complete .safetensors file: {error}") from None


def pack_network(stem: Path, out: Path) -> None:
    """Write a stored network as one .safetensors file with its configuration in it, tensor by tensor as stored.

    Raises FileNotFoundError with a hint.
    """
    load_description(stem)
    text = stem.with_suffix(".json").read_text()
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(load_file(stem.with_suffix(".safetensors")), out, {CONFIG_KEY: text})


def unpack_network(file: Path, stem: Path) -> bool:
    """The inverse of `pack_network`. False if the file has no configuration of ours in it.

    Raises ValueError for what is no whole .safetensors file.
    """
    try:
        with safe_open(file, "pt") as opened:
            text = (opened.metadata() or {}).get(CONFIG_KEY)
    except SafetensorError as error:
        raise ValueError(f"it is no complete .safetensors file: {error}") from None
    if text is None:
        return False
    SGDMConfig.from_dict(json.loads(text))
    stem.parent.mkdir(parents=True, exist_ok=True)
    save_file(load_file(file), stem.with_suffix(".safetensors"))
    stem.with_suffix(".json").write_text(text)
    return True


def random_network(config: SGDMConfig, seed: int = 0) -> SGDM:
    """A network with random weights, the same for the same seed (tests)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SGDM(config).eval()


def weights_hash(stem: Path) -> str:
    """Twelve hex digits that name these weights and this configuration."""
    digest = hashlib.sha256()
    for suffix in (".json", ".safetensors"):
        with stem.with_suffix(suffix).open("rb") as file:
            while part := file.read(1 << 24):
                digest.update(part)
    return digest.hexdigest()[:12]
