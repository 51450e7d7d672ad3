"""What talks to a running server over HTTP."""

from tilecascade.app.client.jupyter import layer

__all__ = ["layer"]
