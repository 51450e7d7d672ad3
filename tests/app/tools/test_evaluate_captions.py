"""Scores of captions: of maps always, of imagery by what a user gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from tilecascade.app.cli.main import main
from tilecascade.app.tools import evaluate_captions
from tilecascade.model.evaluation.captions import (
    AMONG,
    CaptionTower,
    TowerConfig,
    agreement,
    contrast,
    load_tower,
    retrieval,
    save_tower,
)
from tilecascade.model.layout.layout import EDGE, KINDS, NUMBER, caption_of, shown
from tilecascade.model.text.captions import Caption
from tilecascade.model.text.segments import Vocabulary

KIND_NAMES = [name for name, _ in KINDS]


def layouts(count: int) -> list[np.ndarray]:
    """Halves of two kinds, all different."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(count):
        layout = np.full((EDGE, EDGE), NUMBER["farmland"], dtype=np.uint8)
        kind = rng.choice(["forest", "water", "wetland", "scrub", "residential"])
        side = int(rng.integers(8, 40))
        half = layout if rng.random() < 0.5 else layout.T
        half[:side] = NUMBER[str(kind)]
        if rng.random() < 0.5:
            layout[:, 20:22] = NUMBER["road"]
        made.append(layout)
    return made


def test_a_tower_learns_which_caption_belongs_to_which_layout(tmp_path: Path) -> None:
    some = layouts(160)
    captions = [caption_of(layout) for layout in some]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        tower = CaptionTower(TowerConfig(Vocabulary.of(captions).words, 32, 8))
        before = retrieval(tower, some, captions)
        optimizer = torch.optim.AdamW(tower.parameters(), 3e-3)
        stacked, tokens = torch.from_numpy(np.stack(some)), tower.tokens(captions)
        tower.train()
        for _ in range(60):
            optimizer.zero_grad()
            contrast(tower, stacked, tokens).backward()
            optimizer.step()
    after = retrieval(tower, some, captions)
    assert before < 0.35
    assert after > 0.6
    save_tower(tower, tmp_path / "tower")
    assert abs(retrieval(load_tower(tmp_path / "tower"), some, captions) - after) < 0.05
    with pytest.raises(ValueError, match=f"takes {AMONG} different captions"):
        retrieval(tower, some[:5], captions[:5])


def test_agreement_counts_what_geometry_finds() -> None:
    some = layouts(6)
    captions = [caption_of(layout) for layout in some]
    assert agreement(captions, some)["scene"] == agreement(captions, some)["element"] == 1
    other = [Caption("industrial", ("a road across the river",), ("industrial area",))] * 6
    assert agreement(other, some) == {"scene": 0.0, "relation": 0.0, "element": 0.0}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    some = layouts(40)
    captions = [caption_of(layout) for layout in some]
    items = []
    for number, (layout, caption) in enumerate(zip(some, captions, strict=True)):
        for kind in ("map", "rs"):
            whole = np.pad(shown(layout), ((0, 16), (0, 16), (0, 0)), "edge")
            Image.fromarray(whole).save(tmp_path / f"{number}.{kind}.png")
        items.append({"image": f"{number}.rs.png", "map": f"{number}.map.png", **caption.to_dict()})
    (tmp_path / "captions.json").write_text(json.dumps(items))
    tower = CaptionTower(TowerConfig(Vocabulary.of(captions).words, 16, 8)).eval()
    monkeypatch.setattr(evaluate_captions, "load_tower", lambda stem: tower)
    return tmp_path


def run(folder: Path, *options: object) -> Any:
    command = ["evaluate", "captions", folder / "captions.json", "--folder", folder, *options]
    return CliRunner().invoke(main, [str(word) for word in command])


def test_maps_are_scored_and_imagery_by_given_weights(folder: Path) -> None:
    done = run(folder)
    assert done.exit_code == 0, done.output
    assert "scene 1.0" in done.output
    assert "retrieval 0." in done.output

    class Classes(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 20 * x.mean((2, 3))

    class Distance(torch.nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return (x - y).abs().mean((1, 2, 3))

    torch.jit.script(Classes()).save(str(folder / "classes.pt"))
    torch.jit.script(Distance()).save(str(folder / "distance.pt"))
    given = ["--classifier", folder / "classes.pt", "--perceptual", folder / "distance.pt", "--truth", folder]
    done = run(folder, *given)
    assert done.exit_code == 0, done.output
    assert "perceptual 0.0" in done.output
    score = float(done.output.split("inception ")[1].split(",")[0])
    assert 1 < score < 3
    done = run(folder, "--perceptual", folder / "distance.pt")
    assert "--truth" in done.output
    assert done.exit_code == 2
    (folder / "classes.pt").write_bytes(b"nothing")
    done = run(folder, "--classifier", folder / "classes.pt")
    assert "is no TorchScript file" in done.output
    assert done.exit_code == 2


def test_clip_score_takes_a_model_of_the_users(folder: Path) -> None:
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    vision = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16}
    (folder / "models").mkdir()
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
    (folder / "models" / "small-clip.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / "models")
    model = open_clip.create_model("small-clip")
    torch.save(model.state_dict(), folder / "clip.pt")
    done = run(folder, "--clip", "small-clip", folder / "clip.pt")
    assert done.exit_code == 0, done.output
    assert 0 <= float(done.output.split("clip ")[1]) <= 100
    done = run(folder, "--clip", "small-clip", folder / "captions.json")
    assert "is no open_clip model small-clip" in done.output
    assert done.exit_code == 2
