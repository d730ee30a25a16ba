"""Rendering of one or several Results as Markdown and as one HTML file without scripts or external requests."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..atomic import replacing
from ..types import Result
from . import curves, pages, wording
from .wording import Rows

Photographs = Callable[[str], bytes | None]  # id → a small JPEG


def render_markdown(results: Mapping[str, Result]) -> str:
    """Render summary, metrics of each named system with 95 % intervals and counts, groups, and notes as Markdown."""
    parts = [wording.summary(results), markdown_table(wording.metrics(results))]
    if len(discards := wording.discards(results)) > 1:
        parts += ["Error rates of the images left, by what was left out:", markdown_table(discards)]
    for name, result in results.items():
        if found := result.facts.get("slices"):
            title = "Groups" if len(results) == 1 else f"Groups, {name}"
            parts += [f"{title}, at threshold {found['threshold']:.4f}:", markdown_table(wording.slices(found))]
            parts += [*wording.crosses(found), *wording.ratios(found)]
    return "\n\n".join([*parts, *wording.notes(results)])


def render_html(
    results: Mapping[str, Result],
    *,
    title: str,
    command: str,
    photographs: Photographs | None = None,
    remarks: Sequence[str] = (),
    opening: str = "",
) -> str:
    """Render a page: summary, metrics, curves, groups, hardest errors, folds, conditions, and the command.

    `results` maps the displayed name of each system to its result of the same protocol. `remarks` follow the summary;
    `opening` is HTML before it (`story`). With `photographs` the page shows the hardest errors: do not publish it.
    """
    alone = len(results) == 1
    calibrations = {name: curves.calibration(name, result) for name, result in results.items()}
    scores = [each for name, result in results.items() for each in (curves.histogram(name, result), calibrations[name])]
    return pages.render(
        "report.html",
        title=title,
        opening=opening,
        lead=[wording.summary(results), *remarks],
        metrics=wording.metrics(results),
        notes=wording.notes(results),
        errors=_drawn(curves.roc(results), curves.det(results)),
        discard=_drawn(curves.discard(results, "frr"), curves.discard(results, "far")),
        discards=wording.discards(results),
        discard_threshold=next((f for each in results.values() if (f := each.facts.get("discard_threshold"))), None),
        identification=_drawn(curves.cmc(results), curves.identification(results)),
        scores=_drawn(*scores),
        calibrated=any(calibrations.values()),
        groups=[
            {"of": "" if alone else f": {name}", "threshold": found["threshold"], "rows": wording.slices(found),
             "ratios": [*wording.crosses(found), *wording.ratios(found)]}
            for name, result in results.items() if (found := result.facts.get("slices"))
        ],
        hardest=[
            {"of": "" if alone else f": {name}", "kinds": _hardest(result, photographs)}
            for name, result in results.items()
        ],
        folds=wording.folds(results),
        trials=wording.trials(results),
        conditions=[["", *results], *wording.conditions(results)],
        command=command,
    )  # fmt: skip


def write_comparison(
    folder: str | Path,
    results: Mapping[str, Result],
    differences: Sequence[Result],
    *,
    title: str,
    command: str,
    remarks: Sequence[str] = (),
) -> None:
    """Write comparison.json, report.md and report.html of several systems. Raises DataError on failure."""
    page = render_html(results, title=title, command=command, remarks=remarks)
    text = "\n\n".join([f"# {title}", render_markdown(results), *remarks, f"Made by `{command}`"]) + "\n"
    figures = comparison_json(results, differences) + "\n"
    for file, content in (("comparison.json", figures), ("report.md", text), ("report.html", page)):
        _write(Path(folder) / file, content)


def comparison_json(results: Mapping[str, Result], differences: Sequence[Result]) -> str:
    """Serialize `results` by name and their `differences` as JSON, each as in result.json."""
    return json.dumps({
        "results": {name: json.loads(result.to_json()) for name, result in results.items()},
        "differences": [json.loads(result.to_json()) for result in differences],
    })  # fmt: skip


def write_report(
    path: str | Path, results: Mapping[str, Result], *, title: str, command: str, opening: str = ""
) -> None:
    """Write `render_html` to a file, atomically. Raises DataError on failure."""
    _write(path, render_html(results, title=title, command=command, opening=opening))


def write_folder(
    folder: str | Path,
    name: str,
    result: Result,
    *,
    title: str,
    command: str,
    photographs: Photographs | None = None,
) -> None:
    """Write result.json, report.md and report.html of one system. Raises DataError on failure."""
    page = render_html({name: result}, title=title, command=command, photographs=photographs)
    text = f"# {title}\n\n{render_markdown({name: result})}\n\nMade by `{command}`\n"
    for file, content in (("result.json", result.to_json() + "\n"), ("report.md", text), ("report.html", page)):
        _write(Path(folder) / file, content)


def _write(path: str | Path, content: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(content, encoding="utf-8")


def _drawn(*pictures: str | None) -> list[str]:
    return [picture for picture in pictures if picture]


def _hardest(result: Result, photographs: Photographs | None) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return the worst errors of each kind: names, pictures if available, and scores."""
    kinds = {"false_accepts": "Accepted, but two people", "false_rejects": "Rejected, but one person"}
    found = result.facts.get("hardest", {})
    return [
        (head, [
            {"score": score, "images": [(id, photographs(id) if photographs else None) for id in pair]}
            for *pair, score in found[kind]
        ])
        for kind, head in kinds.items() if found.get(kind)
    ]  # fmt: skip


def markdown_table(rows: Rows) -> str:
    """Format rows of text, the first of them the header, as a Markdown table."""
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
