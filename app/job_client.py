"""`tilecascade prefetch` and `tilecascade jobs`: order a job of a running server, and watch it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
from tqdm import tqdm

from app.client import ask
from app.settings import SettingsError


class JobClient:
    """Asks one server. Raises SettingsError with the server's sentence for what it refuses."""

    def __init__(self, url: str, key: str = "") -> None:
        headers = {"X-API-Key": key} if key else {}
        self._client = httpx.Client(base_url=url, headers=headers, timeout=httpx.Timeout(60, read=None))

    def estimate(self, wanted: dict[str, object]) -> str:
        """What a job would take, as a sentence."""
        told = ask(self._client, "POST", "/jobs", json=wanted | {"dry_run": True})
        by_zoom = ", ".join(f"{count} at zoom {zoom}" for zoom, count in told["by_zoom"].items())
        time = (
            "not known before the first tile is drawn" if told["seconds"] is None else f"about {told['seconds']:.0f} s"
        )
        room = "" if told["fits"] else "; more than the server's disk_bytes: the oldest tiles would be evicted"
        return (
            f"{told['tiles']} tiles ({by_zoom}), {told['there']} there already; "
            f"about {told['bytes'] / 1e6:.1f} MB more; time: {time}{room}"
        )

    def run(self, wanted: dict[str, object]) -> int:
        """Order a job and show its progress; the exit code: 0, or 1 if a tile failed or the job was ended.

        The job goes on when this is interrupted.
        """
        job = ask(self._client, "POST", "/jobs", json=wanted)
        try:
            told = self._watch(job)
        except KeyboardInterrupt:
            print(f"\njob {job['id']} goes on; `tilecascade jobs cancel {job['id']}` ends it")
            return 1
        print(summary(told))
        for problem in told["problems"]:
            print(problem)
        return 0 if told["state"] == "done" and not told["failed"] else 1

    def _watch(self, job: dict[str, Any]) -> dict[str, Any]:
        """Follow a job's events to the end."""
        passed = 0
        with tqdm(total=job["total"], unit="tile", desc=f"job {job['id']}") as bar:
            try:
                with self._client.stream("GET", f"/jobs/{job['id']}/events") as answer:
                    for line in answer.iter_lines():
                        if line.startswith("data: "):
                            job = json.loads(line.removeprefix("data: "))
                            now = job["finished"] + job["without_imagery"] + job["failed"]
                            bar.update(now - passed)
                            passed = now
            except httpx.HTTPError as error:
                raise SettingsError(
                    f"the server went away ({type(error).__name__}); it goes on when it is back"
                ) from None
        return job

    def show(self) -> str:
        """A line per job."""
        return (
            "\n".join(f"{job['id']} {summary(job)}" for job in ask(self._client, "GET", "/jobs")) or "there are no jobs"
        )

    def cancel(self, id: str) -> str:
        """End a job."""
        return summary(ask(self._client, "DELETE", f"/jobs/{id}"))


def summary(job: dict[str, Any]) -> str:
    """A job in a line."""
    return (
        f"{job['state']}: {job['finished']} of {job['total']} tiles there ({job['drawn']} drawn), "
        f"{job['without_imagery']} without imagery, {job['failed']} failed"
    )


def area_of(path: Path) -> dict[str, Any]:
    """The GeoJSON in a file. Raises SettingsError."""
    try:
        given = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SettingsError(f"--area {path}: {error}") from None
    if not isinstance(given, dict):
        raise SettingsError(f"--area {path} is not GeoJSON")
    return given
