"""The keys that a server knows: the owner's, and named ones with roles, of which only hashes are stored."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from tilecascade.app.errors import SettingsError
from tilecascade.app.settings import DataDir, Settings
from tilecascade.app.storage.atomic import write_atomically

ROLES = ("read", "prefetch", "review", "scenes", "admin")
"""What a key may do: read tiles of a server that is not public; start and end jobs, too; say of objects whether they
are right; change scenes; everything."""

OWNER = "owner"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Key:
    """One key.

    digest: SHA-256 of the secret in hexadecimal; secrets are 32 random bytes, so a slow hash would add nothing.
    expires: ISO 8601 in UTC; None for never. tiles_per_day: tiles that may be generated for it; 0 for no limit.
    """

    name: str
    digest: str
    roles: tuple[str, ...]
    expires: str | None = None
    tiles_per_day: int = 0

    def may(self, role: str) -> bool:
        """Whether it has a role: every key may read, and admin is all of them."""
        return role == "read" or role in self.roles or "admin" in self.roles

    @property
    def expired(self) -> bool:
        """Whether its time is over."""
        return self.expires is not None and datetime.now(UTC) >= datetime.fromisoformat(self.expires)


def digest_of(secret: str) -> str:
    """What is stored of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


class KeyRing:
    """All keys of a data directory. The file of named keys is read again when it has changed."""

    def __init__(self, settings: Settings) -> None:
        self._path = DataDir(settings.data_dir).keys
        self._owner = Key(OWNER, digest_of(owner_secret(settings)), ("admin",))
        self._named: list[Key] = []
        self._stamp: tuple[int, int] | None = None

    def find(self, secret: str) -> Key | None:
        """The key with this secret, unless it has expired. Compares with all of them, so that time tells nothing."""
        given, found = digest_of(secret), None
        for key in (self._owner, *self._read()):
            if hmac.compare_digest(given, key.digest) and not key.expired:
                found = key
        return found

    def _read(self) -> list[Key]:
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            return []
        if self._stamp != (stat.st_mtime_ns, stat.st_ino):
            self._named = read_keys(self._path)
            self._stamp = (stat.st_mtime_ns, stat.st_ino)
        return self._named


def owner_secret(settings: Settings) -> str:
    """The owner's secret as configured, or one that is made up once and kept in a file that only its owner can read."""
    if settings.api_key:
        return settings.api_key
    path = DataDir(settings.data_dir).api_key
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        # an empty file: the process that made it was killed before it wrote the secret
        return path.read_text().strip() or secrets.token_urlsafe(24)
    except OSError:  # a read-only data directory, in which nothing can be changed anyway
        return secrets.token_urlsafe(24)
    with os.fdopen(handle, "w") as file:
        file.write(value := secrets.token_urlsafe(24))
    return value


def read_keys(path: Path) -> list[Key]:
    """The named keys of a file; none if there is no file. Raises SettingsError for what is no such file."""
    try:
        return [Key(**row | {"roles": tuple(row["roles"])}) for row in json.loads(path.read_text())]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise SettingsError(f"{path} is no file of keys: {error}") from None


def add_key(path: Path, name: str, roles: tuple[str, ...], expires: datetime | None, tiles_per_day: int) -> str:
    """Add a named key and return its secret, which is not stored. Raises SettingsError."""
    if not _NAME.fullmatch(name) or name == OWNER:
        raise SettingsError(f"a key is named by up to 64 small letters, digits, '.', '_' and '-', not {name[:70]!r}")
    unknown = sorted(set(roles) - set(ROLES))
    if unknown or not roles:
        raise SettingsError(f"roles are {', '.join(ROLES)}, not {', '.join(unknown) or 'none'}")
    keys = read_keys(path)
    if any(key.name == name for key in keys):
        raise SettingsError(f"there is a key {name!r}; remove it first")
    secret = secrets.token_urlsafe(32)
    until = expires.astimezone(UTC).isoformat(timespec="seconds") if expires else None
    _write(path, [*keys, Key(name, digest_of(secret), roles, until, tiles_per_day)])
    return secret


def remove_key(path: Path, name: str) -> None:
    """Remove a named key; a running server refuses it from then on. Raises SettingsError if there is none."""
    keys = read_keys(path)
    if all(key.name != name for key in keys):
        raise SettingsError(f"there is no key {name[:70]!r}; `tilecascade keys list` names them")
    _write(path, [key for key in keys if key.name != name])


def _write(path: Path, keys: list[Key]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps([asdict(key) for key in keys], indent=1).encode(), mode=0o600)
