"""Metrics behave: ideal on identical images, worse with more noise, equal to torchmetrics where it defines them."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import mercantile
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from scipy import linalg
from torchmetrics.functional.image import structural_similarity_index_measure

from tests.conftest import PLACE, picture, place_bounds, write_scene
from tests.program import run_cli
from tests.support import map_picture
from tilecascade.app.sources.mosaic import SceneMosaic
from tilecascade.app.sources.scene import open_scene
from tilecascade.model.cascade import tile_window
from tilecascade.model.data.pairs import Pair
from tilecascade.model.evaluation.baselines import BASELINES, load_baselines, save_baseline
from tilecascade.model.evaluation.boundaries import f_score, match, outline
from tilecascade.model.evaluation.features import InceptionFeatures, frechet_distance, kernel_distance
from tilecascade.model.evaluation.metrics import CAP, Scores, agreement, luma, psnr, ssim
from tilecascade.model.evaluation.perception import Perception
from tilecascade.model.evaluation.report import (
    Compared,
    consistency,
    interval,
    load_perceptual_metrics,
    pooled_interval,
)
from tilecascade.model.evaluation.teacher_forced import mismatched_imagery
from tilecascade.model.palette import LAND, PALETTE, nearest_colour
from tilecascade.model.sgdm.config import tiny
from tilecascade.model.sgdm.network import random_network, save_network


def scores(generated: np.ndarray, truth: np.ndarray) -> dict:
    tally = Scores()
    tally.add(generated, truth)
    return tally.summary()


def test_identical_images_are_ideal() -> None:
    image = map_picture(np.random.default_rng(0))
    result = scores(image, image)
    assert result["psnr_y"] == result["psnr_rgb"] == CAP
    assert result["ssim_y"] == 1
    assert result["miou"] == 1


def test_more_noise_is_worse() -> None:
    rng = np.random.default_rng(1)
    image = map_picture(rng)
    results = []
    for sigma in (2, 6, 18, 54):
        noisy = np.clip(image + rng.normal(0, sigma, image.shape), 0, 255).astype(np.uint8)
        results.append(scores(noisy, image))
    for key in ("psnr_y", "psnr_rgb", "ssim_y", "miou"):
        values = [result[key] for result in results]
        assert values == sorted(values, reverse=True), key


def test_cross_zoom_consistency_is_that_of_the_same_ground() -> None:
    rng = np.random.default_rng(4)
    parent = map_picture(rng)
    child = parent[128:, :128].repeat(2, axis=0).repeat(2, axis=1)
    assert agreement(child, parent, 6, 9) == 1
    assert agreement(child, parent, 7, 9) < 0.95
    pairs = [Pair(z, x, y, "val", parent, parent) for z, x, y in ((15, 3, 4), (16, 6, 9), (16, 99, 99))]
    compared = [Compared(p, {"generated": child if p.zoom == 16 else parent}) for p in pairs]
    assert consistency(compared, "generated", 16) == 1
    assert consistency(compared, "generated", 15) is None


def test_baselines_are_generated_scored_and_named(tmp_path: Path) -> None:
    for name, build in BASELINES.items():
        save_baseline(build(), tmp_path / f"{name}.safetensors")
    baselines = load_baselines(tmp_path)
    assert list(baselines) == ["sharpener", "regression", "segmentation"]
    imagery, reference = picture(256, 1), map_picture(np.random.default_rng(5))
    generated = {name: apply(imagery, reference, 16) for name, apply in baselines.items()}
    # an untrained sharpener gives its reference back; the others never look at it
    assert np.abs(generated["sharpener"].astype(int) - reference).max() <= 1
    for name in ("regression", "segmentation"):
        assert (baselines[name](imagery, None, 16) == generated[name]).all()
        assert (baselines[name](picture(256, 2), None, 16) != generated[name]).any()
    assert set(np.unique(nearest_colour(generated["segmentation"]))) <= set(range(len(PALETTE)))
    assert (baselines["sharpener"](imagery, None, 16) == np.array(LAND)).all()
    with pytest.raises(ValueError, match=r"holds none of sharpener\.safetensors"):
        load_baselines(tmp_path / "none")


def test_known_values() -> None:
    black, grey = np.zeros((32, 32, 3), np.uint8), np.full((32, 32, 3), 10, np.uint8)
    assert luma(black)[0, 0] == 16
    assert psnr(luma(black), luma(grey)) == pytest.approx(10 * np.log10(255**2 / (219 / 255 * 10) ** 2), abs=1e-6)


def test_ssim_equals_torchmetrics() -> None:
    rng = np.random.default_rng(2)
    a = rng.uniform(16, 235, (60, 80))
    b = a * 0.8 + rng.uniform(0, 40, a.shape)
    theirs = structural_similarity_index_measure(
        torch.from_numpy(a)[None, None], torch.from_numpy(b)[None, None], data_range=255.0
    )
    assert ssim(a, b) == pytest.approx(float(theirs), abs=1e-4)


def test_outlines_may_be_two_pixels_off_and_no_more() -> None:
    truth = np.zeros((64, 64), dtype=bool)
    truth[20:40, 20:40] = True
    for shift, expected in ((0, 1.0), (2, 1.0), (3, 0.5)):
        score = f_score(match(np.roll(truth, shift, axis=1), truth))
        assert score == pytest.approx(expected, abs=0.1), shift
    assert f_score(match(np.zeros_like(truth), truth)) == 0
    assert f_score(match(~truth & truth, truth & ~truth)) == 1
    half = truth.copy()
    half[:, 30:] = False
    assert match(half, truth)[1] < match(half, truth)[3]
    # the edge of the picture is not an outline
    assert not outline(np.ones((8, 8), dtype=bool)).any()


def test_iou_is_pooled_and_leaves_absent_classes_out() -> None:
    road, land = np.full((8, 8, 3), 255, np.uint8), np.full((8, 8, 3), (242, 239, 233), np.uint8)
    tally = Scores()
    tally.add(road, road)
    tally.add(land, road)
    result = tally.summary()
    assert result["iou"] == {"road": 0.5}
    assert result["miou"] == 0.5


def test_intervals_of_iou_pool_the_tiles_of_an_area() -> None:
    road, land = np.full((8, 8, 3), 255, np.uint8), np.full((8, 8, 3), (242, 239, 233), np.uint8)
    right, wrong = Scores(), Scores()
    areas = [("val", i // 2, 0) for i in range(8)]
    for _ in areas:
        right.add(road, road)
        wrong.add(land, road)
    assert pooled_interval(right, wrong, areas) == [1, 1, 1]
    mixed = Scores()
    for index, _ in enumerate(areas):
        mixed.add(road if index < 4 else land, road)
    mean, low, high = pooled_interval(right, mixed, areas)
    assert mean == 0.5
    assert low < 0.3 < 0.7 < high
    whole = Scores.pooled([right, mixed]).summary()
    assert (whole["n"], whole["iou"]) == (16, {"road": 0.75})
    assert len(right.psnr_y) == len(areas)


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    """A scene, and pairs cut from it with random maps: z14, its four children, four of the next."""
    scene = write_scene(tmp_path / "s.tif", picture(1024), place_bounds())
    imagery = SceneMosaic([open_scene(scene)])
    rng = np.random.default_rng(0)
    with (tmp_path / "manifest.csv").open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["source", "split", "zoom", "x", "y", "rs", "map", "parent_map"])
        for tile in (PLACE, *mercantile.children(PLACE), *mercantile.children(mercantile.children(PLACE)[0])):
            name = f"{tile.z}_{tile.x}_{tile.y}"
            Image.fromarray(imagery.read(tile_window(tile))[0]).save(tmp_path / f"{name}.rs.png")
            Image.fromarray(map_picture(rng)).save(tmp_path / f"{name}.map.png")
            above = mercantile.parent(tile)
            parent = f"{above.z}_{above.x}_{above.y}.map.png" if tile.z > 14 else ""
            writer.writerow(["s", "val", tile.z, tile.x, tile.y, f"{name}.rs.png", f"{name}.map.png", parent])
    return scene


def test_the_command_compares_the_served_cascade(truth: Path, tmp_path: Path, tiny_weights: Path) -> None:
    """Everything is found, generated, compared and written."""
    arguments = [str(truth), "--truth", str(tmp_path), "--split", "val", "--source", "s"]
    result = run_cli(
        "evaluate",
        "scene",
        *arguments,
        "--zooms",
        "14-16",
        "--out",
        str(tmp_path / "out"),
        "--weights",
        str(tiny_weights),
    )
    assert result.returncode == 0, result.stderr
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert {z: m["n"] for z, m in metrics["zooms"].items()} == {"14": 1, "15": 4, "16": 4}
    assert set(metrics["baselines"]) == {"root_enlarged", "median"}
    shown = metrics["zooms"]["16"]
    for name, (low, high) in shown["likeness_intervals"].items():
        assert low - 0.006 <= shown["likeness"][name] <= high + 0.006, name
    assert metrics["zooms"]["14"] == metrics["baselines"]["root_enlarged"]["14"]
    assert (tmp_path / "out" / "sheet.png").stat().st_size > 10_000
    assert "| 16 | generated | 4 |" in (tmp_path / "out" / "metrics.md").read_text()
    difference, low, high = metrics["paired"]["median"]["16"]["psnr_y"]
    assert low <= difference <= high
    if "features" in metrics:
        assert metrics["zooms"]["16"]["kid"] > 0


@pytest.mark.slow
def test_the_command_compares_objects(truth: Path, tmp_path: Path) -> None:
    stem = tmp_path / "finished"
    save_network(random_network(replace(tiny(), finish="cartographic"), 1), stem)
    arguments = [str(truth), "--truth", str(tmp_path), "--split", "val", "--source", "s", "--weights", str(stem)]
    out = tmp_path / "out"
    result = run_cli("evaluate", "features", *arguments, "--zoom", "15", "--out", str(out))
    assert result.returncode == 0, result.stderr
    told = json.loads((out / "features.json").read_text())
    assert told["tiles"] == 4
    assert told["roads"]["true"] > 0
    assert "found of the true ones" in result.stdout
    nowhere = run_cli("evaluate", "features", *arguments, "--zoom", "18", "--out", str(out))
    assert nowhere.returncode == 2
    assert "no truth tile of zoom 18" in nowhere.stderr


@pytest.mark.slow
@pytest.mark.parametrize("span", [0, 1, 2])
def test_the_command_generates_pairs_with_true_references(
    truth: Path, tmp_path: Path, tiny_weights: Path, span: int
) -> None:
    result = run_cli(
        "evaluate", "pairs", str(tmp_path), "--split", "val", "--source", "s", "--zooms", "14-16",
        "--span", str(span), "--out", str(tmp_path / "out"), "--weights", str(tiny_weights),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["mode"] == (f"teacher-forced {2**span}X" if span else "imagery alone")
    assert {z: m["n"] for z, m in metrics["zooms"].items()} == {"14": 1, "15": 4, "16": 4}
    assert set(metrics["baselines"]) == {"copy_parent", "median"}
    assert metrics["overall"]["generated"]["n"] == 9
    assert "| all | generated | 9 |" in (tmp_path / "out" / "metrics.md").read_text()


@pytest.mark.slow
def test_pairs_are_generated_with_the_imagery_of_another_place(truth: Path, tmp_path: Path, tiny_weights: Path) -> None:
    arguments = (
        "evaluate", "pairs", str(tmp_path), "--split", "val", "--source", "s", "--zooms", "16",
        "--mismatched-imagery", "--out", str(tmp_path / "out"), "--weights", str(tiny_weights),
    )  # fmt: skip
    alone = run_cli(*arguments)
    assert alone.returncode == 2
    assert "all pairs are of one place" in alone.stderr
    manifest = tmp_path / "manifest.csv"
    head, *rows = manifest.read_text().splitlines()
    split = [row.split(",") for row in rows]
    away = [[*row[:3], str(int(row[3]) + (3 << (int(row[2]) - 14))), *row[4:]] for row in split]
    manifest.write_text("\n".join([head, *rows, *(",".join(row) for row in away)]) + "\n")
    assert run_cli(*arguments).returncode == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["baselines"]["mismatched_imagery"]["16"]["n"] == metrics["zooms"]["16"]["n"] == 8
    other = tmp_path / "untrusted"
    assert run_cli(*arguments[:-4], "--out", str(other), *arguments[-2:], "--untrusted").returncode == 0
    assert json.loads((other / "metrics.json").read_text())["zooms"]["16"] != metrics["zooms"]["16"]


@pytest.mark.slow
def test_an_evaluation_is_held_against_earlier_ones(truth: Path, tmp_path: Path, tiny_weights: Path) -> None:
    arguments = ("evaluate", "scene", str(truth), "--truth", str(tmp_path), "--split", "val", "--source", "s",
                 "--weights", str(tiny_weights))  # fmt: skip
    first, second = tmp_path / "alone", tmp_path / "cascade"
    assert run_cli(*arguments, "--zooms", "15-16", "--span", "0", "--out", str(first)).returncode == 0
    both = run_cli(*arguments, "--zooms", "15-16", "--out", str(second), "--against", str(first))
    assert both.returncode == 0, both.stderr
    once, again = (json.loads((folder / "metrics.json").read_text()) for folder in (first, second))
    assert again["baselines"]["alone"] == once["zooms"]
    assert again["zooms"]["16"] != once["zooms"]["16"]
    difference = again["zooms"]["16"]["psnr_y"] - once["zooms"]["16"]["psnr_y"]
    assert again["paired"]["alone"]["16"]["psnr_y"][0] == pytest.approx(difference, abs=2e-3)
    other = run_cli(*arguments, "--zooms", "14-16", "--out", str(tmp_path / "third"), "--against", str(first))
    assert other.returncode == 2
    assert "is not an evaluation of the same tiles" in other.stderr


@pytest.mark.slow
def test_map_feature_perception_is_ideal_for_identical_maps_and_falls_with_noise(
    truth: Path, tmp_path: Path, tiny_weights: Path
) -> None:
    vit = timm.create_model("vit_small_patch16_224", pretrained=False, num_classes=0)
    torch.save(vit.state_dict(), tmp_path / "dino.pth")
    perception = Perception(tmp_path / "dino.pth")
    rng = np.random.default_rng(0)
    image = map_picture(rng)
    noise = rng.normal(0, 1, image.shape)
    noisy = [np.clip(image + level * noise, 0, 255).astype(np.uint8) for level in (0, 5, 20, 60)]
    alike, apart = zip(*(perception([image], [one]) for one in noisy), strict=True)
    assert (alike[0], apart[0]) == (pytest.approx(1), pytest.approx(0, abs=1e-3))
    assert list(alike) == sorted(alike, reverse=True)
    assert list(apart) == sorted(apart)
    result = run_cli(
        "evaluate", "pairs", str(tmp_path), "--split", "val", "--source", "s", "--zooms", "15-15",
        "--out", str(tmp_path / "out"), "--weights", str(tiny_weights), "--dino", str(tmp_path / "dino.pth"),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["perception"] == "DINO vit_small_patch16_224, keys of the patches"
    assert metrics["zooms"]["15"]["mfp_global"] < 1
    assert metrics["zooms"]["15"]["mfp_structure"] > 0


def test_inception_is_read_from_the_users_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fidelity = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3", reason="torch-fidelity is missing")
    with monkeypatch.context() as patched:  # its layout is only to be had from the class
        patched.setattr(fidelity, "load_state_dict_from_url", lambda *a, **k: None)
        patched.setattr(fidelity.FeatureExtractorInceptionV3, "load_state_dict", lambda *a, **k: None)
        random = fidelity.FeatureExtractorInceptionV3("inception", ["2048"])
    torch.save(random.state_dict(), tmp_path / "inception.pth")
    network = InceptionFeatures(tmp_path / "inception.pth")
    rng = np.random.default_rng(0)
    images = [map_picture(rng) for _ in range(3)]
    features = network(images)
    assert features.shape == (3, 2048)
    assert np.allclose(network(images[1:]), features[1:], atol=1e-4)
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("option", ["inception", "dino"])
def test_a_file_that_is_not_the_network_is_named(tmp_path: Path, option: str) -> None:
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("no weights")
    for name in ("other.pth", "text.pth", "missing.pth"):
        with pytest.raises(ValueError, match=name):
            load_perceptual_metrics(**{option: tmp_path / name})
    result = run_cli(
        "evaluate", "pairs", str(tmp_path), "--split", "val", "--out", str(tmp_path / "o"),
        f"--{option}", str(tmp_path / "other.pth"),
    )  # fmt: skip
    assert result.returncode == 2
    assert "other.pth is not " in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_mismatched_imagery_is_of_the_same_corner_of_another_area() -> None:
    pictures = {mercantile.Tile(4 * column + dx, 8 + dy, 16): np.full((2, 2, 4), 10 * column + dx, np.uint8)
                for column in (3, 5) for dx in (0, 1) for dy in (0, 1)}  # fmt: skip
    strange = mismatched_imagery(pictures)
    assert strange.keys() == pictures.keys()
    assert all(
        (strange[tile] == pictures[mercantile.Tile((8 - tile.x // 4) * 4 + tile.x % 4, tile.y, 16)]).all()
        for tile in pictures
    )


def test_kid_and_fid_of_known_distributions() -> None:
    rng = np.random.default_rng(0)
    a, b, far = rng.normal(0, 1, (400, 6)), rng.normal(0, 1, (400, 6)), rng.normal(1, 2, (400, 6))
    assert abs(kernel_distance(a, b)) < 0.05 < kernel_distance(a, far)
    ca, cf = np.cov(a, rowvar=False), np.cov(far, rowvar=False)
    expected = ((a.mean(0) - far.mean(0)) ** 2).sum() + np.trace(ca + cf - 2 * linalg.sqrtm(ca @ cf).real)
    assert frechet_distance(a, far) == pytest.approx(expected, rel=1e-6)
    assert np.isnan(kernel_distance(a[:1], b))


def test_intervals_come_from_areas_not_tiles() -> None:
    areas = [("val", i // 10, 0) for i in range(40)]
    alike = np.repeat([0.0, 1.0, 2.0, 3.0], 10)
    mean, low, high = interval(alike, areas)
    assert mean == 1.5
    assert high - low > 1.5
    spread = interval(np.tile(np.linspace(0, 3, 10), 4), areas)
    assert spread[2] - spread[1] < 0.1
