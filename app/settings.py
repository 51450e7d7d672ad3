"""Settings: environment variables TILECASCADE_*, and one TOML file for several layers.

A layers file looks like

    [server]
    data_dir = "state"

    [[layer]]
    name = "map"
    scenes = ["mosaic.tif", "older.tif"]
    root_zoom = 14
    max_zoom = 19
"""

from __future__ import annotations

import ipaddress
import os
import tomllib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ByteSize, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from tilecascade.app.errors import SettingsError
from tilecascade.model.sensors.modality import Sensor
from tilecascade.model.sgdm.config import WEIGHTS_DIR, Finish, stem_of
from tilecascade.model.sgdm.scale_text import MAX_TABLE_ZOOM

DEFAULT_ROOT_ZOOM = 14

MAX_PAINTED_NAME = 24
"""Characters of the name of a layer with painted imagery, whose own layer is called NAME-imagery."""

ENVIRONMENT = "TILECASCADE_"
"""What the environment variables of settings begin with."""


class DataDir:
    """Every path below the data directory.

    tiles: finished tiles, which web servers may read. scenes: uploaded scenes. layers: what each layer's scenes and
    tiles are. jobs: prefetch jobs. leases: locks between processes. base_maps: tiles fetched from a base map's server.
    api_key: the owner's key, if the server has made one up; keys: the hashes of all others. usage: what these
    have used today. audit: every change. models: networks that were given to the server; model: which is in use.
    territories: countries that were made of sketches while a server ran.
    """

    def __init__(self, root: Path, scenes: Path | None = None) -> None:
        self.tiles = root / "tiles"
        self.scenes = scenes or root / "scenes"
        self.layers = root / "layers"
        self.jobs = root / "jobs"
        self.base_maps = root / "base"
        self.api_key = root / "api-key"
        self.keys = root / "keys.json"
        self.usage = root / "usage.json"
        self.audit = root / "audit.jsonl"
        self.models = root / "models"
        self.model = root / "model.json"
        self.territories = (scenes or root) / "territories"

    def scene_set(self, layer: str) -> Path:
        """What was changed about a layer's scenes since the configuration."""
        return self.layers / layer / "scenes.json"

    def scene_journal(self, layer: str, version: str) -> Path:
        """Which scenes the stored tiles of one version of a layer were made from."""
        return self.layers / layer / f"{version}.json"

    def reviews(self, layer: str) -> Path:
        """What people have said about a layer's objects."""
        return self.layers / layer / "reviews.geojson"

    def areas(self, layer: str) -> Path:
        """The areas of a territory, as they were last changed."""
        return self.layers / layer / "areas.geojson"

    def area_journal(self, layer: str, version: str) -> Path:
        """With which areas the stored tiles of one version of a layer were made."""
        return self.layers / layer / f"{version}.areas.json"

    def revisions(self, layer: str, version: str) -> Path:
        """Which tiles each change of one version of a layer has changed."""
        return self.layers / layer / f"{version}.revisions.json"

    def rejected(self, layer: str) -> Path:
        """Painted imagery of a layer that was not good enough."""
        return self.layers / layer / "rejected"

    def review_journal(self, layer: str, version: str) -> Path:
        """Which reviews are in the stored tiles of one version of a layer."""
        return self.layers / layer / f"{version}.reviews.json"


