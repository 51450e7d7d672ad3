"""Scenes that come and go over HTTP: what is taken in, what is refused, and that a refusal leaves nothing behind."""

from __future__ import annotations

import http.server
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import rasterio
from fastapi.testclient import TestClient
from rasterio.transform import from_origin

from tests.conftest import PLACE, picture, place_bounds, write_scene
from tests.support import corner_scene, wait_ready
from tilecascade.app.api.app import create_app
from tilecascade.app.settings import LayerSettings, Settings

MakeSettings = Callable[..., Settings]
KEY = {"X-API-Key": "a key for tests"}
CORNER = f"/tiles/16/{PLACE.x * 4 + 3}/{PLACE.y * 4 + 3}.png"
FAR = f"/tiles/16/{PLACE.x * 4}/{PLACE.y * 4}.png"


@pytest.fixture
def settings(make_settings: MakeSettings, tmp_path: Path) -> Settings:
    opened = tmp_path / "opened"
    opened.mkdir()
    return make_settings(interactive_wait=60, api_key=KEY["X-API-Key"], scene_roots=[opened], upload_bytes=20 << 20)


@pytest.fixture
def client(settings: Settings, layer_settings: LayerSettings) -> Iterator[TestClient]:
    layer = layer_settings.model_copy(update={"root_zoom": 16})
    with TestClient(create_app(settings, [layer])) as running:
        wait_ready(running)
        yield running


def files(settings: Settings) -> list[str]:
    folder = settings.data_dir / "scenes"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_a_scene_comes_and_goes_and_only_its_tiles_change(
    client: TestClient, settings: Settings, tmp_path: Path
) -> None:
    before = {path: client.get(path).content for path in (CORNER, FAR)}
    first = client.get("/scenes").json()
    assert len(first["scenes"]) == 1
    upload = corner_scene(tmp_path, 7).read_bytes()
    added = client.post("/scenes?acquired=2099-01-01&attribution=Drone+team", content=upload, headers=KEY)
    assert added.status_code == 201, added.text
    scene = added.json()
    assert scene["acquired"] == "2099-01-01T00:00:00"
    assert scene["zooms"] == [16, 16]
    told = client.get("/scenes").json()
    ids = [one["id"] for one in told["scenes"]]
    assert ids == [scene["id"], first["scenes"][0]["id"]]
    assert told["revision"] != first["revision"]
    tilejson = client.get("/tilejson.json").json()
    assert "Drone team" in tilejson["attribution"]
    assert told["revision"] in tilejson["tiles"][0]
    assert client.get(FAR).headers["x-tile-state"] == "cached"
    assert client.get(FAR).content == before[FAR]
    assert client.get(CORNER).headers["x-tile-state"] == "generated"
    assert client.get(CORNER).content != before[CORNER]

    # below the old one it shows nothing
    assert client.put("/scenes/order", json={"ids": ids[::-1]}, headers=KEY).status_code == 200
    assert client.get(CORNER).content == before[CORNER]
    assert client.put("/scenes/order", json={"ids": []}, headers=KEY).status_code == 200
    assert client.get(CORNER).content != before[CORNER]
    assert client.put("/scenes/order", json={"ids": ids[:1]}, headers=KEY).status_code == 400

    assert files(settings) == [f"{scene['id']}.tif"]
    gone = client.delete(f"/scenes/{scene['id']}", headers=KEY)
    assert gone.status_code == 200
    assert gone.json()["revision"] == first["revision"]
    assert files(settings) == []
    assert {path: client.get(path).content for path in (CORNER, FAR)} == before
    assert client.delete(f"/scenes/{scene['id']}", headers=KEY).status_code == 404
    last = client.delete(f"/scenes/{ids[1]}", headers=KEY)
    assert last.status_code == 422
    assert "needs a scene" in last.json()["detail"]


