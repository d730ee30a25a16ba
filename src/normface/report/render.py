"""One Result, or several beside each other, as Markdown and as one HTML file without scripts or outside requests."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path

from ..atomic import replacing
from ..types import Result
from . import curves, words
from .words import Rows

STYLE = Path(__file__).with_name("style.css")
Photographs = Callable[[str], bytes | None]  # id → a small JPEG


def render_markdown(results: Mapping[str, Result]) -> str:
    """The summary, a table of the metrics of each named system with 95 % intervals and counts, slices, and notes."""
    parts = [words.summary(results), markdown_table(words.metrics(results))]
    for name, result in results.items():
        if found := result.facts.get("slices"):
            title = "Groups" if len(results) == 1 else f"Groups, {name}"
            parts += [f"{title}, at threshold {found['threshold']:.4f}:", markdown_table(words.slices(found))]
            parts += words.ratios(found)
    return "\n\n".join([*parts, *words.notes(results)])


def render_html(
    results: Mapping[str, Result],
    *,
    title: str,
    command: str,
    photographs: Photographs | None = None,
    remarks: Sequence[str] = (),
    opening: str = "",
) -> str:
    """A whole page: summary in words, metrics, curves, groups, hardest errors, folds, conditions, and the command.

    `results` maps each system's name, as people shall read it, to what the same protocol found for it. `remarks`
    follow the summary; `opening` is HTML that comes before it (`story`). With `photographs` the hardest errors are
    shown: such a page is for their owner's disk.
    """
    sections = [
        ("", opening),
        (
            "All figures" if opening else "",
            "".join(f"<p class=lead>{escape(each)}</p>" for each in (words.summary(results), *remarks)),
        ),
        (
            "Figures",
            _table(words.metrics(results)) + "".join(f"<p>{escape(note)}</p>" for note in words.notes(results)),
        ),
        ("Errors against each other", _figures(curves.roc(results), curves.det(results))),
        ("Identification", _figures(curves.cmc(results), curves.identification(results))),
        ("Scores, and what they are worth", _scores(results)),
        *_groups(results),
        *(_hardest(name if len(results) > 1 else "", result, photographs) for name, result in results.items()),
        ("Folds", _table(words.folds(results))),
        ("Trials", _table(words.trials(results))),
        (
            "Conditions",
            f"<div class=wrap>{_table([['', *results], *words.conditions(results)])}</div>"
            + f"<p>Made by</p><pre>{escape(command)}</pre>",
        ),
    ]
    body = "".join(
        f"<section>{f'<h2>{escape(head)}</h2>' if head else ''}{content}</section>"
        for head, content in sections
        if content
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE.read_text('utf-8')}</style></head>"
        f"<body><main><h1>{escape(title)}</h1>{body}</main></body></html>\n"
    )


def write_comparison(
    folder: str | Path,
    results: Mapping[str, Result],
    differences: Sequence[Result],
    *,
    title: str,
    command: str,
    remarks: Sequence[str] = (),
) -> None:
    """Write several systems' comparison.json, report.md and report.html. Raises DataError where that fails."""
    page = render_html(results, title=title, command=command, remarks=remarks)
    text = "\n\n".join([f"# {title}", render_markdown(results), *remarks, f"Made by `{command}`"]) + "\n"
    figures = comparison_json(results, differences) + "\n"
    for file, content in (("comparison.json", figures), ("report.md", text), ("report.html", page)):
        _write(Path(folder) / file, content)


def comparison_json(results: Mapping[str, Result], differences: Sequence[Result]) -> str:
    """JSON of `results` by name and of the `differences`, each as in a result.json."""
    return json.dumps({
        "results": {name: json.loads(result.to_json()) for name, result in results.items()},
        "differences": [json.loads(result.to_json()) for result in differences],
    })  # fmt: skip


def write_report(
    path: str | Path, results: Mapping[str, Result], *, title: str, command: str, opening: str = ""
) -> None:
    """Write `render_html` to a file, whole or not at all. Raises DataError where that fails."""
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
    """Write one system's result.json, report.md and report.html. Raises DataError where that fails."""
    page = render_html({name: result}, title=title, command=command, photographs=photographs)
    text = f"# {title}\n\n{render_markdown({name: result})}\n\nMade by `{command}`\n"
    for file, content in (("result.json", result.to_json() + "\n"), ("report.md", text), ("report.html", page)):
        _write(Path(folder) / file, content)


def _write(path: str | Path, content: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(content, encoding="utf-8")


def _figures(*pictures: str | None) -> str:
    drawn = "".join(f"<figure>{picture}</figure>" for picture in pictures if picture)
    return drawn and f"<div class=row>{drawn}</div>"


def _scores(results: Mapping[str, Result]) -> str:
    each = [(curves.histogram(name, result), curves.calibration(name, result)) for name, result in results.items()]
    drawn = _figures(*(picture for pictures in each for picture in pictures))
    if not any(calibration for _, calibration in each):
        return drawn
    return (
        f"{drawn}<p>How many times more likely a score is for the same person than for different people. The logistic "
        "map is used; the other rises in steps and fits these comparisons best of all rising maps. Where they part, "
        "the logistic map claims too much or too little.</p>"
    )


def _groups(results: Mapping[str, Result]) -> list[tuple[str, str]]:
    sections = []
    for name, result in results.items():
        if found := result.facts.get("slices"):
            told = "".join(f"<li>{escape(each)}</li>" for each in words.ratios(found))
            intro = (
                f"<p>At the one threshold {found['threshold']:.4f}. A × B: comparisons of one group with the other. "
                "Too few to say: the interval holds both half and twice the overall rate. Each group is compared with "
                "all others together; those intervals are corrected for the number of groups.</p>"
            )
            head = "Groups" if len(results) == 1 else f"Groups: {name}"
            sections.append((head, f"{intro}{_table(words.slices(found))}<ul>{told}</ul>"))
    return sections


def _hardest(name: str, result: Result, photographs: Photographs | None) -> tuple[str, str]:
    """The worst errors as pairs of pictures, or by name."""
    kinds = {"false_accepts": "Accepted, but two people", "false_rejects": "Rejected, but one person"}
    parts = []
    for kind, head in kinds.items():
        pairs = result.facts.get("hardest", {}).get(kind, [])
        shown = "".join(
            f"<figure><div class=pair>{_picture(a, photographs)}{_picture(b, photographs)}</div>"
            f"<figcaption><b>{score:.3f}</b> {_name(a)}<br>{_name(b)}</figcaption></figure>"
            for a, b, score in pairs
        )
        if shown:
            parts.append(f"<h3>{head}</h3><div class=pairs>{shown}</div>")
    return f"Hardest errors{f': {name}' if name else ''}", "".join(parts)


def _name(id: str) -> str:
    """An image's name, broken where words end, without a folder of the same name."""
    folder, _, file = id.rpartition("/")
    return escape(file if folder and file.startswith(folder) else id).replace("_", "_<wbr>").replace("/", "/<wbr>")


def _picture(id: str, photographs: Photographs | None) -> str:
    jpeg = photographs(id) if photographs else None
    return f'<img alt="{escape(id)}" src="data:image/jpeg;base64,{b64encode(jpeg).decode()}">' if jpeg else ""


def markdown_table(rows: Rows) -> str:
    """Rows of text, the first of them the head, as a table in Markdown."""
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _table(rows: Rows) -> str:
    head, *body = rows
    if not body:
        return ""
    cells = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in rest)}</tr>'
        for first, *rest in body
    )
    return f"<div class=scroll><table><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table></div>"