class LayerSettings(BaseModel, extra="forbid"):
    """One layer as the user describes it: the scenes it is generated from, or the seed of a fictional country."""

    name: str = Field(default="map", pattern=r"^[a-z][a-z0-9_-]{0,31}$", description="as in `/tiles/NAME/...`")
    scenes: list[Path] = Field(default=[], description="GeoTIFFs that the map is generated from; the newest is on top")
    sensor: Sensor | None = Field(
        default=None,
        description="what has taken the scenes, if their metadata do not say: `rgb`, `pan` (one band), `nir` (red, "
        "green, blue and near infrared) or `sar` (radar amplitude, or decibels)",
    )
    country: int | None = Field(
        default=None, ge=0, lt=2**32, description="instead of scenes: the seed of a fictional country"
    )
    territory: Path | None = Field(
        default=None,
        description="instead of scenes, or below them: the .json of a territory that `tilecascade territory new` has "
        "made of a sketch",
    )
    areas: Path | None = Field(
        default=None,
        description="GeoJSON of areas of the territory with prompts, as `tilecascade territory new --areas` writes it; "
        "what is changed while a server runs comes instead",
    )
    painted_zoom: int | None = Field(
        default=None, ge=1, le=MAX_TABLE_ZOOM,
        description="zoom to which imagery is painted beyond its own resolution, by diffusion: of a sketch, or of a "
        "satellite's overview. it is invented, and changes with the seed",
    )  # fmt: skip
    keep_rejected: bool = Field(
        default=False,
        description="keep painted imagery that was painted again because its detail was not like imagery's, in "
        "DATA_DIR/layers/NAME/rejected: examples of what imagery is not",
    )
    root_zoom: int = Field(
        default=DEFAULT_ROOT_ZOOM,
        ge=0,
        le=MAX_TABLE_ZOOM,
        description="zoom at which the cascade begins; coarser tiles are drawn of its objects, or averaged from it",
    )
    max_zoom: int | None = Field(
        default=None, ge=0, le=MAX_TABLE_ZOOM, description="the finest zoom; the imagery's own resolution unless given"
    )
    span: Literal[0, 1, 2] = Field(
        default=1,
        description="zooms between a tile and its reference (1: 2X, 2: 4X; 0: none, every zoom is generated from "
        "imagery alone)",
    )
    finish: Finish | None = Field(
        default=None,
        description="`cartographic`: straight walls, roads that join and smooth outlines, drawn from objects; `none`: "
        "each pixel as the network has it. the one that suits the weights unless given",
    )
    seed: int = Field(default=0, ge=0, lt=2**64, description="another seed gives another draft of the same map")
    base_map: str | None = Field(
        default=None,
        description="existing map tiles that the cascade begins with: a file (.mbtiles, .pmtiles, .tif, or a "
        "territory's .json) or a URL with {z}, {x}, {y}",
    )
    base_map_drawn: bool = Field(
        default=False,
        description="the base map is drawn of a sketch and not surveyed: its tiles say so, and count as synthetic",
    )
    base_max_zoom: int | None = Field(
        default=None, ge=0, le=MAX_TABLE_ZOOM, description="the last zoom to take from the base map"
    )
    attribution: str = Field(default="", description="who made the imagery; maps show it")

    @model_validator(mode="after")
    def _one_source(self) -> LayerSettings:
        if self.name == "confidence":
            raise ValueError(
                "no layer can be called confidence: /tiles/confidence is how far the default layer can be trusted"
            )
        wanted = [bool(self.scenes), self.country is not None, self.territory is not None]
        if not any(wanted) or (self.country is not None and wanted.count(True) > 1):
            raise ValueError("give scenes, the seed of a country or a territory; only a territory can have scenes, too")
        if self.areas is not None and self.territory is None:
            raise ValueError("areas with prompts are for a territory; imagery of scenes stays as it was taken")
        if self.painted_zoom is not None and self.country is not None:
            raise ValueError("painted_zoom is for scenes; the country has imagery of every zoom")
        if self.painted_zoom is not None and len(self.name) > MAX_PAINTED_NAME:
            raise ValueError(
                f"a layer whose imagery is painted has a name of at most {MAX_PAINTED_NAME} characters, because there "
                f"is a layer {self.name}-imagery, too"
            )
        return self


