"""Access control of all requests: origin, API key, rate, size and time limits."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections import deque
from typing import TYPE_CHECKING, Any

from ..errors import DataError, FaceError, NormfaceError
from ..gallery import acting
from .keys import KeyFile, Scope
from .limits import Budget, Busy, RateLimit, Room, caller
from .settings import Settings, is_loopback

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Send
    from starlette.types import Scope as Request

    from .engine import Engine
    from .metrics import Metrics

OPEN = {"/v1/about", "/v1/openapi.json"}  # what the page must know before it has a key
BODILESS = {"GET", "HEAD", "DELETE", "OPTIONS"}
COPIES = 3  # of a body in memory at most: what arrives, its parts, and the photographs of JSON
METHODS = {"GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS"}
POLICY = {
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"permissions-policy": b"camera=(self), microphone=(), geolocation=()",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"cache-control": b"no-store",
}
PROBLEM = "application/problem+json"
TYPES = {
    400: "malformed-request", 401: "no-valid-key", 403: "not-permitted", 404: "not-found", 405: "wrong-method",
    408: "too-slow", 409: "in-doubt", 413: "too-large", 415: "wrong-content-type", 421: "wrong-host",
    422: "invalid-field", 429: "rate-exceeded", 500: "internal-error", 503: "unavailable", 504: "no-answer-in-time",
}  # fmt: skip
_log = logging.getLogger("normface.serve")


class Refused(NormfaceError):
    """A refused request, answered with this `status` and error."""

    def __init__(self, status: int, expected: str, got: str, do: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(expected, got, do)
        self.status, self.headers = status, headers or {}


def needed(method: str, path: str) -> Scope | None:
    """Return the scope that a request requires; None if it needs no key."""
    if path in OPEN or not (path == "/metrics" or path.startswith("/v1/")):
        return None
    if method == "DELETE" or (method != "GET" and method != "HEAD" and path.startswith("/v1/people/")):
        return "admin"
    return "enrol" if path.startswith("/v1/people") and method not in ("GET", "HEAD") else "read"


class Gate:
    """ASGI middleware around the application; the only place that logs and counts requests.

    Reads the body of permitted requests completely, within size and time limits.
    """

    def __init__(
        self, app: ASGIApp, settings: Settings, engine: Engine, metrics: Metrics, keys: KeyFile | None
    ) -> None:
        self.app, self.settings, self.engine, self.metrics = app, settings, engine, metrics
        self.keys = keys
        self.rate, self.room = RateLimit(settings.rate), Room(settings.queue)
        self.uploads = Budget(settings.memory // 4)
        metrics.watch("normface_waiting_photographs", "Photographs waiting for a worker.", lambda: engine.waiting)
        metrics.watch("normface_requests_inside", "Requests being read or processed.", lambda: self.room.taken)

    async def __call__(self, scope: Request, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status, told = time.perf_counter(), 0, {"id": uuid.uuid4().hex}
        scope.setdefault("state", {})["request"] = told["id"]
        if self.settings.root_path:  # not the server's: uvicorn would add it to paths that proxies pass as they came
            scope["root_path"] = self.settings.root_path
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        body = _Body(receive, headers, self.settings)

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = dict(message.get("headers", []))
                message["headers"] = [*({**POLICY, **own}.items()), (b"x-request-id", told["id"].encode())]
                if body.pending:  # nobody waits for it, so it must not keep the connection
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        try:
            await self._admit(scope, headers, body, answer, told)
        except Refused as error:
            if not status:
                await _refuse(answer, error, told["id"])
        except Exception:
            _log.exception("error", extra={"fields": told})
            if not status:
                do = f"quote request {told['id']} to the operator"
                await _refuse(answer, Refused(500, "an answer", "an internal error", do), told["id"])
        finally:
            spent = time.perf_counter() - began
            route = getattr(scope.get("route"), "path", "unmatched")
            method = scope["method"] if scope["method"] in METHODS else "other"
            self.metrics.requests.labels(route, method, status).inc()
            self.metrics.seconds.labels(route).observe(spent)
            fields = {**told, "method": method, "route": route, "status": status, "ms": round(1000 * spent, 1)}
            _log.info("request", extra={"fields": fields})

    async def _admit(
        self, scope: Request, headers: dict[str, str], body: _Body, send: Send, told: dict[str, str]
    ) -> None:
        need = needed(scope["method"], local_path(scope))
        self._check_origin(headers, foreign=need is None)
        if body.pending and scope["method"] in BODILESS:
            raise Refused(400, f"{scope['method']} without a body", "one", "send it without, or with POST")
        if need is None:
            await self.app(scope, body.receive, send)
            return
        who = self._who(scope, headers, need, told)
        try:
            self.rate.take(who)
            if not body.pending:
                await self._answer(scope, body, send, who)
                return
            with self.room.one(self.engine.wait):
                body.check()
                async with self.uploads.held_within(COPIES * body.most, self.settings.timeout):
                    await body.read()
                    await self._answer(scope, body, send, who)
        except Busy as busy:
            self.metrics.refused.labels(busy.limit).inc()
            status, got = (429, "more from this caller") if busy.limit == "rate" else (503, "more")
            expected = {
                "rate": f"at most {self.rate.rate:g} requests per second",
                "queue": f"at most {self.room.size} concurrent requests",
                "memory": f"at most {self.uploads.size // COPIES:,} bytes in concurrent requests",
            }[busy.limit]
            raise Refused(
                status, expected, got, f"try again in {busy.seconds} s", {"retry-after": str(busy.seconds)}
            ) from busy
        except TimeoutError as error:
            raise Refused(504, f"an answer within {self.settings.timeout:g} s", "none", "try again later") from error

    async def _answer(self, scope: Request, body: _Body, send: Send, who: str) -> None:
        with acting(who if self.keys else f"address {who}"):
            async with asyncio.timeout(self.settings.timeout):
                await self.app(scope, body.again, send)

    def _check_origin(self, headers: dict[str, str], *, foreign: bool) -> None:
        """Refuse unknown Host headers (DNS rebinding) and, unless `foreign`, requests from other sites' pages."""
        host = headers.get("host", "")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        known = {*self.settings.hosts, self.settings.host}
        if self.keys is None and not is_loopback(name) and name not in known:
            raise Refused(421, f"a request to {self.settings.host}", "another Host", "use that name, or --allow-host")
        origin = headers.get("origin")
        if not foreign and origin is not None and origin.partition("://")[2] != host:
            raise Refused(
                403, "a request from this service's page or a program", "another site's", "use the service's own page"
            )

    def _who(self, scope: Request, headers: dict[str, str], need: Scope, told: dict[str, str]) -> str:
        """Return the caller whose requests are counted. Raises Refused for an unsuitable key."""
        address = caller((scope.get("client") or ("unknown", 0))[0])
        if self.keys is None:
            return address
        scheme, _, token = headers.get("authorization", "").partition(" ")
        key = self.keys.find(token.strip()) if scheme.lower() == "bearer" else None
        if key is None:
            self.rate.take(address)
            got = "none" if not token else "one that is unknown, revoked or expired"
            do = "send it as: Authorization: Bearer nf_…"
            raise Refused(401, "an API key", got, do, {"www-authenticate": "Bearer"})
        told["key"] = key.id
        if not key.allows(need):
            raise Refused(403, f"a key with the scope {need}", ", ".join(key.scopes), "use another key")
        return f"key {key.id}"


