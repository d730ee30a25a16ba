"""One benchmark's figures, written to disk part by part; what fails or cannot be measured here is named."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from normface.atomic import replacing
from normface.errors import MissingDependency

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
T = TypeVar("T")


class LeftOut(Exception):
    """A part cannot be measured on this machine; its text says why and what to do."""


class MissingPeer(LeftOut):
    """Another library, which a part is measured beside, is not there; `install` is the command that brings it."""

    def __init__(self, name: str, install: str) -> None:
        super().__init__(f"{name} is not installed; install it with: {install}")


def peer(module: str, install: str) -> ModuleType:
    """Import another library. Raises MissingPeer with the command that installs it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingPeer(module, install) from error


class Sheet:
    """What one benchmark measures. Its file is complete JSON after every part.

    Args:
        name: of the benchmark.
        path: where the finished record goes; until then `path` with ".partial.json" at its end.
        facts: about the machine, kept in the record.
        quick: whether small sizes are asked for.
        seconds: parts that would begin after so many are left out.
    """

    def __init__(
        self, name: str, path: Path, *, facts: Mapping[str, Any], quick: bool = False, seconds: float | None = None
    ) -> None:
        self.name, self.path, self.facts, self.quick, self.seconds = name, path, facts, quick, seconds
        self.figures: dict[str, Any] = {}
        self.left_out: dict[str, str] = {}
        self.failed: dict[str, str] = {}
        self.code = ""
        self._done: list[str] = []
        self._resumed: set[str] = set()
        self._began = time.monotonic()

    @property
    def partial(self) -> Path:
        """The file of what was measured so far."""
        return self.path.with_suffix(".partial.json")

    @property
    def has_bf16(self) -> bool:
        """Whether this processor computes bfloat16 products itself."""
        return bool(self.facts["has_bf16"])

    def pick(self, full: T, quick: T) -> T:
        """Return the size to measure with."""
        return quick if self.quick else full

    def need_bf16(self) -> None:
        """Raise LeftOut where bfloat16 is emulated: that takes minutes and tells nothing."""
        if not self.has_bf16:
            raise LeftOut(f"bfloat16 is emulated on this processor ({self.facts['kind']})")

    def resume(self, code: str) -> None:
        """Take over what an earlier call with the same code measured before it was stopped."""
        self.code = code
        if not self.partial.exists():
            return
        kept = json.loads(self.partial.read_text(encoding="utf-8"))
        if (kept.get("code"), kept.get("quick")) == (code, self.quick):
            self.figures, self._done = kept["figures"], kept["done"]
            self._resumed = set(self._done)
            self._say(f"goes on after {len(self._done)} parts measured before")

    def measure(self, place: str, work: Callable[..., T], *arguments: Any) -> T | None:
        """Run a part, keep what it returns under `place` ("a/b" is figures["a"]["b"]; "": merged), and return it.

        None where it fails or is left out, as `attempt` says, and where it was measured before (`resume`).
        """
        label = place or self.name
        if label in self._resumed:
            return None
        began = time.monotonic()
        well, found = self._run(label, work, *arguments)
        if well:
            self.put(place, found)
            self._keep(label, f"{time.monotonic() - began:.1f} s")
        return found

    def keep(self, place: str, value: Any) -> None:
        """Keep what was measured elsewhere as a part that is done."""
        self.put(place, value)
        self._keep(place, "kept")

    def has(self, label: str) -> bool:
        """Return True for a part that is done, here or before (`resume`)."""
        return label in self._done

    @property
    def done(self) -> frozenset[str]:
        """Labels of all parts that are done."""
        return frozenset(self._done)

    def fail(self, label: str, why: str) -> None:
        """Say that a part failed."""
        self.failed[label] = harmless(why)
        self._say(f"{label}: FAILED: {self.failed[label]}")
        self._save()

    def attempt(self, label: str, work: Callable[..., T], *arguments: Any) -> T | None:
        """Return what `work` returns and keep nothing, or keep why it failed or is left out and return None.

        LeftOut, MissingDependency and a budget that is spent leave it out; any other error is a failure.
        """
        return self._run(label, work, *arguments)[1]

    def _run(self, label: str, work: Callable[..., T], *arguments: Any) -> tuple[bool, T | None]:
        if self.seconds is not None and time.monotonic() - self._began > self.seconds:
            self.leave_out(label, f"the {self.seconds:.0f} s for this benchmark were over")
            return False, None
        try:
            return True, work(*arguments)
        except (LeftOut, MissingDependency) as reason:
            self.leave_out(label, str(reason))
        except Exception as error:
            self.fail(label, f"{type(error).__name__}: {error}")
        return False, None

    def put(self, place: str, value: Any) -> None:
        """Keep a figure under `place`; None and, where `place` is "", what is no mapping, keep nothing."""
        if not place:
            self.figures |= value if isinstance(value, Mapping) else {}
            return
        if value is None:
            return
        *above, last = place.split("/")
        within = self.figures
        for name in above:
            within = within.setdefault(name, {})
        within[last] = value

    def leave_out(self, place: str, reason: str) -> None:
        """Say why a part is not measured here."""
        self.left_out[place] = harmless(reason)
        self._say(f"{place}: left out: {self.left_out[place]}")
        self._save()

    def record(self) -> dict[str, Any]:
        """Everything as it is kept: name, date, machine, figures, what was left out and what failed."""
        return {
            "name": self.name, "date": f"{datetime.now(UTC):%Y-%m-%d}", **self.facts, "quick": self.quick,
            "seconds": round(time.monotonic() - self._began, 1), **self.figures,
            "left_out": self.left_out, "failed": self.failed,
        }  # fmt: skip

    def finish(self, *, resumable: bool = False) -> Path:
        """Write the record in its place, or leave the partial one where a part failed; returns the file.

        resumable: leave the partial one anyway, for a call that measures what was left out.
        """
        if self.failed:
            self._save()
            return self.partial
        _write(self.path, self.record())
        if not resumable:
            self.partial.unlink(missing_ok=True)
        return self.path

    def _keep(self, label: str, how: str) -> None:
        self._done.append(label)
        self._save()
        self._say(f"{label}: {how}")

    def _save(self) -> None:
        inner = {"figures": self.figures, "done": self._done, "code": self.code}
        _write(self.partial, self.record() | inner)

    def _say(self, what: str) -> None:
        print(f"{time.strftime('%X')} {self.name}: {what}", file=sys.stderr, flush=True)


def _write(path: Path, record: Mapping[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def harmless(text: str) -> str:
    """One line without the folders of this machine."""
    for place in (str(ROOT), os.path.expanduser("~"), sys.prefix):
        text = text.replace(place, "…") if len(place) > 1 else text
    return " ".join(text.split())[:400]
