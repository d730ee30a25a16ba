"""Exact low false accept rates, and their intervals, from any number of comparisons in little memory.

The tally keeps every genuine score and the highest impostor scores. This tail determines every threshold up to the
largest requested rate, so the rates equal those from a sort of all scores. The other impostors are a histogram.
Scores come from `cosine`, so equal pairs of vectors have equal scores in any tiles.
Shape suffixes: G genuine comparisons, T tail, S subjects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .. import cosine
from ..types import Estimate, Floats, Ints, ScoreSet
from . import metrics
from .intervals import proportion
from .order_statistics import MEDIAN, at_ranks, mixture, ranks
from .rates import STEADY, Between, Listed, Rate, Trials, commonest, effective, rate

BINS = 2000  # of the impostors' histogram, on [-1, 1]
SPARE = 2  # times the tail that the rates need, so that all possible true thresholds lie in it too
SHARED = "intervals of TAR: over people, the threshold's own uncertainty inside"
STRANGERS = "intervals of TAR: pairs taken as independent; that of the threshold's own uncertainty is inside"
_CELLS = 1 << 20  # of a tile of cosines, which then fits into the processor's cache


@dataclass(frozen=True)
class Tally:
    """Summary of many comparisons, with exact low false accept rates.

    Attributes:
        genuine: [G] scores, falling; `genuine_subject` [G] the person.
        tail: [T] the highest impostor scores, falling; `tail_subjects` [T, 2] the people.
        impostors: their total number.
        body: [B] counts of all impostor scores, in bins of equal width on `span`.
        trials: all impostor comparisons by their people.
        subjects: S, the number of subjects seen; weights may have more.
    """

    genuine: Floats
    genuine_subject: Ints
    tail: Floats
    tail_subjects: Ints
    impostors: int
    body: Ints
    trials: Trials
    subjects: int
    span: tuple[float, float] = (-1.0, 1.0)

    def threshold(self, far: float, weights: Floats | None = None) -> float:
        """Return the lowest threshold with at most `far` of the (weighted) impostors at or above it.

        Raises DataError if there are too few impostors to resolve `far`.
        """
        return self.thresholds([far], weights)[0]

    def rates(self, fars: Sequence[float], weights: Floats | None = None, *, kth: bool = False) -> Floats:
        """TAR at each FAR, by the conservative rule or (`kth`) by BLUFR's.

        BLUFR's threshold is the k-th impostor score, k = round(far · all). If equal scores would let more than k pass,
        it lies above them. NaN if no genuine comparison has weight.
        """
        return np.array([self.accepted(each, weights) for each in self.thresholds(fars, weights, kth=kth)])

    def accepted(self, threshold: float, weights: Floats | None = None) -> float:
        """Share of genuine comparisons that reach a threshold; NaN if their weights are all 0."""
        reached = len(self.genuine) - int(np.searchsorted(self._rising, threshold))
        if weights is None:
            return reached / len(self.genuine)
        total = float(weights[: self.subjects] @ self._genuine_of)
        if not total:
            return np.nan
        if 2 * reached < len(self.genuine):
            return float(weights[self.genuine_subject[:reached]].sum()) / total
        return 1 - float(weights[self.genuine_subject[reached:]].sum()) / total

    def per_person(self, weights: Floats | None = None) -> Floats:
        """Weights for `accepted` that count each (weighted) subject once, whatever their number of comparisons."""
        drawn = np.ones(self.subjects) if weights is None else weights[: self.subjects]
        return np.asarray(drawn / np.maximum(self._genuine_of, 1))

    def tar(self, fars: Sequence[float]) -> dict[str, Estimate]:
        """`tar@far=…` over genuine comparisons, and `tar_per_person@far=…`, the mean over people; conservative.

        The intervals account for comparisons that share people and for the uncertainty of the threshold.
        """
        found = {}
        for far in fars:
            known = self._law(far)
            for name, per_person in (("tar", False), ("tar_per_person", True)):
                found[f"{name}@far={far:g}"] = self._tar(self.threshold(far), per_person, *known)
        return dict(sorted(found.items(), key=lambda item: item[0].startswith("tar_")))  # of one kind together

    def _law(self, far: float) -> tuple[Floats, float, Floats]:
        """Possible values of the true threshold, rising in rank; the middle one; people's influence on FAR there."""
        allowed = far * self.impostors
        left, right = self.tail_subjects.T
        few, more = (Listed.of(left[:n], right[:n], self.subjects) for n in (round(allowed), round(allowed) + STEADY))
        found = rate(few, self.trials, longer=more)
        steady = rate(more, self.trials)
        assert found
        assert steady
        middle = float(at_ranks(np.array([allowed + MEDIAN]), self.tail)[0])
        return at_ranks(ranks(allowed, found.effect), self.tail), middle, steady.influence

    def _tar(self, threshold: float, per_person: bool, drawn: Floats, middle: float, influence: Floats) -> Estimate:
        known = self.accepts(middle, per_person)
        spread = np.sqrt((known.influence @ known.influence) * (influence @ influence))
        correlation = float(np.clip(known.influence @ influence / spread, -0.9, 0.9)) if spread else 0.0
        weights = self.per_person() if per_person else np.ones(self.subjects)
        summed = np.append(0, np.cumsum(weights[self.genuine_subject]))  # falling scores
        reached = len(self.genuine) - np.searchsorted(self._rising, np.append(drawn, threshold))
        *shares, value = (summed[reached] / summed[-1]).tolist()
        low, high = mixture(np.array(shares), known.effective(), correlation)
        return Estimate(value, min(low, value), max(high, value), known.n)

    def accepts(self, threshold: float, per_person: bool = False) -> Rate:
        """TAR at a fixed threshold."""
        whose = self.genuine_subject
        hits = whose[: len(self.genuine) - int(np.searchsorted(self._rising, threshold))]
        everyone, some = (Listed.of(each, each, self.subjects) for each in (whose, hits))
        found = rate(some, everyone, per_person=per_person)
        assert found
        return found

    def tar_of_strangers(self, fars: Sequence[float]) -> dict[str, Estimate]:
        """`tar@far=…` if the people are unknown: comparisons are treated as independent."""
        found, n = {}, len(self.genuine)
        for far in fars:
            drawn = at_ranks(ranks(far * self.impostors, 1.0), self.tail)
            *shares, value = (1 - np.searchsorted(self._rising, np.append(drawn, self.threshold(far))) / n).tolist()
            low, high = mixture(np.array(shares), effective(n, max(n - 1, 1)), 0.0)
            found[f"tar@far={far:g}"] = Estimate(value, min(low, value), max(high, value), n)
        return found

    def false_accepts(self, fars: Sequence[float]) -> dict[str, int]:
        """Number of impostors that the threshold of each FAR accepts."""
        return {
            f"far={far:g}": int(np.searchsorted(-self.tail, -threshold, side="right"))
            for far, threshold in zip(fars, self.thresholds(fars), strict=True)
        }

    def facts(self, fars: Sequence[float]) -> dict[str, Any]:
        """`false_accepts` at each FAR, and `commonest_five`: the five most frequent people's share of genuine ones."""
        return {"false_accepts": self.false_accepts(fars), "commonest_five": commonest(self._genuine_of)}

    def thresholds(self, fars: Sequence[float], weights: Floats | None = None, *, kth: bool = False) -> list[float]:
        """Threshold of each FAR, by the rules of `rates`. Raises DataError if the impostors cannot resolve one."""
        for far in fars:
            metrics.resolve(far, self.impostors)
        if weights is None:
            if kth:
                return [at_kth(self.tail, max(round(far * self.impostors), 1) - 1) for far in fars]
            places = [int(far * self.impostors * (1 + 1e-12)) for far in fars]  # exact despite rounding of far
        else:
            left, right = self.tail_subjects.T
            reached = np.cumsum(weights[left] * weights[right])
            allowed = np.array(fars) * self.trials.weigh(weights[: self.subjects])
            if kth:
                return [at_kth(self.tail, place) for place in np.searchsorted(reached, allowed).tolist()]
            places = np.searchsorted(reached, allowed * (1 + 1e-12), side="right").tolist()
        complete = len(self.tail) == self.impostors
        return [
            float(np.nextafter(self.tail[place], np.inf, dtype=self.tail.dtype)) if place < len(self.tail)
            else -np.inf if complete else float(self.tail[-1])
            for place in places
        ]  # fmt: skip

    @cached_property
    def _rising(self) -> Floats:
        return np.ascontiguousarray(self.genuine[::-1])

    @cached_property
    def _genuine_of(self) -> Ints:
        return np.bincount(self.genuine_subject, minlength=self.subjects)

    def roc(self) -> metrics.Roc:
        """The ROC: one exact point for each score in the tail; below the tail one point for each bin."""
        highest = self.genuine[self.genuine >= self.tail[-1]]
        same = np.arange(len(highest) + len(self.tail)) < len(highest)
        thresholds, false, true = metrics.counts(np.concatenate([highest, self.tail]), same)
        if len(self.tail) < self.impostors:
            edges = np.linspace(*self.span, len(self.body) + 1)[-2::-1]
            below = edges <= self.tail[-1]
            above = np.cumsum(self.body[::-1])
            accepted = len(self.genuine) - np.searchsorted(self._rising, edges)
            thresholds = np.concatenate([thresholds, edges[below]])
            false, true = np.concatenate([false, above[below]]), np.concatenate([true, accepted[below]])
        thresholds, false, true = (
            np.append(thresholds, self.span[0]), np.append(false, self.impostors), np.append(true, len(self.genuine)),
        )  # fmt: skip
        return metrics.Roc(thresholds, false, true, self.impostors, len(self.genuine))

    def histogram(self, bins: int = 100) -> dict[str, list[float]]:
        """Counts of both kinds on `span`, for plots."""
        edges = np.linspace(*self.span, bins + 1)
        return {
            "edges": edges.tolist(),
            "genuine": np.histogram(self.genuine.clip(*self.span), edges)[0].tolist(),
            "impostor": self.body.reshape(bins, -1).sum(1).tolist(),
        }


