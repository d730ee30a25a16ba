"""The command `normface compare`: compare the reports of several systems."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from .. import report
from ..embed import Embedder
from ..errors import ConfigError, DataError, reason, require
from ..inference import Device
from ..protocols import compare as compare_systems
from ..protocols import compare_scores, detailed, lfw, of_list, read_lfw_pairs, score_file, score_set
from ..protocols.score_table import ScoreTable
from ..report.wording import protocol_title
from ..types import Embeddings, Estimate, Result
from .score_tables import read_table
from .terminal import Computer, Json, command, out
from .vectors import embed_pairs


@dataclass(frozen=True)
class Compared:
    """Data of a system: its result, its vectors, both, or its table of scores with the result."""

    result: Result | None
    vectors: Embeddings | None = None
    table: ScoreTable | None = None


def compare(
    systems: Annotated[
        list[Path],
        typer.Argument(
            metavar="SYSTEM…",
            help="Report folders or their result.json; runs, FILE.onnx, vectors FILE.npz; scores FILE.csv or .parquet.",
        ),
    ],
    data: Annotated[
        Path | None, typer.Option(help="Folder with lfw/pairs.txt and the aligned crops, as for evaluate.")
    ] = None,
    listed: Annotated[
        Path | None,
        typer.Option("--list", help="Pairs in folds, .csv or in LFW's format, instead of LFW's."),
    ] = None,
    far: Annotated[float, typer.Option(help="False accept rate at which TAR is compared.")] = 0.01,
    replicates: Annotated[int, typer.Option(min=100, help="Bootstrap samples over people, for the accuracy.")] = 1000,
    device: Computer = "auto",
    folder: Annotated[
        Path | None, typer.Option("--out", help="Write report.html with all curves, report.md, comparison.json.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare several systems, and test whether one is better, with interval and p value.

    Results of one protocol on the same comparisons become one table, and one page with overlaid curves (`--out`).
    With `--data` (LFW's pairs) or `--list` (your own pairs) each system is also compared with the first on the same
    pairs, by paired differences over people and McNemar's test. This needs vectors: a report folder contains them, and
    for LFW a model computes them. Tables of scores (see `normface evaluate scores`) are compared directly; they must
    have the same comparisons in the same order.

    Examples: `normface compare report-a report-b --out both`, `normface compare runs/mine other.onnx --data DATA`,
    `normface compare old.csv new.csv --far 0.001`.
    """
    if len(systems) < 2:
        raise ConfigError("at least two systems", "one", "name another")
    if folder is not None:
        require("matplotlib", "report")  # before the long work
    pairs = listed or (data and data / "lfw" / "pairs.txt")
    named = {
        name: _system(path, data, pairs is not None, device)
        for name, path in zip(_names(systems), systems, strict=True)
    }
    results = {name: system.result for name, system in named.items() if system.result}
    _comparable(results)
    differences: dict[str, Result] = {}
    (first, one), *others = named.items()
    if one.table is not None:
        for name, other in others:
            differences[name] = _tables(first, one.table, name, other.table, far=far, replicates=replicates)
    elif pairs is not None:
        for name, other in others:
            if one.vectors is None or other.vectors is None:
                lacking = first if one.vectors is None else name
                raise ConfigError("vectors of each system", f"none of {lacking}", "evaluate it with --out")
            differences[name] = compare_systems(
                one.vectors, other.vectors, pairs, far=far, replicates=replicates,
                conditions={"first": first, "second": name, "list": str(pairs)},
            )  # fmt: skip
    told = [_verdict(result) for result in differences.values()]
    if folder is not None:
        title = " and ".join(results) if len(results) < 3 else f"{len(results)} systems"
        found = list(differences.values())
        report.write_comparison(folder, results, found, title=title, command=command(), remarks=told)
    if as_json:
        out.print_json(report.comparison_json(results, list(differences.values())))
        return
    out.print(report.render_markdown(results), soft_wrap=True, markup=False)
    for sentence in told:
        out.print(f"\n{sentence}", soft_wrap=True, markup=False)
    if folder is not None:
        out.print(f"report: {folder / 'report.html'}", soft_wrap=True, markup=False)


def _tables(
    first: str, one: ScoreTable, second: str, other: ScoreTable | None, *, far: float, replicates: int
) -> Result:
    """The paired differences of two tables of scores."""
    if other is None:
        raise ConfigError("tables of scores of all systems", f"{second}, which is none", "compare those alone")
    (scores, people), (others, _) = score_set(one), score_set(other)
    conditions = {"first": first, "second": second, "list": first, "pairs_sha256": one.pairs_sha256}
    return compare_scores(scores, others, people=people, far=far, replicates=replicates, conditions=conditions)


