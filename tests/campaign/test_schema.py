"""Requests made from the server's own OpenAPI document, with a key that allows everything."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings

from tests.conftest import SceneMaker
from tests.program import Server, ready, stops_in_time

EXAMPLES = max(20, int(os.environ.get("TILECASCADE_CAMPAIGN_REQUESTS", "0")) // 100)
"""Requests for each operation."""

KEY = {"X-API-Key": "a long enough key"}


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_described_requests_get_answers(make_scene: SceneMaker, tiny_weights: Path, tmp_path: Path) -> None:
    env = {
        "TILECASCADE_API_KEY": KEY["X-API-Key"],
        "TILECASCADE_REDIS_URL": "none",
        "TILECASCADE_INTERACTIVE_WAIT": "1",
    }
    server = ready(Server(make_scene(), tiny_weights, tmp_path / "data", env))
    statuses: Counter[int] = Counter()
    try:
        schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
        operations = [result.ok() for result in schema.get_all_operations()]
        assert len(operations) > 20
        for operation in operations:
            if operation.path.endswith("/events"):  # goes on until the client leaves
                continue

            @settings(
                max_examples=EXAMPLES,
                deadline=None,
                derandomize=True,
                suppress_health_check=list(HealthCheck),
                database=None,
            )
            @given(case=operation.as_strategy())
            def answered(case: schemathesis.Case) -> None:
                answer = case.call(headers=KEY, timeout=60)
                statuses[answer.status_code] += 1
                later = answer.status_code == 503 and "retry-after" in {name.lower() for name in answer.headers}
                assert answer.status_code < 500 or later, (answer.status_code, case.as_curl_command())

            answered()
        print(f"{len(operations)} operations, statuses {dict(sorted(statuses.items()))}")
        assert "Traceback" not in server.log.read_text()
        stops_in_time(server)
    finally:
        server.kill()
