"""The HTTP service and its web page: verify, embed, enrol and search. FastAPI is imported by `create_app` only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import require
from .keys import Key, KeyFile, new_key, read_keys, revoke_key
from .settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["Key", "KeyFile", "Settings", "create_app", "new_key", "read_keys", "revoke_key", "run"]


def create_app(settings: Settings) -> FastAPI:
    """Create the service as an ASGI application: load the model and open the gallery.

    Raises MissingDependency without `normface[serve]`, ModelError, ConfigError and the gallery's errors.
    """
    _require()
    from .app import build

    return build(settings)


def run(settings: Settings) -> None:
    """Serve until SIGTERM or Ctrl-C, then answer accepted requests and return.

    Raises ConfigError for an address in use, or one that others can reach without API keys; and as `create_app`.
    """
    _require()
    from .server import serve

    serve(settings)


def _require() -> None:
    for package in ("fastapi", "uvicorn", "python_multipart", "prometheus_client"):
        require(package, "serve")
