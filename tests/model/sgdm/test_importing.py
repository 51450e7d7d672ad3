"""Models of others: a whole small checkpoint of the published layout, a diffusers folder, and ten broken files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import PLACE, SceneMaker
from tests.golden import SHARED, golden_inputs, published_state, weights_by_name
from tests.program import Server, run_cli
from tilecascade.model.sgdm.autoencoder import KLAutoencoder
from tilecascade.model.sgdm.checkpoint import adapter_name
from tilecascade.model.sgdm.config import AutoencoderConfig, SGDMConfig, TextConfig, UNetConfig, sd21
from tilecascade.model.sgdm.importing import import_diffusers, import_published, read_tensors
from tilecascade.model.sgdm.network import SGDM, load_network, weights_hash
from tilecascade.model.sgdm.text_tower import ScaleTextEncoder

State = dict[str, torch.Tensor]

needs_golden = pytest.mark.skipif(
    not (SHARED / "golden").is_dir(), reason="the golden vectors are not on this machine (set TILECASCADE_SHARED)"
)

SMALL = replace(
    sd21(),
    unet=UNetConfig(widths=(32, 64, 128, 128), head_dim=32, context_dim=64),
    text=TextConfig(open_clip_model="ViT-H-14", width=64, layers=2, heads=1, profile="published"),
    autoencoder=AutoencoderConfig(widths=(32, 64, 128, 128)),
)


def named(prefix: str, module: torch.nn.Module) -> State:
    """A module's tensors with values made from their names."""
    return {
        prefix + name: torch.from_numpy(np.asarray(weights_by_name(prefix + name, tuple(value.shape))))
        for name, value in module.state_dict().items()
        if not name.endswith("attn_mask")
    }


def open_clip_text(config: TextConfig) -> State:
    """What an open_clip file has of its text side, the last layer and the projection, too."""
    deeper = ScaleTextEncoder(replace(config, layers=config.layers + 1)).tower
    state = named("cond_stage_model.model.", deeper)
    state["cond_stage_model.model.text_projection"] = torch.zeros(config.width, config.width)
    state["cond_stage_model.model.logit_scale"] = torch.zeros(())
    return state


LDM_VAE = (("mid_block.resnets.0", "mid.block_1"), ("mid_block.resnets.1", "mid.block_2"))


def ldm_vae(widths: tuple[int, ...]) -> State:
    """A KL autoencoder in the names of latent-diffusion."""
    state: State = {}
    for side in ("encoder", "decoder"):
        vae = KLAutoencoder(AutoencoderConfig(widths=widths)).vae
        for name, value in getattr(vae, side).state_dict().items():
            new = name
            for ours, theirs in LDM_VAE:
                new = new.replace(ours, theirs)
            new = new.replace("mid_block.attentions.0", "mid.attn_1").replace("group_norm", "norm")
            new = new.replace("to_q", "q").replace("to_k", "k").replace("to_v", "v").replace("to_out.0", "proj_out")
            new = new.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
            parts = new.split(".")
            if parts[0] == "down_blocks":
                kind = {"resnets": "block", "downsamplers": "downsample"}[parts[2]]
                rest = parts[3:] if kind == "block" else parts[4:]
                new = ".".join(["down", parts[1], kind, *rest])
            elif parts[0] == "up_blocks":
                kind = {"resnets": "block", "upsamplers": "upsample"}[parts[2]]
                rest = parts[3:] if kind == "block" else parts[4:]
                new = ".".join(["up", str(3 - int(parts[1])), kind, *rest])
            full = f"first_stage_model.{side}.{new}"
            shape = tuple(value.shape)
            made = torch.from_numpy(weights_by_name(full, shape))
            attention = "attn_1" in new and new.endswith("weight") and len(shape) == 2
            state[full] = made[:, :, None, None] if attention else made
    for name, channels in (("quant_conv", 8), ("post_quant_conv", 4)):
        state[f"first_stage_model.{name}.weight"] = torch.from_numpy(
            weights_by_name(f"first_stage_model.{name}.weight", (channels, channels, 1, 1))
        )
        state[f"first_stage_model.{name}.bias"] = torch.zeros(channels)
    return state


