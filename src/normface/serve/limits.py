"""Limits on the rate of one caller, on concurrent requests, and on the bytes that they hold."""

from __future__ import annotations

import asyncio
import ctypes
import ipaddress
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager, suppress

KEPT = 1 << 19  # bytes of a block from which on freed memory goes back to the system
CALLERS = 10_000  # remembered at once; the one not heard of for longest is forgotten first


class Busy(Exception):
    """A limit is reached: which `limit`, and `seconds` until a retry is worthwhile."""

    def __init__(self, seconds: float, limit: str) -> None:
        super().__init__(limit)
        self.seconds, self.limit = max(1, math.ceil(seconds)), limit


class RateLimit:
    """A token bucket per caller: `rate` requests per second, bursts of twice that (at least one)."""

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate, self.size, self.clock = rate, max(1.0, 2 * rate), clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str) -> None:
        """Count one request. Raises Busy if the caller has exceeded the rate."""
        now = self.clock()
        level, then = self._buckets.pop(caller, (self.size, now))
        level = min(self.size, level + self.rate * (now - then))
        self._buckets[caller] = (level - (level >= 1), now)
        if len(self._buckets) > CALLERS:
            self._buckets.popitem(last=False)
        if level < 1:
            raise Busy((1 - level) / self.rate, "rate")


class Room:
    """At most `size` concurrent requests."""

    def __init__(self, size: int) -> None:
        self.size, self.taken = size, 0

    @contextmanager
    def one(self, wait: Callable[[], float]) -> Iterator[None]:
        """Hold a place for the block. Raises Busy, for `wait()` seconds, if none is free."""
        if self.taken >= self.size:
            raise Busy(wait(), "queue")
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1


class Budget:
    """`size` bytes, lent in the order in which they were asked for; who asks for more than all gets all."""

    def __init__(self, size: int) -> None:
        self.size = self.free = size
        self._waiting: deque[tuple[int, Future[int]]] = deque()
        self._lock = threading.Lock()

    @contextmanager
    def held(self, count: int) -> Iterator[None]:
        """Hold bytes for the block; waits in this thread."""
        lent = self._ask(count).result()
        try:
            yield
        finally:
            self._give_back(lent)

    @asynccontextmanager
    async def held_within(self, count: int, seconds: float) -> AsyncIterator[None]:
        """Hold bytes for the block; waits for `seconds` at most, then raises Busy."""
        asked = self._ask(count)
        try:
            async with asyncio.timeout(seconds):
                await asyncio.shield(asyncio.wrap_future(asked))
            yield
        except TimeoutError as error:
            if not asked.done():
                raise Busy(seconds, "memory") from error
            raise
        finally:
            self._give_back(0 if asked.cancel() else asked.result())

    def _ask(self, count: int) -> Future[int]:
        asked: Future[int] = Future()
        with self._lock:
            self._waiting.append((min(count, self.size), asked))
            self._lend()
        return asked

    def _give_back(self, count: int) -> None:
        with self._lock:
            self.free += count
            self._lend()

    def _lend(self) -> None:
        while self._waiting and (self._waiting[0][0] <= self.free or self._waiting[0][1].cancelled()):
            count, asked = self._waiting.popleft()
            if asked.set_running_or_notify_cancel():
                self.free -= count
                asked.set_result(count)


def give_freed_memory_back() -> None:
    """Let glibc return large blocks when they are freed; it would keep hundreds of MiB for every thread."""
    with suppress(AttributeError, OSError, TypeError):  # other systems have no such function
        ctypes.CDLL(None).mallopt(-3, KEPT)  # M_MMAP_THRESHOLD


def caller(address: str) -> str:
    """Return the caller of an address: the address itself, or for IPv6 its /64, which one subscriber owns."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ip) if ip.version == 4 else str(ipaddress.ip_network((ip, 64), strict=False))
