"""Error rates by group (sex, age, skin tone, quality, …) at one threshold, and tests of their differences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..types import Bools, Estimate
from .comparisons import Comparisons
from .intervals import exact, unused
from .lists import read_table
from .rates import Rate, Trials, rate

GROUPS = 12  # at most, in a column: twelve make 78 rows of pairs
ERRORS = 5  # needed in each of two groups for a ratio

Names = NDArray[np.str_]


@dataclass(frozen=True)
class Slice:
    """Comparisons of one group, or between two groups: its `rates_of` at the threshold."""

    column: str
    group: str
    within: bool
    rates: Mapping[str, Rate | None]


def slices(
    comparisons: Comparisons,
    threshold: float,
    by_image: Mapping[str, Names],
    by_comparison: Mapping[str, Names] | None = None,
    *,
    replicates: int | None = None,
) -> dict[str, Any]:
    """FAR and FRR of each group at the global threshold, and of each group against the rest.

    Args:
        by_image: column → group of each image [N], "" if unknown. Comparisons between two groups have their own row.
        by_comparison: column → group of each listed comparison [K]; not if all pairs of images are compared.
        replicates: deprecated, without effect.

    Returns:
        JSON values:

            - `rows`: column, group, far, frr, far_per_person and frr_per_person (value, low, high, n; None without
              comparisons). A warning, if an interval of far or frr contains both half and twice the overall rate.
            - `ratios`: column, rate, group, and the `ratio` of the group's rate to the rate of all comparisons within
              the other groups. Its interval is corrected for the number of groups, and `differs` says if it excludes
              1. If either side has fewer than ERRORS errors, there is a `note` and no ratio. With two groups only the
              one with the higher rate is listed.
            - `overall`, `threshold`, and `unknown`: the number of images without a group.

    Raises:
        DataError: more than GROUPS groups in a column, arrays of another length.
    """
    unused(replicates)
    everyone = np.ones(len(comparisons.ids), bool)
    impostors = comparisons.impostors(everyone, everyone)
    whole = rates_of(comparisons, threshold, np.ones(len(comparisons.scores), bool), impostors)
    found = [
        *_of_images(comparisons, threshold, by_image), *_of_comparisons(comparisons, threshold, by_comparison or {}),
    ]  # fmt: skip
    overall = {name: each.estimate for name, each in whole.items() if each}
    rows, ratios = [], []
    for each in (each for each in found if any(each.rates.values())):
        mine = {name: rate.estimate if rate else None for name, rate in each.rates.items()}
        doubts = [
            name.upper() for name in ("far", "frr") if (own := mine[name]) and _says_nothing(own, overall.get(name))
        ]
        rows.append({
            "column": each.column, "group": each.group,
            **{name: asdict(rate) if rate else None for name, rate in mine.items()},
            "warning": f"too few to say: {' and '.join(doubts)}" if doubts else None,
        })  # fmt: skip
    for column in dict.fromkeys(each.column for each in found):
        within = [each for each in found if each.column == column and each.within]
        for name in ("far", "frr"):
            told = {each.group: rate for each in within if (rate := each.rates[name])}
            ratios += [{"column": column, "rate": name, **each} for each in _against_the_rest(told)]
    return {
        "threshold": threshold, "overall": {name: asdict(rate) for name, rate in overall.items()},
        "rows": rows, "ratios": ratios,
        "unknown": {column: int((names == "").sum()) for column, names in by_image.items()},
    }  # fmt: skip


def read_groups(path: str | Path, ids: Names) -> dict[str, Names]:
    """Read groups of images from a CSV file `id,column,…`: column → group of each of `ids` [N], "" if not in the file.

    Raises DataError for another file, a repeated id, or if none of the ids is in the file.
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
    """Select the columns of a user's table that are groups: those with at most GROUPS values."""
    return {column: names for column, names in columns.items() if len(np.unique(names)) <= GROUPS}


