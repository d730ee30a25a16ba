"""Error rates of comparisons that share people, with intervals that know it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..types import Estimate, Floats, Ints
from .intervals import proportion, resampled


class Trials(Protocol):
    """Comparisons as a bootstrap over subjects sees them."""

    @property
    def total(self) -> int:
        """How many there are."""

    @property
    def people(self) -> int:
        """How many subjects are in them."""

    def weigh(self, weights: Floats) -> float:
        """How many there are when each subject was drawn so often [S]."""


@dataclass(frozen=True)
class Listed:
    """Comparisons one by one, gathered by the two subjects; `left` = `right` where they are genuine; all [K]."""

    left: Ints
    right: Ints
    count: Ints

    @classmethod
    def of(cls, left: Ints, right: Ints, subjects: int) -> Listed:
        """From the subjects of each comparison [M]."""
        codes, count = np.unique(left.astype(np.int64) * subjects + right, return_counts=True)
        return cls(codes // subjects, codes % subjects, count)

    @property
    def total(self) -> int:
        """How many there are."""
        return int(self.count.sum())

    @property
    def people(self) -> int:
        """How many subjects are in them."""
        return len(np.union1d(self.left, self.right))

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

    @property
    def total(self) -> int:
        """How many there are."""
        return round(self.weigh(np.ones(len(self.first))))

    @property
    def people(self) -> int:
        """How many subjects are in them."""
        return int(np.count_nonzero(self.first + self.second))

    def weigh(self, weights: Floats) -> float:
        """All pairs of images less those of one subject, by the subjects' weights."""
        one, other = weights * self.first, weights * self.second
        return float(one.sum() * other.sum() - one @ other) / (2 if self.first is self.second else 1)


def rates(
    pairs: Sequence[tuple[Trials, Trials]], subjects: int, replicates: int = 1000
) -> tuple[list[Estimate | None], Floats]:
    """The share of each (hits, trials), None where there are no trials; and the bootstrap's shares [R, K].

    The interval holds both that of Clopper and Pearson and that of a bootstrap over subjects: the first knows that no
    error among n is not no error at all, the second that comparisons share people. The latter is Student's on the
    log-odds, with the bootstrap's spread: percentiles of small rates, being skewed, cover too little.
    """

    def shares(weights: Floats) -> Floats:
        trials = np.array([trials.weigh(weights) for _, trials in pairs])
        hits = np.array([hits.weigh(weights) for hits, _ in pairs])
        with np.errstate(invalid="ignore"):
            return np.where(trials > 0, hits / trials, np.nan)

    draws = resampled(shares, subjects, replicates)
    found: list[Estimate | None] = []
    for (hits, trials), column in zip(pairs, draws.T, strict=True):
        if not trials.total:
            found.append(None)
            continue
        exact = proportion(hits.total, trials.total)
        low, high = exact.low, exact.high
        if 0 < exact.value < 1:
            odds = exact.value / (1 - exact.value)
            factor = math.exp(student(trials.people) * float(np.nanstd(log_odds(column, trials.total), ddof=1)))
            low, high = min(low, odds / factor / (1 + odds / factor)), max(high, odds * factor / (1 + odds * factor))
        found.append(Estimate(exact.value, low, high, exact.n))
    return found, draws


def log_odds(rates: Floats, n: int) -> Floats:
    """Of rates of n trials, with half an error more of either kind: finite where there was none."""
    hits = rates * n
    return np.log((hits + 0.5) / (n - hits + 0.5))


def student(people: int) -> float:
    """How many standard errors make half a 95 % interval of so many independent people."""
    from scipy.special import stdtrit

    return float(stdtrit(max(people - 1, 1), 0.975))
