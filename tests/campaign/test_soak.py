"""A server that is asked for everything for a long time uses no more memory at the end than in the middle."""

from __future__ import annotations

import os
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from mercantile import Tile

from tests.conftest import PLACE, SceneMaker
from tests.program import Server, memory, ready, stops_in_time

REQUESTS = int(os.environ.get("TILECASCADE_CAMPAIGN_SOAK", "3200"))
"""`make campaign` sends a hundred thousand."""

GROWTH = 128 << 20
"""Bytes that may come in the second half. The first quarter fills caches; what allocators keep goes up and down by as
much from one quarter to the next, so that the lower one of the last two counts."""

KEY = {"X-API-Key": "a key for tests"}


def address(rng: random.Random) -> str:
    """Something that a client may ask for, sensible or not."""
    zoom = rng.randint(12, 17)
    x, y = (rng.randrange(-1, (1 << max(0, zoom - 14)) + 1) for _ in range(2))
    place = Tile((PLACE.x << zoom >> 14) + x, (PLACE.y << zoom >> 14) + y, zoom)
    tile = f"{place.z}/{place.x}/{place.y}"
    return rng.choice(
        [
            f"/tiles/{tile}.png",
            f"/tiles/{tile}@2x.webp",
            f"/tiles/{tile}.jpg?mark=1",
            f"/imagery/map/{tile}.webp",
            f"/features/map/{tile}.geojson",
            f"/vector/map/{tile}.mvt",
            f"/tiles/confidence/{tile}.png",
            "/tilejson.json",
            "/scenes",
            "/health",
            "/metrics",
            "/wmts?service=WMTS&request=GetCapabilities",
        ]
    )


@pytest.mark.slow
def test_memory_stays_flat(make_scene: SceneMaker, tiny_weights: Path, tmp_path: Path) -> None:
    # little memory for tiles, so that it is full after the first quarter
    settings = {"TILECASCADE_REDIS_URL": "none", "TILECASCADE_MEMORY_BYTES": "8MiB"}
    settings["TILECASCADE_API_KEY"] = KEY["X-API-Key"]
    server = ready(Server(make_scene(), tiny_weights, tmp_path / "data", settings))
    other = make_scene("other.tif", 256, 5).read_bytes()
    statuses: Counter[int] = Counter()

    def some(seed: int) -> None:
        rng = random.Random(seed)
        with httpx.Client(base_url=server.url, timeout=120) as client:
            for _ in range(REQUESTS // 32):
                statuses[client.get(address(rng)).status_code] += 1

    try:
        after = []
        for quarter in range(4):
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(some, range(8 * quarter, 8 * quarter + 8)))
            # and a scene comes and goes, so that what was generated is forgotten
            added = httpx.post(server.url + "/scenes", content=other, headers=KEY, timeout=120)
            assert added.status_code == 201, added.text
            gone = httpx.delete(server.url + f"/scenes/{added.json()['id']}", headers=KEY, timeout=120)
            assert gone.status_code == 200
            after.append(memory(server))
        print(f"{sum(statuses.values())} requests, {dict(sorted(statuses.items()))}, {[b >> 20 for b in after]} MiB")
        assert set(statuses) <= {200, 404, 503}
        assert statuses[200] > REQUESTS // 4
        assert min(after[2:]) < after[1] + GROWTH
        stops_in_time(server)
        assert "Traceback" not in server.log.read_text()
    finally:
        server.kill()