def at_kth(falling: Floats, at: int) -> float:
    """Return the score at an index, at most the last.

    If the next score is equal, return a value just above it, so that no more scores reach it.
    """
    if at >= len(falling) - 1:
        return float(falling[-1])
    tied = falling[at + 1] == falling[at]
    return float(np.nextafter(falling[at], np.inf, dtype=falling.dtype) if tied else falling[at])


def bounded(value: float, low: float, high: float, n: int) -> Estimate:
    """A rate of `n` trials, with an interval that contains both the bootstrap's and the Clopper-Pearson interval.

    The first accounts for comparisons that share people. The second is not empty if there are no errors.
    """
    exact = proportion(round(value * n), n)
    return Estimate(float(value), float(min(low, exact.low, value)), float(max(high, exact.high, value)), n)


def of_pairs(scores: ScoreSet, left: Ints, right: Ints, far: float) -> Tally:
    """Tally listed comparisons [M]; `left`, `right`: the people; `far`: the largest rate that will be requested."""
    impostor = np.flatnonzero(~scores.same)
    values = scores.scores[impostor]
    keep = kept(far, len(impostor))
    top = np.argpartition(values, len(values) - keep)[-keep:]
    top = top[np.argsort(values[top])[::-1]]
    one, other = left[impostor], right[impostor]
    count = int(max(left.max(), right.max())) + 1
    genuine = np.flatnonzero(scores.same)
    genuine = genuine[np.argsort(scores.scores[genuine])[::-1]]
    span = metrics.span(float(scores.scores.min()), float(scores.scores.max()))
    return Tally(
        scores.scores[genuine], left[genuine], values[top], np.stack([one[top], other[top]], 1), len(impostor),
        binned(values, span=span), Listed.of(one, other, count), count, span,
    )  # fmt: skip