def test_what_was_added_is_there_after_a_restart(
    settings: Settings, layer_settings: LayerSettings, tmp_path: Path
) -> None:
    layer = layer_settings.model_copy(update={"root_zoom": 16})
    shown = []
    for first in (True, False):
        with TestClient(create_app(settings, [layer])) as client:
            wait_ready(client)
            if first:
                upload = corner_scene(tmp_path, 7).read_bytes()
                assert client.post("/scenes", content=upload, headers=KEY).status_code == 201
            shown.append((client.get("/scenes").json(), client.get(CORNER).content))
    assert shown[0] == shown[1]


def test_changing_needs_the_key_and_reading_does_not(
    make_settings: MakeSettings, layer_settings: LayerSettings
) -> None:
    settings = make_settings()
    with TestClient(create_app(settings, [layer_settings])) as client:
        wait_ready(client)
        place = settings.data_dir / "api-key"
        assert place.stat().st_mode & 0o777 == 0o600
        for given in ({}, {"X-API-Key": "wrong"}, {"Authorization": "Bearer wrong"}):
            for answer in (
                client.post("/scenes", content=b"x", headers=given),
                client.delete("/scenes/x", headers=given),
                client.put("/scenes/order", json={"ids": []}, headers=given),
            ):
                assert answer.status_code == 403
                assert "role 'scenes'" in answer.json()["detail"]
                assert str(settings.data_dir) not in answer.json()["detail"]
        key = place.read_text()
        assert client.delete("/scenes/x", headers={"Authorization": f"Bearer {key}"}).status_code == 404
        assert client.get("/scenes").status_code == 200