class Settings(BaseSettings):
    """All settings of a server. Every field can be given as TILECASCADE_<FIELD>."""

    model_config = SettingsConfigDict(env_prefix=ENVIRONMENT, extra="forbid")

    data_dir: Path = Field(
        default=Path("tilecascade-data"), description="folder of all state: tiles, scenes, jobs, key"
    )
    layers_file: Path | None = Field(
        default=None, description="TOML file of several layers; `tilecascade init` writes one"
    )
    weights: Path = Field(
        default=WEIGHTS_DIR / "default",
        description="the network: a model folder, or a .safetensors with its .json beside it",
    )
    device: str = Field(default="auto", description="`cpu`, `cuda`, `cuda:1`; auto = a GPU if there is one")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="products in the network; auto = bfloat16 where the device has it natively"
    )
    threads: int = Field(
        default=0, ge=0, description="blocks generated side by side on a CPU, one core each; 0 = all cores, at most 8"
    )
    engine: str = Field(
        default="local",
        pattern=r"^(local|ray|ray://[^/\s]+:\d+)$",
        description="what generates: `local`, this process; or replicas on a Ray cluster: `ray` on a machine that "
        "belongs to it, `ray://HOST:6379` to join it, see Scale",
    )
    replicas_least: int = Field(default=1, ge=0, le=1024, description="replicas that the cluster always keeps")
    replicas_most: int = Field(
        default=1, ge=1, le=1024, description="replicas that the cluster starts when there is more work"
    )
    replica_processors: float = Field(default=1.0, ge=0, description="processor cores that a replica is given")
    replica_graphics: float = Field(
        default=0.0, ge=0, description="graphics cards that a replica is given; 0.5 = two replicas share one"
    )
    batch_blocks: int = Field(default=0, ge=0, description="blocks generated at once; 0 = 1 on a CPU, 8 on a GPU")
    interactive_wait: float = Field(
        default=50.0,
        ge=0,
        le=600,
        description="seconds that a request waits for its tile unless it says ?wait=; map clients never ask again",
    )
    max_wait: float = Field(default=600.0, ge=0, description="seconds that ?wait= may ask for at most")
    memory_bytes: ByteSize = Field(default=ByteSize(128 << 20), ge=0, description="tiles kept in memory")
    disk_bytes: ByteSize = Field(
        default=ByteSize(20 << 30), ge=0, description="tiles kept on disk; beyond it those written longest ago go"
    )
    old_versions_days: float = Field(
        default=30.0,
        ge=0,
        description="days after its last tile that an old version is removed",
    )
    redis_url: str | None = Field(
        default=None,
        description="redis://, rediss:// (TLS), redis+sentinel://HOST:26379,HOST:26379/MASTER/0 or "
        "redis+cluster://HOST:6379; 'none' = no Redis at all",
    )
    group: str | None = Field(
        default=None,
        pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$",
        description="name of a group of servers with one Redis and the same layers: what is changed about a layer's "
        "scenes, reviews or areas, and territories, at one of them is changed at all",
    )
    scenes_dir: Path | None = Field(
        default=None,
        description="folder of the scenes that are uploaded, DATA_DIR/scenes unless given, and then also of the "
        "territories; a group's servers share it",
    )
    redis_bytes: ByteSize = Field(default=ByteSize(128 << 20), ge=1 << 20, description="limit of the embedded Redis")
    redis_ttl: int = Field(default=24 * 3600, ge=1, description="seconds that Redis keeps a tile")
    object_store: str | None = Field(
        default=None,
        pattern=r"^(s3|gs|az|file)://.+",
        description="s3://BUCKET/PREFIX, gs://, az:// or file:///FOLDER: finished tiles that several servers share; "
        "keys and endpoint as the provider's tools have them (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ...)",
    )
    workers: int = Field(
        default=1, ge=1, le=64, description="processes that answer finished tiles in front of the application"
    )
    client_rate: float = Field(
        default=0.0, ge=0, description="tiles that may be generated per second for one client; 0 = no limit"
    )
    look_ahead: bool = Field(
        default=False, description="generate the blocks around a viewed one, too, after what viewers wait for"
    )
    warm_tiles: int = Field(
        default=32,
        ge=0,
        le=256,
        description="tiles of each layer's first zoom that are generated at the start and after a change of scenes, so "
        "that there is a coarse map to show, from the middle outwards; 0 = none",
    )
    log_format: Literal["text", "json"] = Field(default="text", description="of the lines on stderr")
    api_key: str | None = Field(
        default=None, min_length=8, description="the owner's key, which allows every change; made up if not given"
    )
    public: bool = Field(default=True, description="whether tiles and all else can be read without a key")
    trusted_proxies: list[str] = Field(
        default=["127.0.0.1", "::1"],
        description="addresses or networks (10.0.0.0/8) of proxies that are believed about their client's address",
    )
    scene_roots: list[Path] = Field(default=[], description="folders that scenes may be named in by path")
    scene_hosts: list[str] = Field(default=[], description="hosts (host or host:port) that scenes may be fetched from")
    upload_bytes: ByteSize = Field(default=ByteSize(4 << 30), ge=1, description="largest scene that is accepted")
    scene_seconds: int = Field(
        default=1800, ge=1, description="seconds that checking a scene and copying its pixels may take"
    )
    job_tiles: int = Field(default=100_000, ge=1, description="tiles that a job may have without being confirmed")
    root_path: str = Field(
        default="", pattern=r"^(/[^/\s]+)*$", description="prefix that a proxy before the server takes off each path"
    )
    host: str = Field(
        default="127.0.0.1", description="address to listen on; 0.0.0.0 = all, see Security in Operations"
    )
    port: int = Field(default=8000, ge=0, le=65535, description="port to listen on")

    @field_validator("weights")
    @classmethod
    def _weights(cls, value: Path) -> Path:
        return stem_of(value)

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, given: list[str]) -> list[str]:
        for text in given:
            ipaddress.ip_network(text)
        return given


