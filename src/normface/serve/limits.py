"""How much one caller may ask for, and how much is taken on at once."""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

CALLERS = 10_000  # remembered at once; the one not heard of for longest is forgotten first


class Busy(Exception):
    """Too much is asked for; `seconds` until it is worth trying again, `limit` says of what."""

    def __init__(self, seconds: float, limit: str) -> None:
        super().__init__(limit)
        self.seconds, self.limit = max(1, math.ceil(seconds)), limit


class RateLimit:
    """A token bucket for each caller: `rate` requests a second, twice as many (at least one) at once."""

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate, self.size, self.clock = rate, max(1.0, 2 * rate), clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str) -> None:
        """Count one request. Raises Busy where the caller has none left."""
        now = self.clock()
        level, then = self._buckets.pop(caller, (self.size, now))
        level = min(self.size, level + self.rate * (now - then))
        self._buckets[caller] = (level - (level >= 1), now)
        if len(self._buckets) > CALLERS:
            self._buckets.popitem(last=False)
        if level < 1:
            raise Busy((1 - level) / self.rate, "rate")


class Room:
    """At most `size` requests at once."""

    def __init__(self, size: int) -> None:
        self.size, self.taken = size, 0

    @contextmanager
    def one(self, wait: Callable[[], float]) -> Iterator[None]:
        """Hold a place. Raises Busy, for `wait()` seconds, where none is free."""
        if self.taken >= self.size:
            raise Busy(wait(), "queue")
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1


def caller(address: str) -> str:
    """Whom an address stands for: itself, or of IPv6 its /64, since one subscriber has all of that."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ip) if ip.version == 4 else str(ipaddress.ip_network((ip, 64), strict=False))
