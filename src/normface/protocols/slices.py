"""Error rates by group (sex, age, skin tone, quality, …) at one threshold, and what their differences can bear."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..types import Bools, Estimate, Floats
from .comparisons import Comparisons
from .lists import read_table
from .rates import Trials, rates, student

GROUPS = 12  # of a column at most: twelve make 78 rows of pairs
ERRORS = 5  # in each of two groups before their ratio is told

Names = NDArray[np.str_]
Slice = tuple[str, str, bool, list[tuple[Trials, Trials]]]  # column, label, within one group, FAR and FRR


def slices(
    comparisons: Comparisons,
    threshold: float,
    by_image: Mapping[str, Names],
    by_comparison: Mapping[str, Names] | None = None,
    *,
    replicates: int = 1000,
) -> dict[str, Any]:
    """FAR and FRR of each group at the global threshold.

    Args:
        by_image: column → group of each image [N], "" where unknown. A comparison of two groups is a row of its own.
        by_comparison: column → group of each listed comparison [K]; not for every pair of images.
        replicates: of the bootstrap over subjects (intervals as `rates` makes them).

    Returns:
        JSON values. `rows`: column, group, far and frr (value, low, high, n; None without comparisons), and a warning
        where an interval holds both half and twice the overall rate. `ratios`: column, rate, worst and best group (of
        comparisons within one group, with ERRORS errors or more) and their ratio with its interval, or why there is
        none. `overall`, `threshold`, and `unknown`: how many images have no group.

    Raises:
        DataError: more than GROUPS groups in a column, arrays of another length.
    """
    everyone = np.ones(len(comparisons.ids), bool)
    impostors = comparisons.impostors(everyone, everyone)
    whole = _rates_of(comparisons, threshold, np.ones(len(comparisons.scores), bool), impostors)
    found = [
        *_of_images(comparisons, threshold, by_image), *_of_comparisons(comparisons, threshold, by_comparison or {}),
    ]  # fmt: skip
    found = [each for each in found if any(trials.total for _, trials in each[3])]
    estimates, draws = rates(
        [*whole, *(pair for each in found for pair in each[3])], comparisons.n_subjects, replicates
    )  # fmt: skip
    overall = dict(zip(("far", "frr"), estimates, strict=False))
    rows, ratios = [], []
    for i, (column, group, _, _) in enumerate(found, start=1):
        mine = dict(zip(("far", "frr"), estimates[2 * i : 2 * i + 2], strict=True))
        doubts = [name.upper() for name, rate in mine.items() if rate and _says_nothing(rate, overall[name])]
        rows.append({
            "column": column, "group": group, **{name: asdict(rate) if rate else None for name, rate in mine.items()},
            "warning": f"too few to say: {' and '.join(doubts)}" if doubts else None,
        })  # fmt: skip
    for column in dict.fromkeys(each[0] for each in found):
        within = [i for i, each in enumerate(found, start=1) if each[0] == column and each[2]]
        for place, name in enumerate(("far", "frr")):
            told = [
                (found[i - 1][1], estimates[2 * i + place], draws[:, 2 * i + place], found[i - 1][3][place][1].people)
                for i in within
            ]
            ratios.append({"column": column, "rate": name, **_ratio(told)})
    return {
        "threshold": threshold, "overall": {name: asdict(rate) for name, rate in overall.items() if rate},
        "rows": rows, "ratios": ratios,
        "unknown": {column: int((names == "").sum()) for column, names in by_image.items()},
    }  # fmt: skip


def read_groups(path: str | Path, ids: Names) -> dict[str, Names]:
    """Groups of images from a CSV file `id,column,…`: column → group of each of `ids` [N], "" where the file has none.

    Raises DataError for another file, an id twice, or ids of which none is in the file.
    """
    head, rows, _ = read_table(path, "a CSV file of groups", "id, sex, …", "id")
    if len(head) < 2:
        raise DataError("a header id, sex, …", f"{head[0]!r} in {path}", "add columns of groups")
    known: dict[str, dict[str, str]] = {}
    for number, row in rows:
        if row["id"] in known:
            raise DataError("each id once", f"{row['id']} a second time in line {number} of {path}", "leave one out")
        known[row["id"]] = row
    if not known.keys() & set(ids.tolist()):
        raise DataError(
            f"groups of the {len(ids)} images compared", f"of none of them in {path}", f"use ids as {ids[0]}"
        )
    columns = [name for name in head if name != "id"]
    return {name: np.array([known[id][name] if id in known else "" for id in ids.tolist()]) for name in columns}


def few_groups(columns: Mapping[str, Names]) -> dict[str, Names]:
    """The columns of a table of the user's own that are groups: those with GROUPS values or fewer."""
    return {column: names for column, names in columns.items() if len(np.unique(names)) <= GROUPS}