def first_problem(error: ValidationError) -> str:
    """The first complaint of a pydantic error as one line."""
    problem = error.errors()[0]
    place = ".".join(str(part) for part in problem["loc"])
    return f"{place}: {problem['msg']}" if place else problem["msg"].removeprefix("Value error, ")


def load_settings(**given: object) -> Settings:
    """Environment plus what is given. Raises SettingsError with one line."""
    try:
        return Settings(**{key: value for key, value in given.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        raise SettingsError(f"setting {first_problem(error)}") from None


def load_configuration(**given: object) -> tuple[Settings, list[LayerSettings]]:
    """Settings and the layers of the layers file, if there is one; no layers otherwise.

    What is given counts before the environment, and that before the file's `[server]` table. Raises SettingsError with
    one line.
    """
    settings = load_settings(**given)
    if settings.layers_file is None:
        return settings, []
    server, layers = read_configuration(settings.layers_file)
    known = {key for key, value in given.items() if value is not None}
    known |= {key for key in server if f"{ENVIRONMENT}{key.upper()}" in os.environ}
    return load_settings(**given | {key: value for key, value in server.items() if key not in known}), layers


def read_configuration(path: Path) -> tuple[dict[str, object], list[LayerSettings]]:
    """Parse a layers file: its `[server]` table and its layers. Paths are relative to it. Raises SettingsError with one
    line."""
    try:
        data = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise SettingsError(f"layers file {path} does not exist") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"layers file {path} is not valid TOML: {error}") from None
    unknown = sorted(set(data) - {"server", "layer"})
    if unknown:
        raise SettingsError(f"layers file {path} has [server] and [[layer]] tables, not {unknown[0]}")
    try:
        layers = [LayerSettings(**table) for table in data.get("layer", [])]
    except ValidationError as error:
        raise SettingsError(f"layers file {path}: {first_problem(error)}") from None
    if not layers:
        raise SettingsError(f"layers file {path} has no [[layer]] table")
    names = [layer.name for layer in layers]
    names += [f"{layer.name}-imagery" for layer in layers if layer.painted_zoom is not None]
    if len(set(names)) < len(names):
        raise SettingsError(f"layers file {path} uses a layer name twice")
    base = path.resolve().parent
    server = {key: _below(base, key, value) for key, value in data.get("server", {}).items()}
    return server, [_with_paths_below(base, layer) for layer in layers]


def _below(base: Path, name: str, value: object) -> object:
    """A value of the `[server]` table, its paths relative to the file's folder."""
    if name in ("data_dir", "weights"):
        return base / str(value)
    return [base / str(folder) for folder in value] if name == "scene_roots" and isinstance(value, list) else value


def _with_paths_below(base: Path, layer: LayerSettings) -> LayerSettings:
    scenes, base_map = [base / scene for scene in layer.scenes], layer.base_map
    if base_map is not None and "://" not in base_map:
        base_map = str(base / base_map)
    territory = None if layer.territory is None else base / layer.territory
    areas = None if layer.areas is None else base / layer.areas
    changed = {"scenes": scenes, "base_map": base_map, "territory": territory, "areas": areas}
    return layer.model_copy(update=changed)
