"""Any system, by its scores: a table `score, same[, a, b][, fold][, group…]`, evaluated like a list of pairs.

Up to LISTED comparisons are held in memory. For longer tables, the genuine scores and the highest impostor scores are
kept and the others counted (`tally`). The rates at the requested false accept rates are still exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError
from ..types import Bools, Floats, Ints, Pairs, Result, ScoreSet
from . import metrics
from .comparisons import Comparisons
from .inputs import PROTOCOLS, reads
from .rates import Listed
from .score_table import Records, ScoreTable, read_scores
from .tally import SHARED, STRANGERS, Highest, Tally, binned, kept
from .verification import NO_FOLDS, PAIR_FARS, areas, curves, folded, rates, separation

LISTED = 1_000_000  # comparisons held in memory
FARS = (*PAIR_FARS, 1e-4, 1e-5, 1e-6)
COUNTED_BINS = 20_000  # of the scores that are counted but not kept


@reads("scores.csv", ids="as in the table", vectors=False)
def score_file(
    scores_file: str | Path | ScoreTable,
    *,
    replicates: int = 200,
    conditions: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Result:
    """Any system by its scores: a CSV or Parquet table `score, same[, a, b][, fold][, group…]`, of any length.

    Args:
        scores_file: the table; see `read_scores`. A higher score means more similar; scores need not be cosines.
        replicates: number of bootstrap samples for EER and AUC without folds.
        conditions: added to the facts.
        progress: called with the amount read from the table, and the total.

    Returns:
        eer, auc, tar@far=… (1 % to 1e-6, as far as the impostors resolve), tar_per_person@far=… if images are named,
        and with folds accuracy. The intervals are those of `pairs_csv`, over comparisons if no images are named. For
        more than LISTED comparisons eer and auc are facts without an interval, and there is no accuracy.

    Raises:
        DataError: a malformed or contradictory table, folds of unequal size.
    """
    table = scores_file if isinstance(scores_file, ScoreTable) else read_scores(scores_file, progress=progress)
    found, drawn, facts = _listed(table, replicates) if table.rows <= LISTED else _counted(table)
    if facts["d_prime"] is not None and facts["d_prime"] < 0:
        facts["notes"].append("genuine scores are lower than impostor scores: a distance? Give its negative")
    facts |= {
        "scores_sha256": table.sha256, "pairs_sha256": table.pairs_sha256,
        **({"groups": sorted(table.groups)} if table.groups else {}), **(conditions or {}),
    }  # fmt: skip
    return Result("scores", found, drawn, facts)


score_file.__name__ = "scores"  # on the command line; `protocols.scores` computes cosines
PROTOCOLS.register(score_file)


def score_set(table: ScoreTable) -> tuple[ScoreSet, tuple[Ints, Ints] | None]:
    """Return all scores, and the person on both sides of each comparison (None if no images are named).

    Raises ConfigError for more than LISTED comparisons.
    """
    if table.rows > LISTED:
        raise ConfigError(f"at most {LISTED:,} comparisons", f"{table.rows:,}", "give fewer of them")
    whole = table.whole()
    pooled = ScoreSet(whole["score"].copy(), whole["same"].copy(), whole["fold"].astype(np.int64))
    return pooled, None if table.subjects is None else _sides(table, whole)


def score_comparisons(table: ScoreTable, far: float | None) -> Comparisons:
    """Return the comparisons with their images.

    Of more than LISTED comparisons, it lists enough impostors for a false accept rate `far` and counts the others.

    Raises ConfigError if the table names no images, or without `far` for more than LISTED comparisons.
    """
    if table.ids is None or table.subjects is None:
        raise ConfigError("a table of scores with the columns a and b", "none of them", "name the images compared")
    if table.rows <= LISTED:
        whole = table.whole()
        scores, same, left, right = (whole[name].copy() for name in ("score", "same", "left", "right"))
        return Comparisons(scores, same, left, right, table.ids, table.subjects)
    if far is None:
        raise ConfigError(f"--far for more than {LISTED:,} comparisons", "none", "give one, such as --far 0.001")
    span = metrics.span(table.low, table.high)
    tail, genuine, counts = Highest(kept(far, table.impostors)), [], np.zeros(COUNTED_BINS, np.int64)
    for part in table.parts():
        impostors = part[~part["same"]]
        genuine.append(part[part["same"]])
        counts += binned(impostors["score"], COUNTED_BINS, span=span)
        some = impostors[impostors["score"] > tail.bound]
        tail.add(some["score"], np.stack([some["left"], some["right"]], 1))
    scores, images = tail.falling()
    own = np.concatenate(genuine)
    counts -= binned(scores, COUNTED_BINS, span=span)
    low, high = span
    centers = low + (high - low) * (np.arange(COUNTED_BINS) + 0.5) / COUNTED_BINS
    return Comparisons(
        np.r_[own["score"], scores], np.arange(len(own) + len(scores)) < len(own), np.r_[own["left"], images[:, 0]],
        np.r_[own["right"], images[:, 1]], table.ids, table.subjects, np.stack([centers, counts])[:, counts > 0],
        lambda one, other: _trials(table, one, other),
    )  # fmt: skip


def group_columns(table: ScoreTable) -> dict[str, Any]:
    """Return column → group of each comparison [M]; empty for more than LISTED."""
    if not table.groups or table.rows > LISTED:
        return {}
    whole = table.whole()
    return {name: values[whole[f"group {name}"]] for name, values in table.groups.items()}


def _sides(table: ScoreTable, part: Records) -> tuple[Ints, Ints]:
    """The person on both sides of the records; all 0 if no images are named."""
    if table.subjects is None:
        nobody = np.zeros(len(part), np.int64)
        return nobody, nobody
    return table.subjects[part["left"]], table.subjects[part["right"]]


def _trials(table: ScoreTable, one: Bools, other: Bools) -> Listed:
    """Count all impostor comparisons between images of two sets [N]."""

    def chosen(part: Records) -> Records:
        left, right = part["left"], part["right"]
        crossed: Bools = (one[left] & other[right]) | (other[left] & one[right])
        return np.asarray(part[~part["same"] & crossed])

    found = _pairs_of_people(table, chosen)
    if found is None:
        raise ConfigError("comparisons of fewer pairs of people", "too many to count", "give fewer comparisons")
    return found


def _pairs_of_people(table: ScoreTable, chosen: Callable[[Records], Records]) -> Listed | None:
    assert table.subjects is not None
    parts = (_sides(table, chosen(part)) for part in table.parts())
    return Listed.gathered(parts, int(table.subjects.max()) + 1)


def _listed(table: ScoreTable, replicates: int) -> tuple[Any, Any, dict[str, Any]]:
    """Metrics, curves and facts of a table that fits into memory."""
    pooled, people = score_set(table)
    tars, of_tars = rates(pooled, people, FARS)
    facts = {"pairs": len(pooled.same), **_known(table), "d_prime": separation(pooled)}
    if table.folds > 1:
        nowhere = np.zeros(len(pooled.same), np.int64)
        found, of_folds = folded(None, Pairs(nowhere, nowhere, pooled.same, pooled.fold), pooled)
        facts |= of_folds
    else:
        found = areas(pooled, people, replicates)
        of_tars["notes"].append(NO_FOLDS)
    return found | tars, curves(pooled), facts | of_tars


def _counted(table: ScoreTable) -> tuple[Any, Any, dict[str, Any]]:
    """Metrics, curves and facts of a longer table."""
    able, notes = metrics.resolvable(FARS, table.impostors)
    pairs = None if table.subjects is None else _pairs_of_people(table, lambda part: part[~part["same"]])
    counted = _tally(table, pairs, max(able))
    if pairs is not None:
        found, facts = counted.tar(able), counted.facts(able)
        notes.append(SHARED)
    else:
        found, facts = counted.tar_of_strangers(able), {"false_accepts": counted.false_accepts(able)}
        notes.append(STRANGERS)
        if table.subjects is not None:
            notes.append("too many pairs of people to count: no rates per person")
    notes.append(f"more than {LISTED:,} comparisons: EER and AUC are facts, to a bin of {COUNTED_BINS:,}; no accuracy")
    curve = counted.roc()
    facts |= {
        "pairs": table.rows, **_known(table), "d_prime": _d_prime(table),
        "eer": metrics.eer(curve), "auc": metrics.auc(curve), "notes": notes,
    }  # fmt: skip
    return found, {"roc": metrics.corners(curve), "histogram": counted.histogram()}, facts


def _known(table: ScoreTable) -> dict[str, int]:
    if table.ids is None or table.subjects is None:
        return {}
    return {"images": len(table.ids), "people": int(table.subjects.max()) + 1}


def _tally(table: ScoreTable, trials: Listed | None, far: float) -> Tally:
    """Tally a long table; `trials`: its impostor comparisons by people, if these are known."""
    span = metrics.span(table.low, table.high)
    tail, body = Highest(kept(far, table.impostors)), np.zeros(COUNTED_BINS, np.int64)
    genuine: list[Floats] = []
    whose: list[Ints] = []
    for part in table.parts():
        left, right = _sides(table, part)
        scores, same = part["score"], part["same"]
        genuine.append(scores[same])
        whose.append(left[same].astype(np.int32))
        body += binned(scores[~same], COUNTED_BINS, span=span)
        some = ~same & (scores > tail.bound)
        tail.add(scores[some], np.stack([left[some], right[some]], 1).astype(np.int32))
    own = np.concatenate(genuine)
    down = np.argsort(own)[::-1]
    subjects = trials.subjects if trials else 1
    nobody = np.zeros(0, np.int64)
    return Tally(
        own[down], np.concatenate(whose)[down], *tail.falling(), table.impostors, body,
        trials or Listed(nobody, nobody, nobody, 1), subjects, span,
    )  # fmt: skip


def _d_prime(table: ScoreTable) -> float | None:
    sums = np.zeros((2, 3))
    for part in table.parts():
        for kind, row in ((part["same"], 0), (~part["same"], 1)):
            apart = part["score"][kind] - table.low
            sums[row] += len(apart), apart.sum(), apart @ apart
    means = sums[:, 1] / sums[:, 0]
    spread = float(np.sqrt(np.mean(sums[:, 2] / sums[:, 0] - means**2)))
    return float(means[0] - means[1]) / spread if spread else None
