"""The HTTP surface, in process: answers, headers, and sentences for everything that is wrong."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from starlette.requests import Request

from tests.conftest import PLACE
from tests.support import hold, wait_ready
from tilecascade.app.api.app import create_app
from tilecascade.app.api.tiles import TileContext, TileQuery, TileRequest
from tilecascade.app.service import Service
from tilecascade.app.settings import LayerSettings, Settings
from tilecascade.app.tiles.formats import PLAIN
from tilecascade.model.engine import QueueFullError
from tilecascade.model.sgdm.network import load_network

MakeSettings = Callable[..., Settings]
ROOT = f"/tiles/14/{PLACE.x}/{PLACE.y}.png"
CHILD = f"/tiles/15/{2 * PLACE.x}/{2 * PLACE.y}.png"


def service_of(client: TestClient) -> Service:
    service: Service = client.app.app.app.app.state.service  # type: ignore[attr-defined]
    return service


@pytest.fixture
def client(make_settings: MakeSettings, layer_settings: LayerSettings) -> Iterator[TestClient]:
    app = create_app(make_settings(interactive_wait=60), [layer_settings])
    with TestClient(app) as running:
        wait_ready(running)
        yield running


def test_a_tile_is_generated_then_served_from_the_cache(client: TestClient) -> None:
    first = client.get(CHILD)
    assert first.status_code == 200, first.text
    assert first.headers["content-type"] == "image/png"
    assert first.headers["x-tile-state"] == "generated"
    assert first.headers["x-tile-reference"] == f"14/{PLACE.x}/{PLACE.y}"
    assert first.headers["cache-control"] == "no-cache"
    assert "total;dur=" in first.headers["server-timing"]
    with Image.open(io.BytesIO(first.content)) as image:
        assert image.size == (256, 256)
    second = client.get(CHILD)
    assert second.headers["x-tile-state"] == "cached"
    assert second.headers["x-cache"] == "memory"
    assert second.content == first.content
    assert client.get(CHILD.replace("/tiles/", "/tiles/map/")).content == first.content


def test_revalidation_is_cheap(client: TestClient) -> None:
    etag = client.get(ROOT).headers["etag"]
    for sent in (etag, f'"other", {etag}', "*", f"W/{etag}"):
        answer = client.get(ROOT, headers={"if-none-match": sent})
        assert answer.status_code == 304
        assert not answer.content
        assert answer.headers["etag"] == etag
    assert client.get(ROOT, headers={"if-none-match": '"other"'}).status_code == 200


def test_head_never_generates(client: TestClient) -> None:
    assert client.head(ROOT).status_code == 404
    assert service_of(client).resolvers["map"].generator.blocks_generated == 0
    length = len(client.get(ROOT).content)
    answer = client.head(ROOT)
    assert answer.status_code == 200
    assert int(answer.headers["content-length"]) == length
    assert not answer.content


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/tiles/14/-1/0.png", 400, "x must be a whole number"),
        ("/tiles/14/1.5/0.png", 400, "x must be a whole number"),
        ("/tiles/14/%D9%A1/0.png", 400, "x must be a whole number"),
        ("/tiles/a/0/0.png", 400, "z must be a whole number"),
        ("/tiles/99/0/0.png", 400, "z must be at most"),
        ("/tiles/3/8/0.png", 400, "from 0 to 7"),
        ("/tiles/3/0/100000000000000000000.png", 400, "y must be a whole number"),
        ("/tiles/14/0/0.gif", 404, "served as .png"),
        ("/tiles/14/0/0", 404, "served as .png"),
        ("/tiles/none/14/0/0.png", 404, "there is no layer 'none'; there are: map"),
        ("/tiles/14/0/0.png", 404, "no imagery"),
        ("/tiles/17/0/0.png", 404, "max zoom 16"),
        (ROOT + "?wait=-1", 400, "wait"),
        (ROOT + "?wait=soon", 400, "wait"),
        ("/tiles/none/tilejson.json", 404, "no layer"),
        ("/nothing", 404, "Not Found"),
    ],
)
def test_mistakes_get_a_sentence_and_cors(client: TestClient, path: str, status: int, words: str) -> None:
    answer = client.get(path, headers={"Origin": "http://elsewhere.example"})
    assert answer.status_code == status
    assert words in answer.json()["detail"]
    assert answer.headers["access-control-allow-origin"] == "*"


# a client itself resolves "." and ".." and asks for another page
PATH_PART = st.text(max_size=12).filter(lambda part: part not in (".", ".."))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(PATH_PART, min_size=1, max_size=4))
def test_no_path_is_a_server_error(client: TestClient, parts: list[str]) -> None:
    from urllib.parse import quote

    answer = client.get("/tiles/" + "/".join(quote(part, safe="") for part in parts))
    assert answer.status_code in (400, 404, 307)


def test_other_methods_are_refused(client: TestClient) -> None:
    assert client.post(ROOT).status_code == 405
    preflight = client.options(
        ROOT, headers={"Origin": "http://elsewhere.example", "Access-Control-Request-Method": "GET"}
    )
    assert preflight.status_code == 200


def test_tilejson_describes_the_layer_and_its_url_works(client: TestClient) -> None:
    described = client.get("/tilejson.json").json()
    assert described == client.get("/tiles/map/tilejson.json").json()
    assert described["tilejson"] == "3.0.0"
    assert (described["minzoom"], described["maxzoom"]) == (14, 16)
    assert "generated, not surveyed" in described["attribution"]
    west, south, east, north = described["bounds"]
    assert west < described["center"][0] < east
    assert south < described["center"][1] < north
    url = described["tiles"][0].format(z=14, x=PLACE.x, y=PLACE.y)
    answer = client.get(url)
    assert answer.status_code == 200
    assert "immutable" in answer.headers["cache-control"]
    assert client.get(ROOT + "?v=old").headers["cache-control"] == "no-cache"


def test_the_page_needs_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert "https://" not in page.text
    for name in ("leaflet.js", "leaflet.css"):
        assert client.get(f"/static/leaflet/{name}").status_code == 200
    assert client.get("/docs").status_code == 200
    assert "/tiles/{z}/{x}/{y}" in client.get("/openapi.json").json()["paths"]


def test_placeholder_now_sharp_later(client: TestClient) -> None:
    root = client.get(ROOT)
    held = hold(service_of(client).resolver(None))
    early = client.get(CHILD + "?wait=0.05")
    assert early.status_code == 200
    assert early.headers["x-tile-state"] == "placeholder"
    assert early.headers["x-tile-ancestor"] == f"14/{PLACE.x}/{PLACE.y}"
    assert early.headers["cache-control"].startswith("max-age=2")
    assert "etag" not in early.headers
    shown = np.asarray(Image.open(io.BytesIO(early.content)).convert("RGB")).astype(int)
    above = Image.open(io.BytesIO(root.content)).convert("RGB").crop((0, 0, 128, 128))
    expected = np.asarray(above.resize((256, 256), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(shown - expected)[8:-8, 8:-8].max() <= 3
    held.open()
    late = client.get(CHILD + "?wait=60")
    assert late.headers["x-tile-state"] in ("generated", "cached")
    assert late.content != early.content
    assert client.get(CHILD).content == late.content


def test_respond_async_is_202_and_the_tile_is_generated_meanwhile(client: TestClient) -> None:
    first = client.get(ROOT, headers={"Prefer": "respond-async"})
    assert first.status_code == 202
    assert first.headers["retry-after"] == "2"
    assert first.headers["preference-applied"] == "respond-async"
    for _ in range(100):
        later = client.get(ROOT, headers={"Prefer": "respond-async"})
        if later.status_code == 200:
            break
        time.sleep(0.1)
    assert later.headers["x-tile-state"] == "cached"
    assert service_of(client).resolver(None).generator.blocks_generated == 1


def test_looking_ahead_generates_what_lies_around(make_settings: MakeSettings, layer_settings: LayerSettings) -> None:
    app = create_app(make_settings(interactive_wait=60, look_ahead=True), [layer_settings])
    near = [f"/tiles/16/{4 * PLACE.x + i}/{4 * PLACE.y + j}.png" for i in (0, 2) for j in (0, 2)]
    with TestClient(app) as client:
        wait_ready(client)
        assert client.get(near[0], headers={"Priority": "u=6"}).status_code == 200
        assert client.get(near[3]).headers["x-tile-state"] == "generated"
        for _ in range(200):
            if all(client.head(path).status_code == 200 for path in near):
                break
            time.sleep(0.05)
        else:
            pytest.fail("the blocks around were not drawn")


def test_metrics_tell_what_was_generated_and_found(client: TestClient) -> None:
    for _ in range(3):
        assert client.get(CHILD).status_code == 200
    said = client.get("/metrics")
    assert said.headers["content-type"].startswith("text/plain")
    for line in (
        'tilecascade_blocks_generated_total{layer="map",zoom="14"} 1.0',
        'tilecascade_blocks_generated_total{layer="map",zoom="15"} 1.0',
        'tilecascade_store_hits_total{tier="memory"} 2.0',
        "tilecascade_store_misses_total 2.0",  # one look for the tile, one for its reference
        'tilecascade_batches_total{size="1"} 2.0',
        'tilecascade_answer_seconds_count{state="cached"} 2.0',
        'tilecascade_queue{priority="prefetch"} 0.0',
    ):
        assert line in said.text.splitlines()


def test_every_answer_has_the_id_of_its_request(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="tilecascade.app.api.request_log")
    assert client.get("/tilejson.json", headers={"X-Request-ID": "from-the-client.1"}).headers["x-request-id"] == (
        "from-the-client.1"
    )
    assert client.get("/tiles/x/0/0.png", headers={"X-Request-ID": "two words"}).headers["x-request-id"].isalnum()
    messages = [record.getMessage() for record in caplog.records]
    assert any("/tiles/x/0/0.png 400" in message for message in messages)
    client.get("/tiles/nothing%0AINFO/0/0/0.png")
    assert not any("\n" in record.getMessage() for record in caplog.records)


def test_a_full_queue_is_answered_with_a_placeholder(client: TestClient) -> None:
    class Full:
        """An engine whose queue is full."""

        def submit(self, *_: Any) -> Any:
            raise QueueFullError("512 tiles are waiting already; try again in a moment")

    service_of(client).resolver(None).generator.works.engine = Full()  # type: ignore[assignment]
    answer = client.get(ROOT)
    assert (answer.status_code, answer.headers["x-tile-state"]) == (200, "placeholder")


@pytest.mark.parametrize(
    ("header", "priority"),
    [("", 0), ("u=0", 0), ("u=4, i", 0), ("u=5", 2), ("i, u=7", 2), ("u=seven", 0), ("nonsense", 0), ("u=²", 0)],
)
def test_the_priority_header_says_who_is_waiting(header: str, priority: int) -> None:
    scope = {"type": "http", "headers": [(b"priority", header.encode("latin-1"))] if header else []}
    context = TileContext(Request(scope), None, None, None)  # type: ignore[arg-type]
    assert TileRequest(context, None, PLACE, PLAIN, TileQuery()).priority == priority  # type: ignore[arg-type]


@pytest.mark.parametrize(("suffix", "size"), [(".png", 256), ("@2x.webp", 512), (".jpg", 256)])
def test_a_cold_server_shows_a_preview_of_the_imagery(client: TestClient, suffix: str, size: int) -> None:
    held = hold(service_of(client).resolver(None))
    path = ROOT.removesuffix(".png") + suffix
    answer = client.get(path + "?wait=0.05")
    held.open()
    assert (answer.status_code, answer.headers["x-tile-state"]) == (200, "placeholder")
    assert "x-tile-ancestor" not in answer.headers
    assert answer.headers["cache-control"].startswith("max-age=2")
    seen = client.get(ROOT.replace("/tiles/", "/imagery/map/"))
    with Image.open(io.BytesIO(answer.content)) as shown, Image.open(io.BytesIO(seen.content)) as imagery:
        assert shown.size == (size, size)
        pale = np.asarray(shown.convert("L").resize((64, 64)), dtype=float)
        below = np.asarray(imagery.convert("L").resize((64, 64)), dtype=float)
    assert np.corrcoef(pale.ravel(), below.ravel())[0, 1] > 0.9
    assert pale.mean() > below.mean() + 30
    outside = f"/tiles/14/{PLACE.x + 1}/{PLACE.y}.png?wait=0"
    assert client.get(outside).status_code == 404


def test_starting_is_said(
    make_settings: MakeSettings, layer_settings: LayerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_app(make_settings(), [layer_settings])
    held = threading.Event()

    def slowly(stem: Path) -> object:
        held.wait(10)
        return load_network(stem)

    monkeypatch.setattr("tilecascade.app.tiles.loaded_model.load_network", slowly)
    with TestClient(app) as running:
        answer = running.get("/health")
        assert (answer.status_code, answer.json()["state"]) == (503, "starting")
        assert running.get(ROOT).status_code == 503
        assert running.get("/tilejson.json").status_code == 503
        assert "starting" in running.get("/").text
        held.set()
        wait_ready(running)


def test_a_failed_start_is_said(make_settings: MakeSettings, layer_settings: LayerSettings, tmp_path: Any) -> None:
    failures = []
    app = create_app(make_settings(weights=tmp_path / "none"), [layer_settings], lambda: failures.append(1))
    with TestClient(app) as running:
        for _ in range(100):
            state = running.get("/health").json()
            if state["state"] == "failed":
                break
            time.sleep(0.05)
        assert "missing" in state["problem"]
    assert failures == [1]


def test_two_layers(make_settings: MakeSettings, layer_settings: LayerSettings) -> None:
    other = layer_settings.model_copy(update={"name": "other", "seed": 9})
    with TestClient(create_app(make_settings(interactive_wait=60), [layer_settings, other])) as running:
        wait_ready(running)
        a, b = running.get(ROOT), running.get(ROOT.replace("/tiles/", "/tiles/other/"))
        assert a.status_code == b.status_code == 200
        assert a.content != b.content
        assert running.get("/health").json()["layers"] == ["map", "other"]


@pytest.mark.parametrize(("suffix", "kind"), [(".webp", "image/webp"), (".jpg", "image/jpeg"), (".jpeg", "image/jpeg")])
def test_other_formats_show_the_same_tile(client: TestClient, suffix: str, kind: str) -> None:
    path = CHILD.removesuffix(".png")
    answer = client.get(path + suffix)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == kind
    assert answer.headers["x-tile-state"] == "generated"
    with Image.open(io.BytesIO(answer.content)) as image, Image.open(io.BytesIO(client.get(CHILD).content)) as plain:
        assert "generated, not surveyed" in image.getexif()[0x010E]
        difference = np.abs(np.asarray(image.convert("RGB"), dtype=int) - np.asarray(plain.convert("RGB"))).mean()
    assert difference == 0 if suffix == ".webp" else difference < 6
    again = client.get(path + suffix, headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304
    assert client.get(path + suffix).headers["x-tile-state"] == "cached"


def test_twice_the_resolution_is_the_next_zoom_and_at_the_last_one_enlarged(client: TestClient) -> None:
    answer = client.get(CHILD.replace(".png", "@2x.png"))
    assert answer.status_code == 200
    assert answer.headers["x-tile-scale"] == "zoom 16"
    with Image.open(io.BytesIO(answer.content)) as image:
        assert image.size == (512, 512)
        assert image.text["tilecascade:scale"] == "zoom 16"  # type: ignore[attr-defined]
        large = np.asarray(image.convert("RGB"))
    for column in (0, 1):
        for row in (0, 1):
            child = client.get(f"/tiles/16/{4 * PLACE.x + column}/{4 * PLACE.y + row}.png")
            assert child.headers["x-tile-state"] == "cached"
            with Image.open(io.BytesIO(child.content)) as image:
                part = large[256 * row : 256 * (row + 1), 256 * column : 256 * (column + 1)]
                assert np.array_equal(part, np.asarray(image.convert("RGB")))
    last = client.get(f"/tiles/16/{4 * PLACE.x}/{4 * PLACE.y}@2x.webp")
    assert last.headers["x-tile-scale"] == "enlarged"
    with Image.open(io.BytesIO(last.content)) as image:
        assert image.size == (512, 512)


@pytest.mark.parametrize("suffix", ["@3x.png", "@2x.gif", "@.png", ".tiff", ""])
def test_other_suffixes_are_404_with_what_there_is(client: TestClient, suffix: str) -> None:
    answer = client.get(CHILD.removesuffix(".png") + suffix)
    assert answer.status_code == 404
    assert "served" in answer.json()["detail"]


@pytest.mark.parametrize("form", ["png", "webp", "jpg"])
def test_a_mark_is_generated_on_request_only(client: TestClient, form: str) -> None:
    path = CHILD.replace("png", form)
    plain = client.get(path)
    marked = client.get(path + "?mark=1")
    with Image.open(io.BytesIO(plain.content)) as a, Image.open(io.BytesIO(marked.content)) as b:
        assert a.size == b.size
        before, after = (np.asarray(image.convert("RGB")).astype(int) for image in (a, b))
    changed = np.abs(before - after).max(axis=2) > 40
    assert changed[-16:, 6:70].mean() > 0.1, "the word"
    assert changed[40:200, 40:200].mean() < 0.01, "the map itself stays readable"
    assert marked.headers["etag"] != plain.headers["etag"]
    again = client.get(path + "?mark=1", headers={"If-None-Match": marked.headers["etag"]})
    assert again.status_code == 304
    assert client.get(path).content == plain.content
