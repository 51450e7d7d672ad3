"""`tilecascade dataset captions` and `check-captions`, as programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.program import run_cli
from tilecascade.model.text.captions import from_dict
from tilecascade.model.text.prompts import parse_prompt
from tilecascade.model.world.pairs import write_pairs


@pytest.mark.slow
def test_pairs_are_described_and_their_captions_can_be_used(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs", 5, 6)
    out = tmp_path / "captions.json"
    done = run_cli("dataset", "captions", tmp_path / "pairs", "--out", out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("6 captions (")
    items = json.loads(out.read_text())
    assert len(items) == 6
    for item in items:
        assert (tmp_path / "pairs" / item["image"]).is_file()
        from_dict(item).check()
        assert "precision resolution" in parse_prompt(item["prompt"]).level
    checked = run_cli("dataset", "check-captions", out)
    assert (checked.returncode, checked.stdout) == (0, "6 captions, all can be used\n")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([{"scene": "park", "relation": "a car under a tree", "element": "car"}], "item 1: 'under'"),
        ([{"scene": "park", "relation": "cars, houses", "element": "car"}], "no relation that is known"),
        ([{"scene": "park", "element": "car"}], "has no relation"),
        (
            {"a.jpg": {"scene": "park", "relation": "", "element": ", ".join(["house"] * 90)}},
            "item a.jpg: the caption has",
        ),
        (["scene: park. relations: a car behind a tree. elements: car."], "item 1: 'behind'"),
        (["a park in spring"], "begins with its level of resolution"),
        ([7], "a caption is an object"),
    ],
)
def test_what_cannot_be_used_is_said(tmp_path: Path, content: object, words: str) -> None:
    file = tmp_path / "captions.json"
    file.write_text(json.dumps(content))
    done = run_cli("dataset", "check-captions", file)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_files_that_are_none_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.json").write_text("no json")
    for arguments, words in (
        (("check-captions", tmp_path / "none.json"), "cannot be read"),
        (("check-captions", tmp_path / "text.json"), "is no JSON"),
        (("captions", tmp_path, "--out", tmp_path / "out.json"), "holds no manifest.csv"),
    ):
        done = run_cli("dataset", *arguments)
        assert (done.returncode, words in done.stderr) == (2, True), done.stderr
