"""`tilecascade prefetch` and `tilecascade jobs`: order a job of a running server, and watch it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
from pydantic import TypeAdapter
from tqdm import tqdm

from tilecascade.app.api.schemas import JobAnswer, JobEstimate, JobRequest
from tilecascade.app.client.connection import Key, ask
from tilecascade.app.errors import SettingsError

JOBS = TypeAdapter(list[JobAnswer])


class JobClient:
    """Asks one server. Raises SettingsError with the server's sentence for what it refuses."""

    def __init__(self, url: str, key: Key) -> None:
        self._client = httpx.Client(base_url=url, timeout=httpx.Timeout(60, read=None))
        self._key = key

    def estimate(self, wanted: JobRequest) -> str:
        """What a job would take, as a sentence."""
        request = wanted.model_copy(update={"dry_run": True}).model_dump(mode="json")
        found = JobEstimate.model_validate_json(ask(self._client, "POST", "/jobs", json=request, auth=self._key))
        by_zoom = ", ".join(f"{count} at zoom {zoom}" for zoom, count in found.by_zoom.items())
        time = "unknown before the first tile is generated" if found.seconds is None else f"about {found.seconds:.0f} s"
        room = "" if found.fits else "; more than the server's disk_bytes: the oldest tiles would be evicted"
        return (
            f"{found.tiles} tiles ({by_zoom}), {found.stored} stored already; "
            f"about {found.bytes / 1e6:.1f} MB more; time: {time}{room}"
        )

    def run(self, wanted: JobRequest) -> int:
        """Order a job and show its progress; returns the exit code: 0, or 1 if a tile failed or the job was ended.

        The job goes on when this is interrupted.
        """
        request = wanted.model_dump(mode="json")
        job = JobAnswer.model_validate_json(ask(self._client, "POST", "/jobs", json=request, auth=self._key))
        try:
            ended = self._watch(job)
        except KeyboardInterrupt:
            print(f"\njob {job.id} goes on; `tilecascade jobs cancel {job.id}` ends it")
            return 1
        print(summary(ended))
        for problem in ended.problems:
            print(problem)
        return 0 if ended.state == "done" and not ended.failed else 1

    def _watch(self, job: JobAnswer) -> JobAnswer:
        """Follow a job's events to the end."""
        passed = 0
        with tqdm(total=job.total, unit="tile", desc=f"job {job.id}") as bar:
            try:
                with self._client.stream("GET", f"/jobs/{job.id}/events") as answer:
                    for line in answer.iter_lines():
                        if line.startswith("data: "):
                            job = JobAnswer.model_validate_json(line.removeprefix("data: "))
                            now = job.finished + job.without_imagery + job.failed
                            bar.update(now - passed)
                            passed = now
            except httpx.HTTPError as error:
                raise SettingsError(
                    f"the server went away ({type(error).__name__}); the job goes on when it is back"
                ) from None
        return job

    def show(self) -> str:
        """A line per job."""
        jobs = JOBS.validate_json(ask(self._client, "GET", "/jobs"))
        return "\n".join(f"{job.id} {summary(job)}" for job in jobs) or "there are no jobs"

    def cancel(self, id: str) -> str:
        """End a job; returns its summary."""
        return summary(JobAnswer.model_validate_json(ask(self._client, "DELETE", f"/jobs/{id}", auth=self._key)))


def summary(job: JobAnswer) -> str:
    """A job in a line."""
    return (
        f"{job.state}: {job.finished} of {job.total} tiles finished ({job.generated} generated), "
        f"{job.without_imagery} without imagery, {job.failed} failed"
    )


def read_area(path: Path) -> dict[str, Any]:
    """The GeoJSON in a file. Raises SettingsError."""
    try:
        given = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SettingsError(f"--area {path}: {error}") from None
    if not isinstance(given, dict):
        raise SettingsError(f"--area {path} is not GeoJSON")
    return given