def test_paths_are_taken_from_opened_folders_only(client: TestClient, settings: Settings, tmp_path: Path) -> None:
    opened = settings.scene_roots[0]
    inside = corner_scene(opened, 7, "in.tif")
    outside = corner_scene(tmp_path, 8, "out.tif")
    (opened / "link.tif").symlink_to(outside)
    for path in (outside, opened / ".." / "out.tif", opened / "link.tif", Path("/etc/passwd")):
        refused = client.post("/scenes", json={"path": str(path)}, headers=KEY)
        assert refused.status_code == 403, path
        assert "TILECASCADE_SCENE_ROOTS" in refused.json()["detail"]
    assert client.post("/scenes", json={"path": str(inside)}, headers=KEY).status_code == 201
    missing = client.post("/scenes", json={"path": str(inside.with_name("none.tif"))}, headers=KEY)
    assert missing.status_code == 422
    two = {"path": str(inside), "url": "http://a/b.tif"}
    for body in ({}, two, {"pth": "x"}, {"path": str(inside), "acquired": "soon"}):
        answer = client.post("/scenes", json=body, headers=KEY)
        assert answer.status_code in (400, 422)
        assert answer.json()["detail"]
    assert inside.exists()


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server's address, and its folder."""
    folder = tmp_path / "web"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *given: object) -> None:
            super().__init__(*given, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            if self.path == "/away.tif":
                self.send_response(302)
                self.send_header("Location", "http://127.0.0.1:1/secret.tif")
                self.end_headers()
                return
            super().do_GET()

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()


def test_addresses_and_stac_items_are_taken_from_opened_hosts_only(
    web: tuple[str, Path], settings: Settings, layer_settings: LayerSettings
) -> None:
    url, folder = web
    corner_scene(folder, 7, "scene.tif")
    item = {
        "type": "Feature",
        "properties": {"datetime": "2098-05-06T07:08:09Z"},
        "assets": {
            "thumbnail": {"href": "t.png", "type": "image/png"},
            "visual": {"href": "./scene.tif", "type": "image/tiff; application=geotiff"},
        },
    }
    (folder / "item.json").write_text(json.dumps(item))
    elsewhere = item | {"assets": {"visual": {"href": "http://169.254.169.254/x.tif", "type": "image/tiff"}}}
    (folder / "elsewhere.json").write_text(json.dumps(elsewhere))
    (folder / "none.json").write_text("{}")
    settings.scene_hosts.append(url.removeprefix("http://"))
    layer = layer_settings.model_copy(update={"root_zoom": 16})
    with TestClient(create_app(settings, [layer])) as client:
        wait_ready(client)

        def post(**body: str) -> httpx.Response:
            return client.post("/scenes", json=body, headers=KEY)

        for refused in (
            post(url="http://localhost/scene.tif"),
            post(url="http://127.0.0.1:1/scene.tif"),
            post(url="file:///etc/passwd"),
            post(url="http://[::1]/x.tif"),
            post(url=url.replace("//", "//user@") + "/scene.tif"),
            post(stac="http://169.254.169.254/latest"),
            post(stac=url + "/elsewhere.json"),
        ):
            assert refused.status_code == 403, refused.text
            assert "TILECASCADE_SCENE_HOSTS" in refused.json()["detail"]
        for wrong in (post(url=url + "/nothing.tif"), post(url=url + "/away.tif"), post(stac=url + "/none.json")):
            assert wrong.status_code == 422
        assert files(settings) == []
        assert post(url=url + "/scene.tif").status_code == 201
        named = post(stac=url + "/item.json")
        assert named.status_code == 201
        assert named.json()["acquired"] == "2098-05-06T07:08:09"


@pytest.mark.parametrize(
    "item",
    [
        b"[]", b"null", b"7", b'"x"', b"{}", b"[" * 100_000, b'{"assets": 5}', b'{"assets": []}', b'{"assets": null}',
        b'{"assets": {"visual": 5}}', b'{"assets": {"visual": null}}', b'{"assets": {"visual": []}}',
        b'{"assets": {"visual": {"type": "image/tiff"}}}', b'{"assets": {"visual": {"type": "image/tiff", "href": 7}}}',
        b'{"assets": {"visual": {"type": 7, "href": "x"}}}', b'{"assets": {"": {"type": "tiff", "href": null}}}',
        b'{"assets": {"visual": {"type": "image/tiff", "href": "http://[::1"}}}',
        b'{"assets": {"visual": {"type": "image/tiff", "href": "\\u0000"}}}',
        b'{"assets": {"visual": {"type": "image/tiff", "href": "s.tif"}}, "properties": 5}',
        b'{"assets": {"visual": {"type": "image/tiff", "href": "s.tif"}}, "properties": {"datetime": 5}}',
        b'{"assets": {"visual": {"type": "image/tiff", "href": "s.tif"}}, "properties": {"datetime": "yesterday"}}',
        b'{"assets": {"visual": {"type": "image/tiff", "href": "//"}}}', b"\xff\xfe", b'{"a": NaN, "assets": {}}',
        b'{"assets": {"visual": {"type": "image/tiff", "href": "s.tif"}}}' + b" " * (2 << 20),
    ],
)  # fmt: skip
def test_stac_items_of_odd_shapes_are_refused(
    web: tuple[str, Path], settings: Settings, layer_settings: LayerSettings, item: bytes
) -> None:
    url, folder = web
    (folder / "item.json").write_bytes(item)
    settings.scene_hosts.append(url.removeprefix("http://"))
    with TestClient(create_app(settings, [layer_settings]), raise_server_exceptions=False) as client:
        wait_ready(client)
        answer = client.post("/scenes", json={"stac": f"{url}/item.json"}, headers=KEY)
        assert answer.status_code in (403, 422), answer.text
        assert len(answer.json()["detail"].split()) >= 4
        assert files(settings) == []


@pytest.mark.parametrize(
    "body",
    ["", "[]", "null", "7", '"x"', "{", '{"path": 5}', '{"path": "\\u0000"}', '{"path": ""}', '{"path": "/"}',
     '{"url": 5}', '{"url": ""}', '{"url": "http://[::1"}', '{"url": "http://xn--/x.tif"}', '{"url": "\\ud800"}',
     '{"stac": []}', '{"path": "' + "a" * 5000 + '"}', '{"path": "x", "url": "y"}',
     '{"url": "http://a", "acquired": 7}', "[" * 50_000],
)  # fmt: skip
def test_named_scenes_of_odd_shapes_are_refused(client: TestClient, settings: Settings, body: str) -> None:
    answer = client.post("/scenes", content=body, headers=KEY | {"Content-Type": "application/json"})
    assert 400 <= answer.status_code < 500, answer.text
    assert len(answer.json()["detail"].split()) >= 3


def test_a_name_server_is_asked_once(
    web: tuple[str, Path], settings: Settings, layer_settings: LayerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second answer of a name server under somebody's control would be an address inside."""
    asked: list[object] = []
    real = socket.getaddrinfo

    def answer(host: str, *rest: object, **more: object) -> object:
        if host == "drone.example":
            asked.append(host)
            return real("192.88.99.9" if len(asked) == 1 else "127.0.0.1", None)
        return real(host, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    url, folder = web
    corner_scene(folder, 7, "scene.tif")
    port = url.rsplit(":", 1)[1]
    settings.scene_hosts.append(f"drone.example:{port}")
    with TestClient(create_app(settings, [layer_settings])) as client:
        wait_ready(client)
        refused = client.post("/scenes", json={"url": f"http://drone.example:{port}/scene.tif"}, headers=KEY)
    assert refused.status_code == 422  # nobody is at the address that was checked
    assert len(asked) == 1


VRT = (
    '<VRTDataset rasterXSize="9" rasterYSize="9"><SRS>EPSG:3857</SRS>'
    '<VRTRasterBand dataType="Byte" band="1">{}</VRTRasterBand></VRTDataset>'
)
SOURCE = "<SimpleSource><SourceFilename>{}</SourceFilename><SourceBand>1</SourceBand></SimpleSource>"
WMS = b"<GDAL_WMS><Service name='TMS'><ServerUrl>http://127.0.0.1:1/</ServerUrl></Service></GDAL_WMS>"


def no_tiffs() -> dict[str, bytes]:
    """Content that is no GeoTIFF, or the beginning of one."""
    header = bytes.fromhex("49492a0008000000")
    return {
        "nothing": b"",
        "one byte": b"I",
        "text": b"not a raster at all",
        "html": b"<html><body>404</body></html>",
        "json": b'{"type": "FeatureCollection", "features": []}',
        "zeros": bytes(5000),
        "noise": np.random.default_rng(0).bytes(5000),
        "utf-16": "a scene".encode("utf-16"),
        "zip": b"PK\x03\x04" + bytes(200),
        "gzip": b"\x1f\x8b\x08" + bytes(200),
        "pdf": b"%PDF-1.7\n" + bytes(200),
        "shell script": b"#!/bin/sh\nrm -rf /\n",
        "vrt of a file": VRT.format(SOURCE.format("/etc/passwd")).encode(),
        "vrt of an address": VRT.format(SOURCE.format("/vsicurl/http://127.0.0.1:1/x.tif")).encode(),
        "vrt of nothing": VRT.format("").encode(),
        "wms description": WMS,
        "vsi path": b"/vsicurl/http://127.0.0.1:1/x.tif",
        "tiff header only": header,
        "tiff with a wild directory": header[:4] + b"\xff\xff\xff\x7f",
        "tiff with an empty directory": header + bytes(6),
        "big tiff header only": bytes.fromhex("49492b00080000001000000000000000"),
        "tiff whose directory points to itself": header + b"\x01\x00" + bytes(12) + b"\x08\x00\x00\x00",
    }


def unfit_tiffs(folder: Path) -> dict[str, bytes]:
    """TIFFs, whole or not, that cannot serve as imagery."""
    box, pixels = place_bounds(), picture(256, 1)
    place = {"crs": "EPSG:3857", "transform": from_origin(box[0], box[3], 1, 1)}
    empty = np.zeros((256, 256, 3), dtype=np.uint8)

    def scene(name: str, data: np.ndarray = pixels, crs: str = "EPSG:3857", **options: object) -> bytes:
        bounds = options.pop("bounds", box)
        return write_scene(folder / f"{name}.tif", data, bounds, crs, **options).read_bytes()  # type: ignore[arg-type]

    def raw(name: str, driver: str = "GTiff", **profile: object) -> bytes:
        given = {"width": 64, "height": 64, "count": 3, "dtype": "uint8"} | profile
        with rasterio.open(folder / name, "w", driver=driver, **given) as out:
            out.write(np.ones((given["count"], 64, 64), dtype=given["dtype"]))  # type: ignore[arg-type]
        return (folder / name).read_bytes()

    good = scene("good")
    return {
        "cut to 100 bytes": good[:100],
        "cut to half": good[: len(good) // 2],
        "cut by one block": good[:-70_000],
        "first bytes missing": good[4:],
        "no crs": raw("nocrs.tif", transform=place["transform"]),
        "no georeference": raw("nogeo.tif", crs="EPSG:3857"),
        "neither": raw("neither.tif"),
        "local crs": raw("local.tif", crs='LOCAL_CS["site grid",UNIT["metre",1]]', transform=place["transform"]),
        "colours of a palette": palette(folder / "palette.tif", **place),
        "one band of no number": scene("void", np.full((256, 256, 1), np.nan, dtype=np.float32)),
        "two bands": raw("two.tif", count=2, **place),
        "complex numbers": raw("complex.tif", dtype="complex64", **place),
        "all nodata": scene("nodata", empty, nodata=0),
        "all masked": scene("masked", mask=np.zeros((256, 256), dtype=bool)),
        "all transparent": scene("transparent", np.dstack([pixels, empty[..., 0]]), photometric="RGB", alpha="YES"),
        "no number anywhere": scene("nan", np.full((256, 256, 3), np.nan, dtype=np.float32), nodata=np.nan),
        "beyond the world": scene("beyond", crs="EPSG:4326", bounds=(500.0, 10.0, 501.0, 11.0)),
        "png": raw("other.png", driver="PNG"),
        "jpeg": raw("other.jpg", driver="JPEG"),
        "bomb": bomb(folder / "bomb.tif"),
    }


def palette(path: Path, **place: object) -> bytes:
    """One band of numbers of colours."""
    with rasterio.open(path, "w", driver="GTiff", width=64, height=64, count=1, dtype="uint8", **place) as out:
        out.write(np.ones((1, 64, 64), dtype=np.uint8))
        out.write_colormap(1, {1: (255, 0, 0, 255)})
    return path.read_bytes()


def bomb(path: Path) -> bytes:
    """A small file that says it is a picture of 150,000 x 150,000 pixels."""
    edge = 150_000
    profile = {"driver": "GTiff", "width": edge, "height": edge, "count": 3, "dtype": "uint8", "crs": "EPSG:3857"}
    layout = {"tiled": True, "blockxsize": 4096, "blockysize": 4096, "sparse_ok": True}
    with rasterio.open(path, "w", **profile, **layout, transform=from_origin(0, 0, 1, 1)):
        pass
    return path.read_bytes()


@pytest.mark.slow
def test_forty_kinds_of_broken_file_are_4xx_with_a_sentence_and_leave_nothing(
    client: TestClient, settings: Settings, tmp_path: Path
) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    before = client.get("/scenes").json()
    kinds = no_tiffs() | unfit_tiffs(folder)
    assert len(kinds) >= 40
    for name, content in kinds.items():
        answer = client.post("/scenes", content=content, headers=KEY)
        assert 400 <= answer.status_code < 500, (name, answer.status_code, answer.text)
        words = answer.json()["detail"]
        assert len(words.split()) >= 4, (name, words)
        assert str(settings.data_dir) not in words, (name, words)
        assert files(settings) == [], name
    large = client.post("/scenes", content=bytes(21 << 20), headers=KEY)
    assert large.status_code == 413
    assert files(settings) == []
    assert client.get("/scenes").json() == before
    assert client.get("/health").json()["state"] == "ready"


def test_the_country_takes_no_scenes(settings: Settings, tmp_path: Path) -> None:
    with TestClient(create_app(settings, [LayerSettings(country=1)])) as client:
        wait_ready(client)
        answer = client.post("/scenes", content=corner_scene(tmp_path, 7).read_bytes(), headers=KEY)
        assert answer.status_code == 422
        assert "fictional country" in answer.json()["detail"]
        assert client.get("/scenes").json()["scenes"] == []
