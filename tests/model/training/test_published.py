"""The published recipe: what trains is what was published; LoRA; several processes; guidance."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tilecascade.model.sgdm.config import (
    AutoencoderConfig,
    DiffusionConfig,
    EncoderConfig,
    SGDMConfig,
    UNetConfig,
    sd21,
    tiny,
)
from tilecascade.model.sgdm.network import load_network, random_network, save_network
from tilecascade.model.sgdm.unet import InjectedUNet
from tilecascade.model.training.config import DataConfig, StageConfig, TrainConfig, read_config
from tilecascade.model.training.published import (
    add_lora,
    load_lora,
    merge_lora,
    save_lora,
    train_only_attention,
    train_published,
)

SMALL = SGDMConfig(
    name="sd21",
    encoder=EncoderConfig(stem=8, widths=(8, 8, 16), spade_hidden=8, condition_channels=16, adapter_blocks=1),
    unet=UNetConfig(widths=(32, 32, 32, 32), layers_per_block=1, head_dim=32, context_dim=32),
    text=replace(tiny().text, compact_vocabulary=False, context_length=77, profile="published"),
    autoencoder=AutoencoderConfig(widths=(32, 32, 32, 32), layers_per_block=1),
    diffusion=DiffusionConfig(sampler="dpmpp", steps=2),
)


def test_as_many_parameters_train_as_were_published() -> None:
    """152.9 M: attention 99.9 M, MFEncoder 5.3 M, SFAdapter 47.7 M (on the meta device)."""
    with torch.device("meta"):
        from tilecascade.model.sgdm.mf_encoder import MFEncoder
        from tilecascade.model.sgdm.sf_adapter import SFAdapter

        unet = InjectedUNet(sd21().unet, 4)
        train_only_attention(unet)
        rest = [MFEncoder(sd21().encoder), SFAdapter(sd21().encoder, sd21().unet.widths)]
    attention = sum(p.numel() for p in unet.parameters() if p.requires_grad)
    more = [sum(p.numel() for p in part.parameters()) for part in rest]
    assert round(attention / 1e6, 1) == 99.9
    assert [round(count / 1e6, 1) for count in more] == [5.3, 47.7]
    assert round((attention + sum(more)) / 1e6, 1) == 152.9


def config_of(pairs: Path, tmp_path: Path, **stage: object) -> TrainConfig:
    if not (tmp_path / "start.json").exists():
        save_network(random_network(SMALL, seed=4), tmp_path / "start", half=False)
    values: dict[str, object] = {"steps": 4, "batch": 2, "rate": 1e-3, "warmup": 1, "checkpoint_every": 2, "ema": 0.0}
    published = StageConfig("published", **(values | stage))  # type: ignore[arg-type]
    return TrainConfig(
        "published", (DataConfig(pairs, "s"),), tmp_path / "out", init=tmp_path / "start", spans=(1, 2),
        stages=(published,),
    )  # fmt: skip


def test_only_what_was_published_changes(pairs_dir: Path, tmp_path: Path) -> None:
    config = config_of(pairs_dir, tmp_path, text_dropout=0.5, checkpointing=True)
    after = load_network(train_published(config)).state_dict()
    before = load_network(tmp_path / "start").state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert any(".attn1." in name for name in changed)
    assert any(name.startswith("encoder.") for name in changed)
    assert any(name.startswith("adapter.") for name in changed)
    for name in changed:
        assert name.startswith(("encoder.", "adapter.")) or "attn" in name, name
    log = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log if "validation" in entry] == [2, 4]
    stage = torch.load(tmp_path / "out" / "published.ckpt", weights_only=True)["stage"]
    assert (stage["rate"], stage["text_dropout"]) == (1e-3, 0.5)


def test_lora_is_stored_by_itself_and_merged_gives_the_same(tmp_path: Path) -> None:
    network = random_network(SMALL, seed=4)
    latent, t, text = torch.randn(1, 4, 32, 32), torch.tensor([500]), torch.randn(1, 77, 32)
    features = [torch.randn(1, 32, 32 >> level, 32 >> level) for level in range(3)]
    plain = network.unet(latent, t, text, features)
    add_lora(network.unet.unet, 4)
    trained = [p for p in network.unet.parameters() if p.requires_grad]
    assert {min(p.shape) for p in trained} == {4}
    for parameter in trained:
        torch.nn.init.normal_(parameter, std=0.3)
    beside = network.unet(latent, t, text, features)
    assert float((beside - plain).abs().max()) > 1e-3
    save_lora(network.unet.unet, tmp_path / "lora.safetensors")
    other = random_network(SMALL, seed=4)
    load_lora(other.unet.unet, tmp_path / "lora.safetensors", 4)
    assert torch.equal(other.unet(latent, t, text, features), beside)
    merge_lora(other.unet.unet)
    merged = other.unet(latent, t, text, features)
    assert torch.allclose(merged, beside, atol=1e-4)
    assert set(other.state_dict()) == set(random_network(SMALL).state_dict())


def test_a_run_with_lora_changes_projections_and_nothing_else_of_the_unet(pairs_dir: Path, tmp_path: Path) -> None:
    after = load_network(train_published(config_of(pairs_dir, tmp_path, lora=2))).state_dict()
    before = load_network(tmp_path / "start").state_dict()
    changed = {
        name for name, value in before.items() if name.startswith("unet.") and not torch.equal(value, after[name])
    }
    assert changed
    assert all(".to_" in name and name.endswith("weight") for name in changed)
    assert (tmp_path / "out" / "lora.safetensors").stat().st_size > 0


def test_an_interrupted_run_is_the_run_that_was_not(pairs_dir: Path, tmp_path: Path) -> None:
    whole = load_network(train_published(config_of(pairs_dir, tmp_path))).state_dict()
    parts = replace(config_of(pairs_dir, tmp_path), out=tmp_path / "parts")

    class StoppedError(Exception):
        pass

    def stop(step: int) -> None:
        if step == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        train_published(parts, stop)
    assert torch.load(tmp_path / "parts" / "published.ckpt", weights_only=True)["step"] == 2
    again = load_network(train_published(parts)).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in whole.items())


@pytest.mark.slow
def test_two_processes_have_the_same_weights_and_write_once(pairs_dir: Path, tmp_path: Path) -> None:
    config_of(pairs_dir, tmp_path)
    (tmp_path / "run.toml").write_text(
        f'preset = "published"\ninit = "start"\nout = "two"\nspans = [1]\n[[data]]\npairs = "{pairs_dir}"\n'
        'source = "s"\n[stage.published]\nsteps = 3\nbatch = 2\nrate = 1e-3\nwarmup = 1\nema = 0.0\n'
        "checkpoint_every = 3\nthreads = 1\n"
    )
    assert read_config(tmp_path / "run.toml").preset == "published"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m",
               "tilecascade.app.cli", "train", str(tmp_path / "run.toml")]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=250, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    log = [json.loads(line) for line in (tmp_path / "two" / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log] == [0, 3]
    two = load_network(tmp_path / "two" / "network").state_dict()
    (tmp_path / "run.toml").write_text((tmp_path / "run.toml").read_text().replace('"two"', '"one"'))
    train_published(read_config(tmp_path / "run.toml"))  # one process, so half as many samples
    one = load_network(tmp_path / "one" / "network").state_dict()
    assert any(not torch.equal(value, two[name]) for name, value in one.items())


def test_guidance_takes_the_difference_that_the_text_makes() -> None:
    from tests.model.engine.test_engine import conditions
    from tilecascade.model.pipeline import CascadePipeline

    def pixels(guidance: float) -> np.ndarray:
        diffusion = replace(tiny().diffusion, guidance=guidance)
        pipeline = CascadePipeline(random_network(replace(tiny(), diffusion=diffusion)))
        stage, item = conditions(0)
        return pipeline(stage, [item])[0].pixels.astype(int)

    plain = pixels(1.0)
    assert (pixels(1.0) == plain).all()
    assert (pixels(6.0) != plain).any()
    # none of the text at all: the same as a network that reads an empty one
    assert np.abs(pixels(0.0) - plain).max() > 0


@pytest.mark.parametrize("words", ["goes on from a model"])
def test_what_cannot_be_trained_gets_a_sentence(words: str, pairs_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        train_published(replace(config_of(pairs_dir, tmp_path), init=None))
    save_network(random_network(tiny()), tmp_path / "start")
    with pytest.raises(ValueError, match="its stages differ"):
        train_published(config_of(pairs_dir, tmp_path))
