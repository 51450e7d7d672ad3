"""`tilecascade plan`: what a map of an area would take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result

from tilecascade.app.cli.main import main
from tilecascade.app.client.plan import EFFICIENCY, Measured, Plan, PlanClient, ZoomPlan, area_of, plan
from tilecascade.app.errors import SettingsError

BOX = (60.70, 56.00, 60.90, 56.10)


def server(estimate: dict[str, Any]) -> PlanClient:
    """A server that answers with this."""

    def answer(request: httpx.Request) -> httpx.Response:
        assert json.loads(request.content)["dry_run"], "asking generates nothing"
        return httpx.Response(200, json={"layer": "map", "by_zoom": {}, "fits": True} | estimate)

    return PlanClient(httpx.Client(base_url="http://server", transport=httpx.MockTransport(answer)), None, None)


def test_tiles_bytes_hours_and_price_follow_from_what_is_counted_and_measured() -> None:
    made = Plan((ZoomPlan(14, 100, 0.0), ZoomPlan(15, 400, 0.25)), Measured(0.09, 20_000), 8, 2.5)
    assert made.tiles == 400
    assert made.device_hours == pytest.approx(400 * 0.09 / 3600)
    assert made.hours == pytest.approx(made.device_hours / (8 * EFFICIENCY))
    assert made.gigabytes == pytest.approx(0.008)
    said = made.to_dict()
    assert said["price"] == pytest.approx(made.device_hours * 2.5)
    assert said["zooms"][1] == {"zoom": 15, "tiles": 400, "empty": 0.25, "generated": 300}
    assert Plan(made.zooms, made.measured).hours == made.device_hours
    assert made.lines()[1] == "zoom 15: 400 tiles, 25% without imagery, 300 generated"


def test_a_server_says_what_a_tile_costs_and_where_there_is_imagery() -> None:
    area = area_of(BOX, None)
    empty = {15: 0.5, 16: 0.25, 17: 0.0}
    asked = server({"tiles": 500, "stored": 100, "bytes": 8_000_000, "seconds": 20.0, "empty": empty})
    made = plan(area, range(15, 18), asked, None, None)
    assert made.measured == Measured(0.05, 20_000)
    assert [zoom.tiles for zoom in made.zooms] == [area.count(zoom) for zoom in range(15, 18)]
    assert [zoom.empty for zoom in made.zooms] == [0.5, 0.25, 0.0]
    given = plan(area, range(15, 16), asked, 0.2, 30)
    assert given.measured == Measured(0.2, 30_000)


def test_what_is_not_known_has_to_be_given() -> None:
    area = area_of(BOX, None)
    fresh = server({"tiles": 500, "stored": 0, "bytes": 8_000_000, "seconds": None})
    with pytest.raises(SettingsError, match="generated no tile yet"):
        plan(area, range(14, 15), fresh, None, None)
    assert plan(area, range(14, 15), fresh, 0.1, None).measured.seconds == 0.1
    full = server({"tiles": 500, "stored": 500, "bytes": 0, "seconds": 0.0})
    with pytest.raises(SettingsError, match="stored already"):
        plan(area, range(14, 15), full, None, None)
    with pytest.raises(SettingsError, match="without a server give --seconds and --kilobytes"):
        plan(area, range(14, 15), None, 0.1, None)


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["plan", *words])


def test_the_command_plans_without_a_server(tmp_path: Path) -> None:
    box = ",".join(map(str, BOX))
    given = ["--zooms", "14-15", "--seconds", "0.06", "--kilobytes", "20"]
    done = run("--bbox", box, *given, "--replicas", "4", "--price", "3", "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.output)
    assert said["tiles"] == sum(area_of(BOX, None).count(zoom) for zoom in (14, 15))
    assert said["price"] > 0
    west, south, east, north = BOX
    ring = [[west, south], [east, south], [east, north], [west, south]]
    (tmp_path / "area.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    done = run("--area", str(tmp_path / "area.geojson"), *given)
    assert done.exit_code == 0, done.output
    assert "zoom 14: " in done.output
    assert int(done.output.split("all: ")[1].split()[0]) < said["tiles"]
    for wrong in ([], ["--bbox", "5,5,4,4"], ["--area", str(tmp_path / "nothing.geojson")]):
        done = run(*wrong, *given)
        assert done.exit_code == 2, done.output
        assert "Traceback" not in done.output
