"""What a worker process counts, in prometheus_client's multi-process files."""

from __future__ import annotations

from prometheus_client import Counter

MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable of prometheus_client: the directory in which worker processes count."""


class WorkerMetrics:
    """Counters of one worker."""

    def __init__(self) -> None:
        answers = Counter("tilecascade_worker_answers", "Requests that workers have received.", ["kind"])
        self._kinds = {kind: answers.labels(kind) for kind in ("hit", "not_modified", "forwarded")}

    def hit(self, status: int) -> None:
        """A finished tile was answered, with 200 or 304."""
        self._kinds["not_modified" if status == 304 else "hit"].inc()

    def forwarded(self) -> None:
        """A request was forwarded to the application."""
        self._kinds["forwarded"].inc()
