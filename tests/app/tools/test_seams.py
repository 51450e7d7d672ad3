"""The seam metrics see a planted grid and nothing in a picture without one."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import SceneMaker, picture
from tests.program import run_cli
from tilecascade.model.evaluation.seams import border_ranks, difference, inside_band, phase_steps, rank, style_drift


def mosaic() -> tuple[np.ndarray, np.ndarray]:
    return picture(1024, 8), np.ones((1024, 1024), dtype=bool)


def with_grid(image: np.ndarray, tile: int, levels: int) -> np.ndarray:
    """Every second tile a little brighter."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]] // tile
    return np.clip(image + ((x + y) % 2 * levels)[..., None], 0, 255).astype(np.uint8)


def test_a_plain_picture_has_no_borders_and_a_grid_of_two_levels_is_seen() -> None:
    image, known = mosaic()
    assert set(border_ranks(image, known, 256, 512, (32, 64))) == {"tile", "block", "window 32", "window 64"}
    # a border of a picture without a grid ranks anywhere, evenly
    plain = [border_ranks(picture(512, seed), known[:512, :512], 64, 128, ()) for seed in range(30)]
    assert 0.35 < np.mean([ranks["tile"] for ranks in plain]) < 0.65
    assert np.mean([inside_band(ranks) for ranks in plain]) > 0.6
    tiles = border_ranks(with_grid(image, 256, 6), known, 256, 512, (32,))
    assert tiles["tile"] == 1
    assert not inside_band(tiles)
    # every second tile border is a block border
    assert border_ranks(with_grid(image, 512, 6), known, 256, 512, ())["block"] == 1


def test_a_step_at_a_window_end_is_seen() -> None:
    image, known = mosaic()
    x = np.arange(1024)
    stripe = ((x % 512) < 64) | ((x % 512) >= 512 - 64)
    changed = np.clip(image + (stripe[:, None] | stripe[None, :])[..., None] * np.uint8(8), 0, 255).astype(np.uint8)
    ranks = border_ranks(changed, known, 256, 512, (32, 64))
    assert ranks["window 64"] > 0.99
    assert ranks["window 32"] < 0.95


def test_unknown_pixels_do_not_count() -> None:
    image = np.zeros((64, 64, 3), dtype=np.uint8)
    known = np.ones((64, 64), dtype=bool)
    image[:, 32:] = 200
    known[:, 30:34] = False
    assert not phase_steps(image, known, 32).any()
    known[:] = True
    assert phase_steps(image, known, 32).argmax() == 31


def test_rank_counts_ties_half() -> None:
    assert rank(np.ones(9), 3) == 0.5
    assert rank(np.arange(5.0), 4) == 1
    assert rank(np.arange(5.0), 0) == 0


def test_differences_and_drift() -> None:
    image, known = mosaic()
    assert difference(image, image, known) == {"mean": 0, "p99": 0, "other_class": 0}
    moved = difference(image, with_grid(image, 256, 10), known)
    assert 2 < moved["mean"] < 6
    flat = np.full((512, 512, 3), (170, 211, 223), dtype=np.uint8)
    known = np.ones((512, 512), dtype=bool)
    assert style_drift(flat, known, 256) == 0
    assert style_drift(with_grid(flat, 256, 4), known, 256) == pytest.approx(2)


@pytest.mark.slow
def test_the_command_measures_a_scene(make_scene: SceneMaker, tiny_weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    scene = make_scene()
    result = run_cli(
        "evaluate", "seams", str(scene), "--zooms", "15-16", "--edge", "4", "--out", str(out),
        "--weights", str(tiny_weights),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    report = json.loads((out / "seams.json").read_text())
    assert set(report) == {"15", "16"}
    assert report["16"]["tiles"] == [4, 4]
    assert 0 <= report["16"]["ranks"]["block"] <= 1
    assert report["16"]["shift"]["mean"] < 20
    assert (out / "mosaic-z16.png").is_file()
    nothing = run_cli("evaluate", "scene", str(scene), "--out", str(out))
    assert nothing.returncode == 2
    assert "--truth" in nothing.stderr
