"""Verification on comparisons in folds: each fold uses the threshold that is best on the others (PAPER.md §4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import cosine
from ..errors import DataError
from ..types import Bools, Embeddings, Estimate, Floats, Ints, Pairs, ScoreSet
from . import metrics
from .intervals import over_folds, percentiles, resampled, resampled_pairs, standard_error
from .tally import SHARED, STRANGERS, bounded, of_pairs

PAIR_FARS = (0.01, 0.001)
NO_FOLDS = "no folds: no accuracy, for a threshold may not be judged on the pairs that chose it"
_ROWS, _MANY, _CELLS = 256, 100_000, 1 << 24
_DENSE = 1 / 40  # cost of a cell of a matrix product over that of a single cosine


def cosines(vectors: Floats, left: Ints, right: Ints) -> Floats:
    """Compute cosines [M] of unit rows.

    If the comparisons fill much of a matrix, they are read from its tiles, which is faster and gives the same numbers.
    """
    if len(left) < _MANY:
        return _one_by_one(vectors, left, right)
    (rows, row), (columns, column) = _numbered(left), _numbered(right)
    if len(left) < _DENSE * len(rows) * len(columns):
        return _one_by_one(vectors, left, right)
    found = np.empty(len(left))
    step = max(_CELLS // len(columns), 1)
    tile = (row // step).astype(np.int16)  # they fit, and NumPy sorts short integers by radix
    order = np.argsort(tile, kind="stable")
    others, cut = cosine.exact(vectors[columns]), np.cumsum(np.append(0, np.bincount(tile)))
    for place in range(len(cut) - 1):
        some = order[cut[place] : cut[place + 1]]
        start = place * step
        part = cosine.matrix(cosine.exact(vectors[rows[start : start + step]]), others)
        found[some] = part[row[some] - start, column[some]]
    return found


def _numbered(indices: Ints) -> tuple[Ints, Ints]:
    """Distinct indices in order, and the position of each index among them."""
    met = np.zeros(int(indices.max()) + 1, bool)
    met[indices] = True
    return np.flatnonzero(met), (np.cumsum(met) - 1)[indices]


def _one_by_one(vectors: Floats, left: Ints, right: Ints) -> Floats:
    found = np.empty(len(left))
    for start in range(0, len(left), _ROWS):  # the gathered rows fit into the processor's cache
        some = slice(start, start + _ROWS)
        found[some] = cosine.paired(cosine.exact(vectors[left[some]]), cosine.exact(vectors[right[some]]))
    return found


def folded(
    embeddings: Embeddings | None, pairs: Pairs, pooled: ScoreSet, *, pca: float | None = None, equal: bool = True
) -> tuple[dict[str, Estimate], dict[str, Any]]:
    """Accuracy, EER and AUC with Student's intervals over folds, and the facts of the folds.

    EER, AUC and d' pool all folds' scores and use no PCA. `equal` requires folds of one size.
    Raises DataError for fewer than 2 folds, folds of unequal size, and a fold with only one kind of pair.
    """
    if (folds := int(pairs.fold.max()) + 1) < 2:
        raise DataError("at least 2 folds", "1", "no fold may choose its own threshold: use View 2, or drop the folds")
    sizes = np.array([np.bincount(pairs.fold[kind], minlength=folds) for kind in (pairs.same, ~pairs.same)])
    if not sizes.all():
        lacking = int(np.flatnonzero((sizes == 0).any(0))[0])
        raise DataError(
            "genuine and impostor pairs in every fold",
            f"{sizes[0, lacking]} and {sizes[1, lacking]} in fold {lacking}", "correct the list",
        )  # fmt: skip
    if equal and np.ptp(sizes.sum(0)):
        raise DataError("folds of one size", ", ".join(map(str, sizes.sum(0))) + " pairs", "even them out")
    if pca is not None and not 0 < pca <= 1:
        raise DataError("a share of variance for --pca above 0, at most 1", str(pca), "correct it")
    order = np.argsort(pooled.scores)  # sorted once: sorting again is fast
    pairs = Pairs(pairs.left[order], pairs.right[order], pairs.same[order], pairs.fold[order])
    pooled = ScoreSet(pooled.scores[order], pairs.same, pairs.fold)
    accuracies, thresholds, eers, aucs = np.empty((4, folds))
    for fold in range(folds):
        test = pairs.fold == fold
        scores = pooled.scores
        if pca is not None:
            assert embeddings is not None
            scores = cosines(_project(embeddings, pairs, ~test, pca), pairs.left, pairs.right)
        thresholds[fold] = metrics.accuracy_threshold(scores[~test], pairs.same[~test])
        accuracies[fold] = np.mean((scores[test] >= thresholds[fold]) == pairs.same[test])
        own = metrics.roc(ScoreSet(pooled.scores[test], pairs.same[test], pairs.fold[test]))
        eers[fold], aucs[fold] = metrics.eer(own), metrics.auc(own)
    curve, count = metrics.roc(pooled), len(pairs.same)
    found = {
        "accuracy": over_folds(float(accuracies.mean()), accuracies, count),
        "eer": over_folds(metrics.eer(curve), eers, count),
        "auc": over_folds(metrics.auc(curve), aucs, count),
    }
    facts = {
        "folds": folds, "standard_error": standard_error(accuracies), "fold_accuracy": accuracies.tolist(),
        "fold_threshold": thresholds.tolist(), "threshold": float(thresholds.mean()), "pca": pca,
    }  # fmt: skip
    return found, facts


def rates(
    pooled: ScoreSet, people: tuple[Ints, Ints] | None, fars: Sequence[float] = PAIR_FARS
) -> tuple[dict[str, Estimate], dict[str, Any]]:
    """TAR at each FAR that the pairs resolve, and facts: `genuine_pairs`, `impostor_pairs`, `false_accepts` at each,
    `commonest_five`, and `notes`.

    `people`: who is on either side of each pair; None where that is unknown: then pairs pass as independent, and
    there is no TAR per person.
    """
    able, notes = metrics.resolvable(fars, len(pooled.impostor))
    facts: dict[str, Any] = {
        "genuine_pairs": len(pooled.genuine), "impostor_pairs": len(pooled.impostor), "notes": notes
    }  # fmt: skip
    if not able:
        return {}, facts
    nobody = np.zeros(len(pooled.scores), np.int64)
    left, right = people or (nobody, nobody)
    tally = of_pairs(pooled, left, right, max(able))
    if people is not None:
        notes.append(SHARED)
        return tally.tar(able), facts | tally.facts(able)
    notes.append(STRANGERS)
    return tally.tar_of_strangers(able), facts | {"false_accepts": tally.false_accepts(able)}


def areas(pooled: ScoreSet, people: tuple[Ints, Ints] | None, replicates: int) -> dict[str, Estimate]:
    """EER and AUC with intervals from a bootstrap over people, or over comparisons if the people are unknown (None)."""
    order = np.argsort(pooled.scores)[::-1]

    def both(weights: Floats | None) -> Floats:
        return np.array(metrics.weighted(pooled, order, weights))

    if people is None:
        samples = resampled(both, len(order), replicates)
    else:
        samples = resampled_pairs(both, people, pooled.same, replicates)
    lows, highs = percentiles(samples)
    return {
        name: bounded(float(value), float(low), float(high), len(order))
        for name, value, low, high in zip(("eer", "auc"), both(None), lows, highs, strict=True)
    }


def curves(pooled: ScoreSet) -> dict[str, dict[str, list[float]]]:
    """ROC and histograms of scores."""
    return {"roc": metrics.corners(metrics.staircase(pooled)), "histogram": metrics.histogram(pooled)}


def separation(pooled: ScoreSet) -> float | None:
    """d' for the facts: None if it is infinite, because JSON has no infinite numbers."""
    value = metrics.d_prime(pooled)
    return value if np.isfinite(value) else None


def _project(embeddings: Embeddings, pairs: Pairs, training: Bools, variance: float) -> Floats:
    """Transform all vectors by the PCA of the training pairs' images, and normalize them again."""
    images = np.unique([pairs.left[training], pairs.right[training]])
    vectors = embeddings.vectors.astype(np.float64)
    mean = vectors[images].mean(0)
    values, axes = np.linalg.eigh(np.cov(vectors[images], rowvar=False))
    share = np.cumsum(values[::-1]) / max(values.sum(), 1e-300)
    count = min(int(np.searchsorted(share, variance)) + 1, len(values))
    projected = (vectors - mean) @ axes[:, ::-1][:, :count]
    lengths = np.linalg.norm(projected, axis=1, keepdims=True)
    if not (np.isfinite(lengths).all() and lengths.all()):
        raise DataError("vectors that differ, for a PCA", "some that are equal to their mean", "drop --pca")
    return np.asarray(projected / lengths)