@pytest.fixture(scope="module")
def whole() -> State:
    """A whole checkpoint of the golden network's small size."""
    if not (SHARED / "golden").is_dir():
        pytest.skip("the golden vectors are not on this machine (set TILECASCADE_SHARED)")
    return published_state("small") | open_clip_text(SMALL.text) | ldm_vae(SMALL.autoencoder.widths)


@pytest.fixture(scope="module")
def checkpoint(whole: State, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("published") / "c2gm.ckpt"
    torch.save({"state_dict": whole, "epoch": 31, "global_step": 189500}, path)
    return path


def differences(network: SGDM, size: str, steps: list[int]) -> dict[str, float]:
    """Largest difference from the golden outputs."""
    golden = np.load(SHARED / "golden" / f"{size}.npz")
    given = golden_inputs(len(steps), network.config.unet.context_dim)
    with torch.no_grad():
        imagery, reference = given["rs"] * 2 - 1, given["ref"] * 2 - 1
        condition, _ = network.encoder(imagery, reference, torch.zeros_like(imagery[:, :1]))
        features = network.adapter(condition)
        eps = network.unet(given["latent"], torch.tensor(steps), given["context"], features)
    out = {"f_cond": condition, "eps": eps} | {f"feature{i}": feature for i, feature in enumerate(features)}
    return {name: float(np.abs(out[name].numpy() - golden[name]).max()) for name in golden.files if name in out}


@pytest.mark.slow
def test_an_imported_checkpoint_gives_the_published_outputs(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    result = run_cli("model", "import", str(checkpoint), "--out", str(out), "--head-dim", "32", "--steps", "20")
    assert result.returncode == 0, result.stderr
    assert "published scale text" in result.stdout
    assert "ddpm, 20 steps, epsilon" in result.stdout
    network = load_network(out / "network")
    assert max(differences(network, "small", [981, 21]).values()) <= 1e-4
    assert network.config.text.layers == SMALL.text.layers
    again = run_cli("model", "import", str(checkpoint), "--out", str(out))
    assert again.returncode == 2
    assert "not empty" in again.stderr
    one = tmp_path / "one.safetensors"
    assert run_cli("model", "export", str(out), "--out", str(one)).returncode == 0
    assert run_cli("model", "import", str(one), "--out", str(tmp_path / "back")).returncode == 0
    before, after = (load_file(folder / "network.safetensors") for folder in (out, tmp_path / "back"))
    assert all(torch.equal(before[name], value) for name, value in after.items())
    assert (tmp_path / "back" / "network.json").read_text() == (out / "network.json").read_text()
    assert run_cli("model", "info", str(tmp_path / "back")).stdout.count(weights_hash(out / "network")) == 1


@needs_golden
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_published_size_gives_the_published_outputs_after_the_command(tmp_path: Path) -> None:
    if psutil.virtual_memory().available < 18 << 30 or shutil.disk_usage(tmp_path).free < 14 << 30:
        pytest.skip("a checkpoint of the published size takes 18 GB of memory and 14 GB of disk")
    path, out = tmp_path / "c2gm.ckpt", tmp_path / "model"
    text, widths = sd21().text, sd21().autoencoder.widths
    state = published_state("full") | open_clip_text(text) | ldm_vae(widths)
    torch.save({"state_dict": state}, path)
    del state
    result = run_cli("model", "import", str(path), "--out", str(out), timeout=900)
    assert result.returncode == 0, result.stderr
    path.unlink()
    network = load_network(out / "network")
    parameters = {
        name: sum(p.numel() for p in getattr(network, name).parameters()) for name in ("unet", "encoder", "adapter")
    }
    assert round(parameters["unet"] / 1e6, 1) == 865.9
    assert round((parameters["encoder"] + parameters["adapter"]) / 1e6, 1) == 53.0
    found = differences(network, "full", [981])
    print(found)
    assert set(found) == {"eps", "feature2"}
    assert max(found.values()) <= 1e-4


def test_the_text_tower_and_the_autoencoder_are_those_of_the_file(whole: State, checkpoint: Path) -> None:
    network = import_published(checkpoint, 32).network
    tower = network.text.tower.state_dict()
    prefix = "cond_stage_model.model."
    for name, value in whole.items():
        own = name.removeprefix(prefix)
        if name.startswith(prefix) and own in tower:
            assert torch.equal(tower[own], value), name
    vae = network.autoencoder.vae  # type: ignore[union-attr]
    assert torch.equal(vae.encoder.conv_in.weight, whole["first_stage_model.encoder.conv_in.weight"])
    assert torch.equal(
        vae.decoder.up_blocks[0].resnets[0].conv1.weight, whole["first_stage_model.decoder.up.3.block.0.conv1.weight"]
    )


def norm(state: State, name: str, x: torch.Tensor, groups: int = 32) -> torch.Tensor:
    """GroupNorm by its formula."""
    parts = x.reshape(x.shape[0], groups, -1)
    centred = parts - parts.mean(-1, keepdim=True)
    scaled = (centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()).reshape(x.shape)
    return scaled * state[f"{name}.weight"].view(1, -1, 1, 1) + state[f"{name}.bias"].view(1, -1, 1, 1)


def conv(state: State, name: str, x: torch.Tensor, **how: int) -> torch.Tensor:
    return torch.nn.functional.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], **how)  # type: ignore[arg-type]


