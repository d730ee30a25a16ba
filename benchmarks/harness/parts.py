"""Parts of a benchmark, each in a process of its own under a limit of time; what is measured is kept at once.

A part that hangs, dies or runs out of memory costs no other. A later call goes on where an earlier one was stopped.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, TypeAlias

from .sheet import LeftOut, Sheet, harmless

Measurements: TypeAlias = Iterator[tuple[str, Callable[[], Any]]]  # places in the record, and what measures them
LEAST = 10.0  # seconds: with less left a part is not begun
KIND = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


class Part(NamedTuple):
    """A part: the seconds it gets, and where its measurements come from.

    `place` is "module:function": a function of the setting and `options` that yields them in their order. The module
    is imported in the part's process alone, so that a package it lacks costs no other part.
    """

    seconds: float
    place: str
    options: Mapping[str, Any] = {}


def measure_parts(sheet: Sheet, parts: Mapping[str, Part], setting: Any, seconds: float) -> None:
    """Measure what is not in the sheet yet.

    Args:
        setting: given to every part; it can be pickled.
        seconds: for all parts together.
    """
    end = time.monotonic() + seconds
    for name, part in parts.items():
        if sheet.has(name):
            continue
        left = end - time.monotonic()
        if left < min(LEAST, part.seconds):
            sheet.leave_out(name, f"the {seconds:.0f} s were over; the same command goes on")
        elif _in_a_process(sheet, name, part, setting, min(part.seconds, left)):
            sheet.keep(name, None)


def _in_a_process(sheet: Sheet, name: str, part: Part, setting: Any, limit: float) -> bool:
    """Measure a part. Returns True if nothing of it failed or was left out."""
    context: Any = multiprocessing.get_context(KIND)
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_work, args=(theirs, name, part, setting, sheet.done))
    child.start()
    theirs.close()
    end, doing, well = time.monotonic() + limit, name, True
    try:
        while ours.poll(max(0.0, end - time.monotonic())):
            kind, place, told = ours.recv()  # EOFError where the process has ended
            if kind == "begin":
                doing = place
            elif kind == "kept":
                sheet.keep(place, told)
            else:
                well = False
                (sheet.leave_out if kind == "left out" else sheet.fail)(place, told)
        sheet.leave_out(doing, f"the {limit:.0f} s of this part were over")
        well = False
    except EOFError:
        child.join(LEAST)
        if child.exitcode:
            sheet.fail(doing, f"its process ended with code {child.exitcode}")
            well = False
    finally:
        _end(child)
        ours.close()
    return well


def _work(out: Connection, name: str, part: Part, setting: Any, done: Collection[str]) -> None:
    """In the process: measure one after the other, and tell of each."""
    if sys.platform != "win32":
        os.setsid()  # so that its own processes, compilers among them, end with it
    module, _, function = part.place.partition(":")

    def attempt(place: str, work: Callable[[], Any]) -> Any:
        out.send(("begin", place, None))
        try:
            return work()
        except (LeftOut, ImportError) as reason:
            out.send(("left out", place, _without(reason)))
        except Exception as error:
            out.send(("failed", place, f"{type(error).__name__}: {error}"))
        return None

    measurements = attempt(name, lambda: iter(getattr(import_module(module), function)(setting, **part.options)))
    while measurements is not None and (measurement := attempt(name, lambda: next(measurements, None))) is not None:
        place, measure = measurement
        if place not in done and (found := attempt(place, measure)) is not None:
            out.send(("kept", place, found))
        gc.collect()
        if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def _without(reason: Exception) -> str:
    """Name the package that is missing, with the command that installs it."""
    if isinstance(reason, ModuleNotFoundError) and reason.name:
        package = {"cv2": "opencv-python-headless"}.get(reason.name, reason.name.partition(".")[0])
        return f"the package {package} is not installed; install it with: pip install {package}"
    return harmless(str(reason))


def _end(child: Any) -> None:
    """End a process and all that it started."""
    if sys.platform != "win32":
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
    child.kill()
    child.join()
