"""Queries to this machine that may fail and then give "unknown"."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from typing import Any

UNKNOWN = "unknown"


def or_unknown(ask: Callable[[], Any]) -> Any:
    """Return what `ask` returns, or "unknown" if it raises an error or finds nothing."""
    try:
        found = ask()
    except Exception:  # any error of a library or the system: a report with a gap is better than none
        return UNKNOWN
    return UNKNOWN if found in (None, "") else found


def output_of(words: Sequence[str], seconds: float = 10) -> str:
    """Return a program's output. Raises OSError or subprocess.SubprocessError on failure."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=seconds, check=True)
    return done.stdout.strip()


def usable_cores() -> int:
    """Return the number of cores that this process may use, at least 1."""
    if hasattr(os, "process_cpu_count"):  # Python 3.13
        return os.process_cpu_count() or 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
