"""The published checkpoint layout (C2GM's release on latent-diffusion) -> ours.

Names beginning `model.diffusion_model.` are the U-Net's and go through diffusers' own LDM conversion; names beginning
`adapter.` are MFEncoder's and SFAdapter's; `first_stage_model.` (autoencoder) and `cond_stage_model.` (text tower)
are those of Stable Diffusion 2.1. A file may hold any subset of these four parts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)
from safetensors.torch import load_file
from torch import Tensor

from tilecascade.model.sgdm.autoencoder import KLAutoencoder
from tilecascade.model.sgdm.network import SGDM

UNET_PREFIX = "model.diffusion_model."
ADAPTER_PREFIX = "adapter."
VAE_PREFIX = "first_stage_model."
TEXT_PREFIX = "cond_stage_model.model."

# published name (after `adapter.`) -> ours; {n} counts from 0 here and from 1 there
_RENAMES: tuple[tuple[str, str], ...] = (
    (r"merge_encoder\.first_layer_source\.conv_in\.", "encoder.imagery.stem."),
    (r"merge_encoder\.first_layer_ref_scale\.conv_in\.", "encoder.reference.stem."),
    (r"merge_encoder\.layer(\d)_source\.0\.conv_in\.", "encoder.imagery.stages.{n}.conv."),
    (r"merge_encoder\.layer(\d)_source\.1\.res_block\.0\.", "encoder.imagery.stages.{n}.residual.conv1."),
    (r"merge_encoder\.layer(\d)_source\.1\.res_block\.2\.", "encoder.imagery.stages.{n}.residual.conv2."),
    (r"merge_encoder\.layer(\d)_source\.2\.downsample\.1\.", "encoder.imagery.stages.{n}.down.conv."),
    (r"merge_encoder\.layer(\d)_ref_scale\.0\.", "encoder.reference.stages.{n}.conv."),
    (r"merge_encoder\.layer(\d)_ref_scale\.2\.downsample\.1\.", "encoder.reference.stages.{n}.down.conv."),
    (r"merge_encoder\.spade(\d)\.param_free_norm\.", "encoder.spade.{n}.norm."),
    (r"merge_encoder\.spade(\d)\.mlp_shared\.0\.", "encoder.spade.{n}.shared."),
    (r"merge_encoder\.spade(\d)\.mlp_gamma\.", "encoder.spade.{n}.gamma."),
    (r"merge_encoder\.spade(\d)\.mlp_beta\.", "encoder.spade.{n}.beta."),
    (r"merge_encoder\.last_linear\.", "encoder.merge."),
    (r"conv_in\.", "adapter.conv_in."),
)
_BODY = re.compile(r"body\.(\d+)\.(in_conv|block1|block2|down_opt\.op)\.")
_BODY_PARTS = {"in_conv": "widen", "block1": "conv1", "block2": "conv2", "down_opt.op": "down"}


def adapter_name(published: str, blocks: int = 2) -> str:
    """Our name for a published MFEncoder or SFAdapter tensor (without `adapter.`). Raises KeyError if unknown."""
    match = _BODY.match(published)
    if match:
        group, block = divmod(int(match[1]), blocks)
        return f"adapter.groups.{group}.{block}.{_BODY_PARTS[match[2]]}." + published[match.end() :]
    for pattern, ours in _RENAMES:
        match = re.match(pattern, published)
        if match:
            number = int(match[1]) - 1 if match.groups() else 0
            return ours.format(n=number) + published[match.end() :]
    raise KeyError(published)


def read_published(path: Path) -> dict[str, Tensor]:
    """A .safetensors or a PyTorch checkpoint file as a flat state dict (weights only, no code is run)."""
    if path.suffix == ".safetensors":
        return load_file(path)
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    state: dict[str, Tensor] = loaded.get("state_dict", loaded)
    return state


def load_published(network: SGDM, state: Mapping[str, Tensor]) -> list[str]:
    """Load the parts that `state` holds into `network`, in place; returns their names.

    Raises ValueError if a part is incomplete or does not fit this configuration.
    """
    loaded: list[str] = []
    try:
        if any(name.startswith(UNET_PREFIX) for name in state):
            unet = network.unet.unet
            unet.load_state_dict(convert_ldm_unet_checkpoint(dict(state), dict(unet.config)))
            loaded.append("unet")
        adapter = {
            adapter_name(name.removeprefix(ADAPTER_PREFIX), network.config.encoder.adapter_blocks): value
            for name, value in state.items()
            if name.startswith(ADAPTER_PREFIX)
        }
        if adapter:
            for part in ("encoder", "adapter"):
                prefix = part + "."
                own = {k.removeprefix(prefix): v for k, v in adapter.items() if k.startswith(prefix)}
                getattr(network, part).load_state_dict(own)
                loaded.append(part)
        if any(name.startswith(VAE_PREFIX) for name in state):
            if not isinstance(network.autoencoder, KLAutoencoder):
                raise KeyError("it holds a KL autoencoder, and this preset has none")
            vae = network.autoencoder.vae
            vae.load_state_dict(convert_ldm_vae_checkpoint(dict(state), dict(vae.config)))
            loaded.append("autoencoder")
        text = {k.removeprefix(TEXT_PREFIX): v for k, v in state.items() if k.startswith(TEXT_PREFIX)}
        if text:
            network.text.load_tower(text)
            loaded.append("text")
    except (RuntimeError, KeyError) as error:
        first = str(error).strip().splitlines()[0]
        raise ValueError(f"this checkpoint does not fit preset {network.config.name!r}: {first}") from error
    if not loaded:
        raise ValueError("no tensor of the published layout (model.diffusion_model.*, adapter.*) in this checkpoint")
    return loaded
