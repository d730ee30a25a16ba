"""Verification on given pairs: LFW's two views and lists of its format (PAPER.md §4)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..errors import DataError
from ..types import Bools, Embeddings, Ints, Pairs, Result, ScoreSet
from . import metrics
from .inputs import PROTOCOLS, reads
from .intervals import proportion
from .lists import read_text
from .named_pairs import NamedPairs
from .verification import cosines, curves, folded, rates, separation


def read_lfw_pairs(path: str | Path) -> NamedPairs:
    """Read a list in LFW's format.

    The header is `folds  pairs`, or `pairs` for one fold. Each fold then has that number of lines `Name  i  j` (the
    same person) and the same number of lines `Name  i  Other  j`.

    Raises DataError naming the file, the line and its content.
    """
    text, sha256 = read_text(path, "a list of pairs in LFW's format")
    rows = [(number, line.split()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
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
    return NamedPairs(np.array(left), np.array(right), np.array(same), np.array(fold), sha256)


def scores(embeddings: Embeddings, pairs: Pairs) -> ScoreSet:
    """Compute the cosines of pairs."""
    return ScoreSet(cosines(embeddings.vectors, pairs.left, pairs.right), pairs.same, pairs.fold)


def joined(left: Ints, right: Ints, same: Bools, count: int) -> tuple[Ints, Ints]:
    """Return the person on both sides of pairs of `count` images.

    Images connected by genuine pairs, directly or indirectly, show one person.
    """
    person = connected(left[same], right[same], count)
    return person[left], person[right]


def connected(left: Ints, right: Ints, count: int) -> Ints:
    """Return the person on each of `count` images [N], from 0.

    Images connected by pairs, directly or indirectly, show one person.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = coo_array((np.ones(len(left), bool), (left, right)), shape=(count, count))
    return np.asarray(connected_components(edges, directed=False)[1])


@PROTOCOLS.register
@reads("lfw/pairs.txt", ids="Name/Name_0001.jpg", pairs=lambda path: (read_lfw_pairs(path), {}))
def lfw(
    embeddings: Embeddings,
    pairs_file: str | Path,
    *,
    pca: float | None = None,
    partial: bool = False,
    conditions: Mapping[str, Any] | None = None,
) -> Result:
    """LFW View 2, or any list of its format: each fold is decided at the threshold best on the other folds.

    Args:
        embeddings: of every image the list names, ids as in the list (`Name/Name_0001.jpg`).
        pca: share of variance kept by a PCA fitted on the images of the other folds (the paper: 0.995). The PCA centers
            and does not whiten; the vectors are normalized again after it.
        partial: leave out the pairs without vectors; the facts say so.
        conditions: added to the facts.

    Returns:
        accuracy (mean over folds), eer, auc, tar@far=…; ROC and histograms. ROC, EER, AUC and TAR pool all folds'
        scores and use no PCA. tar_per_person@far=… is the mean over people. The intervals of TAR are over people and
        include the threshold's uncertainty. The others are Student's over folds, which share no people.

    Raises:
        DataError: a malformed list, ids without vectors, fewer than 2 folds.
    """
    return judge("lfw", embeddings, read_lfw_pairs(pairs_file), pca=pca, partial=partial, conditions=conditions)


def judge(
    protocol: str,
    embeddings: Embeddings,
    named: NamedPairs,
    *,
    people: tuple[Ints, Ints] | Literal["ids"] | None = "ids",
    pca: float | None = None,
    partial: bool = False,
    conditions: Mapping[str, Any] | None = None,
) -> Result:
    """Evaluate pairs in folds, as all such protocols do.

    `people`: the person on both sides of each pair, None if unknown.
    """
    facts: dict[str, Any] = {}
    if partial:
        named, facts = named.available(embeddings)
    pairs = named.within(embeddings)
    pooled = scores(embeddings, pairs)
    found, of_folds = folded(embeddings, pairs, pooled, pca=pca, equal=not facts)
    tars, of_tars = rates(pooled, named.people if people == "ids" else people)
    facts |= {
        "pairs": len(pairs.same), "images": len(np.unique(np.concatenate([pairs.left, pairs.right]))), **of_folds,
        "d_prime": separation(pooled), "pairs_sha256": named.sha256, **of_tars, **(conditions or {}),
    }  # fmt: skip
    return Result(protocol, found | tars, curves(pooled), facts)


@PROTOCOLS.register
@reads(
    "lfw/pairsDevTrain.txt", "lfw/pairsDevTest.txt", ids="Name/Name_0001.jpg",
    pairs=lambda path: (read_lfw_pairs(path), {}),
)  # fmt: skip
def lfw_view1(
    embeddings: Embeddings,
    train_file: str | Path,
    test_file: str | Path,
    *,
    partial: bool = False,
    conditions: Mapping[str, Any] | None = None,
) -> Result:
    """LFW View 1, for choosing models: the threshold comes from DevTrain's pairs, the accuracy from DevTest's.

    Args:
        embeddings: of every image the lists name.
        train_file, test_file: pairsDevTrain.txt and pairsDevTest.txt, or lists of their format.
        partial: leave out the pairs without vectors; the facts say so.
        conditions: added to the facts.

    Returns:
        accuracy with a Clopper-Pearson interval (treating pairs as independent), tar@far=… and its mean over people;
        ROC and histograms.

    Raises:
        DataError: a malformed list, ids without vectors.
    """
    training, testing = read_lfw_pairs(train_file), read_lfw_pairs(test_file)
    facts: dict[str, Any] = {}
    if partial:
        training, told = training.available(embeddings)
        testing, facts = testing.available(embeddings)
        facts = facts or told
    known = scores(embeddings, training.within(embeddings))
    pooled = scores(embeddings, testing.within(embeddings))
    threshold = metrics.accuracy_threshold(known.scores, known.same)
    found, of_tars = rates(pooled, testing.people)
    right, count = int(((pooled.scores >= threshold) == pooled.same).sum()), len(pooled.same)
    facts |= {
        "pairs": count, "training_pairs": len(training.same), "threshold": threshold, "d_prime": separation(pooled),
        "pairs_sha256": testing.sha256, "training_pairs_sha256": training.sha256, **of_tars,
        **(conditions or {}),
    }  # fmt: skip
    return Result("lfw_view1", {"accuracy": proportion(right, count), **found}, curves(pooled), facts)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) > 0
