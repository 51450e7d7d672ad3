"""Reading the published layout: names, files, and what does not fit."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tilecascade.model.sgdm.checkpoint import adapter_name, load_published, read_published
from tilecascade.model.sgdm.config import sd21, tiny
from tilecascade.model.sgdm.network import random_network


def test_names() -> None:
    assert (
        adapter_name("merge_encoder.layer2_source.1.res_block.2.bias") == "encoder.imagery.stages.1.residual.conv2.bias"
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
        assert torch.equal(read_published(tmp_path / name)["adapter.conv_in.bias"], torch.ones(3))


def test_what_does_not_fit_is_said() -> None:
    network = random_network(tiny())
    with pytest.raises(ValueError, match="no tensor of the published layout"):
        load_published(network, {"something": torch.ones(1)})
    with pytest.raises(ValueError, match="does not fit preset 'tiny'"):
        load_published(network, {"adapter.conv_in.bias": torch.ones(3)})
    with pytest.raises(ValueError, match="does not fit preset 'tiny'"):
        load_published(network, {"first_stage_model.encoder.conv_in.bias": torch.ones(3)})


def test_a_text_tower_is_read_from_an_open_clip_file(tmp_path: Path) -> None:
    small = replace(sd21().text, open_clip_model="small", width=32, layers=2, heads=2)
    from tilecascade.model.sgdm.text_tower import ScaleTextEncoder

    source, target = ScaleTextEncoder(small), ScaleTextEncoder(small)
    torch.save(source.tower.state_dict(), tmp_path / "tower.pt")
    target.load_open_clip(tmp_path / "tower.pt")
    text = ["a map tile"]
    assert torch.equal(source(text), target(text))
    torch.save({"positional_embedding": torch.zeros(77, 32)}, tmp_path / "part.pt")
    with pytest.raises(ValueError, match="not a checkpoint of small"):
        target.load_open_clip(tmp_path / "part.pt")
