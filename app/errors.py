"""Everything that can go wrong and is not a fault of the program: each error's message is one sentence for people.

The commands print it and exit with code 2; `app.api.errors` gives each class its HTTP status.
"""

from __future__ import annotations

from mercantile import Tile


class TilecascadeError(Exception):
    """Base class of all errors that users see. The message says what was wrong, what is allowed, or what to do."""


class SettingsError(TilecascadeError):
    """A setting or a command-line argument that cannot be used."""


class SceneError(TilecascadeError):
    """A file that cannot serve as imagery or as a base map."""


class SceneRefusedError(SceneError):
    """A scene from a place that the operator has not allowed."""


class SceneTooLargeError(SceneError):
    """A scene of more bytes than the server accepts."""


class ModelError(TilecascadeError):
    """A file that is no network that could generate here."""


class ImageryUnavailableError(TilecascadeError):
    """A scene's file is gone, damaged, or another one than was added, so nothing that needs it can be generated."""


class StorageError(TilecascadeError):
    """The data directory cannot be written: the disk is full, read-only, or broken."""


class AreaError(TilecascadeError):
    """Something that is not an area whose tiles could be listed."""


class NoTileError(TilecascadeError):
    """There is no such tile with the present imagery; coarser than the root zoom: not before all root tiles exist."""

    @classmethod
    def no_imagery(cls, tile: Tile) -> NoTileError:
        """No scene shows the place."""
        return cls(f"there is no imagery at {tile.z}/{tile.x}/{tile.y}")


class BaseMapError(TilecascadeError):
    """The base map does not answer, so nothing that depends on it can be generated now."""


class PurgeError(TilecascadeError):
    """Outdated tiles could not be removed from every cache."""


class BadRequestError(TilecascadeError):
    """The request itself is wrong."""


class NotFoundError(TilecascadeError):
    """There is no such thing."""


class NotReadyError(TilecascadeError):
    """It is not there yet, but it will be soon."""


class ForbiddenError(TilecascadeError):
    """The request is not allowed to do that."""


class NeedsConfirmationError(TilecascadeError):
    """Something so large that the client has to confirm it."""


class ClientLeftError(TilecascadeError):
    """The client has closed the connection, so nobody will read the answer."""


class TileFailedError(TilecascadeError):
    """A tile could not be fetched from a server."""


class TooLargeError(TilecascadeError):
    """The request has more bytes than it may have."""


class RateLimitedError(TilecascadeError):
    """A client asks for more new tiles than it may have.

    retry_after: whole seconds until its next request can be accepted.
    """

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after
