"""Evaluation and calibration of any system by a table of its scores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..embed import keep_certificate
from ..errors import ConfigError, require
from ..protocols import (
    PROTOCOLS,
    certified,
    detailed,
    few_groups,
    group_columns,
    inputs_of,
    operating_point,
    read_groups,
    read_scores,
    score_comparisons,
)  # fmt: skip
from ..protocols.score_table import ScoreTable
from ..report.wording import protocol_title
from .terminal import progress
from .vectors import refuse_few_errors, show, show_certificate

Scores = Annotated[
    Path | None,
    typer.Option(
        "--scores", metavar="FILE", help="Scores of any system: a .csv or .parquet `score, same[, a, b][, fold]`."
    ),
]


def scores_of(protocol: str, path: Path | None, lists: list[Path] | None, data: Path | None, **given: Any) -> Path:
    """Return the table to evaluate. Raises ConfigError for a protocol of vectors, or with the options `given`."""
    reads = inputs_of(protocol)
    if reads.vectors:
        raise ConfigError("--scores with the protocol scores", protocol, "name that one, or drop --scores")
    if strange := [name for name, value in given.items() if value]:
        raise ConfigError(f"options of {protocol}", f"--{strange[0]}", "drop it")
    return path or (lists or reads.find_lists(data))[0]


def evaluate_scores(
    protocol: str, path: Path, *, groups: Path | None, folder: Path | None, strict: bool, as_json: bool
) -> None:
    """Evaluate a table of scores, and show the Result."""
    if folder is not None:
        require("matplotlib", "report")  # before the long work
    table = read_table(path)
    result = PROTOCOLS.build(protocol, table, conditions={"system": path.name})
    refuse_few_errors(result, strict)
    named = "threshold" in result.facts and table.ids is not None
    if groups is not None and not named:
        raise ConfigError(
            "--groups with named images in folds", str(path), "use: normface calibrate scores … --far … --groups …"
        )
    if named:
        comparisons = score_comparisons(table, None)
        by_image = read_groups(groups, comparisons.ids) if groups is not None else {}
        by_pair = few_groups(group_columns(table))
        result = detailed(result, comparisons, float(result.facts["threshold"]), by_image, by_pair)
    show(path.name, result, folder, title=f"{path.name} on {protocol_title(protocol)}", as_json=as_json)


def calibrate_scores(
    path: Path,
    *,
    far: float | None,
    groups: Path | None,
    folder: Path | None,
    confident: bool,
    strict: bool,
    as_json: bool,
) -> None:
    """Certify a threshold of a table of scores; no model accepts that certificate."""
    if folder is None:
        raise ConfigError("--out with --scores", "none", "name a folder for the certificate")
    require("matplotlib", "report")
    table = read_table(path)
    comparisons = score_comparisons(table, far)
    point = operating_point(
        comparisons, target_far=far, protocol=f"scores, {path.name}", model_sha256="unknown",
        data_sha256=table.pairs_sha256, confident=confident,
    )  # fmt: skip
    by_image = read_groups(groups, comparisons.ids) if groups is not None else {}
    conditions = {"system": path.name, "scores_sha256": table.sha256}
    result = certified(point, comparisons, by_image, few_groups(group_columns(table)), conditions=conditions)
    refuse_few_errors(result, strict)
    keep_certificate(folder / "operating_point.json", point)
    show(path.name, result, folder, title=f"{path.name}, calibrated", as_json=as_json)
    if not as_json:
        show_certificate(point, folder / "operating_point.json")


def read_table(path: Path) -> ScoreTable:
    """Read a table of scores, with a progress bar."""
    with progress(f"reading {path.name}", "rows" if path.suffix == ".parquet" else "bytes") as bar:
        return read_scores(path, progress=bar)
