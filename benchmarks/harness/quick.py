"""All benchmarks in small, each in a process of its own with a limit of time: one page for this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from normface import machine
from normface.atomic import replacing

from . import page
from .command import BUILD, Benchmark, facts
from .faces import faces, kind_of_faces
from .sheet import RESULTS, ROOT

# What most people ask first; the others follow by name.
FIRST = "machine embed align training loader gallery protocols head service throughput overhead bulk".split()
LEAST = 10.0  # seconds: with less left a benchmark is not begun


def measure_all(known: Mapping[str, Benchmark], minutes: float, results: Path = RESULTS, build: Path = BUILD) -> int:
    """Measure what fits into `minutes`; writes quick.json and quick.md and returns 1 where a part failed.

    Both files are written anew after every benchmark, so a stop keeps what is there.
    """
    began = time.monotonic()
    told = {**facts(), "libraries": machine.libraries()}
    folder = build / told["kind"] / "quick"
    whole: dict[str, Any] = {
        "name": "quick", "date": f"{datetime.now(UTC):%Y-%m-%d}", **told, "minutes": minutes, "faces": kind_of_faces(),
        "benchmarks": {},
    }  # fmt: skip
    faces()  # drawn ones are drawn now, not within a benchmark's seconds
    order = [*(name for name in FIRST if name in known), *(name for name in known if name not in FIRST)]
    for number, name in enumerate(order, 1):
        left = 60 * minutes - (time.monotonic() - began)
        budget = known[name].quick
        if budget is None:
            found = _left_out(name, f"it is run by itself: python -m benchmarks {name}")
        elif left < LEAST:
            found = _left_out(name, f"the {minutes:g} minutes were over; give more: --minutes {2 * minutes:g}")
        else:
            _say(f"{number} of {len(order)}: {name}, at most {min(2 * budget, left):.0f} s; {left:.0f} s are left")
            words = [sys.executable, "-m", "benchmarks", name, "--quick", "--into", str(folder)]
            words += ["--seconds", f"{min(budget, left - LEAST / 2):.0f}"]
            found = _in_a_process(name, words, min(2 * budget, left), folder)
        # The load before all of it: what a benchmark finds is that of the one before.
        whole["benchmarks"][name] = found | ({"load": told["load"]} if "load" in found else {})
        whole["seconds"] = round(time.monotonic() - began, 1)
        place = results / told["kind"]
        _write(place / "quick.json", json.dumps(whole, indent=2) + "\n")
        _write(place / "quick.md", page.of_one(whole))
    failed = [f"{name}: {part}" for name, each in whole["benchmarks"].items() for part in each["failed"]]
    _say(f"{whole['seconds']:.0f} s in all; the page: {_named(results / told['kind'] / 'quick.md')}")
    _say("to show it in docs/benchmarks.md: python -m benchmarks page")
    if failed:
        _say(f"failed: {', '.join(failed)}")
    return int(bool(failed))


def _in_a_process(name: str, words: Sequence[str], limit: float, folder: Path) -> dict[str, Any]:
    """The record that a benchmark leaves, also where it was stopped at its limit or died."""
    paths = [folder / f"{name}.json", folder / f"{name}.partial.json"]
    for path in paths:
        path.unlink(missing_ok=True)
    # Output goes where ours does, so its progress is seen. A session of its own: services and workers end with it.
    child = subprocess.Popen(words, cwd=ROOT, start_new_session=True)
    why = ""
    try:
        code = child.wait(limit)
        why = f"ended with code {code}" if code else ""
    except subprocess.TimeoutExpired:
        why = f"stopped after {limit:.0f} s"
    finally:
        _end(child)
    kept = next((path for path in paths if path.exists()), None)
    found: dict[str, Any] = {"name": name, "quick": True, "left_out": {}, "failed": {}}
    if kept is not None:
        found = json.loads(kept.read_text(encoding="utf-8"))
    if why and not found["failed"]:
        found["failed"] = {name: why}
    for key in ("figures", "done", "code"):  # of a partial record: they stand in it a second time
        found.pop(key, None)
    return found


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started."""
    if sys.platform == "win32":
        child.kill()
    else:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _left_out(name: str, reason: str) -> dict[str, Any]:
    return {"name": name, "quick": True, "left_out": {name: reason}, "failed": {}}


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _named(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def _say(what: str) -> None:
    print(f"{time.strftime('%X')} {what}", file=sys.stderr, flush=True)
