"""`tilecascade territory new`, and the real program over what it writes."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import time
from pathlib import Path

import httpx
import mercantile
import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.program import TILECASCADE, free_port, run_cli
from tilecascade.model.cascade import tile_window
from tilecascade.model.data.pairs import read_image, read_pairs
from tilecascade.model.palette import classify
from tilecascade.model.world.sketch import COVERS, NUMBER, Territory

BOUNDS = (20.0, 45.0, 20.2, 45.15)


@pytest.fixture
def sketch(tmp_path: Path) -> Path:
    """An island with a town."""
    image = Image.new("RGB", (200, 200), COVERS[NUMBER["water"]].paint)
    draw = ImageDraw.Draw(image)
    draw.ellipse((30, 30, 170, 170), fill=COVERS[NUMBER["grass"]].paint)
    draw.ellipse((60, 60, 110, 110), fill=COVERS[NUMBER["forest"]].paint)
    draw.ellipse((110, 110, 140, 140), fill=COVERS[NUMBER["town"]].paint)
    image.save(tmp_path / "island.png")
    return tmp_path / "island.png"


def new(sketch: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    bounds = ",".join(map(str, BOUNDS))
    return run_cli("territory", "new", "--sketch", str(sketch), "--bounds", bounds, "--out", str(out), *more)


class Served:
    """The program over a folder of a territory."""

    def __init__(self, folder: Path, weights: Path, data: Path) -> None:
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        environment = {"CUDA_VISIBLE_DEVICES": "", "TILECASCADE_WARM_TILES": "0", "TILECASCADE_DATA_DIR": str(data)}
        command = [*TILECASCADE, "serve", str(folder), "--port", str(port), "--model", str(weights)]
        self.process = subprocess.Popen(command, env=os.environ | environment, stderr=subprocess.DEVNULL)
        for _ in range(600):
            try:
                if httpx.get(f"{self.url}/health").status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            assert self.process.poll() is None
            time.sleep(0.1)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=200)

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(60) == 0


def place(zoom: int, x: float, y: float) -> str:
    """The tile at a share of the bounds."""
    west, south, east, north = BOUNDS
    tile = mercantile.tile(west + x * (east - west), north - y * (north - south), zoom)
    return f"{tile.z}/{tile.x}/{tile.y}.png"


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.slow
def test_a_sketch_is_served_as_imagery_and_map_and_an_event_changes_only_its_area(
    sketch: Path, tmp_path: Path, tiny_weights: Path
) -> None:
    flood = {"type": "Polygon", "coordinates": [[[20.11, 45.05], [20.14, 45.05], [20.14, 45.07], [20.11, 45.05]]]}
    event = {"type": "Feature", "properties": {"cover": "water"}, "geometry": flood}
    (tmp_path / "flood.geojson").write_text(json.dumps(event))
    made = new(sketch, tmp_path / "isle", "--seed", "7", "--event", str(tmp_path / "flood.geojson"))
    assert made.returncode == 0, made.stderr
    assert "painted land cover" in made.stdout
    paths = [f"/tiles/{layer}/{place(z, 0.4, 0.4)}?wait=150" for z in (17, 16, 12) for layer in ("map", "after")]
    paths += [f"/imagery/{layer}/{place(z, 0.62, 0.62)}" for z in (12, 16, 17) for layer in ("map", "after")]
    found = []
    for turn, order in enumerate((paths, paths[::-1])):
        server = Served(tmp_path / "isle", tiny_weights, tmp_path / f"data{turn}")
        try:
            answers = {path: server.get(path) for path in order}
        finally:
            server.stop()
        assert {answer.status_code for answer in answers.values()} == {200}
        found.append({path: answer.content for path, answer in answers.items()})
    assert found[0] == found[1]
    coarse = answers[paths[4]].headers
    assert coarse["x-tile-notice"] == "drawn from a sketch, not surveyed"
    assert answers[paths[0]].headers["x-tile-notice"] == "drawn from a sketch, not surveyed"
    # far from the flood both are the same, there they are not
    for path in paths:
        if "/map/" in path:
            here, there = (pixels(found[0][each]) for each in (path, path.replace("/map/", "/after/")))
            assert np.array_equal(here, there) == path.startswith("/tiles/"), path
    # children agree with their parent, as far as they are painted
    parent, child = (pixels(found[0][f"/imagery/map/{place(z, 0.62, 0.62)}"]).astype(float) for z in (16, 17))
    tile = place(17, 0.62, 0.62).removesuffix(".png").split("/")
    x, y = (int(part) % 2 * 128 for part in tile[1:])
    error = (child.reshape(128, 2, 128, 2, 3).mean((1, 3)) - parent[y : y + 128, x : x + 128]) ** 2
    assert 10 * np.log10(255**2 / error.mean()) > 40


def test_a_drawn_map_counts_as_synthetic(sketch: Path, tmp_path: Path, tiny_weights: Path) -> None:
    assert new(sketch, tmp_path / "isle").returncode == 0
    server = Served(tmp_path / "isle", tiny_weights, tmp_path / "data")
    try:
        assert server.get(f"/tiles/{place(12, 0.5, 0.5)}").status_code == 200
        assert server.get(f"/tiles/{place(12, 0.5, 0.5)}?synthetic=0").status_code == 404
        assert "does not exist" in server.get("/tilejson.json").json()["attribution"]
        assert server.get("/tilejson.json").json()["minzoom"] == 6
    finally:
        server.stop()


def test_a_picture_from_above_keeps_its_colours(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)).save(tmp_path / "seen.png")
    made = new(tmp_path / "seen.png", tmp_path / "isle")
    assert made.returncode == 0, made.stderr
    assert "its colours stay as they are" in made.stdout
    assert 'scenes = ["territory.tif"]' in (tmp_path / "isle" / "layers.toml").read_text()


@pytest.mark.parametrize(
    ("name", "content", "option", "words"),
    [
        ("island.png", None, None, "not empty"),
        ("none.png", None, "--sketch", "does not exist"),
        ("text.png", "no picture", "--sketch", "is no picture"),
        ("legend.json", '{"#00f": "water"}', "--legend", "no colour"),
        ("legend.json", "nothing", "--legend", "legend.json"),
        ("areas.geojson", '{"geometry": {"type": "Polygon", "coordinates": [[[20, 45], [21, 45], [21, 46]]]}}',
         "--vectors", "needs a property cover"),
        ("lines.geojson", '{"type": "FeatureCollection"}', "--vectors", "lines.geojson"),
        ("height.png", "no raster", "--height", "is no height raster"),
        ("odd.geojson", '{"geometry": {"type": "Polygon", "coordinates": [[["a", "b"]]]}}', "--vectors", "odd.geojson"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_gets_a_sentence(
    name: str, content: str | None, option: str | None, words: str, sketch: Path, tmp_path: Path
) -> None:
    out = tmp_path / "isle"
    if option is None:
        out.mkdir()
        (out / "mine.txt").write_text("mine")
    if content is not None:
        (tmp_path / name).write_text(content)
    more = [option, str(tmp_path / name)] if option in ("--legend", "--vectors", "--height") else []
    refused = new(tmp_path / name if option == "--sketch" else sketch, out, *more)
    assert refused.returncode == 2, refused.stdout
    assert words in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (out / "layers.toml").exists()


def test_bounds_that_are_none_are_called_by_their_name(sketch: Path, tmp_path: Path) -> None:
    command = ("territory", "new", "--sketch", str(sketch), "--out", str(tmp_path / "isle"), "--bounds")
    for bounds, words in (("1,2,3", "--bounds wants W,S,E,N"), ("5,5,4,6", "--bounds wants west < east")):
        refused = run_cli(*command, bounds)
        assert refused.returncode == 2
        assert words in refused.stderr


@pytest.mark.slow
def test_areas_with_prompts_are_laid_out_once_and_served(sketch: Path, tmp_path: Path, tiny_weights: Path) -> None:
    ring = [[20.08, 45.06], [20.13, 45.06], [20.13, 45.1], [20.08, 45.1], [20.08, 45.06]]
    area = {"type": "Feature", "properties": {"prompt": "fog, dense residential north of a river"}}
    area["geometry"] = {"type": "Polygon", "coordinates": [ring]}
    file = tmp_path / "areas.geojson"
    file.write_text(json.dumps({"type": "FeatureCollection", "features": [area]}))
    out, plain = tmp_path / "steered", tmp_path / "plain"
    made = new(sketch, out, "--areas", str(file))
    assert made.returncode == 0, made.stderr
    new(sketch, plain)
    (kept,) = json.loads((out / "areas.geojson").read_text())["features"]
    assert kept["properties"]["layout"]
    assert 'areas = "areas.geojson"' in (out / "layers.toml").read_text()
    steered, other = (Served(folder, tiny_weights, folder / "state") for folder in (out, plain))
    try:
        assert steered.get("/areas/map").json()["features"] == [kept]
        inside, outside = place(15, 0.52, 0.47), place(15, 0.1, 0.9)
        for layer in ("map", "map-imagery"):
            one, two = (each.get(f"/tiles/{layer}/{inside}").content for each in (steered, other))
            assert one != two, layer
            one, two = (each.get(f"/tiles/{layer}/{outside}").content for each in (steered, other))
            assert one == two, layer
    finally:
        steered.stop()
        other.stop()
    area["properties"] = {"prompt": "a zoo"}
    file.write_text(json.dumps({"type": "FeatureCollection", "features": [area]}))
    refused = new(sketch, tmp_path / "refused", "--areas", str(file))
    assert (refused.returncode, "'zoo' in 'a zoo' says nothing" in refused.stderr) == (2, True)
    missing = new(sketch, tmp_path / "missing", "--areas", str(tmp_path / "nothing.geojson"))
    assert (missing.returncode, "does not exist" in missing.stderr) == (2, True)


def test_heights_are_hills_that_roads_go_round(sketch: Path, tmp_path: Path) -> None:
    rows, columns = np.mgrid[0:64, 0:64]
    ridge = 900 * np.exp(-(((columns - 30) / 4.0) ** 2)) * (rows < 60)
    Image.fromarray(ridge.astype(np.uint16)).save(tmp_path / "height.png")
    with Image.open(sketch) as image:
        draw = ImageDraw.Draw(image)
        draw.ellipse((55, 115, 75, 135), fill=COVERS[NUMBER["town"]].paint)
        image.save(sketch)
    assert new(sketch, tmp_path / "flat").returncode == 0
    made = new(sketch, tmp_path / "hilly", "--height", str(tmp_path / "height.png"))
    assert made.returncode == 0, made.stderr
    assert "Warning" not in made.stderr
    flat, hilly = (Territory.read(tmp_path / name / "map") for name in ("flat", "hilly"))
    assert hilly.heights is not None
    assert 850 < hilly.heights.max() <= 900
    west, south, east, north = mercantile.bounds(mercantile.tile(20.12, 45.1, 12))
    window = tile_window(mercantile.tile((west + east) / 2, (south + north) / 2, 12))
    assert (flat.imagery(window) != hilly.imagery(window)).any(axis=2).mean() > 0.3
    assert len(flat.lines) == len(hilly.lines) == 1
    assert not np.array_equal(flat.lines[0].points, hilly.lines[0].points)


@pytest.mark.slow
def test_pairs_of_a_territory_are_true_to_the_pixel(sketch: Path, tmp_path: Path) -> None:
    assert new(sketch, tmp_path / "isle").returncode == 0
    out = tmp_path / "pairs"
    command = (
        "dataset",
        "generate",
        str(tmp_path / "isle"),
        "--zooms",
        "15-16",
        "--out",
        str(out),
        "--val-share",
        "0.5",
    )
    made = run_cli(*command, "--count", "12", "--val-share", "0.5")
    assert made.returncode == 0, made.stderr
    found = [pair for split in ("train", "val") for pair in read_pairs(out, "territory", split)]
    assert len(found) == 12
    assert all(pair.parent is not None for pair in found)
    rows = list(csv.DictReader((out / "manifest.csv").open()))
    territory = Territory.read(tmp_path / "isle" / "map")
    for row in rows[:4]:
        drawn = territory.map(tile_window(mercantile.Tile(int(row["x"]), int(row["y"]), int(row["zoom"]))))
        assert np.array_equal(read_image(out / row["map"]), drawn)
        with Image.open(out / row["classes"]) as classes:
            assert np.array_equal(np.asarray(classes), classify(drawn))
    assert run_cli(*command, "--count", "12", "--seed", "1").returncode == 0
    assert len(list(csv.DictReader((out / "manifest.csv").open()))) == 24
    refused = run_cli(*command, "--count", "100000")
    assert refused.returncode == 2
    assert "and not 100000" in refused.stderr
    assert run_cli("dataset", "generate", str(tmp_path), "--out", str(out)).returncode == 2
