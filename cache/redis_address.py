"""How a Redis can be named: one server, a master that sentinels know, or a cluster; with TLS or without."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import redis
from redis.connection import parse_url
from redis.sentinel import Sentinel

SENTINEL_PORT = 26379

FORMS = (
    "redis://HOST:6379/0, rediss://HOST:6380/0 (TLS), unix:///PATH, redis+sentinel://HOST:26379,HOST:26379/MASTER/0, "
    "or redis+cluster://HOST:6379; rediss+... with TLS"
)


def client_of(url: str, **options: Any) -> Any:
    """A client of redis-py. options: its own. What follows a `?` is an option, too, such as ssl_ca_certs=/ca.pem.

    Connects to nothing, but for a cluster. Raises ValueError for an address that is none of FORMS.
    """
    scheme, _, kind = urlsplit(url).scheme.partition("+")
    if kind == "sentinel" and scheme in ("redis", "rediss"):
        return _by_sentinels(url, scheme, options)
    if kind == "cluster" and scheme in ("redis", "rediss"):
        plain = f"{scheme}://{url.partition('://')[2]}"
        parse_url(plain)
        del options["retry_on_timeout"]  # which a cluster's client decides itself
        return redis.RedisCluster.from_url(plain, **options)
    if kind:
        raise ValueError(f"a Redis is named as {FORMS}")
    try:
        return redis.Redis.from_url(url, **options)
    except ValueError:
        raise ValueError(f"a Redis is named as {FORMS}") from None


def _by_sentinels(url: str, scheme: str, options: dict[str, Any]) -> Any:
    parts = urlsplit(url)
    place = parts.path.strip("/").split("/")
    hosts = parts.netloc.rpartition("@")[2].split(",")
    if not place[0] or len(place) > 2 or not all(hosts):
        raise ValueError(f"a Redis is named as {FORMS}")
    account = parts.netloc.rpartition("@")[0]
    # user, password, database and options as they are read of any other address
    plain = f"{scheme}://{account}{'@' * bool(account)}host/{place[1] if len(place) == 2 else 0}?{parts.query}"
    said = {name: value for name, value in parse_url(plain).items() if name not in ("host", "port", "connection_class")}
    if scheme == "rediss":
        said["ssl"] = True
    of_sentinels = {name: value for name, value in said.items() if name.startswith("ssl")}
    timeouts = {name: options[name] for name in ("socket_timeout", "socket_connect_timeout") if name in options}
    known = [_host(text) for text in hosts]
    return Sentinel(known, sentinel_kwargs=of_sentinels | timeouts).master_for(place[0], **said | options)


def _host(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon:
        return text, SENTINEL_PORT
    if not port.isdigit():
        raise ValueError(f"a Redis is named as {FORMS}")
    return host.strip("[]"), int(port)