def swish(x: torch.Tensor) -> torch.Tensor:
    return x / (1 + (-x).exp())


def resnet(state: State, name: str, x: torch.Tensor) -> torch.Tensor:
    y = conv(state, f"{name}.conv1", swish(norm(state, f"{name}.norm1", x)), padding=1)
    y = conv(state, f"{name}.conv2", swish(norm(state, f"{name}.norm2", y)), padding=1)
    return y + (conv(state, f"{name}.nin_shortcut", x) if f"{name}.nin_shortcut.weight" in state else x)


def middle(state: State, name: str, x: torch.Tensor) -> torch.Tensor:
    x = resnet(state, f"{name}.block_1", x)
    y = norm(state, f"{name}.attn_1.norm", x)
    q, k, v = (conv(state, f"{name}.attn_1.{part}", y).flatten(2) for part in "qkv")
    weights = (q.transpose(1, 2) @ k / q.shape[1] ** 0.5).softmax(dim=-1)
    x = x + conv(state, f"{name}.attn_1.proj_out", (v @ weights.transpose(1, 2)).reshape(x.shape))
    return resnet(state, f"{name}.block_2", x)


def decode_by_formula(state: State, latent: torch.Tensor) -> torch.Tensor:
    """latent-diffusion's decoder, in the names of its checkpoint."""
    x = conv(state, "decoder.conv_in", conv(state, "post_quant_conv", latent / 0.18215), padding=1)
    x = middle(state, "decoder.mid", x)
    for level in (3, 2, 1, 0):
        for block in range(3):
            x = resnet(state, f"decoder.up.{level}.block.{block}", x)
        if level:
            x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
            x = conv(state, f"decoder.up.{level}.upsample.conv", x, padding=1)
    return conv(state, "decoder.conv_out", swish(norm(state, "decoder.norm_out", x)), padding=1)


