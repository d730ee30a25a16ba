"""Queries to this machine that may fail and then give "unknown"."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from typing import Any

UNKNOWN = "unknown"


def or_unknown(ask: Callable[[], Any]) -> Any:
    """Return what `ask` returns, or "unknown" if it raises an error or finds nothing."""
    try:
        found = ask()
    except Exception:  # whatever a foreign library or system raises: a report with a gap is better than none
        return UNKNOWN
    return UNKNOWN if found in (None, "") else found


def output_of(words: Sequence[str], seconds: float = 10) -> str:
    """Return a program's output. Raises OSError or subprocess.SubprocessError on failure."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=seconds, check=True)
    return done.stdout.strip()