def tally_all_pairs(vectors: Floats, subjects: Ints, far: float) -> Tally:
    """Every pair of N images once: vectors [N, D] unit rows, subjects [N] from 0."""
    order = np.argsort(subjects, kind="stable")
    vectors, subjects = vectors[order], subjects[order]
    first, rows = np.searchsorted(subjects, subjects), np.arange(len(subjects))  # impostors of a row lie before `first`
    sizes = np.bincount(subjects)

    def tiles() -> Iterator[tuple[Floats, Ints, Ints, Ints]]:
        for start, tile in triangle(vectors):
            some = slice(start, start + len(tile))
            yield tile, rows[some], first[some], rows[some]

    return _gather(tiles(), subjects, subjects, Between(sizes, sizes), far)


def triangle(vectors: Floats) -> Iterator[tuple[int, Floats]]:
    """Iterate over every pair of N unit rows once, in tiles.

    Yields the first row, and cosines [R, first + R] with the rows before each; -inf for a row with itself or a later
    one.
    """
    vectors = cosine.exact(vectors)
    start = 0
    while start < len(vectors):
        # As many rows as fill a tile, whose columns end with its rows
        stop = min(len(vectors), start + max(int((np.sqrt(start**2 + 4 * _CELLS) - start) / 2), 16))
        tile = cosine.matrix(vectors[start:stop], vectors[:stop])
        tile[:, start:][np.triu_indices(stop - start)] = -np.inf
        yield start, tile
        start = stop


