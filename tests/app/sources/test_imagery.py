"""Scenes of every make are read as the same ground; bad files say what is wrong."""

from pathlib import Path

import mercantile
import numpy as np
import pytest
import rasterio
from mercantile import Tile

from tests.conftest import PLACE, SceneMaker, picture, place_bounds, write_scene
from tilecascade.app.errors import SceneError
from tilecascade.app.sources.mosaic import SceneMosaic, newest_first
from tilecascade.app.sources.scene import Scene, open_scene, window_bounds
from tilecascade.model.cascade import Window, tile_window


def one(path: Path) -> SceneMosaic:
    return SceneMosaic([open_scene(path)])


def test_bounds_of_a_window_are_mercantiles() -> None:
    for tile in (Tile(0, 0, 0), PLACE, Tile(3, 5, 4)):
        assert window_bounds(tile_window(tile)) == pytest.approx(tuple(mercantile.xy_bounds(tile)), abs=1e-6)


def test_a_scene_on_the_grid_is_read_pixel_for_pixel(make_scene: SceneMaker) -> None:
    imagery = one(make_scene())
    assert imagery.native_zoom == 16
    pixels, known = imagery.read(Window(16, PLACE.x * 1024, PLACE.y * 1024, 1024, 1024))
    assert known.all()
    assert (pixels == picture(1024)).all()


def test_windows_are_crops_of_one_field(make_scene: SceneMaker) -> None:
    imagery = one(make_scene())
    left, top = PLACE.x * 1024, PLACE.y * 1024
    whole, known = imagery.read(Window(16, left - 64, top - 64, 640, 640))
    part, part_known = imagery.read(Window(16, left + 32, top - 32, 256, 256))
    assert (whole[32:288, 96:352] == part).all()
    assert (known[32:288, 96:352] == part_known).all()
    assert not known[:64].any()
    assert not whole[:64].any()


@pytest.mark.parametrize("zoom", [14, 16])
def test_overlapping_windows_of_a_warped_scene_agree_to_the_bit(make_scene: SceneMaker, zoom: int) -> None:
    rough = np.random.default_rng(3).integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
    west, south, east, north = mercantile.bounds(PLACE)
    left, top = PLACE.x << (zoom - 14), PLACE.y << (zoom - 14)
    path = write_scene(make_scene("a.tif"), rough, (west, south, east, north), "EPSG:4326")
    a, known = one(path).read(Window(zoom, left * 256 - 96, top * 256 - 96, 448, 448))
    b, _ = one(path).read(Window(zoom, left * 256 + 32, top * 256 + 64, 448, 448))
    assert known.any()
    assert (a[160:, 128:] == b[:288, :320]).all()


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:32631", "EPSG:3035"])
def test_any_crs_shows_the_same_ground(make_scene: SceneMaker, crs: str) -> None:
    plain = one(make_scene("a.tif"))
    smooth = np.repeat(np.repeat(picture(64), 16, 0), 16, 1)
    reference = write_scene(make_scene("b.tif"), smooth, place_bounds())
    with rasterio.open(reference) as source:
        from rasterio.vrt import WarpedVRT

        with WarpedVRT(source, crs=crs) as vrt:
            data, mask = vrt.read(), vrt.dataset_mask()
            other = write_scene(
                reference.with_name("c.tif"), data.transpose(1, 2, 0), tuple(vrt.bounds), crs, mask=mask > 0
            )
    a, _ = one(reference).read(tile_window(PLACE))
    b, known = one(other).read(tile_window(PLACE))
    assert plain.bounds == pytest.approx(one(other).bounds, abs=0.01)
    assert known.mean() > 0.9
    assert np.abs(a[known].astype(int) - b[known]).mean() < 12


def test_nodata_mask_and_alpha_are_holes(make_scene: SceneMaker, tmp_path: Path) -> None:
    pixels = np.maximum(picture(512), 1)
    hole = np.ones((512, 512), dtype=bool)
    hole[:256, :256] = False
    marked = np.where(hole[..., None], pixels, 0).astype(np.uint8)
    alpha = np.dstack([pixels, hole.astype(np.uint8) * 255])
    files = [
        write_scene(tmp_path / "nodata.tif", marked, place_bounds(), nodata=0),
        write_scene(tmp_path / "mask.tif", pixels, place_bounds(), mask=hole),
        write_scene(tmp_path / "alpha.tif", alpha, place_bounds(), photometric="RGB", alpha="YES"),
    ]
    corner = Tile(PLACE.x * 2, PLACE.y * 2, 15)
    for file in files:
        imagery = one(file)
        _, known = imagery.read(tile_window(PLACE))
        assert known.mean() == pytest.approx(0.75, abs=0.01), file.name
        assert not imagery.covers(corner)
        assert imagery.covers(Tile(corner.x + 1, corner.y, 15))


def test_sixteen_bits_are_stretched(tmp_path: Path) -> None:
    wide = picture(512).astype(np.uint16) * 11 + 300
    imagery = one(write_scene(tmp_path / "wide.tif", wide, place_bounds(), photometric="RGB"))
    pixels, known = imagery.read(tile_window(PLACE))
    assert known.all()
    assert pixels.max() > 240
    assert pixels.min() < 15
    plain, _ = one(write_scene(tmp_path / "p.tif", picture(512), place_bounds())).read(tile_window(PLACE))
    assert np.corrcoef(pixels.ravel(), plain.ravel())[0, 1] > 0.97


