"""Token buckets and places, by a clock of our own; bytes that are lent."""

import asyncio
import threading

import pytest

from normface.serve import limits
from normface.serve.limits import Budget, Busy, RateLimit, Room, caller


def test_twice_the_rate_at_once_then_the_rate():
    now = 0.0
    rate = RateLimit(5, clock=lambda: now)
    for _ in range(10):
        rate.take("a")
    with pytest.raises(Busy) as busy:
        rate.take("a")
    assert busy.value.seconds == 1
    rate.take("b")
    now = 0.2
    rate.take("a")
    with pytest.raises(Busy):
        rate.take("a")
    now = 100.0
    for _ in range(10):
        rate.take("a")
    with pytest.raises(Busy):
        rate.take("a")


def test_a_slow_rate_says_how_long():
    rate = RateLimit(0.1, clock=lambda: 0.0)
    rate.take("a")
    with pytest.raises(Busy) as busy:
        rate.take("a")
    assert busy.value.seconds == 10


def test_callers_are_forgotten_oldest_first(monkeypatch):
    monkeypatch.setattr(limits, "CALLERS", 3)
    rate = RateLimit(0.5, clock=lambda: 0.0)
    for name in "abcd":
        rate.take(name)
    assert list(rate._buckets) == ["b", "c", "d"]


def test_places():
    room = Room(2)
    with room.one(lambda: 7), room.one(lambda: 7):
        with pytest.raises(Busy) as busy, room.one(lambda: 6.2):
            pass
        assert (busy.value.seconds, busy.value.limit) == (7, "queue")
    assert room.taken == 0


def test_bytes_are_lent_in_the_order_of_asking():
    budget, order = Budget(10), []

    async def use(name, count, seconds=60.0):
        async with budget.held_within(count, seconds):
            order.append(name)
            await asyncio.sleep(0.02)

    async def go():
        async with budget.held_within(6, 60):
            tasks = [asyncio.create_task(use(*each)) for each in (("large", 8), ("small", 1), ("more than all", 99))]
            await asyncio.sleep(0.01)
            assert order == []  # the small one waits behind the large one, which would never come otherwise
            with pytest.raises(Busy) as busy:
                await use("hasty", 1, 0.01)
            assert busy.value.limit == "memory"
            cancelled = asyncio.create_task(use("cancelled", 10))
            await asyncio.sleep(0)
            cancelled.cancel()
        await asyncio.gather(*tasks)

    asyncio.run(go())
    assert order == ["large", "small", "more than all"]
    assert budget.free == 10


def test_bytes_are_lent_to_threads():
    budget, most, inside = Budget(10), [], []

    def use():
        with budget.held(4):
            inside.append(1)
            most.append(len(inside))
            inside.pop()

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 8
    assert max(most) <= 2
    assert budget.free == 10


def test_who_an_address_is():
    assert caller("192.0.2.7") == "192.0.2.7"
    assert caller("2001:db8:1:2:3:4:5:6") == caller("2001:db8:1:2::9") == "2001:db8:1:2::/64"
    assert caller("unknown") == "unknown"
