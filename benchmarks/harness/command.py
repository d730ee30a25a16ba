"""python -m benchmarks: list the benchmarks, run some, run all of them quickly, or write the docs' page."""

from __future__ import annotations

import argparse
import ast
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from normface.system_facts import UNKNOWN

from .sheet import RESULTS, ROOT, Sheet

FOLDER = ROOT / "benchmarks"
BUILD = ROOT / "build" / "benchmarks"
EXAMPLES = """examples:
  python -m benchmarks gallery             measure it as results/ keeps it (minutes)
  python -m benchmarks gallery --quick     the same in small (at most a minute)
  python -m benchmarks all --quick         all of them: one page for this machine, in 10 minutes on 2 cores
  python -m benchmarks gpu                 measure a GPU, in at most 6 minutes; needs no installation
  python -m benchmarks model_card MODEL    what a model can do, and whether it may replace another (--against)
  python -m benchmarks page                write docs/benchmarks.md from results/

Results lie in benchmarks/results/KIND/, KIND being the kind of processor. To measure as on 2 cores with AVX2:
  ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 OPENBLAS_CORETYPE=Haswell MKL_ENABLE_INSTRUCTIONS=AVX2 \\
    taskset -c 0,1 python -m benchmarks all --quick"""


class Benchmark(NamedTuple):
    """What is known of a benchmark without importing it: its first line, and the seconds it gets in `all --quick`."""

    about: str
    quick: int | None  # None: left out there


def benchmarks(folder: Path = FOLDER) -> dict[str, Benchmark]:
    """Read every benchmark's first line and its constant QUICK."""
    found = {}
    for path in sorted(folder.glob("[!_]*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        constants = {
            target.id: node.value
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        quick = ast.literal_eval(constants["QUICK"])
        found[path.stem] = Benchmark((ast.get_docstring(tree) or "").splitlines()[0], quick)
    return found


def facts() -> dict[str, Any]:
    """What every record says about the machine; fast, and without names of hosts, users or folders."""
    from normface import machine  # needs more packages than a machine with a GPU may have

    here, limits, versions = machine.processor(), machine.limits(), machine.versions()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT).stdout
    return {
        "commit": commit.strip() or UNKNOWN, "kind": here.kind, "processor": here.name,
        "abilities": list(here.abilities), "has_bf16": here.has_bf16, "restrictions": dict(here.restrictions),
        "cores": limits["usable_cores"], "load": limits["load"], "memory_mib": limits["memory_mib"],
        "gpu": ", ".join(machine.gpus()) or None,
        "versions": {name: versions[name] for name in ("python", "numpy", "onnxruntime", "torch") if name in versions},
    }  # fmt: skip


def measure(name: str, quick: bool, seconds: float | None = None, folder: Path | None = None) -> Sheet:
    """Run one benchmark and keep its record; what it raises itself counts as a failure of the whole."""
    told = facts()
    place = folder or (BUILD if quick else RESULTS) / told["kind"]
    sheet = Sheet(name, place / f"{name}.json", facts=told, quick=quick, seconds=seconds)
    try:
        run = import_module(f"benchmarks.{name}").run
    except ImportError as error:  # a package that the benchmark itself cannot do without
        sheet.leave_out(name, f"{error}; install everything with: pip install -c constraints.txt -e '.[all,dev]'")
    else:
        sheet.attempt(name, run, sheet)
    return sheet


def main(words: list[str] | None = None) -> None:
    """The command line; exits with 1 where a part failed, with what was measured kept."""
    words = sys.argv[1:] if words is None else words
    if words[:1] == ["gpu"]:  # it has options of its own, and runs where much of what others need is missing
        sys.exit(import_module("benchmarks.gpu").main(words[1:]))
    if words[:1] == ["model_card"]:  # of one model, not of the machine
        sys.exit(import_module("benchmarks.model_card").main(words[1:]))
    known = benchmarks()
    listing = "\n".join(f"  {name:<16}{each.about}" for name, each in known.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"Measure this machine, each benchmark side by side with its peers.\n\nbenchmarks:\n{listing}",
        epilog=EXAMPLES,
    )  # fmt: skip
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks; or all (with --quick); or page")
    parser.add_argument("--quick", action="store_true", help="small sizes; results go to build/benchmarks")
    parser.add_argument("--data", metavar="DIR", help="real faces; default: NORMFACE_DATA, ../shared/data, drawn ones")
    parser.add_argument("--minutes", type=float, default=10.0, help="the most that `all --quick` takes (%(default)g)")
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    if given.data:
        os.environ["NORMFACE_DATA"] = given.data
    if not given.names:
        parser.print_help()
        return
    unknown = [name for name in given.names if name not in {*known, "all", "page"}]
    if unknown:
        parser.error(f"expected names of benchmarks, got {', '.join(unknown)}; choose from: {', '.join(known)}")
    if given.names == ["page"]:
        from .page import write

        for path in write():
            print(path.relative_to(ROOT))
        return
    if given.names == ["all"]:
        if not given.quick:
            parser.error("expected all with --quick, got all alone; add --quick, or name the benchmarks you want")
        from .quick import measure_all

        sys.exit(measure_all(known, given.minutes))
    if {"all", "page"} & set(given.names):
        parser.error("expected all or page alone, got other names with it; run them one after another")
    failed = False
    for name in given.names:
        sheet = measure(name, given.quick, given.seconds, given.into)
        file = sheet.finish()
        if given.into is None:
            print(file.read_text(encoding="utf-8"), end="")
            print(_outcome(sheet, file), file=sys.stderr)
        failed |= bool(sheet.failed)
    sys.exit(int(failed))


def _outcome(sheet: Sheet, file: Path) -> str:
    lines = [f"{sheet.name}: left out: {place}: {reason}" for place, reason in sheet.left_out.items()]
    lines += [f"{sheet.name}: failed: {place}: {reason}" for place, reason in sheet.failed.items()]
    return "\n".join([*lines, f"{sheet.name}: kept in {os.path.relpath(file)}"])
