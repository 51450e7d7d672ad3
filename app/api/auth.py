"""The key that changes need, sent as `X-API-Key` or as `Authorization: Bearer`."""

from __future__ import annotations

import hmac
import os
import secrets
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from tilecascade.app.errors import ForbiddenError
from tilecascade.app.settings import DataDir, Settings

_header = APIKeyHeader(name="X-API-Key", auto_error=False, description="The server's key.")
_bearer = HTTPBearer(auto_error=False, description="The server's key.")


@dataclass(frozen=True)
class ApiKey:
    """The server's key. place: where its owner finds it."""

    value: str
    place: str


def load_api_key(settings: Settings) -> ApiKey:
    """The key as configured, or one that is made up once and kept in a file that only its owner can read."""
    if settings.api_key:
        return ApiKey(settings.api_key, "TILECASCADE_API_KEY")
    path = DataDir(settings.data_dir).api_key
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        # an empty file: the process that made it was killed before it wrote the key
        return ApiKey(path.read_text().strip() or secrets.token_urlsafe(24), str(path))
    except OSError:  # a read-only data directory, in which nothing can be changed anyway
        return ApiKey(secrets.token_urlsafe(24), "no file, because the data directory is read-only")
    with os.fdopen(handle, "w") as file:
        file.write(value := secrets.token_urlsafe(24))
    return ApiKey(value, str(path))


async def need_key(
    request: Request,
    header: Annotated[str | None, Depends(_header)],
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> None:
    """Raises ForbiddenError unless the request carries the key."""
    key: ApiKey = request.app.state.api_key
    given = header or (bearer.credentials if bearer else "")
    if not given or not hmac.compare_digest(given.encode(), key.value.encode()):
        raise ForbiddenError(f"this needs the server's key, as X-API-Key; it is in {key.place}")


NeedsKey = Depends(need_key)