class _Body:
    """A request's body, read within size and time limits. `pending`: it has not been read completely."""

    def __init__(self, receive: Receive, headers: dict[str, str], settings: Settings) -> None:
        self.receive, self.limit, self.timeout = receive, settings.max_upload, settings.timeout
        self.length = headers.get("content-length", "")
        self.pending = self.length.strip("0") != "" or "transfer-encoding" in headers
        self.most = min(int(self.length[:20]), self.limit) if self.length.isdigit() else self.limit
        self.parts: deque[bytes] = deque()
        self.given = False

    def check(self) -> None:
        """Raise Refused if it says that it is too large."""
        if self.length.isdigit() and int(self.length[:20]) > self.limit:
            raise self._too_large()

    async def read(self) -> None:
        """Read all of it. Raises Refused if it is too large, too slow or cut off."""
        size = 0
        try:
            async with asyncio.timeout(self.timeout):
                while self.pending:
                    message = await self.receive()
                    if message["type"] == "http.disconnect":
                        raise Refused(400, "a complete request", "a closed connection", "send it again")
                    self.parts.append(message.get("body", b""))
                    size += len(self.parts[-1])
                    if size > self.limit:
                        raise self._too_large()
                    self.pending = message.get("more_body", False)
        except TimeoutError as error:
            got = f"{size:,} bytes of it"
            raise Refused(408, f"the request within {self.timeout:g} s", got, "send it faster") from error

    async def again(self) -> Message:
        """ASGI's receive: what was read, part by part and kept no longer, then what comes."""
        if self.given:
            return await self.receive()
        part = self.parts.popleft() if self.parts else b""
        self.given = not self.parts
        return {"type": "http.request", "body": part, "more_body": not self.given}

    def _too_large(self) -> Refused:
        return Refused(413, f"at most {self.limit:,} bytes", "more", "send smaller photographs")


async def _refuse(send: Send, error: Refused, id: str) -> None:
    body = json.dumps(problem(error, error.status, id)).encode()
    headers = {"content-type": PROBLEM, "content-length": str(len(body)), **error.headers}
    await send({
        "type": "http.response.start", "status": error.status,
        "headers": [(key.encode(), value.encode()) for key, value in headers.items()],
    })  # fmt: skip
    await send({"type": "http.response.body", "body": body})


def problem(error: NormfaceError, status: int, id: str) -> dict[str, Any]:
    """Return an error as a problem document (RFC 9457) of version 1, with this project's own members.

    `type` and the members' meaning change with the version alone; new types and members may come.
    """
    kind = TYPES.get(status, "error")
    if status == 422:
        kind = (
            "unreadable-image" if type(error) is DataError else "unsuitable-face" if type(error) is FaceError else kind
        )
    return {
        "type": f"urn:normface:problem:1:{kind}", "title": kind.replace("-", " ").capitalize(), "status": status,
        "detail": f"expected {error.expected}, got {error.got}; {error.do}", "expected": error.expected,
        "got": error.got, "do": error.do, "request": id,
    }  # fmt: skip


def local_path(scope: Request) -> str:
    """Return a request's path below `--root-path`, as the routes see it."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(root) :] if root and (path + "/").startswith(f"{root}/") else path
