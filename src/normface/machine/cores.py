"""Cores and memory: of the machine, and available to this process under affinity and container limits."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..system_facts import UNKNOWN, or_unknown, usable_cores

PROC, CGROUP = Path("/proc"), Path("/sys/fs/cgroup")
MIB = 1 << 20


def limits(proc: Path = PROC, cgroup: Path = CGROUP) -> dict[str, Any]:
    """Return the cores of the machine, those this process may use, and memory in MiB.

    `container_cpus` and `container_memory_mib` are the limits of control groups (v1 or v2), or None.
    `usable_cores`: cores left by affinity and the container, at least 1. `load`: average number of processes that
    wanted a core during the last minute; speeds measured under load are unreliable.
    """
    affinity = or_unknown(_affinity)
    cpus, memory = or_unknown(lambda: _cpus(proc, cgroup)), or_unknown(lambda: _memory(proc, cgroup))
    counts = [math.ceil(n) for n in (os.cpu_count(), affinity, cpus) if isinstance(n, int | float) and n < math.inf]
    return {
        "cores": os.cpu_count() or UNKNOWN, "affinity": affinity, "container_cpus": None if cpus == math.inf else cpus,
        "usable_cores": max(1, min(counts)) if counts else UNKNOWN,
        "memory_mib": or_unknown(lambda: _total(proc)), "available_memory_mib": or_unknown(lambda: _available(proc)),
        "container_memory_mib": None if memory == math.inf else memory, "load": or_unknown(_load),
    }  # fmt: skip


def _affinity() -> int:
    return usable_cores()


def _load() -> float:
    if sys.platform == "win32":
        raise OSError("Windows does not count it")
    return round(os.getloadavg()[0], 1)


def _groups(proc: Path, controller: str) -> tuple[bool, str]:
    """Whether a controller is of v2, and the path of this process's group."""
    v2 = "/"
    file = proc / "self" / "cgroup"
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            return False, path
        if not names:
            v2 = path
    return True, v2


def _upwards(cgroup: Path, path: str) -> Iterator[Path]:
    """Folders of a group and of all groups above it: each may set a limit."""
    place = cgroup / path.strip("/")
    while True:
        yield place
        if place == cgroup or cgroup not in place.parents:
            return
        place = place.parent


def _numbers(folder: Path, name: str) -> list[int]:
    """Numbers in a control file; "max", or a missing file, gives none."""
    file = folder / name
    return [int(word) for word in file.read_text("ascii").split() if word != "max"] if file.exists() else []


def _cpus(proc: Path, cgroup: Path) -> float:
    """Limit of cores; infinity if there is none."""
    v2, path = _groups(proc, "cpu")
    found = []
    for folder in _upwards(cgroup if v2 else cgroup / "cpu", path):
        if v2:
            numbers = _numbers(folder, "cpu.max")
        else:
            numbers = [*_numbers(folder, "cpu.cfs_quota_us"), *_numbers(folder, "cpu.cfs_period_us")]
        if len(numbers) == 2 and numbers[0] > 0:
            found.append(numbers[0] / numbers[1])
    return round(min(found, default=math.inf), 2)


def _memory(proc: Path, cgroup: Path) -> float:
    """Limit of memory in MiB; infinity if there is none."""
    v2, path = _groups(proc, "memory")
    name = "memory.max" if v2 else "memory.limit_in_bytes"
    found = [
        number for folder in _upwards(cgroup if v2 else cgroup / "memory", path) for number in _numbers(folder, name)
    ]
    real = [number for number in found if number < 1 << 60]  # v1 writes "no limit" as a number near 2^63
    return min(real) // MIB if real else math.inf


def _total(proc: Path) -> int:
    if sys.platform == "win32":
        return _windows_memory()[0]
    if (proc / "meminfo").exists():
        return _meminfo(proc, "MemTotal")
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // MIB


def _available(proc: Path) -> int:
    return _windows_memory()[1] if sys.platform == "win32" else _meminfo(proc, "MemAvailable")


def _meminfo(proc: Path, name: str) -> int:
    lines = (proc / "meminfo").read_text("ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) // 1024


def _windows_memory() -> tuple[int, int]:
    """Total and available memory, in MiB."""
    if sys.platform != "win32":
        raise OSError("Windows alone has it")
    import ctypes

    class Status(ctypes.Structure):
        _fields_ = (
            *((name, ctypes.c_ulong) for name in "length load".split()),
            *((name, ctypes.c_ulonglong) for name in "total free page pages_free virtual virtual_free more".split()),
        )

    status = Status()
    status.length = ctypes.sizeof(Status)
    ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
    return status.total // MIB, status.free // MIB
