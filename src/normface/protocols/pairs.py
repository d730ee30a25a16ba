"""Verification on given pairs, in folds: LFW's View 2 and lists of its format (PAPER.md §4)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..types import Bools, Embeddings, Estimate, Floats, Ints, Pairs, Result, ScoreSet
from . import PROTOCOLS, metrics
from .intervals import over_folds, proportion, standard_error

FARS = (0.01, 0.001)
BINS = 100  # of the score histograms on [-1, 1]


@dataclass(frozen=True)
class NamedPairs:
    """Pairs by image id, as a list names them; all arrays [M]. `sha256` is the list's."""

    left: NDArray[np.str_]
    right: NDArray[np.str_]
    same: Bools
    fold: Ints
    sha256: str

    def within(self, embeddings: Embeddings) -> Pairs:
        """The same pairs as indices. Raises DataError for ids without a vector: how many, the first, the nearest."""
        left, right = rows_of(embeddings, self.left, self.right)
        return Pairs(left, right, self.same, self.fold)


def rows_of(embeddings: Embeddings, *lists: NDArray[np.str_]) -> list[Ints]:
    """Where the vectors of ids are. Raises DataError for ids without one: how many, the first, the nearest."""
    order = np.argsort(embeddings.ids)
    known = embeddings.ids[order]
    found = []
    for ids in lists:
        place = np.searchsorted(known, ids).clip(max=len(known) - 1)
        absent = np.flatnonzero(known[place] != ids)
        if absent.size:
            every, first = np.unique(np.concatenate(lists)), place[absent[0]]
            # The neighbours in the alphabet are candidates enough, and quick among millions.
            near = get_close_matches(ids[absent[0]], known[max(0, first - 500) : first + 500].tolist(), 1, 0)
            raise DataError(
                f"a vector for each of {len(every)} images",
                f"none for {np.isin(every, known, invert=True).sum()} (first: {ids[absent[0]]}; nearest id: {near[0]})",
                "embed those images too, with ids such as Name/Name_0001.jpg",
            )
        found.append(np.asarray(order[place]))
    return found


