"""How far a tile can be trusted: the arithmetic, the tiles, and that they come and go with the map."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from tests.conftest import PLACE, SceneMaker
from tests.support import hold, run, tiles_at, until, write_mbtiles
from tilecascade.app.api.app import create_app
from tilecascade.app.settings import LayerSettings, Settings
from tilecascade.app.tiles import confidence
from tilecascade.app.tiles.formats import CONFIDENCE
from tilecascade.app.tiles.resolver import TileResolver
from tilecascade.app.tools.calibrate import figure
from tilecascade.model.confidence import BASE_MAP_COLOUR, COLOURS, KNOTS, calibrate, colours_of, expected_error, ranking
from tilecascade.model.engine import QueueFullError
from tilecascade.model.palette import CLASSES
from tilecascade.model.sgdm.config import tiny
from tilecascade.model.sgdm.network import random_network, save_network

MakeSettings = Callable[..., Settings]
TABLE = (tuple(np.linspace(0, 0.6, KNOTS).round(3).tolist()),) * len(CLASSES)


def test_a_calibration_says_what_was_wrong() -> None:
    rng = np.random.default_rng(0)
    uncertainty = rng.integers(0, 256, 400_000).astype(np.uint8)
    wrong = rng.random(uncertainty.shape) < uncertainty / 255 * 0.5
    kind = (uncertainty.cumsum() % 2).astype(np.uint8)
    wrong &= kind == 0  # the second class is always right
    tables = calibrate(uncertainty, kind, wrong)
    assert [len(table) for table in tables] == [KNOTS] * len(CLASSES)
    assert all(table == sorted(table) for table in tables)
    level = np.array([[0, 64, 128, 255]], dtype=np.uint8)
    for index, factor in ((0, 0.5), (1, 0.0), (2, 0.25)):  # the third never occurs: it gets what all have
        classes = np.full_like(level, index)
        assert np.allclose(expected_error(level, classes, tables), level / 255 * factor, atol=0.03)
    with pytest.raises(ValueError, match="calibrat"):
        expected_error(*np.zeros((2, 2, 2), dtype=np.uint8), ())


def test_a_ranking_is_one_for_a_perfect_signal_and_half_for_none() -> None:
    rng = np.random.default_rng(1)
    wrong = rng.random(50_000) < 0.3
    perfect, deciles = ranking(wrong.astype(np.float32), wrong)
    assert perfect > 0.999
    assert deciles[0] == 0
    assert deciles[-1] == 1
    nothing, _ = ranking(rng.random(50_000).astype(np.float32), wrong)
    assert abs(nothing - 0.5) < 0.01


def test_colours_run_from_green_to_red() -> None:
    shown = colours_of(np.array([[0, 0.15, 0.3, 0.45, 0.6, 1.0]], dtype=np.float32))
    assert [tuple(colour) for colour in shown[0]] == [colour for _, colour in COLOURS] + [COLOURS[-1][1]]


@pytest.fixture
def calibrated(tmp_path: Path) -> Path:
    stem = tmp_path / "calibrated"
    save_network(random_network(replace(tiny(), calibration=TABLE)), stem)
    return stem


@pytest.fixture
def client(
    make_settings: MakeSettings, make_scene: SceneMaker, calibrated: Path, tmp_path: Path
) -> Iterator[TestClient]:
    out = io.BytesIO()
    Image.new("RGB", (256, 256), (200, 210, 220)).save(out, "PNG")
    base = write_mbtiles(tmp_path / "base.mbtiles", {PLACE: out.getvalue()})
    layer = LayerSettings(scenes=[make_scene()], base_map=str(base))
    settings = make_settings(weights=calibrated, interactive_wait=60, api_key="a long enough key")
    with TestClient(create_app(settings, [layer])) as running:
        while running.get("/health").status_code != 200:
            time.sleep(0.05)
        yield running


def colours(answer: object) -> np.ndarray:
    with Image.open(io.BytesIO(answer.content)) as image:  # type: ignore[attr-defined]
        return np.asarray(image.convert("RGB"))


CHILD = f"15/{2 * PLACE.x}/{2 * PLACE.y}"


def test_confidence_tiles_are_generated_kept_and_purged(
    client: TestClient, make_scene: SceneMaker, tmp_path: Path
) -> None:
    first = client.get(f"/tiles/confidence/{CHILD}.png")
    assert (first.status_code, first.headers["x-tile-state"]) == (200, "generated"), first.text
    shown = colours(first)
    assert shown.shape == (256, 256, 3)
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) > 3
    with Image.open(io.BytesIO(first.content)) as image:
        assert "surveyed" in image.text["Comment"]  # type: ignore[attr-defined]
    again = client.get(f"/tiles/map/confidence/{CHILD}.png")
    assert (again.headers["x-tile-state"], again.content) == ("cached", first.content)
    kept = list((tmp_path / "data" / "tiles").rglob("*.confidence.png"))
    assert len(kept) == 4, "a block at once"
    fresh = make_scene("fresh.tif", seed=5).read_bytes()
    headers = {"X-API-Key": "a long enough key"}
    assert client.post("/scenes", content=fresh, headers=headers, params={"acquired": "2030-01-01"}).status_code == 201
    assert not list((tmp_path / "data" / "tiles").rglob("*.confidence.png"))
    changed = client.get(f"/tiles/confidence/{CHILD}.png")
    assert changed.headers["x-tile-state"] == "generated"
    assert changed.content != first.content


def test_tiles_of_the_base_map_have_a_colour_of_their_own(client: TestClient) -> None:
    answer = client.get(f"/tiles/confidence/14/{PLACE.x}/{PLACE.y}.png")
    assert (colours(answer) == BASE_MAP_COLOUR).all()


@pytest.mark.parametrize(
    ("path", "status"),
    [(f"{CHILD}@2x.png", 404), (f"{CHILD}.webp", 404), ("13/1/1.png", 404), ("18/1/1.png", 404), ("15/0/0.png", 404)],
)
def test_there_is_no_other_confidence(client: TestClient, path: str, status: int) -> None:
    assert client.get(f"/tiles/confidence/{path}").status_code == status


def test_without_a_calibration_there_is_none(make_settings: MakeSettings, layer_settings: LayerSettings) -> None:
    with TestClient(create_app(make_settings(interactive_wait=60), [layer_settings])) as running:
        while running.get("/health").status_code != 200:
            time.sleep(0.05)
        answer = running.get(f"/tiles/confidence/{CHILD}.png")
    assert answer.status_code == 404
    assert "calibrate" in answer.json()["detail"]
    with pytest.raises(ValueError, match="confidence"):
        LayerSettings(name="confidence", country=1)


def test_places_without_imagery_queue_nothing(client: TestClient) -> None:
    before = client.get("/metrics").text
    for x in range(200):
        answer = client.get(f"/tiles/confidence/16/{x}/5.png")
        assert answer.status_code == 404
        assert "no imagery" in answer.json()["detail"]
    blocks = [line for line in client.get("/metrics").text.splitlines() if "blocks" in line and line[0] != "#"]
    assert blocks == [line for line in before.splitlines() if "blocks" in line and line[0] != "#"]


def test_confidence_is_bounded_and_dropped_with_its_last_client(
    make_settings: MakeSettings, layer_settings: LayerSettings, calibrated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confidence, "MAX_WAITING", 2)
    layer = layer_settings.model_copy(update={"root_zoom": 16})

    async def story(resolver: TileResolver) -> None:
        held = hold(resolver)
        tiles = tiles_at(16)
        asked = [asyncio.create_task(resolver.make(tile, CONFIDENCE)) for tile in tiles[:2]]
        await until(lambda: held.begun.is_set() and len(resolver.confidence._flights) == 2)
        with pytest.raises(QueueFullError):
            await resolver.make(tiles[5], CONFIDENCE)
        asked[1].cancel()
        await asyncio.gather(asked[1], return_exceptions=True)
        third = asyncio.create_task(resolver.make(tiles[5], CONFIDENCE))
        await asyncio.sleep(0.05)
        held.open()
        assert (await asked[0]).data
        assert (await third).data
        assert await resolver.store.lookup(tiles[1], CONFIDENCE) is None

    run(make_settings(weights=calibrated, threads=1), layer, story)


def test_the_figure_is_a_picture_of_the_numbers() -> None:
    signal = {"auc": 0.7, "wrong_by_decile": [i / 20 for i in range(10)]}
    drawn = figure({"fitted": signal, "confidence": signal, "edges": signal, "tiles": 3})
    assert drawn.startswith("<svg")
    assert drawn.count("<polyline") == 3
    assert "AUC 0.70" in drawn
