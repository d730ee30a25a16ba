"""Two systems on the same comparisons: which differences are real."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..types import Bools, Embeddings, Estimate, Floats, Ints, Result, ScoreSet
from . import metrics
from .csv_pairs import read_pairs_csv, subjects
from .intervals import over_folds, percentiles, resampled_pairs
from .named_pairs import NamedPairs
from .paired_tar import difference
from .pairs import read_lfw_pairs, scores


def compare(
    first: Embeddings,
    second: Embeddings,
    pairs_file: str | Path,
    *,
    far: float = 0.01,
    replicates: int = 1000,
    conditions: Mapping[str, Any] | None = None,
) -> Result:
    """Accuracy and TAR of two systems on a list of pairs in folds, and their differences, first - second.

    Each system decides a fold at the threshold best on its other folds; TAR pools all folds at each system's own
    threshold for `far`, whose own uncertainty is in the interval and in p (`paired_tar.difference`).

    Args:
        first, second: embeddings of every image of the list; of any dimensions.
        pairs_file: in LFW's format, or a CSV with folds (`read_pairs_csv`).
        replicates: of the bootstrap over subjects, for accuracy; both systems meet the same ones.
        conditions: recorded among the facts.

    Returns:
        accuracy_first, accuracy_second (Student's interval over folds), accuracy_difference (bootstrap over subjects)
        and tar_difference (Student's over subjects). Facts: pairs that only one of them gets right, McNemar's exact p,
        and p of each difference.

    Raises:
        DataError: a malformed list, ids without vectors, fewer than 2 folds, too few impostors for `far`.
    """
    by_csv = Path(pairs_file).suffix == ".csv"
    named = read_pairs_csv(pairs_file)[0] if by_csv else read_lfw_pairs(pairs_file)
    if int(named.fold.max()) < 1:
        raise DataError("at least 2 folds", f"1 in {pairs_file}", "use a list with folds, such as View 2's")
    pooled = [scores(each, named.within(each)) for each in (first, second)]
    right = [_decided(each, named) for each in pooled]
    people = subjects(named) if by_csv else named.people
    same, count = named.same, len(named.same)

    accuracy = float(right[0].mean() - right[1].mean())
    draws = resampled_pairs(lambda weights: _more(right, weights), people, same, replicates)[:, 0]
    below, above = ((int(side.sum()) + 1) / (replicates + 1) for side in (draws <= 0, draws >= 0))  # never nought
    (low,), (high,) = percentiles(draws[:, None])
    tar = difference(pooled, people, far)
    only_first, only_second = int((right[0] & ~right[1]).sum()), int((~right[0] & right[1]).sum())
    found = {
        name: over_folds(float(decided.mean()), _by_fold(decided, named.fold), count)
        for name, decided in zip(("accuracy_first", "accuracy_second"), right, strict=True)
    }
    found["accuracy_difference"] = Estimate(accuracy, min(accuracy, float(low)), max(accuracy, float(high)), count)
    found["tar_difference"] = Estimate(tar.value, *tar.interval(tar.value, tar.error), int(same.sum()))
    facts = {
        "pairs": count, "people": int(np.max(people)) + 1, "far": far, "replicates": replicates,
        "only_first": only_first, "only_second": only_second, "p_mcnemar": mcnemar(only_first, only_second),
        "p_accuracy": min(1.0, 2 * min(below, above)), "p_tar": tar.p,
        "pairs_sha256": named.sha256, **(conditions or {}),
    }  # fmt: skip
    return Result("compare", found, {}, facts)


def mcnemar(only_first: int, only_second: int) -> float:
    """The exact two-sided p that two systems are equally often alone in being right (McNemar 1947)."""
    from scipy.stats import binom

    total = only_first + only_second
    return min(1.0, 2 * float(binom.cdf(min(only_first, only_second), total, 0.5))) if total else 1.0


def _decided(pooled: ScoreSet, named: NamedPairs) -> Bools:
    """Of each pair whether it is decided rightly."""
    right = np.zeros(len(named.same), bool)
    for fold in range(int(named.fold.max()) + 1):
        test = named.fold == fold
        threshold = metrics.accuracy_threshold(pooled.scores[~test], named.same[~test])
        right[test] = (pooled.scores[test] >= threshold) == named.same[test]
    return right


def _more(right: Sequence[Bools], weights: Floats) -> Floats:
    """How much more of the weighted pairs the first system decides rightly [1]."""
    return np.array([np.average(right[0].astype(float) - right[1], weights=weights)])


def _by_fold(decided: Bools, fold: Ints) -> Floats:
    return np.bincount(fold, decided) / np.bincount(fold)
