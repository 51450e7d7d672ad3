"""Models of others as ours: the authors' checkpoints and Stable Diffusion 2.1, read part by part and checked.

No code of a file is run. What does not fit is said in one sentence that names the tensor and both shapes.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from tilecascade.model.sgdm.autoencoder import KLAutoencoder
from tilecascade.model.sgdm.checkpoint import ADAPTER_PREFIX, TEXT_PREFIX, UNET_PREFIX, VAE_PREFIX, adapter_name
from tilecascade.model.sgdm.config import SGDMConfig, sd21
from tilecascade.model.sgdm.network import SGDM

State = dict[str, Tensor]

PARTS = {
    "U-Net": UNET_PREFIX,
    "encoder and adapter": ADAPTER_PREFIX,
    "autoencoder": VAE_PREFIX,
    "text tower": TEXT_PREFIX,
}
"""The parts of a published checkpoint, and what the names of their tensors begin with."""

HEAD = 64
"""Channels of an attention head in Stable Diffusion 2.1; tensors do not tell."""


@dataclass(frozen=True)
class Imported:
    """A network with the weights of a file, and what was made anew because the file does not have it."""

    network: SGDM
    fresh: tuple[str, ...] = ()


def read_tensors(path: Path) -> State:
    """A .safetensors or PyTorch file as a flat state dict. Raises ValueError with a sentence."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise ValueError(f"{path} is no complete .safetensors file: {error}") from None
    except pickle.UnpicklingError as error:
        what = str(error).split("Unsupported global: GLOBAL ")[-1].split(" ")[0] if "GLOBAL" in str(error) else "code"
        raise ValueError(
            f"{path} is no checkpoint, or holds Python objects beside weights ({what}), which could run anything. If "
            "you trust it, keep its weights only: torch.save({'state_dict': torch.load(FILE, weights_only=False)"
            "['state_dict']}, 'weights.ckpt')"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        first = (str(error).strip().splitlines() or ["it ends early"])[0]
        raise ValueError(f"{path} is damaged or was not downloaded to its end: {first[:200]}") from None
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(state, dict) or not any(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no tensors by name; a checkpoint has them, itself or in its 'state_dict'")
    return {str(name): value for name, value in state.items() if isinstance(value, Tensor)}


def fill(module: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Load all of a module, in place. Raises ValueError naming the first tensor that is missing, is not known, has
    another shape, or is not finite."""
    own = module.state_dict()
    missing = [name for name in own if name not in state and not name.endswith(("num_batches_tracked", "attn_mask"))]
    if missing:
        first = f"{missing[0]} {tuple(own[missing[0]].shape)}"
        raise ValueError(f"the {what} lacks {len(missing)} of {len(own)} tensors, the first is {first}")
    unknown = [name for name in state if name not in own]
    if unknown:
        raise ValueError(f"the {what} has {len(unknown)} tensors that are not known, the first is {unknown[0]}")
    for name, value in state.items():
        if value.shape != own[name].shape:
            raise ValueError(
                f"the {what} does not fit: {name} is {tuple(value.shape)} and should be {tuple(own[name].shape)}"
            )
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ValueError(f"the {what} has a tensor with NaN or infinity: {name}")
    kept = {name: own[name] for name in own if name not in state}
    module.load_state_dict({**kept, **{name: value.to(own[name].dtype) for name, value in state.items()}})


def _of(state: Mapping[str, Tensor], prefix: str) -> State:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _shape(state: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    """Raises ValueError if there is no such tensor."""
    if name not in state:
        raise ValueError(f"there is no tensor {name}, from which the size of the network is read")
    return tuple(state[name].shape)


def published_config(state: Mapping[str, Tensor], head: int = HEAD) -> SGDMConfig:
    """The configuration of the published layout in the size of a file's tensors. Raises ValueError."""
    missing = [part for part, prefix in PARTS.items() if not any(name.startswith(prefix) for name in state)]
    if len(missing) == len(PARTS):
        some = ", ".join(list(state)[:3])
        raise ValueError(
            f"no tensor is named as in the published layout ({', '.join(PARTS.values())}); there are {some}, ..."
        )
    if missing:
        raise ValueError(
            f"there is no {' and no '.join(missing)} in it; a whole model is imported from one file with tensors named "
            f"{', '.join(PARTS[part] + '*' for part in missing)}"
        )
    published = sd21()
    base = _shape(state, f"{UNET_PREFIX}input_blocks.0.0.weight")[0]
    context = _shape(state, f"{UNET_PREFIX}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight")[1]
    width = _shape(state, f"{VAE_PREFIX}encoder.conv_in.weight")[0]
    length, text = _shape(state, f"{TEXT_PREFIX}positional_embedding")
    layers = 1 + max(
        int(name.split(".")[2]) for name in _of(state, TEXT_PREFIX) if name.startswith("transformer.resblocks.")
    )
    if text != context:
        raise ValueError(f"the text tower is {text} wide and the U-Net reads {context}: parts of two models")
    return replace(
        published,
        unet=replace(published.unet, widths=(base, 2 * base, 4 * base, 4 * base), head_dim=head, context_dim=context),
        autoencoder=replace(published.autoencoder, widths=(width, 2 * width, 4 * width, 4 * width)),
        text=replace(published.text, width=text, layers=layers, heads=max(1, text // 64), context_length=length),
    )


def import_published(path: Path, head: int = HEAD) -> Imported:
    """The authors' checkpoint (Lightning on latent-diffusion). Raises ValueError with a sentence."""
    state = read_tensors(path)
    network = SGDM(published_config(state, head))
    fill_denoiser(network, state)
    vae = _vae(network)
    fill(vae, _converted(convert_ldm_vae_checkpoint, state, dict(vae.config), "autoencoder"), "autoencoder")
    fill(network.text.tower, _tower(_of(state, TEXT_PREFIX), network), "text tower")
    return Imported(network.eval())


def fill_denoiser(network: Any, state: Mapping[str, Tensor]) -> None:
    """The encoder, adapter and U-Net of a network from tensors of the published layout, in place. Raises ValueError."""
    adapter: State = {}
    for name, value in _of(state, ADAPTER_PREFIX).items():
        try:
            adapter[adapter_name(name, network.config.encoder.adapter_blocks)] = value
        except KeyError:
            raise ValueError(f"{ADAPTER_PREFIX}{name} is no tensor of MFEncoder or SFAdapter") from None
    fill(network.encoder, _of(adapter, "encoder."), "encoder")
    fill(network.adapter, _of(adapter, "adapter."), "adapter")
    unet = network.unet.unet
    fill(unet, _converted(convert_ldm_unet_checkpoint, state, dict(unet.config), "U-Net"), "U-Net")


def _vae(network: SGDM) -> Any:
    assert isinstance(network.autoencoder, KLAutoencoder)
    return network.autoencoder.vae


def _converted(
    convert: Callable[..., State], state: Mapping[str, Tensor], config: Mapping[str, object], what: str
) -> State:
    """diffusers' conversion, whose errors are of a tensor that it looks for."""
    try:
        return convert(dict(state), dict(config))
    except (KeyError, IndexError) as error:
        raise ValueError(f"the {what} lacks the tensor {error}") from None


def _tower(state: State, network: SGDM) -> State:
    """What our text tower keeps of open_clip's: all but the last layer, the projection and the logit scale."""
    own = network.text.tower.state_dict()
    last = f"transformer.resblocks.{network.config.text.layers - 1}."
    left = ("text_projection", "logit_scale", "attn_mask", last)
    return {name: value for name, value in state.items() if name in own or not name.startswith(left)}


def import_diffusers(folder: Path) -> Imported:
    """A diffusers folder of Stable Diffusion 2.1 (unet, vae, text_encoder); encoder and adapter are new.

    Raises ValueError with a sentence.
    """
    described = {part: _description(folder / part) for part in ("unet", "vae", "text_encoder")}
    published, unet, text = sd21(), described["unet"], described["text_encoder"]
    widths = tuple(unet.get("block_out_channels", ()))
    if len(widths) != 4 or unet.get("in_channels") != 4:
        raise ValueError(f"{folder / 'unet'} is not the U-Net of Stable Diffusion 2.1: {widths}, 4 latent channels")
    heads = unet.get("attention_head_dim", 8)
    head = widths[0] // (heads[0] if isinstance(heads, list) else heads)
    # the folder leaves the last layer of the tower out, because only the one before is read
    layers = int(text.get("num_hidden_layers", 0)) + 1
    config = replace(
        published,
        unet=replace(published.unet, widths=widths, head_dim=head, context_dim=unet.get("cross_attention_dim", 0)),
        autoencoder=replace(published.autoencoder, widths=tuple(described["vae"].get("block_out_channels", ()))),
        text=replace(
            published.text,
            width=text.get("hidden_size", 0),
            layers=layers,
            heads=text.get("num_attention_heads", 0),
            context_length=text.get("max_position_embeddings", 77),
        ),
    )
    adapter = ("encoder", "adapter")
    network = SGDM(config)
    fill(network.unet.unet, _weights(folder / "unet"), "U-Net")
    fill(_vae(network), {_newer(name): _flat(name, v) for name, v in _weights(folder / "vae").items()}, "autoencoder")
    fill(network.text.tower, _from_transformers(_weights(folder / "text_encoder")), "text tower")
    return Imported(network.eval(), adapter)


def _description(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        described = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(
            f"{path} is missing; a diffusers folder has unet, vae and text_encoder with one each"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(described, dict):
        raise ValueError(f"{path} is no description of a model")
    return described


def _weights(folder: Path) -> State:
    for pattern in ("*.safetensors", "*.bin"):
        files = sorted(folder.glob(pattern))
        if files:
            return read_tensors(next((file for file in files if ".fp16." not in file.name), files[0]))
    raise ValueError(f"{folder} has no .safetensors and no .bin file")


_OLDER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""How older diffusers named the layers of the autoencoder's attention."""


def _newer(name: str) -> str:
    parts = name.split(".")
    if len(parts) > 1 and "attentions" in parts and parts[-2] in _OLDER:
        parts[-2] = _OLDER[parts[-2]]
    return ".".join(parts)


def _flat(name: str, value: Tensor) -> Tensor:
    """Attention was of 1 x 1 convolutions before."""
    return value[:, :, 0, 0] if "attentions" in name and value.dim() == 4 else value


def _from_transformers(state: State) -> State:
    """transformers' CLIP text model -> open_clip's tower."""
    own = _of(state, "text_model.")
    found: State = {
        "token_embedding.weight": own["embeddings.token_embedding.weight"],
        "positional_embedding": own["embeddings.position_embedding.weight"],
        "ln_final.weight": own["final_layer_norm.weight"],
        "ln_final.bias": own["final_layer_norm.bias"],
    } if {"embeddings.token_embedding.weight", "final_layer_norm.bias"} <= set(own) else {}  # fmt: skip
    renamed = {
        "self_attn.out_proj": "attn.out_proj", "layer_norm1": "ln_1", "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    }  # fmt: skip
    for name, value in own.items():
        if not name.startswith("encoder.layers."):
            continue
        number, _, rest = name.removeprefix("encoder.layers.").partition(".")
        place, (layer, kind) = f"transformer.resblocks.{number}.", rest.rsplit(".", 1)
        if layer in renamed:
            found[f"{place}{renamed[layer]}.{kind}"] = value
        elif layer == "self_attn.q_proj":
            both = [own.get(f"encoder.layers.{number}.self_attn.{one}_proj.{kind}", value) for one in "qkv"]
            found[f"{place}attn.in_proj_{kind}"] = torch.cat(both)
    return found
