"""Two systems on the same comparisons: which differences are significant."""

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

    Each system decides a fold at the threshold that is best on its other folds. TAR pools all folds at each system's
    own threshold for `far`. The interval and p include the uncertainty of the threshold (`paired_tar.difference`).

    Args:
        first, second: embeddings of every image of the list; any dimensions.
        pairs_file: in LFW's format, or a CSV with folds (`read_pairs_csv`).
        replicates: number of bootstrap samples over subjects, for accuracy; the same ones for both systems.
        conditions: added to the facts.

    Returns:
        accuracy_first, accuracy_second (Student's interval over folds), accuracy_difference (bootstrap over subjects)
        and tar_difference (Student's over subjects). Facts: pairs that only one system decides correctly,
        McNemar's exact p, and p of each difference.

    Raises:
        DataError: a malformed list, ids without vectors, fewer than 2 folds, too few impostors for `far`.
    """
    by_csv = Path(pairs_file).suffix == ".csv"
    named = read_pairs_csv(pairs_file)[0] if by_csv else read_lfw_pairs(pairs_file)
    if int(named.fold.max()) < 1:
        raise DataError("at least 2 folds", f"1 in {pairs_file}", "use a list with folds, such as View 2's")
    pooled = [scores(each, named.within(each)) for each in (first, second)]
    facts = {"pairs_sha256": named.sha256, **(conditions or {})}
    people = subjects(named) if by_csv else named.people
    return compare_scores(*pooled, people=people, far=far, replicates=replicates, conditions=facts)


def compare_scores(
    first: ScoreSet,
    second: ScoreSet,
    *,
    people: tuple[Ints, Ints] | None,
    far: float = 0.01,
    replicates: int = 1000,
    conditions: Mapping[str, Any] | None = None,
) -> Result:
    """`compare` for the scores of both systems on the same comparisons [M]; without folds, TAR only.

    people: the person on both sides of each [M]; None if unknown: then comparisons are treated as independent.
    """
    same, fold, count = first.same, first.fold, len(first.same)
    if (same != second.same).any():
        raise DataError("the same comparisons in the same order", "other labels", "score one list with both systems")
    one, other = people or (np.arange(count), np.where(same, np.arange(count), count + np.arange(count)))
    pooled = (first, second)
    tar = difference(pooled, (one, other), far)
    found = {"tar_difference": Estimate(tar.value, *tar.interval(tar.value, tar.error), int(same.sum()))}
    facts = {"pairs": count, "far": far, "p_tar": tar.p, **(conditions or {})}
    if people is not None:
        facts["people"] = int(np.max(people)) + 1
    if not fold.any():
        return Result("compare", found, {}, facts)
    right = [_decided(each) for each in pooled]
    accuracy = float(right[0].mean() - right[1].mean())
    draws = resampled_pairs(lambda weights: _more(right, weights), (one, other), same, replicates)[:, 0]
    below, above = ((int(side.sum()) + 1) / (replicates + 1) for side in (draws <= 0, draws >= 0))  # never 0
    (low,), (high,) = percentiles(draws[:, None])
    only_first, only_second = int((right[0] & ~right[1]).sum()), int((~right[0] & right[1]).sum())
    accuracies = {
        name: over_folds(float(decided.mean()), _by_fold(decided, fold), count)
        for name, decided in zip(("accuracy_first", "accuracy_second"), right, strict=True)
    }
    accuracies["accuracy_difference"] = Estimate(accuracy, min(accuracy, float(low)), max(accuracy, float(high)), count)
    facts |= {
        "replicates": replicates, "only_first": only_first, "only_second": only_second,
        "p_mcnemar": mcnemar(only_first, only_second), "p_accuracy": min(1.0, 2 * min(below, above)),
    }  # fmt: skip
    return Result("compare", accuracies | found, {}, facts)


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p that both systems are equally often the only one that is right (McNemar 1947)."""
    from scipy.stats import binom

    total = only_first + only_second
    return min(1.0, 2 * float(binom.cdf(min(only_first, only_second), total, 0.5))) if total else 1.0


def _decided(pooled: ScoreSet) -> Bools:
    """Whether each pair is decided correctly."""
    right = np.zeros(len(pooled.same), bool)
    for fold in range(int(pooled.fold.max()) + 1):
        test = pooled.fold == fold
        threshold = metrics.accuracy_threshold(pooled.scores[~test], pooled.same[~test])
        right[test] = (pooled.scores[test] >= threshold) == pooled.same[test]
    return right


def _more(right: Sequence[Bools], weights: Floats) -> Floats:
    """Share of the weighted pairs that the first system decides correctly, minus that of the second [1]."""
    return np.array([np.average(right[0].astype(float) - right[1], weights=weights)])


def _by_fold(decided: Bools, fold: Ints) -> Floats:
    return np.bincount(fold, decided) / np.bincount(fold)
