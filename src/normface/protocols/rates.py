"""Error rates of comparisons that share people, and their intervals.

Comparisons of one person have correlated errors, so their number overstates the information. The variance of a rate is
summed over people, and each comparison of two people is counted once (Fafchamps and Gubert 2007; Aronow, Samii and
Assenova 2015). The influence of a person is the effect of leaving them out. The *effective* number is the number of
independent comparisons with the same variance, and the interval is the Clopper-Pearson interval for it (Korn and
Graubard 1998). No random numbers are used.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from ..types import Estimate, Floats, Ints
from .intervals import exact

STEADY = 100  # false accepts that are enough to estimate people's influence
_CELLS = 10_000_000  # of a table of people against people
_TABLE = 1 << 26  # cells of such a table, of 4 bytes each, for comparisons in parts
MOST_PAIRS = 1 << 24  # of people, counted one by one if such a table would be larger


class Trials(Protocol):
    """Comparisons by the people in them: `each` [S] and `total` count them; `own` is True for genuine ones."""

    @property
    def own(self) -> bool:
        """Whether each comparison is within one person."""

    @property
    def total(self) -> int:
        """Number of comparisons."""

    @property
    def each(self) -> Floats:
        """Number of comparisons of each subject [S]."""

    def toward(self, weights: Floats) -> Floats:
        """Sum of the other subject's weight over the comparisons of each subject [S]; 0 for genuine ones."""

    def between(self, left: Ints, right: Ints) -> Floats:
        """Numbers of comparisons of pairs of subjects [K]."""

    def squares(self, weights: Floats) -> float:
        """Sum over pairs of subjects of (number of comparisons · sum of both weights)²."""

    def weigh(self, weights: Floats) -> float:
        """Number of comparisons if each subject is drawn that many times [S]."""


