"""One Result, or several beside each other, as Markdown and as one HTML file without scripts or outside requests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ..atomic import replacing
from ..types import Estimate, Result
from . import plots

Rows = list[list[str]]
STYLE = Path(__file__).with_name("style.css")


def render_markdown(results: Mapping[str, Result]) -> str:
    """A table of the metrics of each named system, with 95 % intervals and counts."""
    head, *body = _metrics(results)
    lines = [head, ["---"] * len(head), *body]
    text = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return "\n\n".join([text, *_notes(results)])


def render_html(results: Mapping[str, Result], *, title: str, command: str) -> str:
    """A whole page: summary in words, metrics, ROC, score histograms, folds, conditions, and the command.

    `results` maps each system's name, as people shall read it, to what the same protocol found for it.
    """
    histograms = "".join(f"<figure>{plots.histogram(n, r)}</figure>" for n, r in results.items())
    conditions = [
        [key, *[str(result.facts.get(key, "")) for result in results.values()]]
        for key in dict.fromkeys(key for result in results.values() for key in result.facts)
        if key not in ("fold_accuracy", "fold_threshold", "notes")
    ]
    folds = _folds(results)
    sections = [
        ("", f"<p class=lead>{escape(_summary(results))}</p>"),
        ("Figures", _table(_metrics(results)) + "".join(f"<p>{escape(note)}</p>" for note in _notes(results))),
        (
            "Errors against each other",
            f"<figure>{plots.roc(results)}</figure>",
        ),
        ("Scores", f"<div class=row>{histograms}</div>"),
        *([("Folds", _table(folds))] if len(folds) > 1 else []),
        ("Conditions", _table([["", *results], *conditions]) + f"<p>Made by</p><pre>{escape(command)}</pre>"),
    ]
    body = "".join(f"<section>{f'<h2>{head}</h2>' if head else ''}{content}</section>" for head, content in sections)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE.read_text('utf-8')}</style></head>"
        f"<body><main><h1>{escape(title)}</h1>{body}</main></body></html>\n"
    )


def write_report(path: str | Path, results: Mapping[str, Result], *, title: str, command: str) -> None:
    """Write `render_html` to a file, whole or not at all. Raises DataError where that fails."""
    page = render_html(results, title=title, command=command)
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _summary(results: Mapping[str, Result]) -> str:
    parts = []
    for name, result in results.items():
        accuracy = result.metrics["accuracy"]
        error = f" ± {100 * result.facts['standard_error']:.2f}" if "standard_error" in result.facts else ""
        parts.append(f"{name} decides {100 * accuracy.value:.2f} %{error} of {accuracy.n:,} pairs rightly")
    facts = next(iter(results.values())).facts
    how = (
        f"Mean ± standard error over {facts['folds']} folds; each fold's threshold was chosen on the other folds"
        if "folds" in facts
        else f"The threshold was chosen on {facts['training_pairs']:,} other pairs"
    )
    return "; ".join(parts) + f". {how}. Half of the pairs show the same person, so guessing gives 50 %."


def _metrics(results: Mapping[str, Result]) -> Rows:
    rows = [["", *(f"{name} (95 % interval)" for name in results), "comparisons"]]
    for metric in next(iter(results.values())).metrics:
        found = [result.metrics.get(metric) for result in results.values()]
        rows.append([metric, *map(_estimate, found), f"{next(e.n for e in found if e):,}"])
    return rows


def _estimate(found: Estimate | None) -> str:
    return f"{100 * found.value:.2f} % ({100 * found.low:.2f} to {100 * found.high:.2f})" if found else "–"


def _notes(results: Mapping[str, Result]) -> Iterable[str]:
    return dict.fromkeys(note for result in results.values() for note in result.facts.get("notes", ()))


def _folds(results: Mapping[str, Result]) -> Rows:
    columns: list[Sequence[Any]] = []
    head = ["fold"]
    for name, result in results.items():
        if "fold_accuracy" not in result.facts:
            continue
        head += [f"{name}: accuracy", "threshold"]
        columns.append([f"{100 * value:.2f} %" for value in result.facts["fold_accuracy"]])
        columns.append([f"{value:.4f}" for value in result.facts["fold_threshold"]])
    return [head, *([str(i + 1), *row] for i, row in enumerate(zip(*columns, strict=True)))]


def _table(rows: Rows) -> str:
    head, *body = rows
    cells = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in rest)}</tr>'
        for first, *rest in body
    )
    return f"<div class=scroll><table><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table></div>"
