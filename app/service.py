"""What a running program holds: settings in, layers with their resolvers, the cache and the generator out."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import secrets
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from mercantile import Tile

from app.changes import SceneChanges
from app.errors import NotFoundError, NotReadyError
from app.hits import is_whole
from app.jobs import Jobs
from app.layer import Generator, Layer
from app.limits import TokenBuckets
from app.metrics import ServiceMetrics
from app.published import Published
from app.resolver import Found, TileResolver
from app.scenes import SceneSet
from app.settings import LayerSettings, Settings, SettingsError
from app.versions import old_versions, remove
from cache.disk import DiskStore
from cache.lease import AllLeases, FileLeases, Leases, RedisLeases
from cache.memory import MemoryStore
from cache.redis import EmbeddedRedis, RedisClient, RedisStore, find_server
from cache.store import Store
from cache.tiered import TieredStore
from model.engine import GenerationEngine, LocalEngine, Urgency
from model.pipeline import CascadePipeline
from model.sgdm.network import load_network, weights_hash

log = logging.getLogger(__name__)

MOST_LANES = 8
"""Blocks drawn side by side on a CPU unless `threads` says otherwise: each takes up to half a GB."""

LINGER = 60.0
"""Seconds that a tile is drawn on after its last request was answered with a placeholder."""


def choose_device(wanted: str) -> str:
    """ "auto" -> cuda if there is one, else cpu. Raises SettingsError for a device that is not there."""
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=wanted)
    except (RuntimeError, AssertionError):
        raise SettingsError(f"device {wanted!r} is not usable here; use auto, cpu or cuda") from None
    return wanted


def choose_dtype(wanted: str, device: str) -> torch.dtype:
    """ "auto" -> bfloat16 where the device multiplies it natively, else float32."""
    if wanted == "auto":
        native = device.startswith("cuda") or torch.cpu._is_avx512_bf16_supported()
        return torch.bfloat16 if native else torch.float32
    return torch.bfloat16 if wanted == "bfloat16" else torch.float32


def runtime_fingerprint(device: str, dtype: torch.dtype, batch: int) -> str:
    """What else the bytes depend on: two unlike machines may differ in the last bit, so they are named apart."""
    kind = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{kind} {capability} {dtype} torch {torch.__version__} batch {batch}"


class Service:
    """Everything behind the routes. `start` may take a while (weights, scenes); `close` drains and stops.

    workers_dir: where worker processes before this one look for FACTS_FILE and leave their counts.
    """

    def __init__(self, settings: Settings, layers: list[LayerSettings], workers_dir: Path | None = None) -> None:
        self.settings = settings
        self._workers_dir = workers_dir
        self._wanted = layers
        self.state = "starting"
        self.problem: str | None = None
        self.resolvers: dict[str, TileResolver] = {}
        self.workers = ThreadPoolExecutor(max(4, os.cpu_count() or 1), thread_name_prefix="worker")
        self._redis: EmbeddedRedis | None = None
        self._lingering: set[asyncio.Task[Found]] = set()
        kinds: list[Leases] = []
        self.store = TieredStore(self._tiers(kinds))
        self.leases = AllLeases(kinds)
        self.engine: GenerationEngine | None = None
        self.device = "cpu"
        self.published = Published(self.tiles_dir, workers_dir)
        self.changes = SceneChanges(settings.data_dir, self.published)
        self.api_key, self.api_key_place = self._key()
        self.limits = TokenBuckets(settings.client_rate)
        self.metrics = ServiceMetrics(self, workers_dir)
        self.jobs = Jobs(settings.data_dir / "jobs", self.resolver)

    @property
    def tiles_dir(self) -> Path:
        """Where tiles lie on disk."""
        return self.settings.data_dir / "tiles"

    @property
    def default_layer(self) -> Layer:
        """The first layer: what `/tiles/{z}/{x}/{y}.png` shows."""
        return next(iter(self.resolvers.values())).layer

    def resolver(self, layer: str | None) -> TileResolver:
        """The named layer's resolver, or the default layer's. Raises NotReadyError or NotFoundError."""
        if not self.resolvers:
            raise NotReadyError("the server is starting: the model is being loaded")
        name = layer or self.default_layer.name
        if name not in self.resolvers:
            raise NotFoundError(f"there is no layer {name[:40]!r}; there are: {', '.join(self.resolvers)}")
        return self.resolvers[name]

    def seconds_per_block(self) -> float | None:
        """What a block has taken so far when many are drawn; None before the first."""
        state = self.engine.state() if self.engine is not None else None
        drawn = sum(size * count for size, count in state.batch_sizes.items()) if state is not None else 0
        return state.draw_seconds / state.lanes / drawn if state is not None and drawn else None

    def linger(self, task: asyncio.Task[Found]) -> None:
        """Let a tile that somebody gave up waiting for be drawn for LINGER seconds more: they will ask again."""
        timer = asyncio.get_running_loop().call_later(LINGER, task.cancel)
        self._lingering.add(task)

        def done(finished: asyncio.Task[Found]) -> None:
            timer.cancel()
            self._lingering.discard(finished)
            if not finished.cancelled():
                finished.exception()  # nobody else looks at it

        task.add_done_callback(done)

    def look_ahead(self, resolver: TileResolver, tile: Tile) -> None:
        """Begin to draw the blocks around a tile: where somebody looks, he will look next."""
        edge, world = 1 << resolver.layer.ladder.span, 1 << tile.z
        for across, down in ((a, d) for d in (-edge, 0, edge) for a in (-edge, 0, edge) if a or d):
            if 0 <= tile.y + down < world:
                near = Tile((tile.x + across) % world, tile.y + down, tile.z)
                self.linger(asyncio.ensure_future(resolver.tile(near, Urgency.NEIGHBOUR)))

    def _tiers(self, leases: list[Leases]) -> list[Store]:
        """The tiers of the store; adds what kinds of leases there are."""
        settings = self.settings
        try:
            self.tiles_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(f"data directory {settings.data_dir} cannot be used: {error.strerror}") from None
        self.disk = DiskStore(self.tiles_dir, settings.disk_bytes, is_whole)
        tiers: list[Store] = [MemoryStore(settings.memory_bytes), self.disk]
        url = settings.redis_url
        if url is None and (program := find_server()):
            self._redis = EmbeddedRedis(program, settings.redis_bytes)
            url = self._redis.url
        if url and url != "none":
            try:
                client = RedisClient(url)
                tiers.append(RedisStore(client, settings.redis_ttl))
            except ValueError as error:
                raise SettingsError(f"redis_url {url!r}: {error}") from None
            if self._redis is None:  # nobody else knows the embedded one
                leases.append(RedisLeases(client))
        leases.append(FileLeases(settings.data_dir / "leases"))
        return tiers

    def start(self) -> None:
        """Load the model, open the scenes, sweep the tile directory. Raises SettingsError or SceneError."""
        settings = self.settings
        self.device = device = choose_device(settings.device)
        batch = settings.batch_blocks or (8 if device.startswith("cuda") else 1)
        dtype = choose_dtype(settings.dtype, device)
        lanes = settings.threads or min(MOST_LANES, os.cpu_count() or 1)
        if torch.device(device).type != "cpu":
            lanes = 1
        try:
            network = load_network(settings.weights)
        except (FileNotFoundError, ValueError, RuntimeError) as error:
            raise SettingsError(f"weights: {str(error).splitlines()[0]}") from None
        fingerprint = runtime_fingerprint(device, dtype, batch)
        generator = Generator(
            weights_hash(settings.weights), fingerprint, network.config.windows, network.config.calibration
        )
        layers = [self.changes.build(wanted, generator) for wanted in self._wanted]
        self.engine = LocalEngine(CascadePipeline(network, device, dtype), batch, lanes)
        self.resolvers = {
            layer.name: TileResolver(layer, self.store, self.leases, self.engine, self.workers) for layer in layers
        }
        for resolver in self.resolvers.values():
            layer = resolver.layer
            self.changes.catch_up(resolver)
            self.published.point(layer)
            log.info(
                "layer %s: version %s, zooms %d to %d", layer.name, layer.version, layer.ladder.root, layer.max_zoom
            )
        self.published.tell(layers)
        threading.Thread(target=self._sweep, name="sweep", daemon=True).start()
        self.state = "ready"

    def _key(self) -> tuple[str, str]:
        """The key that changes need, and where it is: as set, or made up once and kept in a file for the owner only."""
        if self.settings.api_key:
            return self.settings.api_key, "TILECASCADE_API_KEY"
        path = self.settings.data_dir / "api-key"
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        except FileExistsError:
            # empty: whoever made the file was killed before the key was in it
            return path.read_text().strip() or secrets.token_urlsafe(24), str(path)
        except OSError:  # a read-only directory: there is nothing to change there anyway
            return secrets.token_urlsafe(24), "nobody's hands: the data directory is read-only"
        with os.fdopen(handle, "w") as file:
            file.write(key := secrets.token_urlsafe(24))
        return key, str(path)

    async def change_scenes(self, layer: str | None, change: Callable[[SceneSet], SceneSet]) -> Layer:
        """Change what a layer is drawn from. See SceneChanges.change."""
        return await self.changes.change(
            self.resolver(layer), lambda: [resolver.layer for resolver in self.resolvers.values()], change
        )

    def _sweep(self) -> None:
        kept, removed = self.disk.scan()
        log.info("tile directory: %d tiles, %d broken or left-over files removed", kept, removed)
        for old in old_versions(self.tiles_dir):
            if old.age >= self.settings.old_versions_days:
                remove(old, self.settings.data_dir)
                log.info("removed an old version: %s", old)

    def health(self) -> dict[str, object]:
        """State for `/health`: starting, ready, degraded (a cache tier is ill) or failed. Asks Redis, so may block."""
        self.store.check()
        state = "degraded" if self.state == "ready" and self.store.ill else self.state
        answer: dict[str, object] = {"state": state, "caches": {}, "layers": sorted(self.resolvers)}
        answer["caches"] = {t.name: "ill" if t.name in self.store.ill else "ok" for t in self.store.tiers}
        if self.problem:
            answer["problem"] = self.problem
        return answer

    def close(self) -> None:
        """Finish what the generator has begun, then stop it and the embedded Redis."""
        if self.engine is not None:
            self.engine.close()
        self.workers.shutdown(wait=True)
        if self._redis is not None:
            self._redis.close()
