"""The map page in a real browser: Leaflet loads from here and shows drawn tiles."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import PLACE
from tests.test_e2e import Server, Start, start  # noqa: F401

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=900,700",
]


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_the_page_shows_drawn_tiles(start: Start, tmp_path: Path) -> None:  # noqa: F811
    server: Server = start()
    for i in range(4):
        for j in range(4):
            server.get(f"/tiles/16/{PLACE.x * 4 + i}/{PLACE.y * 4 + j}.png?wait=100")
    shot = tmp_path / "page.png"
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=20000"]
    page = subprocess.run(
        [*command, "--dump-dom", server.url + "/"], capture_output=True, text=True, timeout=120, check=True
    ).stdout
    states = re.findall(r'data-state="([a-z0-9]+)"', page)
    assert states.count("cached") >= 4, states
    assert set(states) <= {"cached", "generated", "404"}
    assert "generated, not surveyed" in page
    subprocess.run([*command, f"--screenshot={shot}", server.url + "/"], capture_output=True, timeout=120, check=True)
    assert shot.stat().st_size > 10_000