def _system(path: Path, data: Path | None, paired: bool, device: Device) -> Compared:
    """A result (and vectors next to it), or vectors for LFW's list in `data`."""
    file = path / "result.json" if path.is_dir() else path
    if file.suffix == ".json" and file.exists():
        kept = file.with_name("embeddings.npz")
        return Compared(read_result(file), Embeddings.load(kept) if paired and kept.exists() else None)
    if path.suffix in (".csv", ".parquet"):
        table = read_table(path)
        return Compared(score_file(table, conditions={"system": path.name}), table=table)
    if data is None:
        raise ConfigError("--data for models and vectors", f"{path} without it", "name it, or give a report's folder")
    tools: dict[str, str] = {}
    if path.suffix == ".npz":
        vectors = Embeddings.load(path)
    else:
        embedder = Embedder.load(path, certified=False, device=device)
        vectors, tools = embed_pairs(embedder, data), embedder.tools()
    listed = data / "lfw" / "pairs.txt"
    result, pairs = lfw(vectors, listed, conditions=tools), read_lfw_pairs(listed)
    return Compared(detailed(result, of_list(vectors, pairs), float(result.facts["threshold"])), vectors)


def read_result(path: Path) -> Result:
    """Read a result.json. Raises DataError for another file."""
    try:
        return Result.from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError("a result.json of normface", f"{path}: {reason(error)}", "correct the path") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            "a result.json of normface", f"{path} with others", "make one: normface evaluate --out"
        ) from error


def _names(paths: list[Path]) -> list[str]:
    """The shortest endings of the paths that distinguish them."""
    whole = [path.parent if path.name == "result.json" else path for path in paths]
    for count in range(1, 1 + max(len(path.parts) for path in whole)):
        names = ["/".join(path.parts[-count:]) for path in whole]
        if len(set(names)) == len(names):
            return names
    return [f"{i}: {path}" for i, path in enumerate(whole, start=1)]


LISTS = ("pairs_sha256", "config_sha256", "data_sha256")  # of the comparisons


def _comparable(results: Mapping[str, Result]) -> None:
    """Raise DataError for results of several protocols, or of several lists of comparisons."""
    (first, one), *others = results.items()
    for name, other in others:
        if one.protocol != other.protocol:
            titles = f"{protocol_title(one.protocol)} ({first}) and {protocol_title(other.protocol)} ({name})"
            raise DataError("results of one protocol", titles, "evaluate all systems by the same one")
        if any(one.facts[key] != other.facts.get(key) for key in one.facts if key in LISTS):
            counts = [f"{each.facts['pairs']:,} pairs" if "pairs" in each.facts else "one" for each in (one, other)]
            raise DataError(
                "results on the same comparisons in the same order",
                f"different lists: {counts[0]} ({first}), {counts[1]} ({name})",
                "evaluate all systems on one list",
            )  # fmt: skip


def _verdict(result: Result) -> str:
    """Which of two systems is better, if the pairs can show it, with the evidence."""
    facts, change, tar = result.facts, result.metrics.get("accuracy_difference"), result.metrics["tar_difference"]
    first, second = facts["first"], facts["second"]
    tars = _points(tar)
    told = f"= {facts['p_tar']:.2g}" if facts["p_tar"] >= 1e-6 else "< 1e-06"
    rate = f"TAR at FAR {100 * facts['far']:g} % ({tars[1]} to {tars[2]}; p {told})"
    by = "accurate" if change else f"often right about one person at FAR {100 * facts['far']:g} %"
    clear = facts["p_mcnemar"] < 0.05 and (change.low > 0 or change.high < 0) if change else facts["p_tar"] < 0.05
    better, worse = (first, second) if (change or tar).value > 0 else (second, first)
    words = (
        f"{better} is more {by} than {worse}" if clear
        else f"these pairs cannot tell whether {first} or {second} is more {by}"
    )  # fmt: skip
    if change is None:
        return f"on {facts['pairs']:,} comparisons, {words}: {first} − {second} is {tars[0]} points of {rate}"
    points = _points(change)
    return (
        f"on {facts['list']}, {words}: {first} − {second} is {points[0]} points of accuracy "
        f"({points[1]} to {points[2]}; "
        f"McNemar p = {facts['p_mcnemar']:.2g}: only {first} is right in {facts['only_first']:,} of {facts['pairs']:,} "
        f"pairs, only {second} in {facts['only_second']:,}), {tars[0]} points of {rate}"
    )


def _points(difference: Estimate) -> list[str]:
    """Value and interval in percentage points."""
    return [f"{100 * each:+.2f}" for each in (difference.value, difference.low, difference.high)]