def _of_images(comparisons: Comparisons, threshold: float, columns: Mapping[str, Names]) -> Iterator[Slice]:
    for column, names in columns.items():
        for one, other in combinations_with_replacement(_groups(column, names, len(comparisons.ids)), 2):
            left, right = names[comparisons.left], names[comparisons.right]
            here = ((left == one) & (right == other)) | ((left == other) & (right == one))
            chosen = names == one
            impostors = comparisons.impostors(chosen, chosen if one == other else names == other)
            found = rates_of(comparisons, threshold, here, impostors)
            yield Slice(column, one if one == other else f"{one} × {other}", one == other, found)


def _of_comparisons(comparisons: Comparisons, threshold: float, columns: Mapping[str, Names]) -> Iterator[Slice]:
    if columns and comparisons.below is not None:
        raise DataError("groups of images for every pair of images", "groups of pairs", "give groups by image")
    for column, names in columns.items():
        for group in _groups(column, names, len(comparisons.scores)):
            impostors = comparisons.trials((names == group) & ~comparisons.same)
            yield Slice(column, group, True, rates_of(comparisons, threshold, names == group, impostors))


def rates_of(comparisons: Comparisons, threshold: float, here: Bools, impostors: Trials) -> dict[str, Rate | None]:
    """Compute the rates of the selected listed comparisons `here` [K] and of all `impostors` among them.

    Returns `far`, `frr`, and the means over people `far_per_person`, `frr_per_person`; None without comparisons.
    """
    accepted, same = comparisons.accepted(threshold), comparisons.same
    few, more = comparisons.false_accepts(accepted, here)
    rejects, genuine = comparisons.trials(here & ~accepted & same), comparisons.trials(here & same)
    return {
        "far": rate(few, impostors, longer=more),
        "frr": rate(rejects, genuine),
        "far_per_person": rate(few, impostors, per_person=True, longer=more),
        "frr_per_person": rate(rejects, genuine, per_person=True),
    }


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


def _against_the_rest(rates: Mapping[str, Rate]) -> list[dict[str, Any]]:
    """Ratio of each group's rate to the rate of all others together, and whether they differ."""
    groups = sorted(rates, key=lambda group: -rates[group].value)
    if len(groups) < 2:
        return [{"group": None, "ratio": None, "differs": False, "note": "fewer than two groups"}]
    tests = len(groups) if len(groups) > 2 else 1  # with two groups, each is the other's rest
    return [
        {"group": group, **_ratio(rates[group], [rates[each] for each in groups if each != group], tests)}
        for group in groups[:tests]
    ]


def _ratio(group: Rate, others: Sequence[Rate], tests: int) -> dict[str, Any]:
    """Ratio of a rate to that of others, with an interval corrected for the number of tests (Bonferroni).

    Exact for two rates of rare events, given the total of errors (Przyborowski and Wilenski 1940). It uses the number
    of errors that would have the rates' relative variances.
    """
    total = sum(each.n for each in others)
    value = sum(each.value * each.n for each in others) / total
    errors = [round(group.value * group.n), round(value * total)]
    if min(errors) < ERRORS:
        told = f"{errors[0]:,} errors in the group and {errors[1]:,} in the rest"
        return {"ratio": None, "differs": False, "note": f"no ratio: {told}, fewer than {ERRORS} in one of them"}
    confidence = 1 - 0.05 / tests
    mine = group.value / (1 - group.value) * group.effective(confidence) if group.value < 1 else group.n
    spread = sum(
        (each.n / total) ** 2 * max(each.value, 0.5 / each.n) * (1 - each.value) / each.effective(confidence)
        for each in others
    )
    theirs = value**2 / spread if spread > 0 else total
    low, high = (
        share / (1 - share) * theirs / mine for share in exact(mine / (mine + theirs), mine + theirs, confidence)
    )
    ratio = group.value / value
    found = {"value": ratio, "low": ratio * low, "high": ratio * high, "n": group.n + total}
    return {"ratio": found, "differs": found["low"] > 1 or found["high"] < 1, "note": None}
