"""Every command block of README and docs is run, against a running server, or named here with the reason why not."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.conftest import picture, write_scene
from tests.program import Server
from tilecascade.app.sources.scene import content_id
from tilecascade.app.tools.territory import NewTerritory, new_territory
from tilecascade.model.sgdm.config import tiny
from tilecascade.model.sgdm.network import random_network, save_network

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = (".venv/bin/tilecascade", "tilecascade", "curl", "key=", "job=")
"""What the first line of a block begins with that is run."""

NOT_RUN = {
    "make": "CI runs `make test`; tests/deploy checks the Makefile's environment",
    "docker": "there is no docker in CI; tests/deploy checks the files",
    "pip": "the environment of the tests is installed already",
    "ray": "tests/app/server/test_replicas.py joins clusters",
    "export": "of a cluster, as above",
    "mkdir": "copies weights for training",
    "mkdocs": "tests/docs/test_site.py builds the site",
    "gdal_translate": "tests/app/client reads WMTS through GDAL's library",
}
"""First words of commands that are shown but not run."""

OTHER = re.compile(r"GET |\[|<script|L\.|new |map\.|from |# Caddyfile|app/ |the imagery has|Every tile says")
"""How blocks begin that are no commands."""

LONG = {"serve": "tests start the server in many ways", "train": "tests/model/training trains tiny networks"}
LONG |= {"model": "tests/model/sgdm/test_importing.py imports, exports and describes models"}
LONG |= {"territory": "tests/app/tools/test_territory.py makes territories and serves them"}
LONG |= {"finetune": "tests/model/training/test_style.py fine-tunes"}
LONG |= {"evaluate": "tests/model/evaluation evaluates", "calibrate": "tests/app/tiles calibrates"}


def blocks(page: Path) -> Iterator[list[str]]:
    """The indented blocks of a page, their lines joined where they end with a backslash."""
    block: list[str] = []
    for line in [*page.read_text().splitlines(), ""]:
        if line.startswith("    ") and line.strip():
            text = line.strip()
            if block and block[-1].endswith("\\"):
                block[-1] = block[-1][:-1] + text
            elif block and block[-1].count("(") > block[-1].count(")"):
                block[-1] += " " + text
            else:
                block.append(text)
        elif block and line.strip():
            yield block
            block = []
    if block:
        yield block


def without_comment(line: str) -> str:
    """A command without the remark behind it."""
    return re.split(r"\s{2,}#", line)[0].rstrip()


ALL = [(page.name, number, block) for page in PAGES for number, block in enumerate(blocks(page))]


def test_every_block_is_known() -> None:
    for page, _, block in ALL:
        first = block[0]
        known = first.startswith(PROGRAMS) or first.split()[0] in NOT_RUN or OTHER.match(first)
        assert known, f"{page}: {first}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with the files that the examples name."""
    here = tmp_path_factory.mktemp("docs")
    area = (60.74, 56.06, 60.80, 56.10)
    write_scene(here / "scene.tif", picture(4096, 0), area, "EPSG:4326")
    write_scene(here / "drone.tif", picture(512, 9), (60.76, 56.075, 60.765, 56.08), "EPSG:4326")
    ring = [[60.76, 56.075], [60.765, 56.075], [60.765, 56.08], [60.76, 56.075]]
    for name in ("village", "border", "province"):
        (here / f"{name}.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    Image.new("RGB", (64, 64), (30, 90, 40)).save(here / "carana.png")
    new_territory(NewTerritory(here / "carana.png", (20.0, 45.0, 20.2, 45.2), here / "carana"))
    corners = [[20.14, 45.08], [20.16, 45.08], [20.16, 45.1], [20.14, 45.08]]
    prompted = {"type": "Feature", "properties": {"prompt": "snow, forest"}}
    prompted["geometry"] = {"type": "Polygon", "coordinates": [corners]}
    (here / "areas.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [prompted]}))
    radar = picture(512, 4)[..., :1].astype(np.float32) / 8 - 26
    write_scene(here / "radar.tif", radar, (60.76, 56.075, 60.765, 56.08), "EPSG:4326")
    house = {"type": "Polygon", "coordinates": [ring]}
    feature = {"type": "Feature", "properties": {"building": "yes"}, "geometry": house}
    (here / "existing.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    save_network(random_network(replace(tiny(), finish="cartographic")), here / "weights")
    programs = here / "programs"
    programs.mkdir()
    script = programs / "tilecascade"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m tilecascade.app.cli "$@"\n')
    script.chmod(0o755)
    return here


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    running = Server(folder / "scene.tif", folder / "weights", folder / "tilecascade-data")
    begin_again(running, folder)
    sketch, query = (folder / "carana.png").read_bytes(), "bounds=20.0,45.0,20.3,45.2"
    made = httpx.put(f"{running.url}/territories/carana?{query}", content=sketch, headers=key_of(folder), timeout=60)
    made.raise_for_status()
    # what one block makes and another reads: they may run in different processes
    area = ["--bbox", "60.76,56.075,60.765,56.08", "--zooms", "14", "--out", folder / "area.mbtiles"]
    command = [folder / "programs" / "tilecascade", "export", *area, "--url", running.url]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    yield running
    running.stop()


def key_of(folder: Path) -> dict[str, str]:
    return {"X-API-Key": (folder / "tilecascade-data" / "api-key").read_text().strip()}


def begin_again(server: Server, folder: Path) -> None:
    """Two scenes and no review, whatever other blocks have done: the revision that an export names is the same."""
    key = key_of(folder)
    httpx.put(server.url + "/scenes/order", json={"ids": []}, headers=key, timeout=60).raise_for_status()
    configured = content_id(folder / "scene.tif")
    for scene in httpx.get(server.url + "/scenes").json()["scenes"]:
        if scene["id"] != configured:  # added by other blocks, at other times, so that it counts as another one
            httpx.delete(f"{server.url}/scenes/{scene['id']}", headers=key, timeout=60).raise_for_status()
    fresh = httpx.post(server.url + "/scenes", content=(folder / "drone.tif").read_bytes(), headers=key, timeout=60)
    assert fresh.status_code == 201, fresh.text
    for review in httpx.get(server.url + "/reviews/map").json()["features"]:
        httpx.delete(f"{server.url}/reviews/map/{review['id']}", headers=key, timeout=60).raise_for_status()


COMMANDS = [pytest.param(block, id=f"{page}-{number}") for page, number, block in ALL if block[0].startswith(PROGRAMS)]


@pytest.mark.parametrize("block", COMMANDS)
def test_the_commands_work(block: list[str], server: Server, folder: Path) -> None:
    begin_again(server, folder)
    scenes = httpx.get(server.url + "/scenes").json()["scenes"]
    area = {"bbox": [60.76, 56.075, 60.765, 56.08], "zooms": [14, 14]}
    key = key_of(folder)
    job = httpx.post(server.url + "/jobs", json=area, headers=key).json()["id"]
    newest, oldest = scenes[0]["id"], scenes[-1]["id"]
    if shutil.which("curl") is None and any("curl" in line for line in block):
        pytest.skip("no curl here")
    lines = []
    for line in map(without_comment, block):
        words = line.removeprefix(".venv/bin/").split()
        if words[0] == "tilecascade" and words[1] in LONG and "--help" not in words:
            continue
        if words[0] in NOT_RUN:
            continue
        for old, new in (
            (".venv/bin/", ""),
            ("http://127.0.0.1:8000", server.url),
            ("1a2b3c4d5e6f", newest),
            ("5e6f... 1a2b...", f"{oldest} {newest}"),
            ("0123456789ab", job),
            # the area of the examples has hundreds of tiles: the same with fewer
            ("60.75,56.07,60.79,56.09", "60.76,56.075,60.765,56.08"),
            ("20.1,45.05,20.2,45.12", "60.76,56.075,60.765,56.08"),
            ("--zooms 15-17", "--zooms 15-16"),
            ("--count 400", "--count 4"),
            ("--zooms 16 ", "--zooms 14 "),
            ("[60.75, 56.07, 60.79, 56.09]", "[60.76, 56.075, 60.765, 56.08]"),
            ("--zooms 14-17", "--zooms 14-15"),
            ("--zooms 14-18", "--zooms 14-15"),
            ("--zooms 17 ", "--zooms 14 "),
            ("[14, 17]", "[14, 15]"),
            ("/16/[43824-43827]/[20380-20383]", "/14/[10956-10957]/[5095-5095]"),
            ("--zooms 16-17", "--zooms 14-15"),
            ("--count 160", "--count 4"),
            ("--count 200", "--count 4"),
            ("--count 320", "--count 4"),
        ):
            line = line.replace(old, new)
        client = words[0] == "tilecascade" and words[1] in ("scenes", "prefetch", "jobs", "export", "info")
        client |= words[:3] == ["tilecascade", "dataset", "reviews"]
        if client and "--url" not in line and "--help" not in line:
            place = 2 if words[1] in ("scenes", "jobs") else len(line.split())
            parts = line.split()
            line = " ".join([*parts[:place], "--url", server.url, *parts[place:]])
        lines.append(line)
    if not lines:
        pytest.skip("starts what other tests start")
    env = os.environ | {"PATH": f"{folder / 'programs'}:{Path(sys.executable).parent}:{os.environ['PATH']}"}
    env.pop("TILECASCADE_API_KEY", None)
    script = "set -eu\n" + "\n".join(lines)
    done = subprocess.run(["bash", "-c", script], cwd=folder, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    assert '"detail"' not in done.stdout, f"{script}\n{done.stdout}"
    assert "Traceback" not in done.stderr