def read_lfw_pairs(path: str | Path) -> NamedPairs:
    """Read a list in LFW's format: a header `folds  pairs` (or `pairs`: one fold), then for each fold that many lines
    `Name  i  j` (same person) and as many `Name  i  Other  j`.

    Raises DataError naming the file, the line and what stands there.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        lines = enumerate(content.decode("utf-8").splitlines(), start=1)
        rows = [(number, line.split()) for number, line in lines if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("a list of pairs in LFW's format", f"{path} ('{error}')", "correct the path") from error
    head = rows[0][1] if rows else []
    if len(head) not in (1, 2) or not all(map(_is_number, head)):
        got = " ".join(head) or "nothing"
        raise DataError("a header `folds pairs` or `pairs`", f"{got!r} in {path}", "correct it")
    folds, per_kind = int(head[0]) if len(head) == 2 else 1, int(head[-1])
    if len(rows) - 1 != 2 * folds * per_kind:
        raise DataError(
            f"{2 * folds * per_kind} pairs as the header says", f"{len(rows) - 1} in {path}", "complete the list"
        )
    left, right, same, fold = [], [], [], []
    for place, (number, row) in enumerate(rows[1:]):
        genuine = place % (2 * per_kind) < per_kind
        fields = [row[0], row[1], row[0], row[2]] if genuine and len(row) == 3 else row
        sound = len(fields) == 4 and (fields[0] == fields[2]) == genuine
        if not sound or not (_is_number(fields[1]) and _is_number(fields[3])):
            kind = "Name i j" if genuine else "Name i Other j"
            raise DataError(f"`{kind}`", f"{' '.join(row)!r} in line {number} of {path}", "correct it")
        left.append(f"{fields[0]}/{fields[0]}_{int(fields[1]):04d}.jpg")
        right.append(f"{fields[2]}/{fields[2]}_{int(fields[3]):04d}.jpg")
        same.append(genuine)
        fold.append(place // (2 * per_kind))
    digest = hashlib.sha256(content).hexdigest()
    return NamedPairs(np.array(left), np.array(right), np.array(same), np.array(fold), digest)


def scores(embeddings: Embeddings, pairs: Pairs) -> ScoreSet:
    """Cosines of pairs."""
    return ScoreSet(_cosines(embeddings.vectors, pairs), pairs.same, pairs.fold)


@PROTOCOLS.register
def lfw(
    embeddings: Embeddings,
    pairs_file: str | Path,
    *,
    pca: float | None = None,
    conditions: Mapping[str, Any] | None = None,
) -> Result:
    """LFW View 2, or any list of its format: each fold is decided at the threshold best on the other folds.

    Args:
        embeddings: of every image the list names, ids as in the list (`Name/Name_0001.jpg`).
        pca: share of variance kept by a PCA fitted on the images of the other folds (the paper: 0.995), centred and
            not whitened; the vectors are normalised again after it.
        conditions: recorded among the facts.

    Returns:
        accuracy (mean over folds), eer, auc, tar@far=…; ROC and histograms. ROC, EER, AUC and TAR pool all folds'
        scores and take no PCA. Intervals: of TAR Clopper and Pearson's, of the others Student's over the folds, in
        which no person appears twice.

    Raises:
        DataError: a malformed list, ids without vectors, fewer than 2 folds.
    """
    named = read_lfw_pairs(pairs_file)
    pairs = named.within(embeddings)
    if (folds := int(pairs.fold.max()) + 1) < 2:
        raise DataError("at least 2 folds", f"1 in {pairs_file}", "no fold may choose its own threshold: use View 2")
    if pca is not None and not 0 < pca <= 1:
        raise DataError("a share of variance for --pca above 0, at most 1", str(pca), "correct it")
    pooled = scores(embeddings, pairs)
    accuracies, thresholds, eers, aucs = np.empty((4, folds))
    for fold in range(folds):
        test = pairs.fold == fold
        cosines = pooled.scores if pca is None else _cosines(_project(embeddings, pairs, ~test, pca), pairs)
        thresholds[fold] = metrics.accuracy_threshold(cosines[~test], pairs.same[~test])
        accuracies[fold] = np.mean((cosines[test] >= thresholds[fold]) == pairs.same[test])
        own = metrics.roc(ScoreSet(pooled.scores[test], pairs.same[test], pairs.fold[test]))
        eers[fold], aucs[fold] = metrics.eer(own), metrics.auc(own)
    curve = metrics.roc(pooled)
    rates, notes = _rates(curve)
    found = {
        "accuracy": over_folds(float(accuracies.mean()), accuracies, len(pairs.same)),
        "eer": over_folds(metrics.eer(curve), eers, len(pairs.same)),
        "auc": over_folds(metrics.auc(curve), aucs, len(pairs.same)),
        **rates,
    }
    facts = {
        "pairs": len(pairs.same), "folds": folds, "images": len(np.unique([*pairs.left, *pairs.right])),
        "standard_error": standard_error(accuracies), "fold_accuracy": accuracies.tolist(),
        "fold_threshold": thresholds.tolist(), "threshold": float(thresholds.mean()), "pca": pca,
        "pairs_sha256": named.sha256, "notes": notes, **(conditions or {}),
    }  # fmt: skip
    return Result("lfw", found, _curves(curve, pooled), facts)


@PROTOCOLS.register
def lfw_view1(
    embeddings: Embeddings,
    train_file: str | Path,
    test_file: str | Path,
    *,
    conditions: Mapping[str, Any] | None = None,
) -> Result:
    """LFW View 1, for choosing models: the threshold comes from DevTrain's pairs, the accuracy from DevTest's.

    Args:
        embeddings: of every image the lists name.
        train_file, test_file: pairsDevTrain.txt and pairsDevTest.txt, or lists of their format.
        conditions: recorded among the facts.

    Returns:
        accuracy, tar@far=… with Clopper and Pearson's interval (pairs taken as independent); ROC and histograms.

    Raises:
        DataError: a malformed list, ids without vectors.
    """
    training, testing = read_lfw_pairs(train_file), read_lfw_pairs(test_file)
    known = scores(embeddings, training.within(embeddings))
    pooled = scores(embeddings, testing.within(embeddings))
    threshold = metrics.accuracy_threshold(known.scores, known.same)
    curve = metrics.roc(pooled)
    rates, notes = _rates(curve)
    right, count = int(((pooled.scores >= threshold) == pooled.same).sum()), len(pooled.same)
    facts = {
        "pairs": count, "training_pairs": len(training.same), "threshold": threshold,
        "pairs_sha256": testing.sha256, "training_pairs_sha256": training.sha256, "notes": notes, **(conditions or {}),
    }  # fmt: skip
    return Result("lfw_view1", {"accuracy": proportion(right, count), **rates}, _curves(curve, pooled), facts)


def _rates(curve: metrics.Roc) -> tuple[dict[str, Estimate], list[str]]:
    """TAR at each FAR that the pairs resolve, and a note for each that they do not."""
    found, notes = {}, []
    for far in FARS:
        if far * curve.n_impostor >= 1:
            accepted = int(curve.true_accepts[metrics.at_far(curve, far)])
            found[f"tar@far={far:g}"] = proportion(accepted, curve.n_genuine)
        else:
            notes.append(f"TAR at FAR {far:g} left out: {curve.n_impostor} impostor pairs cannot resolve it")
    return found, notes


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) > 0


def _cosines(vectors: Floats, pairs: Pairs) -> Floats:
    return np.asarray(np.einsum("md,md->m", vectors[pairs.left], vectors[pairs.right], dtype=np.float64))


def _project(embeddings: Embeddings, pairs: Pairs, training: Bools, variance: float) -> Floats:
    """All vectors through the PCA of the training pairs' images, unit rows again."""
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


def _curves(curve: metrics.Roc, pooled: ScoreSet) -> dict[str, dict[str, list[float]]]:
    # Corners alone draw the same staircase: points in the middle of a straight run are left out.
    far, tar = curve.far, curve.tar
    straight = np.zeros(len(far), bool)
    straight[1:-1] = ((far[1:-1] == far[:-2]) & (far[1:-1] == far[2:])) | (
        (tar[1:-1] == tar[:-2]) & (tar[1:-1] == tar[2:])
    )
    edges = np.linspace(-1, 1, BINS + 1)
    counts = {kind: np.histogram(getattr(pooled, kind), edges)[0].tolist() for kind in ("genuine", "impostor")}
    return {
        "roc": {"far": far[~straight].tolist(), "tar": tar[~straight].tolist()},
        "histogram": {"edges": edges.tolist(), **counts},
    }