@dataclass(frozen=True)
class Listed:
    """Comparisons one by one, grouped by the two subjects, `left` ≤ `right` [K]; `subjects`: S."""

    left: Ints
    right: Ints
    count: Ints
    subjects: int

    @classmethod
    def of(cls, left: Ints, right: Ints, subjects: int) -> Listed:
        """Make from the subjects of each comparison [M]; for genuine ones both sides may be the same array."""
        if left is right:
            each = np.bincount(left, minlength=subjects)
            met = np.flatnonzero(each)
            return cls(met, met, each[met], subjects)
        codes = np.minimum(left, right).astype(np.int64) * subjects + np.maximum(left, right)
        if len(codes) > subjects**2 / 20 and subjects**2 <= _CELLS:  # counting is faster than sorting
            table = np.bincount(codes, minlength=subjects**2)
            codes = np.flatnonzero(table)
            count = table[codes]
        else:
            codes, count = np.unique(codes, return_counts=True)
        return cls(codes // subjects, codes % subjects, count, subjects)

    @classmethod
    def gathered(cls, parts: Iterable[tuple[Ints, Ints]], subjects: int) -> Listed | None:
        """Make from the subjects of comparisons in parts, in bounded memory; None if there are too many pairs."""
        dense = subjects**2 <= _TABLE
        count = np.zeros(subjects**2 if dense else 0, np.int32)
        codes = np.empty(0, np.int64)
        for left, right in parts:
            new, more = np.unique(
                np.minimum(left, right).astype(np.int64) * subjects + np.maximum(left, right), return_counts=True
            )
            if dense:
                count[new] += more.astype(np.int32)
                continue
            codes, count = np.concatenate([codes, new]), np.concatenate([count, more])
            order = np.argsort(codes, kind="stable")  # two sorted runs: a merge
            first = np.flatnonzero(np.append(True, np.diff(codes[order]) > 0))
            codes, count = codes[order][first], np.add.reduceat(count[order], first)
            if len(codes) > MOST_PAIRS:
                return None
        if dense:
            codes = np.flatnonzero(count)
            count = count[codes]
        return cls(codes // subjects, codes % subjects, count, subjects)

    @cached_property
    def own(self) -> bool:
        """Whether each comparison is within one person."""
        return bool((self.left == self.right).all())

    @cached_property
    def total(self) -> int:
        """Number of comparisons."""
        return int(self.count.sum())

    @cached_property
    def each(self) -> Floats:
        """Number of comparisons of each subject [S]."""
        found = np.bincount(self.left, self.count, self.subjects).astype(float)
        return found if self.own else found + np.bincount(self.right, self.count, self.subjects)

    def toward(self, weights: Floats) -> Floats:
        """Sum of the other subject's weight over the comparisons of each subject [S]; 0 for genuine ones."""
        if self.own:
            return np.zeros(self.subjects)
        if not np.ptp(weights):  # without a sum over all comparisons
            return weights * self.each
        found = np.zeros(self.subjects)
        found += np.bincount(self.left, self.count * weights[self.right], self.subjects)
        found += np.bincount(self.right, self.count * weights[self.left], self.subjects)
        return found

    def between(self, left: Ints, right: Ints) -> Floats:
        """Numbers of comparisons of pairs of subjects [K]."""
        codes, wanted = self.left * self.subjects + self.right, left * self.subjects + right
        if not len(codes):
            return np.zeros(len(wanted))
        place = np.minimum(np.searchsorted(codes, wanted), len(codes) - 1)
        return np.where(codes[place] == wanted, self.count[place], 0).astype(float)

    def squares(self, weights: Floats) -> float:
        """Sum over pairs of subjects of (number of comparisons · sum of both weights)²."""
        return float(np.sum((self.count * (weights[self.left] + weights[self.right])) ** 2))

    def weigh(self, weights: Floats) -> float:
        """Product of both subjects' weights; a genuine comparison has the weight of its subject."""
        each = weights[self.left] * np.where(self.left == self.right, 1.0, weights[self.right])
        return float(each @ self.count)


@dataclass(frozen=True)
class Between:
    """All impostor pairs of an image of one group with an image of another (or the same) group.

    `first`, `second`: number of images of each subject in each group [S]; the same array object for pairs within one
    group.
    """

    first: Ints
    second: Ints
    own = False

    @cached_property
    def total(self) -> int:
        """Number of comparisons."""
        return round(self.weigh(np.ones(len(self.first))))

    @cached_property
    def each(self) -> Floats:
        """Number of comparisons of each subject [S]."""
        return self.toward(np.ones(len(self.first)))

    def toward(self, weights: Floats) -> Floats:
        """Sum of the other subject's weight over the comparisons of each subject [S]."""
        one, other = self.first.astype(float), self.second.astype(float)
        if self.first is self.second:
            return np.asarray(one * (one @ weights - one * weights))
        return np.asarray(one * (other @ weights) + other * (one @ weights) - 2 * one * other * weights)

    def between(self, left: Ints, right: Ints) -> Floats:
        """Numbers of comparisons of pairs of subjects [K]."""
        one, other = self.first.astype(float), self.second.astype(float)
        found = one[left] * other[right]
        return np.asarray(found if self.first is self.second else found + one[right] * other[left])

    def squares(self, weights: Floats) -> float:
        """Sum over pairs of subjects of (number of comparisons · sum of both weights)².

        Slightly too small if a subject has images in both of two groups.
        """
        x, y = self.first.astype(float) ** 2, self.second.astype(float) ** 2
        w = weights
        twice = (w * w) @ x * y.sum() + (w * w) @ y * x.sum() + 2 * (w @ x) * (w @ y) - 4 * (w * w) @ (x * y)
        return float(twice) / (2 if self.first is self.second else 1)

    def weigh(self, weights: Floats) -> float:
        """All pairs of images minus those within a subject, by the subjects' weights."""
        one, other = weights * self.first, weights * self.second
        return float(one.sum() * other.sum() - one @ other) / (2 if self.first is self.second else 1)


@dataclass(frozen=True)
class Rate:
    """A share of comparisons with its uncertainty.

    Attributes:
        value: over all comparisons, or the mean over people of each person's own share.
        n: number of comparisons, or of people.
        independent: number of independent comparisons with the same variance; at most `n`.
        effect: design effect: the variance divided by that of independent comparisons; at least 1.
        influence: contribution of each subject to the deviation of `value` [S].
        freedom: degrees of freedom: the effective number of people, by their shares of the comparisons, less 1.
    """

    value: float
    n: int
    independent: float
    effect: float
    influence: Floats
    freedom: float

    def effective(self, confidence: float = 0.95) -> float:
        """Number of independent comparisons with an equally wide interval; few people reduce it further."""
        return effective(self.independent, self.freedom, confidence)

    @property
    def estimate(self) -> Estimate:
        """Return the value with its 95 % interval."""
        low, high = exact(self.value, self.effective())
        return Estimate(self.value, min(low, self.value), max(high, self.value), self.n)


def effective(independent: float, freedom: float, confidence: float = 0.95) -> float:
    """Number of comparisons whose normal interval is as wide as Student's of `independent` ones (Korn and Graubard)."""
    from scipy.special import ndtri, stdtrit

    tail = (1 + confidence) / 2
    return float(independent * (ndtri(tail) / stdtrit(freedom, tail)) ** 2)


def rate(hits: Listed, trials: Trials, *, per_person: bool = False, longer: Listed | None = None) -> Rate | None:
    """Compute the share of `hits` among `trials`; None if there are no trials.

    Args:
        per_person: count each person once: the mean of their own shares (an impostor comparison belongs to two people).
        longer: if there are few hits: more of the most similar comparisons, including the hits. They give a better
            estimate of the influence of people, which grows with the number of hits.
    """
    if not trials.total:
        return None
    weights = _weights(trials, per_person)
    value = float(weights @ hits.each) if per_person else hits.total / trials.total
    shares = weights * trials.each + trials.toward(weights)
    freedom = max(float(shares.sum() ** 2 / (shares @ shares)) - 1, 1.0)
    single = 1 / float((weights**2) @ trials.each + weights @ trials.toward(weights))  # effective number by weights
    effect, influence = _effect(hits, trials, weights, shares, value, single)
    if longer is not None and (found := longer.total) > (few := max(hits.total, 1)):
        beyond = _effect(longer, trials, weights, shares, float(weights @ longer.each), single)[0]
        effect = max(effect, 1 + (beyond - 1) * few / found)
    if trials.own and value in (0, 1):
        effect = max(effect, single / max(int(np.count_nonzero(trials.each)), 1))  # one person's may all be correlated
    n = int(np.count_nonzero(trials.each)) if per_person else trials.total
    return Rate(value, n, single / effect, effect, influence, freedom)


def _weights(trials: Trials, per_person: bool) -> Floats:
    """Weight of a comparison for each subject [S]; the weights over all comparisons and subjects sum to 1."""
    each = trials.each
    if not per_person:
        return np.full(len(each), 1 / each.sum())
    return np.where(each > 0, 1 / (np.count_nonzero(each) * np.maximum(each, 1)), 0.0)


def _effect(
    hits: Listed, trials: Trials, weights: Floats, shares: Floats, value: float, single: float
) -> tuple[float, Floats]:
    """Design effect, at least 1, and the influence of each subject [S]."""
    influence = weights * (hits.each - value * trials.each)
    influence += hits.toward(weights) - value * trials.toward(weights)
    influence /= np.maximum(1 - shares, 1e-9)
    variance = float(influence @ influence)
    if not trials.own:  # the part that two people share was counted for both
        both, count = weights[hits.left] + weights[hits.right], trials.between(hits.left, hits.right)
        variance -= float(np.sum(both**2 * ((hits.count - value * count) ** 2 - (value * count) ** 2)))
        variance -= value**2 * trials.squares(weights)
    chance = value * (1 - value) / single
    return max(variance / chance, 1.0) if chance > 0 else 1.0, influence


def commonest(genuine: Ints, people: int = 5) -> float:
    """Share of the genuine comparisons of the most frequent people; `genuine` counts them [S]."""
    return float(np.sort(genuine)[-people:].sum() / genuine.sum())
