"""Three front ends in networks of their own, one Redis, one S3 server: a partition in the middle of everything."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from mercantile import Tile

from tests.conftest import SceneMaker, place_bounds
from tests.program import Server
from tests.support import ALL, corner_scene
from tilecascade.cache.redis import find_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

KEY = "the-owners-key"
PARTITION_SECONDS = 20.0
BOUNDS = place_bounds("EPSG:4326")


def sh(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


class Network:
    """One host in the middle, `inside`, and hosts around it, each behind a cable of its own for what servers share and
    another one for their clients."""

    inside = "10.197.0.1"

    def __init__(self, hosts: int) -> None:
        self.hosts = [f"tc{os.getpid() % 10000}-{number}" for number in range(1, hosts + 1)]
        self._bridges = [f"tcb{os.getpid() % 10000}-{kind}" for kind in ("s", "c")]

    def build(self) -> None:
        for net, bridge in zip(("10.197.0", "10.198.0"), self._bridges, strict=True):
            sh("ip", "link", "add", bridge, "type", "bridge")
            sh("ip", "addr", "add", f"{net}.1/24", "dev", bridge)
            sh("ip", "link", "set", bridge, "up")
        for number, host in enumerate(self.hosts, start=1):
            sh("ip", "netns", "add", host)
            sh("ip", "netns", "exec", host, "ip", "link", "set", "lo", "up")
            for net, bridge in zip(("10.197.0", "10.198.0"), self._bridges, strict=True):
                cable = f"{bridge[-1]}{host[2:]}"
                sh("ip", "link", "add", cable, "type", "veth", "peer", "name", f"eth{bridge[-1]}", "netns", host)
                sh("ip", "link", "set", cable, "master", bridge, "up")
                inner = ("ip", "netns", "exec", host, "ip")
                sh(*inner, "addr", "add", f"{net}.{10 + number}/24", "dev", f"eth{bridge[-1]}")
                sh(*inner, "link", "set", f"eth{bridge[-1]}", "up")

    def address(self, host: int) -> str:
        """Where clients find a host."""
        return f"10.198.0.{11 + host}"

    @contextmanager
    def partition(self, host: int) -> Iterator[None]:
        """A host can reach nothing that servers share; clients reach it."""
        cable = f"s{self.hosts[host][2:]}"
        sh("ip", "link", "set", cable, "down")
        try:
            yield
        finally:
            sh("ip", "link", "set", cable, "up")

    def remove(self) -> None:
        for host in self.hosts:
            subprocess.run(("ip", "netns", "delete", host), capture_output=True, check=False)
        for bridge in self._bridges:
            subprocess.run(("ip", "link", "delete", bridge), capture_output=True, check=False)


@pytest.fixture
def network() -> Iterator[Network]:
    if shutil.which("ip") is None or os.getuid() != 0:
        pytest.skip("networks need iproute2, and the right to make some")
    made = Network(3)
    try:
        made.build()
    except subprocess.CalledProcessError as error:
        made.remove()
        pytest.skip(f"no networks can be made here: {error.stderr.decode()}")
    yield made
    made.remove()


@pytest.fixture
def shared(network: Network, tmp_path: Path) -> Iterator[dict[str, str]]:
    """A Redis and an S3 server, and what servers are told of them."""
    pytest.importorskip("moto.server")
    program = find_server()
    if program is None:
        pytest.skip("no redis-server here")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    # the addresses are this test's own, so the ports are free
    running = [
        subprocess.Popen(
            [program, "--bind", network.inside, "--port", "7379", "--protected-mode", "no", "--save", ""], **quiet
        ),
        subprocess.Popen([sys.executable, "-m", "moto.server", "-H", network.inside, "-p", "7900"], **quiet),
    ]
    keys = {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
    endpoint = f"http://{network.inside}:7900"
    try:
        for _ in range(200):
            try:
                httpx.get(endpoint)
                break
            except httpx.HTTPError:
                time.sleep(0.1)
        client(endpoint).create_bucket(Bucket="tiles")
        yield keys | {
            "AWS_ENDPOINT_URL": endpoint, "TILECASCADE_OBJECT_STORE": "s3://tiles/cache", "TILECASCADE_GROUP": "us",
            "TILECASCADE_REDIS_URL": f"redis://{network.inside}:7379/0", "TILECASCADE_API_KEY": KEY,
            "TILECASCADE_SCENES_DIR": str(tmp_path / "scenes"),
        }  # fmt: skip
    finally:
        for process in running:
            process.kill()
            process.wait()


def client(endpoint: str) -> object:
    import boto3

    keys = {"aws_access_key_id": "me", "aws_secret_access_key": "secret"}
    return boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **keys)


class Viewer:
    """Somebody who looks at all tiles of a server again and again. answers: all that he got."""

    def __init__(self, server: Server) -> None:
        self.answers: list[httpx.Response] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, args=(server,))
        self._thread.start()

    def _look(self, server: Server) -> None:
        while not self._over.is_set():
            for tile in ALL[:: 1 + len(self.answers) % 3]:
                if not self._over.is_set():
                    self.answers.append(server.get(f"/tiles/{tile.z}/{tile.x}/{tile.y}.png"))

    def stop(self) -> None:
        self._over.set()
        self._thread.join()


def tiles_of(server: Server) -> dict[Tile, bytes]:
    def one(tile: Tile) -> tuple[Tile, bytes]:
        answer = server.get(f"/tiles/{tile.z}/{tile.x}/{tile.y}.png?wait=200")
        assert answer.headers["x-tile-state"] in ("generated", "cached")
        return tile, answer.content

    with ThreadPoolExecutor(4) as pool:
        return dict(pool.map(one, ALL))


def test_a_partition_leaves_no_stale_tile_and_nobody_gets_an_error(
    network: Network, shared: dict[str, str], make_scene: SceneMaker, tiny_weights: Path, tmp_path: Path
) -> None:
    """In the middle of a prefetch and of a change of scenes, one front end reaches neither Redis nor the bucket."""
    scene, fresh = make_scene(), corner_scene(tmp_path, 5)
    with ExitStack() as stack:
        before = Server(scene, tiny_weights, tmp_path / "before")
        stack.callback(before.kill)
        old = tiles_of(before)
        before.kill()

        def start(host: int) -> Server:
            within = ("ip", "netns", "exec", network.hosts[host])
            return Server(scene, tiny_weights, tmp_path / f"front{host}", shared, within, network.address(host))

        with ThreadPoolExecutor() as pool:
            servers = list(pool.map(start, range(3)))
        for server in servers:
            stack.callback(server.kill)
        job = httpx.post(
            servers[2].url + "/jobs",
            json={"zooms": [14, 16], "bbox": list(BOUNDS)},
            headers={"X-API-Key": KEY},
            timeout=30,
        )
        assert job.status_code in (200, 201, 202), job.text
        viewers = [Viewer(server) for server in servers]
        with network.partition(2):
            began = time.monotonic()
            added = httpx.post(
                servers[0].url + "/scenes", content=fresh.read_bytes(), headers={"X-API-Key": KEY}, timeout=60
            )
            assert added.status_code == 201, added.text
            assert tiles_of(servers[0]) == tiles_of(servers[1]) != old
            assert tiles_of(servers[2]) == old  # it goes on with what it knows
            time.sleep(max(0.0, PARTITION_SECONDS - (time.monotonic() - began)))
        # the other servers' changes, within a look of the healed network
        deadline = time.monotonic() + 30
        while len(servers[2].get("/scenes").json()["scenes"]) < 2 and time.monotonic() < deadline:
            time.sleep(0.2)
        for viewer in viewers:
            viewer.stop()
        assert all(answer.status_code == 200 for viewer in viewers for answer in viewer.answers)
        reference = Server(scene, tiny_weights, tmp_path / "reference", {"TILECASCADE_API_KEY": KEY})
        stack.callback(reference.kill)
        httpx.post(reference.url + "/scenes", content=fresh.read_bytes(), headers={"X-API-Key": KEY}, timeout=60)
        truth = tiles_of(reference)
        for server in servers:
            assert tiles_of(server) == truth
        assert bucket_has_only(truth, reference, shared["AWS_ENDPOINT_URL"]) > 0
        for server in servers:
            assert "Traceback" not in server.log.read_text(), server.log.read_text()


def bucket_has_only(truth: dict[Tile, bytes], server: Server, endpoint: str) -> int:
    """How many objects of the present revision there are; each is the right one."""
    bucket, count = client(endpoint), 0
    revision = server.get("/tilejson.json").json()["tiles"][0].split("v=")[1].split("&")[0]
    listed = bucket.list_objects_v2(Bucket="tiles", Prefix=f"cache/map/{revision}/")  # type: ignore[attr-defined]
    for row in listed.get("Contents", []):
        name = row["Key"].split("/")[3:]
        if len(name) == 3 and name[2].removesuffix(".png").isdigit():
            body = bucket.get_object(Bucket="tiles", Key=row["Key"])["Body"].read()  # type: ignore[attr-defined]
            assert body == truth[Tile(int(name[1]), int(name[2].removesuffix(".png")), int(name[0]))]
            count += 1
    return count