def encode_by_formula(state: State, image: torch.Tensor) -> torch.Tensor:
    """latent-diffusion's encoder: the posterior's mean, scaled."""
    x = conv(state, "encoder.conv_in", image, padding=1)
    for level in range(4):
        for block in range(2):
            x = resnet(state, f"encoder.down.{level}.block.{block}", x)
        if level < 3:
            x = torch.nn.functional.pad(x, (0, 1, 0, 1))
            x = conv(state, f"encoder.down.{level}.downsample.conv", x, stride=2)
    x = swish(norm(state, "encoder.norm_out", middle(state, "encoder.mid", x)))
    return conv(state, "quant_conv", conv(state, "encoder.conv_out", x, padding=1))[:, :4] * 0.18215


def read_by_formula(state: State, ids: torch.Tensor, heads: int) -> torch.Tensor:
    """open_clip's text transformer, its last layer left out, and the final LayerNorm."""

    def layer_norm(x: torch.Tensor, name: str) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    x = state["token_embedding.weight"][ids] + state["positional_embedding"]
    later = torch.ones(x.shape[1], x.shape[1]).triu(1).bool()
    layers = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("transformer.resblocks."))
    for layer in range(layers - 1):
        block = f"transformer.resblocks.{layer}"
        y = (
            layer_norm(x, f"{block}.ln_1") @ state[f"{block}.attn.in_proj_weight"].T
            + state[f"{block}.attn.in_proj_bias"]
        )
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in y.chunk(3, dim=-1))
        weights = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).masked_fill(later, -torch.inf).softmax(dim=-1)
        joined = (weights @ v).transpose(1, 2).flatten(2)
        x = x + joined @ state[f"{block}.attn.out_proj.weight"].T + state[f"{block}.attn.out_proj.bias"]
        y = layer_norm(x, f"{block}.ln_2") @ state[f"{block}.mlp.c_fc.weight"].T + state[f"{block}.mlp.c_fc.bias"]
        y = y * 0.5 * (1 + torch.erf(y / 2**0.5))
        x = x + y @ state[f"{block}.mlp.c_proj.weight"].T + state[f"{block}.mlp.c_proj.bias"]
    return layer_norm(x, "ln_final")


