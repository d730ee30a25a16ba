"""Memory that training gives back and asks for at every step is kept by the process instead."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of glibc's malloc.h


def keep() -> None:
    """Tell the C library to keep freed memory for the next request of this process, where it can be told (glibc).

    By default it gives large blocks back to the kernel as soon as they are free. A training step on CPUs frees all of
    its activations, so the next step would have the kernel clear and map all of their pages again.
    """
    if not sys.platform.startswith("linux"):
        return
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:  # another C library, such as musl
        return
    set_option(_MMAP_MAX, 0)  # large blocks come from the heap …
    set_option(_TRIM_THRESHOLD, 2**31 - 1)  # … which does not shrink …
    set_option(_TOP_PAD, 64 << 20)  # … and grows by this much at a time
