"""Error rates of comparisons that share people, with intervals that know it.

A person's comparisons stand or fall together, so their number says too much. The variance of a rate is summed over
people, and each comparison of two people is counted once (Fafchamps and Gubert 2007; Aronow, Samii and Assenova 2015);
a person's influence is that of leaving them out. Independent comparisons of the same variance are the *effective*
number, and the interval is Clopper and Pearson's for so many (Korn and Graubard 1998). No random numbers are drawn.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from ..types import Estimate, Floats, Ints
from .intervals import exact

STEADY = 100  # false accepts from which people's influence is known well enough
_CELLS = 10_000_000  # of a table of people against people
_TABLE = 1 << 26  # cells of such a table, of 4 bytes, where comparisons come in parts
MOST_PAIRS = 1 << 24  # of people, counted one by one where such a table would be larger


class Trials(Protocol):
    """Comparisons by the people in them: `each` [S] and `total` count them, `own` is True for genuine ones."""

    @property
    def own(self) -> bool:
        """Whether each comparison is of one person alone."""

    @property
    def total(self) -> int:
        """How many there are."""

    @property
    def each(self) -> Floats:
        """How many each subject is in [S]."""

    def toward(self, weights: Floats) -> Floats:
        """The sum of the other subjects' weights over the comparisons of each subject [S]; nothing for genuine ones."""

    def between(self, left: Ints, right: Ints) -> Floats:
        """How many there are of each pair of subjects [K]."""

    def squares(self, weights: Floats) -> float:
        """The sum over pairs of subjects of (number of comparisons · sum of both weights)²."""

    def weigh(self, weights: Floats) -> float:
        """How many there are when each subject was drawn so often [S]."""


