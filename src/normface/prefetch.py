"""Map a function over items in threads: ahead of use, in order, with a bounded number of results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Out = TypeVar("Out")


def map_ahead(work: Callable[[Item], Out], items: Iterable[Item], *, depth: int = 4, threads: int = 1) -> Iterator[Out]:
    """Yield work(item) for each item in order, while threads work up to `depth` items ahead.

    One thread is best if a network needs the other cores: decoders release the GIL. An error in `work` is raised when
    its item is due; items not yet begun are then skipped.
    """
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Out]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
