"""deploy/nginx.conf with the real nginx before the real program: hits without the app, misses from it."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.bucket import Bucket
from tests.conftest import PLACE, SceneMaker
from tests.nginx import nginx, nginx_before
from tests.program import Server

TILE = f"/tiles/14/{PLACE.x}/{PLACE.y}.png"
NAMED = f"/tiles/map/15/{2 * PLACE.x}/{2 * PLACE.y}.png"


@pytest.fixture
def behind(make_scene: SceneMaker, tiny_weights: Path, tmp_path: Path) -> Iterator[tuple[str, Server]]:
    """The URL of an nginx before a server."""
    app = Server(make_scene(), tiny_weights, tmp_path / "data")
    with nginx_before(app, tmp_path / "data", tmp_path / "nginx") as url:
        yield url, app
    app.process.kill()
    app.process.wait()


def test_hits_are_answered_by_nginx_alone(behind: tuple[str, Server]) -> None:
    url, app = behind
    etags = {}
    for path in (TILE, NAMED):
        drawn = httpx.get(f"{url}{path}?wait=60", timeout=90)
        assert drawn.headers["x-tile-state"] in ("generated", "cached")
        assert "x-tile-version" in drawn.headers  # the app's own answer
        etags[path] = drawn.headers["etag"]
    app.process.send_signal(signal.SIGSTOP)
    try:
        for path in (TILE, NAMED):
            hit = httpx.get(url + path, timeout=5)
            assert hit.status_code == 200
            assert hit.headers["x-cache"] == "nginx"
            assert hit.headers["etag"] == etags[path]
            assert hit.headers["content-type"] == "image/png"
            assert hit.headers["cache-control"] == "no-cache"
            assert hit.headers["access-control-allow-origin"] == "*"
            assert hit.headers["x-tile-notice"] == "generated, not surveyed"
            again = httpx.get(url + path, headers={"If-None-Match": hit.headers["etag"]}, timeout=5)
            assert again.status_code == 304
            assert not again.content
    finally:
        app.process.send_signal(signal.SIGCONT)
    assert httpx.get(url + NAMED).content == httpx.get(app.url + NAMED).content


def test_versions_pin_and_a_purge_is_seen_at_once(behind: tuple[str, Server], tmp_path: Path) -> None:
    url, app = behind
    httpx.get(f"{url}{TILE}?wait=60", timeout=90)
    version = httpx.get(url + "/tilejson.json").json()["tiles"][0].partition("?v=")[2]
    pinned = httpx.get(f"{url}{TILE}?v={version}")
    assert pinned.headers["x-cache"] == "nginx"
    assert "immutable" in pinned.headers["cache-control"]
    for trick in ("../../../etc/passwd", "..", "current/..", "0" * 13):
        answer = httpx.get(f"{url}{TILE}", params={"v": trick})
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.content == pinned.content
    (tmp_path / "data" / "tiles" / "map" / version / "14" / str(PLACE.x) / f"{PLACE.y}.png").unlink()
    assert "x-tile-version" in httpx.get(url + TILE).headers  # nginx has nothing left and asks the app
    assert httpx.get(f"{url}{TILE}?synthetic=0").status_code == 404, "what is drawn is not real, whoever answers"
    assert httpx.get(f"{url}{TILE}?mark=1").content != httpx.get(url + TILE).content
    assert httpx.get(f"{url}/tiles/14/1/1.png").status_code == 404
    assert httpx.get(f"{url}/tiles/99/1/1.png").status_code == 400
    assert httpx.get(f"{url}/tilejson.json").json()["tilejson"] == "3.0.0"
    assert app.process.poll() is None


def test_the_bucket_answers_what_names_a_revision(
    bucket: Bucket, make_scene: SceneMaker, tiny_weights: Path, tmp_path: Path
) -> None:
    """deploy/nginx.bucket.conf: hits without a server, also while it stands still; all else from the server."""
    app = Server(make_scene(), tiny_weights, tmp_path / "data", {"TILECASCADE_OBJECT_STORE": bucket.url})
    places = {
        "server app:8000": f"server 127.0.0.1:{app.port}",
        "server bucket:9000": f"server 127.0.0.1:{bucket.port}",
        "http://bucket/tilecascade/tiles/": "http://bucket/tiles/cache/",
    }
    allowed = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::tiles/*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
    bucket.client().put_bucket_policy(Bucket="tiles", Policy=policy)  # type: ignore[attr-defined]
    try:
        with nginx("nginx.bucket.conf", places, tmp_path / "nginx") as url:
            revision = httpx.get(url + "/tilejson.json").json()["tiles"][0].partition("?v=")[2]
            named = f"{url}{NAMED}?v={revision}"
            drawn = httpx.get(named + "&wait=60", timeout=90)
            assert drawn.headers["x-tile-state"] == "generated"
            app.process.send_signal(signal.SIGSTOP)
            try:
                hit = httpx.get(named, timeout=5)
            finally:
                app.process.send_signal(signal.SIGCONT)
            assert hit.headers["x-cache"] == "bucket"
            assert hit.content == drawn.content
            assert hit.headers["content-type"] == "image/png"
            assert "immutable" in hit.headers["cache-control"]
            for other in (url + NAMED, f"{url}{NAMED}?v={'0' * 12}", f"{url}{NAMED}?v=x", url + TILE):
                answer = httpx.get(other, timeout=60)
                assert answer.status_code == 200
                assert "x-tile-version" in answer.headers
            assert httpx.get(f"{named}&synthetic=0").status_code == 404
    finally:
        app.kill()
