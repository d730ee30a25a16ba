"""Ask this machine something that may fail: the answer, or "unknown"."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from typing import Any

UNKNOWN = "unknown"


def or_unknown(ask: Callable[[], Any]) -> Any:
    """Return what `ask` returns, or "unknown" where it raises an error or finds nothing."""
    try:
        found = ask()
    except Exception:  # whatever a foreign library or system raises: a report with a gap is better than none
        return UNKNOWN
    return UNKNOWN if found in (None, "") else found


def output_of(words: Sequence[str], seconds: float = 10) -> str:
    """Return what a program prints. Raises OSError or subprocess.SubprocessError where it cannot."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=seconds, check=True)
    return done.stdout.strip()
