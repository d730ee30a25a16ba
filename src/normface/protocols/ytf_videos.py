"""YouTube Faces: 5,000 pairs of videos in ten folds, decided by support vector machines (PAPER.md §4).

Shape suffixes: N, M frames of two videos, P pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import cosine
from ..errors import DataError, require
from ..types import Bools, Embeddings, Floats, Ints, Result, ScoreSet
from . import metrics
from .inputs import PROTOCOLS, reads
from .intervals import over_folds, standard_error
from .lists import read_text
from .named_pairs import Ids, NamedPairs, partly
from .verification import curves, rates, separation

VIDEO_BINS = 100  # of the cosines of a pair of videos, on [-1, 1]
_ROWS = 512  # of a kernel at a time


def read_ytf(path: str | Path) -> NamedPairs:
    """Read `splits.txt`: a header, then `fold, number, Name/video, Name/video, same[, …]`.

    Raises DataError naming the file and the line.
    """
    text, sha256 = read_text(path, "YTF's splits.txt")
    lines = [line.split(",") for line in text.splitlines()]
    rows = [(number, [cell.strip() for cell in line]) for number, line in enumerate(lines, 1) if any(line)]
    if rows and not rows[0][1][0].isdigit():
        rows = rows[1:]  # the header
    for number, row in rows:
        if len(row) < 5 or not row[0].isdigit() or row[4] not in ("0", "1") or not (row[2] and row[3]):
            raise DataError(
                "`fold, number, Name/video, Name/video, same`",
                f"{','.join(row)!r} in line {number} of {path}",
                "correct it",
            )
        if (row[2].rpartition("/")[0] == row[3].rpartition("/")[0]) != (row[4] == "1"):
            raise DataError("labels that agree with the names", f"{','.join(row)!r} in line {number} of {path}",
                            "correct it")  # fmt: skip
    if not rows:
        raise DataError("pairs of videos", f"none in {path}", "take splits.txt")
    fold, _, left, right, same = (np.array(each) for each in zip(*(row[:5] for _, row in rows), strict=True))
    fold = np.unique(fold.astype(np.int64), return_inverse=True)[1]
    return NamedPairs(left, right, same == "1", fold, sha256)


def _frames(lists: Sequence[Path], ids: Ids) -> Bools:
    """Mask of the images that are frames of a listed video."""
    videos = read_ytf(lists[0])
    return np.isin([id.rpartition("/")[0] for id in ids.tolist()], np.append(videos.left, videos.right))


@PROTOCOLS.register
@reads("ytf/splits.txt", ids="Name/video/frame.jpg", images=_frames, videos=True)
def ytf(
    embeddings: Embeddings,
    splits_file: str | Path,
    *,
    partial: bool = False,
    conditions: Mapping[str, Any] | None = None,
) -> Result:
    """YTF: frames are centered by the training pairs' mean; a pair of videos is all cosines of their frames.

    Args:
        embeddings: of the frames, ids `Name/video/frame.jpg`.
        splits_file: splits.txt.
        partial: leave out pairs of videos without frames; the facts say so.
        conditions: added to the facts.

    Returns:
        accuracy_mean: a linear SVM on the mean cosine; accuracy_histogram: an SVM with the histogram intersection
        kernel (Σ min, C = 1) on the cosines' histogram of 100 bins on [-1, 1], of sum 1. Intervals: Student's.
        eer, auc, tar@far=…, ROC and histograms are those of the mean cosine, each pair centered as in the test of its
        fold.

    Raises:
        DataError: a malformed list, videos without frames, fewer than 2 folds. MissingDependency: no scikit-learn.
    """
    svm = require("sklearn.svm", "ytf")
    named = read_ytf(splits_file)
    facts: dict[str, Any] = {}
    frames, videos = _videos(embeddings)
    known = [np.isin(side, videos) for side in (named.left, named.right)]
    if not all(map(np.all, known)):
        absent = np.setdiff1d(np.concatenate([named.left, named.right]), videos)
        if not partial or not (known[0] & known[1]).any():
            raise DataError(
                "frames of every video", f"none of {len(absent)} (first: {absent[0]})",
                "embed them with ids such as Name/video/frame.jpg, or evaluate what is there: --partial",
            )  # fmt: skip
        told = {"partial": f"Partial: {len(absent):,} videos have no frames (first: {absent[0]})"}
        facts = partly(told, int((known[0] & known[1]).sum()), len(named.same), "pairs")
        named = named.select(known[0] & known[1])
    if (folds := int(named.fold.max()) + 1) < 2:
        raise DataError("at least 2 folds", f"1 in {splits_file}", "no fold may choose its own threshold")
    left, right = (np.searchsorted(videos, side) for side in (named.left, named.right))
    means = np.array([embeddings.vectors[each].mean(0, dtype=np.float64) for each in frames])
    accuracies, pooled = np.empty((2, folds)), np.empty(len(left))
    for fold in range(folds):
        test, training = named.fold == fold, named.fold != fold
        center = means[np.concatenate([left[training], right[training]])].mean(0)
        mean, histogram = describe(embeddings.vectors, frames, left, right, center)
        pooled[test] = mean[test]
        linear = svm.SVC(kernel="linear", C=1).fit(mean[training, None], named.same[training])
        kernel = intersection(histogram[training], histogram[training])
        overlap = svm.SVC(kernel="precomputed", C=1).fit(kernel, named.same[training])
        decided = linear.predict(mean[test, None]), overlap.predict(intersection(histogram[test], histogram[training]))
        accuracies[:, fold] = [np.mean(each == named.same[test]) for each in decided]
    scores = ScoreSet(pooled, named.same, named.fold)
    by_fold = [
        metrics.roc(ScoreSet(pooled[own], named.same[own], named.fold[own]))
        for own in (named.fold == fold for fold in range(folds))
    ]
    curve, count = metrics.roc(scores), len(left)
    found = {
        name: over_folds(float(each.mean()), each, count)
        for name, each in zip(("accuracy_mean", "accuracy_histogram"), accuracies, strict=True)
    }
    found["eer"] = over_folds(metrics.eer(curve), np.array([metrics.eer(each) for each in by_fold]), count)
    found["auc"] = over_folds(metrics.auc(curve), np.array([metrics.auc(each) for each in by_fold]), count)
    tars, of_tars = rates(scores, named.people)
    facts |= {
        "pairs": count, "folds": folds, "videos": len(np.unique([*left, *right])), "frames": len(embeddings),
        "standard_error": standard_error(accuracies[1]), "fold_accuracy": accuracies[1].tolist(),
        "fold_accuracy_mean": accuracies[0].tolist(), "d_prime": separation(scores), "pairs_sha256": named.sha256,
        **of_tars, **(conditions or {}),
    }  # fmt: skip
    return Result("ytf", found | tars, curves(scores), facts)


def describe(vectors: Floats, frames: Sequence[Ints], left: Ints, right: Ints, center: Floats) -> tuple[Floats, Floats]:
    """Compute the mean [P] and histogram [P, 100] of the cosines of the frames of each pair of videos.

    The frames are centered first.
    """
    means, histograms = np.empty(len(left)), np.empty((len(left), VIDEO_BINS))
    for pair, sides in enumerate(zip(left.tolist(), right.tolist(), strict=True)):
        a_ND, b_MD = (vectors[frames[side]] - center for side in sides)
        for each in (a_ND, b_MD):
            # A frame at the center has no direction and stays 0.
            each /= np.maximum(np.linalg.norm(each, axis=1, keepdims=True), 1e-12)
        cosine_NM = cosine.matrix(cosine.exact(a_ND), cosine.exact(b_MD)).astype(np.float64)
        means[pair] = cosine_NM.mean()
        place = ((cosine_NM.ravel() + 1) * (VIDEO_BINS / 2)).astype(np.int64).clip(0, VIDEO_BINS - 1)
        histograms[pair] = np.bincount(place, minlength=VIDEO_BINS) / cosine_NM.size
    return means, histograms


def intersection(a: Floats, b: Floats) -> Floats:
    """The histogram intersection kernel [P, Q] of histograms [P, 100] and [Q, 100]: Σ min."""
    kernel = np.zeros((len(a), len(b)))
    for start in range(0, len(a), _ROWS):
        some = slice(start, start + _ROWS)
        for one, other in zip(a[some].T, b.T, strict=True):
            kernel[some] += np.minimum.outer(one, other)
    return kernel


def _videos(embeddings: Embeddings) -> tuple[list[Ints], Ids]:
    """Rows of the frames of each video, and the videos in order: the part of an id before the last `/`."""
    videos, codes = np.unique([id.rpartition("/")[0] for id in embeddings.ids.tolist()], return_inverse=True)
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(codes[order])) + 1), videos
