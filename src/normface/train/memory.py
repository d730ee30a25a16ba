"""Retention of freed memory between training steps."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of glibc's malloc.h


def keep() -> None:
    """Make the C library (glibc only) keep freed memory for later requests of this process.

    By default, glibc returns large blocks to the kernel at once. A training step on CPUs frees all of its activations,
    so in the next step the kernel would have to clear and map all of their pages again.
    """
    if not sys.platform.startswith("linux"):
        return
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:  # another C library, such as musl
        return
    set_option(_MMAP_MAX, 0)  # large blocks come from the heap …
    set_option(_TRIM_THRESHOLD, 2**31 - 1)  # … which does not shrink …
    set_option(_TOP_PAD, 64 << 20)  # … and grows by this much at a time
