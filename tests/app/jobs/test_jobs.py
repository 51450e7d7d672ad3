"""Areas and prefetch jobs: what an area holds, what a job promises, what it refuses."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mercantile
import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import PLACE, SceneMaker
from tilecascade.app.api.app import create_app
from tilecascade.app.errors import AreaError
from tilecascade.app.jobs.area import Area
from tilecascade.app.service import Service
from tilecascade.app.settings import LayerSettings, Settings

MakeSettings = Callable[..., Settings]
KEY = {"X-API-Key": "a long enough key"}


@given(
    st.floats(-179, 178),
    st.floats(-80, 79),
    st.floats(1e-5, 1),
    st.floats(1e-5, 1),
    st.integers(min_value=0, max_value=9),
)
def test_a_box_has_the_tiles_that_mercantile_says(x: float, y: float, dx: float, dy: float, zoom: int) -> None:
    area = Area.of_box((x, y, x + dx, y + dy))
    tiles = list(area.tiles(zoom))
    assert set(tiles) == set(mercantile.tiles(x, y, x + dx, y + dy, zoom))
    assert len(tiles) == area.count(zoom)


def triangle(*corners: tuple[float, float]) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": [[*map(list, corners), list(corners[0])]]}


@given(st.lists(st.tuples(st.floats(10, 11), st.floats(50, 51)), min_size=3, max_size=3, unique=True))
def test_a_polygon_has_its_corners_and_nothing_outside_its_box(corners: list[tuple[float, float]]) -> None:
    try:
        area = Area.of_geojson(triangle(*corners))
    except AreaError:
        return  # no area at all
    tiles, box = set(area.tiles(11)), set(Area.of_box(area.bounds).tiles(11))
    assert tiles <= box
    assert len(tiles) == area.count(11)
    middle = [sum(corner[i] for corner in corners) / 3 for i in (0, 1)]
    assert mercantile.tile(middle[0], middle[1], 11) in tiles


def test_a_thin_triangle_takes_half_of_its_box() -> None:
    feature = {"type": "Feature", "geometry": triangle((10, 50), (11, 50), (11, 51)), "properties": {}}
    area = Area.of_geojson({"type": "FeatureCollection", "features": [feature]})
    share = area.count(13) / Area.of_box(area.bounds).count(13)
    assert 0.5 < share < 0.55


@pytest.mark.parametrize(
    "given",
    [
        {"type": "Point", "coordinates": [1, 2]},
        {"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]},
        {"type": "Polygon", "coordinates": "here"},
        {"type": "FeatureCollection", "features": []},
        {"type": "FeatureCollection"},
        {"type": "Feature", "geometry": None},
        {},
        triangle((200, 50), (201, 50), (201, 51)),
    ],
)
def test_what_is_no_area_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(AreaError):
        Area.of_geojson(given)


def wait_for(client: TestClient, job: str, *states: str) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        answer: dict[str, Any] = client.get(f"/jobs/{job}").json()
        if answer["state"] in states:
            return answer
        time.sleep(0.02)
    pytest.fail(f"job {answer}")


@pytest.fixture
def client(make_settings: MakeSettings, layer_settings: LayerSettings) -> Iterator[TestClient]:
    settings = make_settings(api_key=KEY["X-API-Key"], job_tiles=100)
    with TestClient(create_app(settings, [layer_settings])) as running:
        while running.get("/health").status_code != 200:
            time.sleep(0.05)
        yield running


def service_of(client: TestClient) -> Service:
    service: Service = client.app.app.app.app.state.service  # type: ignore[attr-defined]
    return service


BOX = list(mercantile.bounds(PLACE))
INSIDE = [BOX[0] + 1e-6, BOX[1] + 1e-6, BOX[2] - 1e-6, BOX[3] - 1e-6]


def order(client: TestClient, **given: Any) -> dict[str, Any]:
    answer = client.post("/jobs", json={"bbox": INSIDE, "zooms": [14, 16]} | given, headers=KEY)
    assert answer.status_code in (200, 202), answer.text
    answer: dict[str, Any] = answer.json()
    return answer


def files(client: TestClient) -> list[Path]:
    stored = (service_of(client).data_dir.tiles / "map" / "current").glob("*/*/*.png")
    return [path for path in stored if ".field" not in path.name]


def test_a_job_generates_its_area_and_counts_its_files(client: TestClient) -> None:
    guess = order(client, dry_run=True)
    assert (guess["tiles"], guess["stored"], guess["seconds"], guess["fits"]) == (21, 0, None, True)
    assert guess["by_zoom"] == {"14": 1, "15": 4, "16": 16}
    assert guess["empty"] == {"14": 0, "15": 0, "16": 0}
    job = order(client)
    done = wait_for(client, job["id"], "done", "failed")
    assert (done["state"], done["finished"], done["generated"], done["failed"]) == ("done", 21, 21, 0)
    assert len(files(client)) == 21
    guess = order(client, dry_run=True)
    assert (guess["stored"], guess["bytes"]) == (21, 0)
    assert guess["seconds"] == 0
    assert [answer["id"] for answer in client.get("/jobs").json()] == [job["id"]]


def test_events_tell_the_way_to_the_end(client: TestClient) -> None:
    job = order(client, rate=40)
    with client.stream("GET", f"/jobs/{job['id']}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in answer.iter_lines() if line]
    names = [line.removeprefix("event: ") for line in lines[::2]]
    assert names[-1] == "done"
    assert set(names[:-1]) == {"progress"}
    answer = [json.loads(line.removeprefix("data: ")) for line in lines[1::2]]
    assert [t["finished"] for t in answer] == sorted(t["finished"] for t in answer)
    assert answer[-1]["finished"] == 21


def test_a_polygon_in_place_of_a_box(client: TestClient) -> None:
    west, south, east, north = INSIDE
    corner = (west + 0.45 * (east - west), south)
    job = order(client, bbox=None, area=triangle((west, south), (west, north), corner), zooms=[16, 16])
    done = wait_for(client, job["id"], "done")
    assert done["finished"] == done["total"] == 6, "one in each upper row of tiles, two in each lower"


def test_jobs_wait_for_each_other_and_can_be_cancelled(client: TestClient) -> None:
    first, second = order(client, rate=2), order(client)
    assert client.get(f"/jobs/{second['id']}").json()["state"] == "queued"
    assert client.delete(f"/jobs/{first['id']}").status_code == 403
    client.delete(f"/jobs/{first['id']}", headers=KEY)
    assert wait_for(client, second["id"], "done")["finished"] == 21
    answer = client.get(f"/jobs/{first['id']}").json()
    assert answer["state"] == "cancelled"
    assert client.delete(f"/jobs/{second['id']}", headers=KEY).json()["state"] == "done"


def test_too_many_failures_end_a_job(client: TestClient) -> None:
    class Broken:
        """An engine that fails."""

        def submit(self, *_: object) -> object:
            raise RuntimeError("no")

    resolver = service_of(client).resolver(None)
    resolver.generator.works.engine = Broken()  # type: ignore[assignment]
    answer = wait_for(client, order(client, max_failures=3)["id"], "failed", "done")
    assert answer["state"] == "failed"
    assert 3 < answer["failed"] < 21
    assert "RuntimeError" in answer["problems"][0]
    answer = wait_for(client, order(client, max_failures=21)["id"], "failed", "done")
    assert (answer["state"], answer["failed"]) == ("done", 21)


def test_imagery_that_changes_under_a_job_is_generated_too(client: TestClient, make_scene: SceneMaker) -> None:
    job = order(client, rate=3)
    while client.get(f"/jobs/{job['id']}").json()["finished"] < 6:
        time.sleep(0.02)
    fresh = make_scene("fresh.tif", seed=7).read_bytes()
    assert client.post("/scenes", content=fresh, headers=KEY, params={"acquired": "2030-01-01"}).status_code == 201
    done = wait_for(client, job["id"], "done")
    assert done["finished"] == len(files(client)) == 21


@pytest.mark.parametrize(
    ("given", "status", "words"),
    [
        ({"zooms": [14, 17]}, 404, "zooms 14 to 16"),
        ({"zooms": [16, 14]}, 400, "zooms"),
        ({"bbox": [9, 9, 8, 8]}, 400, "west < east"),
        ({"bbox": [100, 10, 101, 11]}, 404, "outside"),
        ({"bbox": [0, 0, "x", 1]}, 400, "number"),
        ({"area": {"type": "Point"}}, 400, "not both"),
        ({"bbox": None, "area": {"type": "Point"}}, 400, "Point"),
        ({"layer": "no"}, 404, "no layer"),
        ({"rate": -1}, 400, "rate"),
        ({"nonsense": 1}, 400, "nonsense"),
    ],
)
def test_what_is_refused(client: TestClient, given: dict[str, Any], status: int, words: str) -> None:
    answer = client.post("/jobs", json={"bbox": INSIDE, "zooms": [14, 16]} | given, headers=KEY)
    assert (answer.status_code, words in answer.json()["detail"]) == (status, True), answer.text


def test_large_jobs_have_to_be_meant(make_settings: MakeSettings, layer_settings: LayerSettings) -> None:
    app = create_app(make_settings(api_key=KEY["X-API-Key"], job_tiles=20), [layer_settings])
    with TestClient(app) as client:
        while client.get("/health").status_code != 200:
            time.sleep(0.05)
        wanted = {"bbox": INSIDE, "zooms": [14, 16]}
        assert client.post("/jobs", json=wanted).status_code == 403
        refused = client.post("/jobs", json=wanted, headers=KEY)
        assert refused.status_code == 422
        assert "21 tiles" in refused.json()["detail"]
        assert client.get("/jobs").json() == []
        assert wait_for(client, order(client, confirm=True)["id"], "done")["finished"] == 21
        assert client.get("/jobs/nothing").status_code == 404
