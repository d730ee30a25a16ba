"""The server process: bind, serve, and on SIGTERM answer accepted requests."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..errors import ConfigError
from . import logs
from .app import build
from .settings import Settings

CONNECTIONS = 1024
HEAD = 16 << 10  # bytes of a request's head
_log = logging.getLogger("normface.serve")


class Impatient(H11Protocol):
    """HTTP/1.1 that closes a connection if a request's header does not arrive in time."""

    patience = 10.0
    _head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start to wait for the first head."""
        super().connection_made(transport)
        self._expect()

    def data_received(self, data: bytes) -> None:
        """Wait no more where a request has begun; else on, from when its first byte came."""
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before or self.transport.is_closing():
            self._arrived()
        elif self._head is None and (self.cycle is None or self.cycle.response_complete):
            self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing to wait for."""
        self._arrived()
        super().connection_lost(exc)

    def _expect(self) -> None:
        self._head = self.loop.call_later(self.patience, self.transport.close)

    def _arrived(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None


class Peaceful(uvicorn.Server):
    """A uvicorn server that exits normally on SIGTERM or Ctrl-C; uvicorn's own raises the signal again."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take both signals while serving, where that is possible: in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def serve(settings: Settings) -> None:
    """See `serve.run`."""
    server, listener, url = prepare(settings)
    logs.to(None)
    _log.info("listening", extra={"fields": {"url": url}})
    server.run(sockets=[listener])
    _log.info("ended")


def prepare(settings: Settings) -> tuple[Peaceful, socket.socket, str]:
    """Return the server, its listening socket and its URL."""
    app = build(settings)
    listener = _bind(settings.host, settings.port)
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    # At its end uvicorn closes idle connections, waits for those at work, then ends the application, and so the engine.
    config = uvicorn.Config(
        app, log_config=None, access_log=False, http=Impatient, ws="none", server_header=False,
        proxy_headers=settings.proxy is not None, forwarded_allow_ips=settings.proxy or "",
        limit_concurrency=CONNECTIONS, backlog=CONNECTIONS, h11_max_incomplete_event_size=HEAD,
        timeout_graceful_shutdown=int(2 * settings.timeout) + 1,
    )  # fmt: skip
    return Peaceful(config), listener, f"http://{shown}:{port}"


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # With its protocol said, which connections inherit: asyncio sets TCP_NODELAY only where it reads TCP there, and
        # without it the end of an answer waits 40 ms for the caller's delayed acknowledgment.
        listener = socket.socket(family, kind, protocol)
        if sys.platform != "win32":  # where it would let another process take the port as well
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(CONNECTIONS)
    except OSError as error:
        got = error.strerror or str(error)
        raise ConfigError(f"to listen on {host}:{port}", f"'{got}'", "choose another --host or --port") from error
    return listener
