"""Scored comparisons of images, with the person on each: pairs of a list, or all pairs of a set of images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..types import Bools, Embeddings, Floats, Ints, ScoreSet
from .metrics import Roc, refuse_equal, roc
from .named_pairs import NamedPairs, people
from .pairs import joined, scores
from .rates import STEADY, Between, Listed, Rate, Trials, commonest, rate
from .tally import binned, triangle

_BINS = 20_000  # on [-1, 1], for impostor scores that are counted but not listed


@dataclass(frozen=True)
class Comparisons:
    """Comparisons of images, each with its cosine.

    Attributes:
        scores, same: [K].
        left, right: [K] rows of `ids`.
        ids: [N] names of the images.
        subjects: [N] person on each image, counted from 0.
        below: if there are too many impostors to list: counts of the lower ones by score [2, B]. None if all are
            listed.
        counted: two sets of images [N]; all impostor comparisons between them are counted, although not all are listed.
            None if all pairs of images were compared.
    """

    scores: Floats
    same: Bools
    left: Ints
    right: Ints
    ids: NDArray[np.str_]
    subjects: Ints
    below: Floats | None = None
    counted: Callable[[Bools, Bools], Trials] | None = None

    @property
    def n_genuine(self) -> int:
        """Number of genuine comparisons."""
        return int(self.same.sum())

    @property
    def n_impostor(self) -> int:
        """Number of impostor comparisons, listed or counted."""
        return int((~self.same).sum() + (0 if self.below is None else self.below[1].sum()))

    def roc(self) -> Roc:
        """Compute the ROC. It is exact down to the lowest listed impostor score."""
        listed = ScoreSet(self.scores, self.same, np.zeros(len(self.scores), int))
        return replace(roc(listed), n_impostor=self.n_impostor)

    def accepted(self, threshold: float) -> Bools:
        """Mark the accepted comparisons [K]. Raises DataError for a threshold below the listed scores."""
        if self.below is not None and threshold <= (highest := float(self.below[0].max(initial=-np.inf))):
            raise DataError(f"a threshold above {highest:.4f}, as listed", str(threshold), "list more impostors")
        return np.asarray(self.scores >= threshold)

    @cached_property
    def n_subjects(self) -> int:
        """Number of people."""
        return int(self.subjects.max()) + 1

    def trials(self, chosen: Bools) -> Listed:
        """Count selected comparisons [K] by pairs of people."""
        left, right = (self.subjects[side[chosen]] for side in (self.left, self.right))
        if np.array_equal(left, right):
            right = left  # a shortcut for genuine ones
        return Listed.of(left, right, self.n_subjects)

    def impostors(self, one: Bools, other: Bools) -> Trials:
        """Return all impostor comparisons of images of one set [N] with another, equal or disjoint, set."""
        if self.below is None:
            crossed = (one[self.left] & other[self.right]) | (other[self.left] & one[self.right])
            return self.trials(~self.same & crossed)
        if self.counted is not None:
            return self.counted(one, other)
        first = np.bincount(self.subjects[one], minlength=self.n_subjects)
        if np.array_equal(one, other):
            return Between(first, first)
        return Between(first, np.bincount(self.subjects[other], minlength=self.n_subjects))

    def false_accepts(self, accepted: Bools, chosen: Bools) -> tuple[Listed, Listed]:
        """Return the accepted ones of selected impostor comparisons [K], and these with the STEADY next most similar.

        See `rate` for the use of the second.
        """
        rows = np.flatnonzero(chosen & ~self.same)
        few = accepted[rows]
        more = min(int(few.sum()) + STEADY, len(rows))
        likest = np.zeros(len(self.scores), bool)
        if more:
            likest[rows[np.argpartition(self.scores[rows], len(rows) - more)[-more:]]] = True
        return self.trials(chosen & ~self.same & accepted), self.trials(likest)

    def rates(self, threshold: float, *, per_person: bool = False) -> tuple[Rate, Rate]:
        """Compute FAR and TAR at a fixed threshold."""
        accepted, everyone = self.accepted(threshold), np.ones(len(self.ids), bool)
        few, more = self.false_accepts(accepted, np.ones(len(self.scores), bool))
        impostors = self.impostors(everyone, everyone)
        far = rate(few, impostors, per_person=per_person, longer=more)
        tar = rate(self.trials(accepted & self.same), self.trials(self.same), per_person=per_person)
        assert far
        assert tar
        return far, tar

    @property
    def commonest_five(self) -> float:
        """Share of the genuine comparisons of the five most frequent people."""
        return commonest(np.bincount(self.subjects[self.left[self.same]]))

    def hardest(self, threshold: float, most: int = 12) -> dict[str, list[list[Any]]]:
        """Return the worst errors, `false_accepts` and `false_rejects`: [id, id, score], the worst first."""
        accepted = self.accepted(threshold)
        found = {}
        for kind, wrong, sign in (
            ("false_accepts", accepted & ~self.same, -1), ("false_rejects", ~accepted & self.same, 1),
        ):  # fmt: skip
            rows = np.flatnonzero(wrong)
            rows = rows[np.argsort(sign * self.scores[rows], kind="stable")[:most]]
            found[kind] = [
                [str(self.ids[self.left[i]]), str(self.ids[self.right[i]]), float(self.scores[i])] for i in rows
            ]
        return found

    def counts(self) -> tuple[Floats, Floats, Floats]:
        """Return all scores with their numbers of genuine and impostor comparisons, the arguments of `calibrate`."""
        more, counted = np.empty((2, 0)) if self.below is None else self.below
        none = np.zeros(len(more))
        return np.r_[self.scores, more], np.r_[self.same, none], np.r_[~self.same, counted]


def of_list(embeddings: Embeddings, named: NamedPairs) -> Comparisons:
    """Compare the images of a list of pairs. Raises DataError for ids without a vector."""
    pairs = named.within(embeddings)
    found = scores(embeddings, pairs)
    ids, rows = np.unique(np.concatenate([named.left, named.right]), return_inverse=True)
    left, right = rows[: len(named.left)], rows[len(named.left) :]
    return Comparisons(found.scores, found.same, left, right, ids, persons(ids, left, right, named.same))


def every_pair(embeddings: Embeddings, subjects: Ints, far: float) -> Comparisons:
    """Every pair of the images, of which so many impostors are listed that a false accept rate `far` lies among them.

    N² cosines are computed twice, by tiles, and never held together.
    Raises DataError where no two images show one person, or two, and for equal embeddings.
    """
    refuse_equal(embeddings.vectors)
    order = np.argsort(subjects, kind="stable")
    vectors, whose = embeddings.vectors[order], subjects[order]
    first = np.searchsorted(whose, whose)  # of each image's person; impostors come before
    impostors = int(first.sum())
    if not impostors or impostors == len(whose) * (len(whose) - 1) // 2:
        raise DataError("images of at least two people, two of one", "others", "give more images")
    counts = np.zeros(_BINS, np.int64)
    for start, tile in triangle(vectors):
        tile[~_impostor(tile, start, first)] = -np.inf
        counts += binned(tile, _BINS)
    reached = np.cumsum(counts[::-1])[::-1]
    lowest = int(np.flatnonzero(reached >= min(2 * far * impostors + 2 * STEADY, impostors))[-1])
    edge = np.float32(-1 + 2 * lowest / _BINS)
    found = []
    for start, tile in triangle(vectors):
        listed = np.where(_impostor(tile, start, first), tile >= edge, tile > -np.inf)
        row, column = np.nonzero(listed)
        found.append((tile[row, column], row + start, column))
    scores, left, right = (np.concatenate(each) for each in zip(*found, strict=True))
    same = whose[left] == whose[right]
    counts -= binned(scores[~same], _BINS)
    centers = -1 + (2 * np.arange(_BINS) + 1) / _BINS
    below = np.stack([centers, counts])[:, counts > 0]
    return Comparisons(scores, same, order[left], order[right], embeddings.ids, subjects, below)


def persons(ids: NDArray[np.str_], left: Ints, right: Ints, same: Bools) -> Ints:
    """Return the person on each image [N].

    This is its folder, if the folders agree with the labels of all pairs. Otherwise images connected by genuine pairs,
    directly or indirectly, show one person.
    """
    _, folders = people(ids.tolist())
    if ((folders[left] == folders[right]) == same).all():
        return folders
    who = np.zeros(len(ids), int)
    who[left], who[right] = joined(left, right, same, len(ids))
    return who


def _impostor(tile: Floats, start: int, first: Ints) -> Bools:
    """Mask of the impostor cells in a tile whose rows start at `start`."""
    return np.asarray(np.arange(tile.shape[1]) < first[start : start + len(tile), None])
