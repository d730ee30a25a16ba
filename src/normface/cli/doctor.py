"""The command `normface doctor`: examine a run or this machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from ..errors import ConfigError, require
from .terminal import Json, err, out


def doctor(
    run: Annotated[
        Path | None, typer.Argument(help="Folder of a training run: finished, stopped, failed or running.")
    ] = None,
    machine: Annotated[
        bool, typer.Option("--machine", help="Describe this machine and installation instead, for a bug report.")
    ] = False,
    speed: Annotated[
        bool, typer.Option("--speed/--no-speed", help="With --machine: run a speed test of about ten seconds.")
    ] = True,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Plot the run's monitored values: FILE.svg or FILE.png.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Diagnose a training run, or describe this machine for a bug report.

    With RUN: reads `config.json` and `metrics.jsonl` and reports a scale too small for the number of classes, collapsed
    features, inactive negatives, growing norms, and a loss that does not fall or is not finite, each with its cause and
    remedy. Exits with 1 if it finds any of these.

    With `--machine`: prints versions, the processor and the instructions that libraries use, threads, memory, GPUs, the
    default model, extras with their install commands, and a speed test next to the published figures. The output
    contains no host, user or folder names. Works without PyTorch.

    Examples: `normface doctor RUN`, `normface doctor RUN --plot run.svg`, `normface doctor --machine --json`.
    """
    if machine == (run is not None):
        given = f"both {run} and --machine" if machine else "neither"
        raise ConfigError("either the folder of a run or --machine", given, "give one of them")
    if machine and plot is not None:
        raise ConfigError("--plot with the folder of a run", "--machine", "drop --plot")
    if run is None:
        _machine(speed, as_json)
    else:
        _run(run, plot, as_json)


def _machine(with_speed: bool, as_json: bool) -> None:
    from ..machine import facts, processor
    from ..machine.speed import beside, measure, published

    told: dict[str, Any] = facts()
    here = processor()
    if with_speed:
        with err.status("measuring", spinner="dots") as status:
            found = measure(bf16=here.has_bf16, told=lambda what: status.update(f"measuring: {what}"))
        docs = published()
        told["speed"] = {
            "rows": beside(found, here.kind), "left_out": found.get("left_out", {}),
            "docs": docs.get(here.kind, {}).get("on"), "docs_know": sorted(docs),
        }  # fmt: skip
    if as_json:
        out.print_json(json.dumps(told))
        return
    for section in ("versions", "processor", "limits", "gpu", "default_model"):
        _section(section.replace("_", " "), told[section])
    _extras(told["extras"])
    if with_speed:
        _speed(told["speed"], here.kind)
        load = told["limits"]["load"]
        if isinstance(load, float) and load > 0.5:
            out.print(f"This machine was busy (load {load:g}): measure again when it is idle.")


def _section(title: str, values: Mapping[str, Any]) -> None:
    out.print(f"[bold]{title}[/bold]")
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            for inner, one in value.items():
                out.print(f"  {name}.{inner}: {_text(one)}", soft_wrap=True)
        else:
            out.print(f"  {name}: {_text(value)}", soft_wrap=True)


def _text(value: Any) -> str:
    if value is None:
        return "no limit"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | Mapping):
        return escape(", ".join(map(str, value))) or "none"
    return escape(str(value)) or "none"


def _extras(extras: Mapping[str, Any]) -> None:
    out.print("[bold]extras[/bold]")
    for name, found in extras.items():
        state = "installed"
        if not found["installed"]:
            lacks = ", ".join(
                f"{what} (found {version})" if version else what for what, version in found["missing"].items()
            )
            state = f"missing {lacks}; install with: {found['install']}"
        out.print(f"  {name}: {escape(state)}", soft_wrap=True)
    if not extras:
        out.print("  unknown: normface is not installed as a package")


def _speed(speed: Mapping[str, Any], kind: str) -> None:
    docs = f"docs, {kind}, {speed['docs']}" if speed["docs"] else f"docs: none for {kind}"
    table = Table("speed", "here", docs, "ratio to docs")
    for row in speed["rows"]:
        cells = ("–" if row[name] is None else f"{row[name]}" for name in ("here", "docs", "times_docs"))
        table.add_row(row["what"], *cells)
    out.print(table)
    if not speed["docs"]:
        out.print(f"The docs have figures for: {', '.join(speed['docs_know'])}.")
    for name, reason in speed["left_out"].items():
        out.print(f"skipped: {name}: {escape(reason)}", soft_wrap=True)


def _run(run: Path, plot: Path | None, as_json: bool) -> None:
    require("torch", "train")
    from ..train.doctor import diagnose, read, summary

    whole = read(run)
    found = diagnose(whole)
    if plot is not None:
        from ..report import plots

        plots.save(plots.monitors(whole.looks, run.name), plot, f"Monitored values of the run {run.name}")
    healthy = not any(d.severity != "note" for d in found)
    key = summary(whole)
    if as_json:
        figures = {"run": str(run), "healthy": healthy, "diagnoses": [asdict(d) for d in found], "summary": key}
        out.print_json(json.dumps(figures))
    else:
        for d in found:
            out.print(f"{d.severity}: {d.name}: {d}", soft_wrap=True)
        verdict = "no problems found" if healthy else "problems found, see above"
        out.print(f"{run}: {verdict}. {key}", soft_wrap=True)
    if not healthy:
        raise typer.Exit(1)