def _of_images(comparisons: Comparisons, threshold: float, columns: Mapping[str, Names]) -> Iterator[Slice]:
    for column, names in columns.items():
        for one, other in combinations_with_replacement(_groups(column, names, len(comparisons.ids)), 2):
            left, right = names[comparisons.left], names[comparisons.right]
            here = ((left == one) & (right == other)) | ((left == other) & (right == one))
            pairs = _rates_of(comparisons, threshold, here, comparisons.impostors(names == one, names == other))
            yield column, one if one == other else f"{one} × {other}", one == other, pairs


def _of_comparisons(comparisons: Comparisons, threshold: float, columns: Mapping[str, Names]) -> Iterator[Slice]:
    if columns and comparisons.below is not None:
        raise DataError("groups of images for every pair of images", "groups of pairs", "give groups by image")
    for column, names in columns.items():
        for group in _groups(column, names, len(comparisons.scores)):
            impostors = comparisons.trials((names == group) & ~comparisons.same)
            yield column, group, True, _rates_of(comparisons, threshold, names == group, impostors)


def _rates_of(
    comparisons: Comparisons, threshold: float, here: Bools, impostors: Trials
) -> list[tuple[Trials, Trials]]:
    """False accepts among `impostors`, and false rejects, of the listed comparisons that are `here` [K]."""
    accepted, same = comparisons.accepted(threshold), comparisons.same
    return [
        (comparisons.trials(here & accepted & ~same), impostors),
        (comparisons.trials(here & ~accepted & same), comparisons.trials(here & same)),
    ]


def _groups(column: str, names: Names, wanted: int) -> list[str]:
    if names.shape != (wanted,):
        raise DataError(f"{wanted} groups in {column!r}", f"{list(names.shape)}", "give one for each")
    groups = [name for name in np.unique(names).tolist() if name]
    if len(groups) > GROUPS:
        raise DataError(
            f"at most {GROUPS} groups in {column!r}", f"{len(groups)} ({', '.join(groups[:3])}, …)",
            "gather them into bins, or leave the column out",
        )  # fmt: skip
    return groups


def _says_nothing(rate: Estimate, overall: Estimate | None) -> bool:
    return overall is not None and rate.low <= overall.value / 2 and rate.high >= 2 * overall.value


def _ratio(told: Sequence[tuple[str, Estimate | None, Floats, int]]) -> dict[str, Any]:
    """The highest rate over the lowest, with the wider of Katz's interval (1978) and Student's with the bootstrap's
    spread, both on the logarithm; `told`: group, rate, the bootstrap's rates, and people of each.
    """
    known = [
        (name, rate, np.log((drawn * rate.n + 0.5) / rate.n), people) for name, rate, drawn, people in told if rate
    ]
    few = [name for name, rate, *_ in known if round(rate.value * rate.n) < ERRORS]
    note = f"left out, with fewer than {ERRORS} errors: {', '.join(few)}" if few else None
    sure = sorted((each for each in known if each[0] not in few), key=lambda each: each[1].value)
    if len(sure) < 2:
        return {"worst": None, "best": None, "ratio": None, "note": note or "fewer than two groups"}
    (best, low, low_drawn, fewer), (worst, high, high_drawn, people) = sure[0], sure[-1]
    katz = 1.959964 * math.sqrt(sum(1 / (rate.value * rate.n) - 1 / rate.n for rate in (low, high)))
    half = student(min(fewer, people)) * float(np.nanstd(high_drawn - low_drawn, ddof=1))
    value, factor = high.value / low.value, math.exp(max(katz, half))
    ratio = {"value": value, "low": value / factor, "high": value * factor, "n": low.n + high.n}
    return {"worst": worst, "best": best, "ratio": ratio, "note": note}
