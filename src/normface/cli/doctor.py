from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..errors import require
from .terminal import Json, out


def doctor(
    run: Annotated[Path, typer.Argument(help="Folder of a run: finished, stopped, broken or still going on.")],
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw what was monitored: FILE.svg or FILE.png.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what is wrong with a training run, why, and what to do.

    Reads `config.json` and `metrics.jsonl`: a scale too small for the classes, collapsed features, negatives that do
    not push, norms that grow, a loss that does not fall or is not finite. It exits with 0 also where it finds some.

    Examples: `normface doctor RUN`, `normface doctor RUN --plot run.svg`, `normface doctor RUN --json`.
    """
    require("torch", "train")
    from ..train.doctor import diagnose, read, summary

    whole = read(run)
    found = diagnose(whole)
    if plot is not None:
        from ..report import plots

        plots.save(plots.monitors(whole.looks, run.name), plot, f"What was monitored in the run {run.name}")
    healthy = not any(d.severity != "note" for d in found)
    key = summary(whole)
    if as_json:
        figures = {"run": str(run), "healthy": healthy, "diagnoses": [asdict(d) for d in found], "summary": key}
        out.print_json(json.dumps(figures))
        return
    for d in found:
        out.print(f"{d.severity}: {d.name}: {d}", soft_wrap=True)
    verdict = "nothing wrong was found" if healthy else "see above"
    out.print(f"{run}: {verdict}. {key}", soft_wrap=True)