def test_text_tower_and_autoencoder_compute_the_published_formulas(whole: State, checkpoint: Path) -> None:
    """What the golden vectors leave out, against loops of the formulas over the checkpoint's own names (float64)."""
    network = import_published(checkpoint, 32).network

    def part(prefix: str) -> State:
        return {name.removeprefix(prefix): value.double() for name, value in whole.items() if name.startswith(prefix)}

    vae, given = part("first_stage_model."), golden_inputs(1, 64)
    with torch.no_grad():
        decoded = network.autoencoder.decode(given["latent"]).double()
        encoded = network.autoencoder.encode(given["rs"] * 2 - 1).double()
        texts = [network.text.of_scale(17, 15), network.text.of_scale(14, None), ""]
        read = network.text(texts).double()
        wanted = decode_by_formula(vae, given["latent"].double()), encode_by_formula(vae, given["rs"].double() * 2 - 1)
        told = read_by_formula(part("cond_stage_model.model."), network.text.tokens(texts), SMALL.text.heads)
    for mine, true in ((decoded, wanted[0]), (encoded, wanted[1]), (read, told)):
        assert float((mine - true).abs().max()) <= 1e-4 * max(1.0, float(true.abs().max()))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_imported_model_is_served_with_the_same_bytes_in_any_order(
    checkpoint: Path, make_scene: SceneMaker, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    arguments = ["--head-dim", "32", "--sampler", "ddim", "--steps", "2"]
    assert run_cli("model", "import", str(checkpoint), "--out", str(out), *arguments).returncode == 0
    places = [f"/tiles/{z}/{PLACE.x << z - 14}/{PLACE.y << z - 14}.png" for z in (14, 15)]
    found = []
    for order in (places, places[::-1]):
        server = Server(make_scene(), out, tmp_path / f"data{len(found)}", {"TILECASCADE_INTERACTIVE_WAIT": "300"})
        try:
            answers = {place: server.get(place) for place in order}
        finally:
            server.stop()
        assert {answer.status_code for answer in answers.values()} == {200}
        found.append({place: answer.content for place, answer in answers.items()})
    assert found[0] == found[1]


class Anything:
    """A Python object in a pickle."""


def without(state: State, name: str) -> State:
    return {key: value for key, value in state.items() if key != name}


BROKEN: dict[str, tuple[Callable[[State], State], str]] = {
    "no U-Net": (
        lambda s: {k: v for k, v in s.items() if not k.startswith("model.")},
        "there is no U-Net in it; a whole model is imported from one file with tensors named model.diffusion_model.*",
    ),
    "no text tower": (lambda s: {k: v for k, v in s.items() if not k.startswith("cond")}, "there is no text tower"),
    "another layout": (lambda s: {"weights.0": torch.ones(2)}, "there are weights.0"),
    "a tensor less": (
        lambda s: without(s, "adapter.body.3.block1.weight"),
        "the adapter lacks 1 of 26 tensors, the first is groups.1.1.conv1.weight",
    ),
    "a U-Net tensor less": (
        lambda s: without(s, "model.diffusion_model.middle_block.1.norm.bias"),
        "the first is mid_block.attentions.0.norm.bias",
    ),
    "an unknown tensor": (lambda s: s | {"adapter.extra.weight": torch.ones(1)}, "adapter.extra.weight is no tensor"),
    "another shape": (
        lambda s: s | {"adapter.conv_in.bias": torch.ones(3)},
        "conv_in.bias is (3,) and should be (32,)",
    ),
    "a NaN": (
        lambda s: s | {"adapter.conv_in.bias": torch.full((32,), torch.nan)},
        "has a tensor with NaN or infinity: conv_in.bias",
    ),
    "parts of two models": (
        lambda s: s | {"cond_stage_model.model.positional_embedding": torch.ones(77, 48)},
        "the text tower is 48 wide and the U-Net reads 64",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_does_not_fit_gets_a_sentence(name: str, whole: State, tmp_path: Path) -> None:
    change, said = BROKEN[name]
    torch.save({"state_dict": change(whole)}, tmp_path / "broken.ckpt")
    with pytest.raises(ValueError, match=r".") as error:
        import_published(tmp_path / "broken.ckpt", 32)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_files_that_are_none_get_a_sentence(whole: State, tmp_path: Path) -> None:
    part = {name: value for name, value in list(whole.items())[:40]}
    torch.save({"state_dict": part, "hyper": Anything()}, tmp_path / "object.ckpt")
    torch.save({"state_dict": part}, tmp_path / "cut.ckpt")
    (tmp_path / "cut.ckpt").write_bytes((tmp_path / "cut.ckpt").read_bytes()[:5000])
    save_file(part, tmp_path / "cut.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "cut.safetensors").read_bytes()[:5000])
    (tmp_path / "page.ckpt").write_text("<html>please log in</html>")
    (tmp_path / "empty.ckpt").touch()
    torch.save([1, 2], tmp_path / "list.ckpt")
    for name, said in (
        ("object.ckpt", "Python objects"),
        ("cut.ckpt", "damaged"),
        ("cut.safetensors", "no complete"),
        ("page.ckpt", "no checkpoint"),
        ("empty.ckpt", "is empty"),
        ("list.ckpt", "no tensors by name"),
        ("none.ckpt", "does not exist"),
    ):
        result = run_cli("model", "import", str(tmp_path / name), "--out", str(tmp_path / "out"))
        assert result.returncode == 2, name
        assert said in result.stderr, result.stderr
        assert result.stderr.count("\n") == 1
        assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out-*"))


def diffusers_folder(config: SGDMConfig, folder: Path) -> None:
    """A folder as Stable Diffusion 2.1's, of the size of `config`."""
    network = SGDM(config)
    described: dict[str, dict[str, object]] = {
        "unet": dict(network.unet.unet.config),
        "vae": dict(network.autoencoder.vae.config),  # type: ignore[union-attr]
        "text_encoder": {
            "hidden_size": config.text.width,
            "num_hidden_layers": config.text.layers - 1,
            "num_attention_heads": config.text.heads,
            "max_position_embeddings": config.text.context_length,
        },
    }
    tower: State = {}
    for name, value in named("", network.text.tower).items():
        parts = name.split(".")
        if parts[0] != "transformer":
            top = {"token_embedding": "embeddings.token_embedding", "ln_final": "final_layer_norm"}
            new = f"{top.get(parts[0], 'embeddings.position_embedding')}.{parts[1] if len(parts) > 1 else 'weight'}"
            tower[f"text_model.{new}"] = value
            continue
        place = f"text_model.encoder.layers.{parts[2]}."
        rest = ".".join(parts[3:])
        if "in_proj" in rest:
            for one, piece in zip("qkv", value.chunk(3), strict=True):
                tower[f"{place}self_attn.{one}_proj.{rest.rsplit('_', 1)[1]}"] = piece.contiguous()
            continue
        for ours, theirs in (
            ("attn.out_proj", "self_attn.out_proj"), ("ln_1", "layer_norm1"), ("ln_2", "layer_norm2"),
            ("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2"),
        ):  # fmt: skip
            rest = rest.replace(ours, theirs) if rest.startswith(ours) else rest
        tower[place + rest] = value
    for part, state in (
        ("unet", named("", network.unet.unet)),
        ("vae", named("", network.autoencoder.vae)),  # type: ignore[union-attr]
        ("text_encoder", tower),
    ):
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text(json.dumps(described[part], default=str))
        save_file({name: value.contiguous() for name, value in state.items()}, folder / part / "model.safetensors")


@pytest.mark.slow
def test_a_diffusers_folder_gives_a_model_with_a_new_adapter(tmp_path: Path) -> None:
    config = replace(SMALL, text=replace(SMALL.text, layers=3))
    diffusers_folder(config, tmp_path / "sd")
    imported = import_diffusers(tmp_path / "sd")
    assert imported.fresh == ("encoder", "adapter")
    assert imported.network.config == replace(config, name="sd21")
    expected = named("", imported.network.text.tower)
    assert all(torch.equal(imported.network.text.tower.state_dict()[name], v) for name, v in expected.items())
    result = run_cli("model", "import", str(tmp_path / "sd"), "--out", str(tmp_path / "model"))
    assert result.returncode == 0, result.stderr
    assert "train before serving" in result.stdout
    (tmp_path / "sd" / "vae" / "config.json").unlink()
    broken = run_cli("model", "import", str(tmp_path / "sd"), "--out", str(tmp_path / "other"))
    assert broken.returncode == 2
    assert "config.json is missing" in broken.stderr


def test_names_of_the_published_adapter() -> None:
    assert adapter_name("merge_encoder.layer2_source.1.res_block.2.bias") == (
        "encoder.imagery.stages.1.residual.conv2.bias"
    )
    assert adapter_name("merge_encoder.spade3.mlp_gamma.weight") == "encoder.spade.2.gamma.weight"
    assert adapter_name("body.3.block1.weight") == "adapter.groups.1.1.conv1.weight"
    assert adapter_name("body.2.down_opt.op.bias") == "adapter.groups.1.0.down.bias"
    with pytest.raises(KeyError):
        adapter_name("merge_encoder.unknown.weight")


def test_files_are_read_without_running_code(tmp_path: Path) -> None:
    state = {"adapter.conv_in.bias": torch.ones(3)}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "a.ckpt")
    save_file(state, tmp_path / "a.safetensors")
    for name in ("a.ckpt", "a.safetensors"):
        assert torch.equal(read_tensors(tmp_path / name)["adapter.conv_in.bias"], torch.ones(3))
