"""Data tools: pairs from imagery and map, cleaning, standard sizes; and the loader reads what they write."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from mercantile import Tile
from PIL import Image
from scipy import ndimage

from tests.conftest import PLACE, SceneMaker, picture, place_bounds, write_scene
from tilecascade.app.cli.main import main
from tilecascade.app.errors import SceneError
from tilecascade.app.tiles.loaded_model import IMAGERY
from tilecascade.app.tools.dataset import RULES, build, split_of
from tilecascade.model.cascade import enlarge_part
from tilecascade.model.data.clean import blank_share, clean_manifest
from tilecascade.model.data.pairs import read_image, read_pairs
from tilecascade.model.data.standardize import nested, sliced, standardize
from tilecascade.model.imagery.painter import load_octaves
from tilecascade.model.imagery.super_resolution import enlarged


def map_tiles(root: Path, zooms: range) -> Path:
    """A folder z/x/y.png over PLACE; one tile is missing."""
    for zoom in zooms:
        levels = zoom - PLACE.z
        for x in range(PLACE.x << levels, (PLACE.x + 1) << levels):
            for y in range(PLACE.y << levels, (PLACE.y + 1) << levels):
                path = root / str(zoom) / str(x) / f"{y}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture(256, zoom * 1000 + x * 7 + y)).save(path)
    path.unlink()
    return root


def test_only_whole_pairs_are_built_and_the_loader_reads_them(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif", picture(1024), place_bounds())
    tiles = map_tiles(tmp_path / "map", range(14, 17))
    counts = build(scene, tiles, range(14, 17), tmp_path / "out", "own", 0.0)
    assert counts == {"train": 1 + 4 + 15, "val": 0}
    split = tmp_path / "out" / "train"
    names = {p.name for p in (split / "rs_256").iterdir()}
    assert names == {p.name for p in (split / "map_256").iterdir()}
    assert next(csv.DictReader((split / "tilelist_16_14.csv").open()))["tilename"] in names
    child = Tile(PLACE.x * 4 + 1, PLACE.y * 4 + 2, 16)
    parent = read_image(tiles / "15" / str(child.x >> 1) / f"{child.y >> 1}.png")
    reference = read_image(split / "ref_scale_2_256" / f"16_{child.x}_{child.y}.png")
    assert (reference == enlarge_part(parent, child, 1)).all()
    assert not (split / "ref_scale_2_256" / f"14_{PLACE.x}_{PLACE.y}.png").exists()
    listed = read_pairs(tmp_path / "out", "own", "train")
    (tmp_path / "out" / "manifest.csv").unlink()
    plain = read_pairs(tmp_path / "out", "anything", "train")
    assert {(p.zoom, p.x, p.y) for p in plain} == {(p.zoom, p.x, p.y) for p in listed}
    assert sum(p.parent is not None for p in plain) == sum(p.parent is not None for p in listed) == 19
    with pytest.raises(ValueError, match="neither a manifest"):
        read_pairs(tmp_path / "out", "own", "test")


def test_areas_are_disjoint() -> None:
    for x in range(40):
        area = Tile(8000 + x, 5000, 14)
        below = {split_of(Tile((area.x << k) + k, (area.y << k) + 1, 14 + k), 0.3) for k in range(1, 5)}
        assert below == {split_of(area, 0.3)}
    share = np.mean([split_of(Tile(x, 5000, 14), 0.3) == "val" for x in range(2000)])
    assert 0.26 < share < 0.34


def test_what_cannot_be_built_is_said(tmp_path: Path, make_scene: SceneMaker) -> None:
    with pytest.raises(SceneError, match="holds no folders"):
        build(tmp_path, tmp_path, range(14, 15), tmp_path / "out", "own", 0)
    far = tmp_path / "far" / "14" / "1"
    far.mkdir(parents=True)
    Image.fromarray(picture(256)).save(far / "1.png")
    with pytest.raises(SceneError, match="share no whole tile"):
        build(make_scene(), tmp_path / "far", range(14, 15), tmp_path / "out", "own", 0)


def test_cleaning_follows_the_thesis_rule(tmp_path: Path) -> None:
    image = np.full((64, 64, 3), 90, dtype=np.uint8)
    image.reshape(-1, 3)[:2] = 0
    assert blank_share(image) <= 0.0005
    image.reshape(-1, 3)[:3] = 0
    assert blank_share(image) > 0.0005
    rows = [["source", "split", "rs"]]
    for name, blanks in (("good", 2), ("black", 3), ("white", -3)):
        image = np.full((64, 64, 3), 90, dtype=np.uint8)
        image.reshape(-1, 3)[: abs(blanks)] = 0 if blanks > 0 else 255
        Image.fromarray(image).save(tmp_path / f"{name}.png")
        rows.append(["s", "train", f"{name}.png"])
    with (tmp_path / "manifest.csv").open("w", newline="") as out:
        csv.writer(out).writerows(rows)
    assert clean_manifest(tmp_path / "manifest.csv") == (1, 2)
    assert [row["rs"] for row in csv.DictReader((tmp_path / "manifest.csv").open())] == ["good.png"]
    assert len(list(csv.DictReader((tmp_path / "dropped.csv").open()))) == 2
    assert (tmp_path / "black.png").exists()
    with pytest.raises(ValueError, match="does not exist"):
        clean_manifest(tmp_path / "none.csv")


@settings(max_examples=25)
@given(st.integers(200, 1700), st.integers(200, 1700), st.floats(0.05, 30))
def test_standard_images_cover_what_they_say(height: int, width: int, gsd: float) -> None:
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[..., 0] = np.arange(height)[:, None] % 256
    if min(height, width) < 256:
        with pytest.raises(ValueError, match="too small"):
            standardize(image, gsd)
        return
    made = standardize(image, gsd)
    assert all(item.image.shape == (512, 512, 3) for item in made)
    if min(height, width) > 512:
        assert len(made) == (height // 512) * (width // 512)
        assert {item.gsd for item in made} == {gsd}
        assert len({item.part for item in made}) == len(made)
    else:
        # the ground that an image covers is the ground of its crop
        assert made[0].gsd * 512 == pytest.approx(min(height, width) * gsd)


def test_a_small_image_is_doubled_by_the_network_before_it_is_fitted() -> None:
    rng = np.random.default_rng(4)
    image = ndimage.gaussian_filter(rng.uniform(0, 255, (384, 300, 3)), (2, 2, 0)).astype(np.uint8)
    (plain,), (doubled,) = (RULES[rule](image, 0.5) for rule in ("bicubic", "mmm-rs"))
    assert doubled.gsd == plain.gsd == 0.5 * 300 / 512
    assert doubled.image.shape == (512, 512, 3)
    difference = np.abs(doubled.image.astype(int) - plain.image)
    assert 0 < difference.mean() < 4
    net = load_octaves(IMAGERY)[0].eval()
    twice = enlarged(net, image[:250, :251], 0.5)
    assert twice.shape == (500, 502, 3)
    means = twice.reshape(250, 2, 251, 2, 3).mean(axis=(1, 3))
    assert np.abs(means - image[:250, :251]).mean() < 0.5, "the mean of each 2 x 2 pixels is the pixel before"
    assert (enlarged(net, image[:64, :64], 0.5, seed=1) != enlarged(net, image[:64, :64], 0.5, seed=2)).any()


@pytest.mark.parametrize(
    ("shape", "part", "count"),
    [((1100, 1600), "0-0", 6), ((1023, 900), "crop", 1), ((512, 900), "pad", 1), ((100, 80), "pad", 1)],
)
def test_the_captions_paper_slices_crops_or_pads(shape: tuple[int, int], part: str, count: int) -> None:
    image = np.random.default_rng(1).integers(1, 256, (*shape, 3)).astype(np.uint8)
    made = sliced(image, 2.0)
    assert [item.image.shape for item in made] == [(512, 512, 3)] * count
    assert (made[0].part, made[0].gsd) == (part, 2.0)
    there = (made[0].image > 0).all(axis=2)
    assert there.sum() == min(512, shape[0]) * min(512, shape[1])
    if shape == (100, 80):
        assert (made[0].image[206:306, 216:296] == image).all()


def test_nested_crops_share_their_centre_and_double_their_gsd() -> None:
    image = np.zeros((2200, 2100, 3), dtype=np.uint8)
    image[1095:1105, 1045:1055] = 255
    made = nested(image, 0.3)
    assert [item.part for item in made] == ["2048", "1024", "512"]
    assert [item.gsd for item in made] == pytest.approx([1.2, 0.6, 0.3])
    assert all(item.image[250:262, 250:262].max() > 100 for item in made)
    with pytest.raises(ValueError, match="fits"):
        nested(image[:300], 0.3)


def test_the_commands_say_what_they_did(tmp_path: Path) -> None:
    run = CliRunner()
    (tmp_path / "in").mkdir()
    Image.fromarray(picture(1100)).save(tmp_path / "in" / "a.png")
    Image.fromarray(picture(100)).save(tmp_path / "in" / "b.png")
    result = run.invoke(
        main, ["dataset", "standardize", str(tmp_path / "in"), "--gsd", "0.5", "--out", str(tmp_path / "o")]
    )
    assert result.exit_code == 0, result.output
    assert "wrote 4 images" in result.output
    assert "too small" in result.output
    assert len(list(csv.DictReader((tmp_path / "o" / "gsd.csv").open()))) == 4
    for arguments, words in (
        (["standardize", str(tmp_path / "o" / "x"), "--gsd", "1", "--out", str(tmp_path)], "holds no"),
        (["clean", str(tmp_path)], "does not exist"),
        (["build", "--imagery", str(tmp_path), "--map", str(tmp_path), "--out", str(tmp_path)], "holds no folders"),
    ):
        result = run.invoke(main, ["dataset", *arguments])
        assert result.exit_code == 2, result.output
        assert words in result.output