def across(left: Floats, left_subjects: Ints, right: Floats, right_subjects: Ints, far: float) -> Tally:
    """Tally all pairs of an image of one set with one of another; both number subjects alike, from 0."""
    order = np.argsort(right_subjects, kind="stable")
    left, right, right_subjects = cosine.exact(left), cosine.exact(right[order]), right_subjects[order]
    low, high = (np.searchsorted(right_subjects, left_subjects, side) for side in ("left", "right"))
    count = int(max(left_subjects.max(), right_subjects.max())) + 1
    a, b = (np.bincount(each, minlength=count) for each in (left_subjects, right_subjects))

    def tiles() -> Iterator[tuple[Floats, Ints, Ints, Ints]]:
        step = max(_CELLS // len(right), 1)
        for start in range(0, len(left), step):
            some = slice(start, start + step)
            yield cosine.matrix(left[some], right), np.arange(len(left))[some], low[some], high[some]

    return _gather(tiles(), left_subjects, right_subjects, Between(a, b), far)


def _gather(
    tiles: Iterator[tuple[Floats, Ints, Ints, Ints]],
    left: Ints,
    right: Ints,
    trials: Between,
    far: float,
) -> Tally:
    """Tally tiles of cosines with their rows; in each row the columns from low to high are genuine."""
    impostors, subjects = trials.total, len(trials.first)
    tail = Highest(kept(far, impostors))
    genuine, whose, body = [], [], np.zeros(BINS, np.int64)
    for tile, rows, low, high in tiles:
        counts = high - low
        row = np.repeat(np.arange(len(rows)), counts)
        column = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(low, counts)
        genuine.append(tile[row, column])
        whose.append(left[rows[row]])
        tile[row, column] = -np.inf
        body += binned(tile)
        at = np.flatnonzero(tile > tail.bound)
        row, column = np.divmod(at, tile.shape[1])
        tail.add(tile.ravel()[at], np.stack([left[rows[row]], right[column]], 1).astype(np.int32))
    scores = np.concatenate(genuine)
    down = np.argsort(scores)[::-1]
    return Tally(scores[down], np.concatenate(whose)[down], *tail.falling(), impostors, body, trials, subjects)


def kept(far: float, impostors: int) -> int:
    """Number of the highest impostor scores to keep."""
    return min(int(SPARE * far * impostors) + 2 * STEADY, impostors)


class Highest:
    """The `keep` highest scores of several parts. Scores at or below `bound` can no longer be among them."""

    def __init__(self, keep: int) -> None:
        self.keep, self.bound = keep, -np.inf
        self._parts: list[tuple[Floats, Ints]] = []
        self._held = 0

    def add(self, scores: Floats, owners: Ints) -> None:
        """Add scores [M] with their owners [M, …]."""
        self._parts.append((scores, owners))
        self._held += len(scores)
        if self._held > 2 * self.keep:
            self._parts = [self.falling()]
            self.bound, self._held = float(self._parts[0][0][-1]), self.keep

    def falling(self) -> tuple[Floats, Ints]:
        """Return the highest scores, falling, with their owners."""
        scores, owners = (np.concatenate(each) for each in zip(*self._parts, strict=True))
        more = len(scores) > self.keep
        best = np.argpartition(scores, len(scores) - self.keep)[-self.keep :] if more else np.arange(len(scores))
        best = best[np.argsort(scores[best])[::-1]]
        return scores[best], owners[best]


def binned(scores: Floats, bins: int = BINS, *, span: tuple[float, float] = (-1.0, 1.0)) -> Ints:
    """Counts in up to 65,000 bins on `span`; ignores -inf, which marks missing scores."""
    low, high = span
    if span != (-1.0, 1.0):
        scores = (scores - (low + high) / 2) / ((high - low) / 2)
    place = scores.ravel() * np.float32(bins / 2)
    place += bins / 2 + 2
    np.maximum(place, 0, out=place)
    # Rounding may leave the span by one bin: index 0 is for -inf, and 1 and bins + 2 belong to their neighbors.
    found = np.bincount(place.astype(np.uint16), minlength=bins + 3)
    found[2] += found[1]
    found[bins + 1] += found[bins + 2]
    return found[2 : bins + 2]
