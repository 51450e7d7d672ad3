"""Who may do what: keys with roles, ends and quotas, what is refused before its body is read, and the audit log."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import mercantile
import pytest
from fastapi.testclient import TestClient

from tests.conftest import PLACE
from tests.program import run_cli
from tests.support import corner_scene, wait_ready
from tilecascade.app.api.access import HEADER_BYTES, JSON_BYTES, ROLE_OF_CHANGE, SAFE, first_segment
from tilecascade.app.api.app import create_app
from tilecascade.app.settings import DataDir, LayerSettings, Settings
from tilecascade.app.storage.keys import add_key, read_keys, remove_key

MakeSettings = Callable[..., Settings]
ROOT = f"/tiles/14/{PLACE.x}/{PLACE.y}.png"
JOB = {"bbox": list(mercantile.bounds(PLACE)), "zooms": [14, 14]}


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    return make_settings(interactive_wait=60)


@pytest.fixture
def client(settings: Settings, layer_settings: LayerSettings) -> Iterator[TestClient]:
    with TestClient(create_app(settings, [layer_settings]), raise_server_exceptions=False) as running:
        wait_ready(running)
        yield running


def key(settings: Settings, name: str, *roles: str, tiles_per_day: int = 0, hours: float = 1) -> dict[str, str]:
    expires = datetime.now(UTC) + timedelta(hours=hours)
    return {"X-API-Key": add_key(DataDir(settings.data_dir).keys, name, roles, expires, tiles_per_day)}


def test_every_change_is_below_a_path_that_needs_a_role(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    changes = {first_segment(path) for path, methods in paths.items() if {m.upper() for m in methods} - set(SAFE)}
    assert changes == set(ROLE_OF_CHANGE)


def test_a_role_allows_its_own_changes_only(client: TestClient, settings: Settings, tmp_path: Path) -> None:
    upload = corner_scene(tmp_path, 7).read_bytes()
    jobs, scenes, reads, all_of_it = (
        key(settings, name, role) for name, role in [("j", "prefetch"), ("s", "scenes"), ("r", "read"), ("a", "admin")]
    )
    assert client.post("/jobs", json=JOB, headers=jobs).status_code == 202
    assert client.post("/scenes", content=upload, headers=scenes).status_code == 201
    for headers, path in ((scenes, "/jobs"), (jobs, "/scenes"), (reads, "/jobs"), (reads, "/scenes"), ({}, "/jobs")):
        refused = client.post(path, json=JOB, headers=headers)
        assert refused.status_code == 403, path
        assert "role" in refused.json()["detail"]
    assert client.post("/jobs", json=JOB, headers=all_of_it).status_code == 202
    bearer = {"Authorization": f"bearer {all_of_it['X-API-Key']}"}
    assert client.delete("/scenes/none", headers=bearer).status_code == 404
    # in an address it is seen by too many for a change
    assert client.post(f"/jobs?key={jobs['X-API-Key']}", json=JOB).status_code == 403


def test_keys_end(client: TestClient, settings: Settings) -> None:
    over, now = key(settings, "over", "prefetch", hours=-1), key(settings, "now", "prefetch", hours=1)
    assert client.post("/jobs", json=JOB, headers=over).status_code == 403
    assert client.post("/jobs", json=JOB, headers=now).status_code == 202
    remove_key(DataDir(settings.data_dir).keys, "now")
    assert client.post("/jobs", json=JOB, headers=now).status_code == 403


def test_only_hashes_are_stored(settings: Settings) -> None:
    secret = key(settings, "someone", "scenes")["X-API-Key"]
    path = DataDir(settings.data_dir).keys
    assert secret not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in read_keys(path)] == ["someone"]


def test_a_key_has_its_tiles_a_day(client: TestClient, settings: Settings) -> None:
    few = key(settings, "few", "prefetch", tiles_per_day=2)
    x, y = PLACE.x * 4, PLACE.y * 4
    states = [client.get(f"/tiles/16/{x + 2 * i}/{y}.png", headers=few).status_code for i in range(2)]
    assert states == [200, 200]
    refused = client.get(f"/tiles/16/{x}/{y + 2}.png", headers=few)
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) > 0
    assert "2 tiles" in refused.json()["detail"]
    assert client.get(f"/tiles/16/{x}/{y}.png", headers=few).status_code == 200  # finished tiles cost nothing
    west, south, east, north = client.get("/tilejson.json").json()["bounds"]
    order = {"bbox": [west, south, east, north], "zooms": [15, 16]}
    assert client.post("/jobs", json=order, headers=few).status_code == 429


def test_what_a_key_has_used_today_is_not_forgotten_at_a_restart(
    settings: Settings, layer_settings: LayerSettings
) -> None:
    few = key(settings, "few", "prefetch", tiles_per_day=2)
    x, y = PLACE.x * 4, PLACE.y * 4
    states = []
    for i in range(3):
        with TestClient(create_app(settings, [layer_settings])) as running:
            wait_ready(running)
            states.append(running.get(f"/tiles/16/{x + 2 * (i % 2)}/{y + 2 * (i // 2)}.png", headers=few).status_code)
    assert states == [200, 200, 429]
    usage = DataDir(settings.data_dir).usage
    usage.write_text(usage.read_text().replace(json.loads(usage.read_text())["day"], "2020-01-01"))
    with TestClient(create_app(settings, [layer_settings])) as running:
        wait_ready(running)
        assert running.get(f"/tiles/16/{x}/{y + 2}.png", headers=few).status_code == 200, "another day"


def test_nothing_is_read_of_a_body_without_a_key(client: TestClient) -> None:
    read = 0

    def body() -> Iterator[bytes]:
        nonlocal read
        for _ in range(100):
            read += 1
            yield bytes(1 << 20)

    refused = client.post("/jobs", content=body(), headers={"Content-Type": "application/json"})
    assert refused.status_code == 403


def test_bodies_are_bounded_by_route(client: TestClient, settings: Settings) -> None:
    headers = key(settings, "all", "admin") | {"Content-Type": "application/json"}
    for path in ("/jobs", "/scenes"):
        announced = client.post(path, content=bytes(JSON_BYTES + 1), headers=headers)
        assert announced.status_code == 413, path
        assert str(JSON_BYTES) in announced.json()["detail"]
        streamed = client.post(path, content=iter([bytes(JSON_BYTES), b"x"]), headers=headers)
        assert streamed.status_code == 413, path
    long = client.get("/health", headers={"X-Long": "a" * HEADER_BYTES})
    assert long.status_code == 413


def test_a_server_that_is_not_public(
    make_settings: MakeSettings, layer_settings: LayerSettings, tmp_path: Path
) -> None:
    settings = make_settings(public=False, interactive_wait=60)
    reader = key(settings, "reader", "read")
    secret = reader["X-API-Key"]
    with TestClient(create_app(settings, [layer_settings])) as client:
        while client.get("/health").status_code == 503:
            pass
        for path in (ROOT, "/", "/tilejson.json", "/wmts/1.0.0/WMTSCapabilities.xml", "/scenes", "/jobs", "/metrics"):
            assert client.get(path).status_code == 403, path
            assert client.get(path, headers=reader).status_code == 200, path
            client.cookies.clear()
        assert client.get(f"{ROOT}?key=wrong").status_code == 403
        described = client.get(f"/tilejson.json?key={secret}").json()["tiles"][0]
        assert described.endswith(f"&key={secret}")
        x, y = str(PLACE.x), str(PLACE.y)
        address = described.replace("{z}", "14").replace("{x}", x).replace("{y}", y)
        assert client.get(address).status_code == 200
        capabilities = client.get(f"/wmts/1.0.0/WMTSCapabilities.xml?key={secret}").text
        assert f"{{TileRow}}.png?key={secret}" in capabilities
        page = client.get(f"/?key={secret}")
        assert "HttpOnly" in page.headers["set-cookie"]
        assert client.get(ROOT).status_code == 200  # by the cookie
        assert client.post("/jobs", json=JOB).status_code == 403


def test_changes_are_written_down(client: TestClient, settings: Settings) -> None:
    headers = key(settings, "someone", "prefetch")
    client.post("/jobs", json=JOB, headers=headers)
    client.delete("/jobs/none", headers=headers)
    client.get(ROOT)
    lines = [json.loads(line) for line in DataDir(settings.data_dir).audit.read_text().splitlines()]
    assert [(line["key"], line["method"], line["path"], line["status"]) for line in lines] == [
        ("someone", "POST", "/jobs", 202),
        ("someone", "DELETE", "/jobs/none", 404),
    ]
    assert headers["X-API-Key"] not in DataDir(settings.data_dir).audit.read_text()
    assert DataDir(settings.data_dir).audit.stat().st_mode & 0o777 == 0o600


def test_the_command_makes_lists_and_removes_keys(tmp_path: Path) -> None:
    folder = ("--data-dir", str(tmp_path / "data"))
    made = run_cli("keys", "add", "team", "--role", "scenes", "--days", "30", "--tiles-per-day", "5000", *folder)
    assert made.returncode == 0, made.stderr
    assert len(made.stdout.strip()) > 40
    again = run_cli("keys", "add", "team", "--role", "scenes", *folder)
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    listed = run_cli("keys", "list", *folder).stdout
    assert "team  scenes  until 20" in listed
    assert "5000 tiles a day" in listed
    assert run_cli("keys", "remove", "team", *folder).returncode == 0
    assert run_cli("keys", "remove", "team", *folder).returncode == 2
    assert run_cli("keys", "add", "Bad Name", "--role", "read", *folder).returncode == 2
