"""A prefetch job: which tiles are wanted, and how far it is."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mercantile import Tile

from tilecascade.app.jobs.area import Area

State = Literal["queued", "running", "done", "failed", "cancelled"]


ENDED = ("done", "failed", "cancelled")


@dataclass(frozen=True)
class Order:
    """What a job has to do.

    zooms: first and last. rate: tiles generated per second at most; 0 for no limit. max_failures: with more failed
    tiles the job ends as failed.
    """

    layer: str
    area: Area
    zooms: tuple[int, int]
    rate: float = 0.0
    max_failures: int = 20

    def tiles(self) -> Iterator[Tile]:
        """All tiles of the order, parents before children."""
        for zoom in range(self.zooms[0], self.zooms[1] + 1):
            yield from self.area.tiles(zoom)

    def counts(self) -> dict[int, int]:
        """Tiles by zoom. Raises AreaError for far too many."""
        return {zoom: self.area.count(zoom) for zoom in range(self.zooms[0], self.zooms[1] + 1)}


@dataclass
class Job:
    """One order and how far it is.

    finished, without_imagery, failed: tiles of the present pass over the area. generated: tiles generated for this job
    since it began.
    """

    id: str
    order: Order
    total: int
    state: State = "queued"
    generated: int = 0
    finished: int = 0
    without_imagery: int = 0
    failed: int = 0
    zoom: int | None = None
    problems: list[str] = field(default_factory=list)
    created: float = field(default_factory=time.time)

    @property
    def passed(self) -> int:
        """Tiles of the present pass that are done with."""
        return self.finished + self.without_imagery + self.failed

    def to_dict(self) -> dict[str, object]:
        """What clients see of the job."""
        return {
            "id": self.id,
            "layer": self.order.layer,
            "state": self.state,
            "zooms": list(self.order.zooms),
            "bounds": list(self.order.area.bounds),
            "total": self.total,
            "finished": self.finished,
            "generated": self.generated,
            "without_imagery": self.without_imagery,
            "failed": self.failed,
            "zoom": self.zoom,
            "problems": self.problems,
        }


RENAMED = {"drawn": "generated", "there": "finished", "most_failures": "max_failures"}
"""Fields that job files of version 0.1 have under another name."""


def read_job(path: Path) -> Job:
    """The job in a file. Raises OSError, or ValueError, KeyError or TypeError for a file that is not a job."""
    return job_of(path.read_text())


def job_of(text: str) -> Job:
    """The job in a file's text. Raises ValueError, KeyError or TypeError."""
    data = {RENAMED.get(name, name): value for name, value in json.loads(text).items()}
    order = {RENAMED.get(name, name): value for name, value in data.pop("order").items()}
    area = Area(tuple(order["area"]["bounds"]), tuple(order["area"]["polygons"]))
    return Job(order=Order(**order | {"area": area, "zooms": tuple(order["zooms"])}), **data)
