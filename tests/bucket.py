"""A real S3 server."""

from __future__ import annotations

import httpx
import pytest

from tests.program import free_port


class Bucket:
    """An S3 server with one bucket."""

    def __init__(self) -> None:
        server = pytest.importorskip("moto.server")
        self.port = free_port()
        self.server = server.ThreadedMotoServer("127.0.0.1", self.port, verbose=False)
        self.server.start()
        httpx.post(f"http://127.0.0.1:{self.port}/moto-api/reset")  # its state is the process's
        self.url = "s3://tiles/cache"

    def client(self) -> object:
        import boto3

        return boto3.client("s3", endpoint_url=f"http://127.0.0.1:{self.port}", region_name="us-east-1")