def test_bands_are_found_by_their_colour(tmp_path: Path) -> None:
    pixels = picture(256)
    path = write_scene(tmp_path / "bgr.tif", pixels[..., ::-1], place_bounds())
    with rasterio.open(path, "r+") as dataset:
        dataset.colorinterp = [
            rasterio.enums.ColorInterp.blue,
            rasterio.enums.ColorInterp.green,
            rasterio.enums.ColorInterp.red,
        ]
    plain = write_scene(tmp_path / "rgb.tif", pixels, place_bounds())
    assert (one(path).read(tile_window(PLACE))[0] == one(plain).read(tile_window(PLACE))[0]).all()


def test_the_newest_scene_lies_on_top(tmp_path: Path) -> None:
    def dated(name: str, value: int, date: str, columns: slice) -> Scene:
        mask = np.zeros((256, 256), dtype=bool)
        mask[:, columns] = True
        path = write_scene(tmp_path / name, np.full((256, 256, 3), value, np.uint8), place_bounds(), mask=mask)
        with rasterio.open(path, "r+") as dataset:
            dataset.update_tags(TIFFTAG_DATETIME=date)
        return open_scene(path)

    old = dated("old.tif", 50, "2020:01:01 00:00:00", slice(0, 256))
    new = dated("new.tif", 200, "2024:01:01 00:00:00", slice(128, 256))
    for order in ([old, new], [new, old]):
        imagery = SceneMosaic(newest_first(order))
        pixels, known = imagery.read(tile_window(PLACE))
        assert known.all()
        assert (pixels[:, :120] == 50).all()
        assert (pixels[:, 136:] == 200).all()
    assert len({SceneMosaic(scenes).id for scenes in ([old, new], [new, old], [old])}) == 3


def test_identity_is_the_content(make_scene: SceneMaker, tmp_path: Path) -> None:
    first = make_scene("a.tif")
    copy = tmp_path / "copy.tif"
    copy.write_bytes(first.read_bytes())
    assert open_scene(first).id == open_scene(copy).id != open_scene(make_scene("b.tif", seed=1)).id


def test_overviews_are_used(make_scene: SceneMaker) -> None:
    path = make_scene("o.tif", size=2048)
    with rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([2, 4, 8], rasterio.enums.Resampling.nearest)
        overview = dataset.overviews(1)
    assert overview == [2, 4, 8]
    # nearest overviews show other pixels than averaging the full resolution would
    with rasterio.open(path) as dataset:
        nearest = dataset.read(out_shape=(3, 256, 256)).transpose(1, 2, 0)
    pixels, _ = one(path).read(tile_window(PLACE))
    assert np.abs(pixels.astype(int) - nearest).mean() < 1


def test_bad_files_say_what_is_wrong(tmp_path: Path) -> None:
    text = tmp_path / "text.tif"
    text.write_text("this is no raster")
    nowhere = tmp_path / "nowhere.tif"
    with (
        pytest.warns(rasterio.errors.NotGeoreferencedWarning),
        rasterio.open(nowhere, "w", driver="GTiff", width=8, height=8, count=3, dtype="uint8"),
    ):
        pass
    grey = write_scene(tmp_path / "grey.tif", picture(64)[..., :2], place_bounds())
    empty = write_scene(tmp_path / "empty.tif", np.zeros((64, 64, 3), np.uint16), place_bounds(), nodata=0)
    for path, words in [
        (tmp_path / "missing.tif", "does not exist"),
        (tmp_path, "does not exist or is not a file"),
        (text, "cannot be read"),
        (nowhere, "no coordinate reference system"),
        (grey, "2 colour band"),
        (empty, "no valid pixel"),
    ]:
        with pytest.raises(SceneError, match=words):
            open_scene(path)


def test_black_filling_that_nobody_declared_is_no_imagery(make_scene: SceneMaker, tmp_path: Path) -> None:
    pixels = picture(1024, 3)
    pixels[:, :300] = 0
    pixels[500:503, 700:703] = 0  # a dark spot is imagery
    path = write_scene(
        tmp_path / "filled.tif", pixels, place_bounds(), "EPSG:3857", compress="JPEG", photometric="YCBCR"
    )
    scene = open_scene(path)
    assert scene.black_is_nodata
    _, known = SceneMosaic([scene]).read(tile_window(PLACE))
    share = 1 - 300 / 1024
    assert known.mean() == pytest.approx(share, abs=0.025)
    assert not known[:, : int(256 * (1 - share)) - 2].any()
    assert known[:, int(256 * (1 - share)) + 8 :].all()
    assert not open_scene(make_scene()).black_is_nodata
    inner = picture(1024, 3)
    inner[200:500, 200:500] = 0  # a black lake in the middle stays
    assert not open_scene(write_scene(tmp_path / "lake.tif", inner, place_bounds(), "EPSG:3857")).black_is_nodata
    declared = write_scene(tmp_path / "mask.tif", pixels, place_bounds(), "EPSG:3857", mask=np.ones((1024, 1024), bool))
    assert not open_scene(declared).black_is_nodata