@dataclass(frozen=True)
class Listed:
    """Comparisons one by one, gathered by the two subjects, `left` ≤ `right` [K]; `subjects`: S."""

    left: Ints
    right: Ints
    count: Ints
    subjects: int

    @classmethod
    def of(cls, left: Ints, right: Ints, subjects: int) -> Listed:
        """From the subjects of each comparison [M]; of genuine ones both sides may be one array."""
        if left is right:
            each = np.bincount(left, minlength=subjects)
            met = np.flatnonzero(each)
            return cls(met, met, each[met], subjects)
        codes = np.minimum(left, right).astype(np.int64) * subjects + np.maximum(left, right)
        if len(codes) > subjects**2 / 20 and subjects**2 <= _CELLS:  # counted sooner than sorted
            table = np.bincount(codes, minlength=subjects**2)
            codes = np.flatnonzero(table)
            count = table[codes]
        else:
            codes, count = np.unique(codes, return_counts=True)
        return cls(codes // subjects, codes % subjects, count, subjects)

    @classmethod
    def gathered(cls, parts: Iterable[tuple[Ints, Ints]], subjects: int) -> Listed | None:
        """From the subjects of comparisons in parts, in bounded memory; None where they are of too many pairs."""
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
            order = np.argsort(codes, kind="stable")  # of two runs in order: a merge
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
        """Whether each comparison is of one person alone."""
        return bool((self.left == self.right).all())

    @cached_property
    def total(self) -> int:
        """How many there are."""
        return int(self.count.sum())

    @cached_property
    def each(self) -> Floats:
        """How many each subject is in [S]."""
        found = np.bincount(self.left, self.count, self.subjects).astype(float)
        return found if self.own else found + np.bincount(self.right, self.count, self.subjects)

    def toward(self, weights: Floats) -> Floats:
        """The sum of the other subjects' weights over the comparisons of each subject [S]; nothing for genuine ones."""
        if self.own:
            return np.zeros(self.subjects)
        if not np.ptp(weights):  # without a sum over all comparisons
            return weights * self.each
        found = np.zeros(self.subjects)
        found += np.bincount(self.left, self.count * weights[self.right], self.subjects)
        found += np.bincount(self.right, self.count * weights[self.left], self.subjects)
        return found

    def between(self, left: Ints, right: Ints) -> Floats:
        """How many there are of each pair of subjects [K]."""
        codes, wanted = self.left * self.subjects + self.right, left * self.subjects + right
        if not len(codes):
            return np.zeros(len(wanted))
        place = np.minimum(np.searchsorted(codes, wanted), len(codes) - 1)
        return np.where(codes[place] == wanted, self.count[place], 0).astype(float)

    def squares(self, weights: Floats) -> float:
        """The sum over pairs of subjects of (number of comparisons · sum of both weights)²."""
        return float(np.sum((self.count * (weights[self.left] + weights[self.right])) ** 2))

    def weigh(self, weights: Floats) -> float:
        """Both subjects' weights multiplied; a genuine comparison counts as often as its subject."""
        each = weights[self.left] * np.where(self.left == self.right, 1.0, weights[self.right])
        return float(each @ self.count)


@dataclass(frozen=True)
class Between:
    """Every impostor pair of an image of one group with one of another (or the same) group.

    `first`, `second`: images that each subject has in either [S]; the very same array for pairs within one group.
    """

    first: Ints
    second: Ints
    own = False

    @cached_property
    def total(self) -> int:
        """How many there are."""
        return round(self.weigh(np.ones(len(self.first))))

    @cached_property
    def each(self) -> Floats:
        """How many each subject is in [S]."""
        return self.toward(np.ones(len(self.first)))

    def toward(self, weights: Floats) -> Floats:
        """The sum of the other subjects' weights over the comparisons of each subject [S]."""
        one, other = self.first.astype(float), self.second.astype(float)
        if self.first is self.second:
            return np.asarray(one * (one @ weights - one * weights))
        return np.asarray(one * (other @ weights) + other * (one @ weights) - 2 * one * other * weights)

    def between(self, left: Ints, right: Ints) -> Floats:
        """How many there are of each pair of subjects [K]."""
        one, other = self.first.astype(float), self.second.astype(float)
        found = one[left] * other[right]
        return np.asarray(found if self.first is self.second else found + one[right] * other[left])

    def squares(self, weights: Floats) -> float:
        """The sum over pairs of subjects of (number of comparisons · sum of both weights)².

        Somewhat less where a subject has images in both of two groups.
        """
        x, y = self.first.astype(float) ** 2, self.second.astype(float) ** 2
        w = weights
        twice = (w * w) @ x * y.sum() + (w * w) @ y * x.sum() + 2 * (w @ x) * (w @ y) - 4 * (w * w) @ (x * y)
        return float(twice) / (2 if self.first is self.second else 1)

    def weigh(self, weights: Floats) -> float:
        """All pairs of images less those of one subject, by the subjects' weights."""
        one, other = weights * self.first, weights * self.second
        return float(one.sum() * other.sum() - one @ other) / (2 if self.first is self.second else 1)


@dataclass(frozen=True)
class Rate:
    """A share of comparisons, and how well it is known.

    Attributes:
        value: of all comparisons, or the mean over people of each one's own.
        n: comparisons, or people.
        independent: comparisons of strangers that would vary as much; `n` or fewer.
        effect: how many times the variance is that of independent comparisons; at least 1.
        influence: what each subject adds to the deviation of `value` [S].
        freedom: people less 1, counted by their shares of the comparisons.
    """

    value: float
    n: int
    independent: float
    effect: float
    influence: Floats
    freedom: float

    def effective(self, confidence: float = 0.95) -> float:
        """Independent comparisons with as wide an interval: few people know less than the variance says."""
        return effective(self.independent, self.freedom, confidence)

    @property
    def estimate(self) -> Estimate:
        """With its 95 % interval."""
        low, high = exact(self.value, self.effective())
        return Estimate(self.value, min(low, self.value), max(high, self.value), self.n)


def effective(independent: float, freedom: float, confidence: float = 0.95) -> float:
    """Comparisons whose normal interval is as wide as Student's of `independent` ones (Korn and Graubard 1998)."""
    from scipy.special import ndtri, stdtrit

    tail = (1 + confidence) / 2
    return float(independent * (ndtri(tail) / stdtrit(freedom, tail)) ** 2)


def rate(hits: Listed, trials: Trials, *, per_person: bool = False, longer: Listed | None = None) -> Rate | None:
    """The share of `hits` among `trials`; None where there are no trials.

    Args:
        per_person: each person counts once: the mean of their own shares (an impostor comparison is in two).
        longer: where hits are few, more of the likest comparisons, hits among them: how much people matter is seen
            better there, and grows with the number of hits.
    """
    if not trials.total:
        return None
    weights = _weights(trials, per_person)
    value = float(weights @ hits.each) if per_person else hits.total / trials.total
    shares = weights * trials.each + trials.toward(weights)
    freedom = max(float(shares.sum() ** 2 / (shares @ shares)) - 1, 1.0)
    single = 1 / float((weights**2) @ trials.each + weights @ trials.toward(weights))  # as many of equal weight
    effect, influence = _effect(hits, trials, weights, shares, value, single)
    if longer is not None and (found := longer.total) > (few := max(hits.total, 1)):
        beyond = _effect(longer, trials, weights, shares, float(weights @ longer.each), single)[0]
        effect = max(effect, 1 + (beyond - 1) * few / found)
    if trials.own and value in (0, 1):
        effect = max(effect, single / max(int(np.count_nonzero(trials.each)), 1))  # of one person all may be alike
    n = int(np.count_nonzero(trials.each)) if per_person else trials.total
    return Rate(value, n, single / effect, effect, influence, freedom)


def _weights(trials: Trials, per_person: bool) -> Floats:
    """What a comparison counts for being of a subject [S]; the weights of all comparisons' subjects add up to 1."""
    each = trials.each
    if not per_person:
        return np.full(len(each), 1 / each.sum())
    return np.where(each > 0, 1 / (np.count_nonzero(each) * np.maximum(each, 1)), 0.0)


def _effect(
    hits: Listed, trials: Trials, weights: Floats, shares: Floats, value: float, single: float
) -> tuple[float, Floats]:
    """How many times the variance is that of independent comparisons, at least 1; and each subject's influence [S]."""
    influence = weights * (hits.each - value * trials.each)
    influence += hits.toward(weights) - value * trials.toward(weights)
    influence /= np.maximum(1 - shares, 1e-9)
    variance = float(influence @ influence)
    if not trials.own:  # what two people share was counted for both
        both, count = weights[hits.left] + weights[hits.right], trials.between(hits.left, hits.right)
        variance -= float(np.sum(both**2 * ((hits.count - value * count) ** 2 - (value * count) ** 2)))
        variance -= value**2 * trials.squares(weights)
    chance = value * (1 - value) / single
    return max(variance / chance, 1.0) if chance > 0 else 1.0, influence


def commonest(genuine: Ints, people: int = 5) -> float:
    """The share of genuine comparisons that the people with the most of them hold; `genuine` counts them [S]."""
    return float(np.sort(genuine)[-people:].sum() / genuine.sum())
