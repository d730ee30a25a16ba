"""Thresholds for searches, chosen for a false positive identification rate (FPIR) at each size of gallery.

A stranger is searched for among N enrolled people, with one template each, all from M people. The mean over all such
galleries is computed without sampling: if k of the other people match a probe, a gallery of N of them contains a match
with probability 1 - C(M-1-k, N) / C(M-1, N). The mean over people is FPIR at N, and is unbiased up to N = M - 1. For
larger N, FPIR is concave in N, so FPIR(N) ≤ N / (M-1) · FPIR(M-1). An extrapolated row uses this bound.

The M (M-1) / 2 pairs of people make M (M-1) / 2N searches that share no pair. The variance is a jackknife over people
that counts the part shared by two people once, as in `rates`. The interval is the Clopper-Pearson interval of the
effective number. Shape suffixes: M people, P probes (images), H hits (a probe and another person, above a score).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .. import cosine
from ..errors import ConfigError, DataError
from ..types import Embeddings, Estimate, Floats, Ints, OperatingPoint, Result, SearchPoint, SearchTable
from .metrics import refuse_equal
from .rates import STEADY, Listed, Rate, rate
from .tally import Highest

NORMAL = 1.96  # standard deviations of a 95 % interval
FEWEST = 10  # minimum of false matches that an extrapolated row must allow
_CELLS = 1 << 20  # of a tile of cosines


def search_table(
    embeddings: Embeddings,
    subjects: Ints,
    *,
    fpir: float,
    enrolled: Sequence[int],
    protocol: str,
    data_sha256: str,
    confident: bool = False,
    seed: int = 0,
) -> SearchTable:
    """Compute the threshold for each size of gallery at which at most `fpir` of searches for strangers accept somebody.

    Args:
        embeddings: N images.
        subjects: [N] the person on each, from 0.
        fpir: requested false positive identification rate.
        enrolled: sizes of galleries, in templates.
        protocol, data_sha256: stored in the table.
        confident: the upper end of FPIR's interval must be at most `fpir`, not only its value.
        seed: for drawing the image that enrols each person. All images are probes; each person counts once.

    Raises:
        ConfigError: a rate outside 0 to 1, sizes that are no positive integers.
        DataError: fewer than three people, nobody with two images, equal embeddings, or a size for which so few people
            cannot resolve the rate; it names the largest size or the lowest rate that they can.
    """
    if not 0 < fpir < 1:
        raise ConfigError("a false positive identification rate between 0 and 1", f"{fpir:g}", "correct --fpir")
    sizes = sorted(set(enrolled))
    if not sizes or sizes[0] < 1:
        raise ConfigError("sizes of galleries of 1 and more", str(sizes[0]) if sizes else "none", "correct --enrolled")
    images = np.bincount(subjects)
    if len(images) < 3 or images.max() < 2:
        raise DataError(
            "at least three people, one of them with two images", f"{len(subjects)} images of {len(images)} people",
            "give more images (people are the folders of Name/image)",
        )  # fmt: skip
    refuse_equal(embeddings.vectors)
    for size in sizes:
        _resolve(fpir, size, len(images))
    trials = OpenSetTrials.of(embeddings.vectors, subjects, fpir, sizes, seed)
    points = tuple(trials.point(fpir, size, confident) for size in sizes)
    return SearchTable(fpir, points, len(images), len(subjects), protocol, data_sha256, confident)


def searched(point: OperatingPoint, conditions: Mapping[str, Any] | None = None) -> Result:
    """Return a certificate's search table as a Result: fpir@enrolled=…, fnir@enrolled=….

    The facts contain the thresholds.
    """
    table = point.search
    assert table
    found = {
        f"{name}@enrolled={each.enrolled}": getattr(each, name) for name in ("fpir", "fnir") for each in table.points
    }
    notes = ["The thresholds were chosen on the same searches, so their rates are slightly optimistic."]
    if beyond := [f"{each.enrolled:,}" for each in table.points if each.extrapolated]:
        notes.append(
            f"Extrapolated, for more enrolled than the {table.people:,} people measured: {', '.join(beyond)}. There "
            "FPIR is an upper bound."
        )
    facts = {
        "searches": table.protocol, "target_fpir": table.target_fpir, "confident": table.confident,
        "thresholds": {f"enrolled={each.enrolled}": each.threshold for each in table.points},
        "false_matches": {f"enrolled={each.enrolled}": each.false_matches for each in table.points},
        "people": table.people, "images": table.images, "model_sha256": point.model_sha256,
        "data_sha256": table.data_sha256, "notes": notes, **(conditions or {}),
        "operating_point": json.loads(point.to_json()),
    }  # fmt: skip
    return Result("identification_thresholds", found, {}, facts)


def searches(size: int, people: int) -> float:
    """Number of searches among `size` enrolled people from pairs of `people`, if no two share a pair."""
    return people * (people - 1) / (2 * size)


def _resolve(fpir: float, size: int, people: int) -> None:
    """Raise DataError if there are too few `people` for a rate at a size of gallery."""
    beyond = size >= people
    allowed = fpir * searches(size, people)
    if allowed >= (FEWEST if beyond else 1) * (1 - 1e-9):
        return
    most = int(fpir * searches(1, people) / FEWEST)  # of extrapolated ones
    most = most if most >= people else min(int(fpir * searches(1, people)), people - 1)
    if not most:
        raise DataError(
            f"an FPIR of at least {1 / searches(1, people):.2g}, the lowest that {people:,} people can resolve",
            f"{fpir:g}", "ask for a higher rate, or give images of more people",
        )  # fmt: skip
    raise DataError(
        f"at most {most:,} enrolled at FPIR {fpir:g}, the most that {people:,} people can resolve", f"{size:,}",
        "leave that size out, ask for a higher rate, or give images of more people",
    )  # fmt: skip


@dataclass(frozen=True)
class OpenSetTrials:
    """Searches for every image among all other people.

    Attributes:
        score, probe, entry: [H] hits, the highest score first: the probe image and the matching person.
        person: [P] the person on each image; `weight` [P] sums to 1, and to 1/M for each person.
        own, own_subject: [K] scores of enrolled people's images with their own template, and the person.
        people: M.
    """

    score: Floats
    probe: Ints
    entry: Ints
    person: Ints
    weight: Floats
    own: Floats
    own_subject: Ints
    people: int

    @classmethod
    def of(cls, vectors: Floats, subjects: Ints, fpir: float, sizes: Sequence[int], seed: int = 0) -> OpenSetTrials:
        """Search with unit rows [P, D] of people [P]; keeps as many hits as the rate at each size needs."""
        images = np.bincount(subjects)
        people = len(images)
        order = np.random.default_rng(seed).permutation(len(subjects))
        order = order[np.argsort(subjects[order], kind="stable")]
        template = order[np.cumsum(images) - images]
        others = np.delete(np.arange(len(subjects)), template)
        rows = cosine.exact(vectors)
        own = cosine.paired(rows[others], rows[template[subjects[others]]])
        everything = len(subjects) * (people - 1)
        keep = int(2 * fpir / min(sizes) * everything) + 20 * STEADY
        weight = 1 / (people * images[subjects])
        while True:
            score, (probe, entry) = _hits(rows, subjects, rows[template], keep)
            found = cls(score, probe, entry, subjects, weight, own, subjects[others], people)
            if keep >= everything or all(found.fpir(len(score), size) > fpir for size in sizes):
                return found
            keep *= 4

    def point(self, fpir: float, size: int, confident: bool = False) -> SearchPoint:
        """Return the lowest threshold whose measured FPIR, or the upper end of its interval, is at most `fpir`."""
        drawn = min(size, self.people - 1)
        beyond = size / drawn
        starts = np.flatnonzero(np.append(True, self.score[1:] != self.score[:-1]))  # equal scores go together
        low, high = 0, len(starts) - 1
        while low < high:
            middle = (low + high + 1) // 2
            hits = int(starts[middle])
            reached = self.estimate(hits, drawn).high if confident else self.fpir(hits, drawn)
            low, high = (middle, high) if reached * beyond <= fpir * (1 + 1e-12) else (low, middle - 1)
        hits = int(starts[low])
        known = self.estimate(hits, drawn)
        if confident and known.high * beyond > fpir:
            raise DataError(
                f"an FPIR of at least {known.high * beyond:.2g} at {size:,} enrolled, the lowest that {self.people:,} "
                "people can guarantee", f"{fpir:g}", "ask for a higher rate, or drop --confident",
            )  # fmt: skip
        threshold = float(np.nextafter(self.score[hits], np.inf, dtype=self.score.dtype))
        return SearchPoint(
            size, threshold, replace(known, value=known.value * beyond, high=min(known.high * beyond, 1.0)),
            self.fnir(threshold), size * self._matches(hits), size >= self.people,
        )  # fmt: skip

    def fpir(self, hits: int, size: int) -> float:
        """Mean over people of the probability that a gallery of `size` others contains one of the first hits."""
        drawn = min(size, self.people - 1)
        return float(self.weight @ self._found(drawn)[self._matched(hits)])

    def fnir(self, threshold: float) -> Estimate:
        """Share of searches for an enrolled person that do not accept their template; each person counts once."""
        trials = Listed.of(self.own_subject, self.own_subject, self.people)
        missed = self.own_subject[self.own < threshold]
        found = rate(Listed.of(missed, missed, self.people), trials, per_person=True)
        assert found
        return found.estimate

    def estimate(self, hits: int, size: int) -> Estimate:
        """FPIR for `size` < M enrolled people at a fixed threshold, which `hits` scores reach.

        The influence of people is estimated from a longer tail, and scaled to the number of hits.
        """
        value = self.fpir(hits, size)
        known = self._spread(hits, size)
        effect = known.effect
        if (more := min(hits + STEADY, len(self.score))) > hits:
            effect = max(effect, 1 + (self._spread(more, size).effect - 1) * max(hits, 1) / more)
        independent = searches(size, self.people) / effect
        found = Rate(value, self.people, independent, effect, known.influence, known.freedom).estimate
        chance = value * (1 - value) / independent
        if not chance:
            return found
        # The Clopper-Pearson interval has a binomial's skewness; Hall's (1992) correction adds the rest
        skewness = known.third / chance**1.5 - (1 - 2 * value) / np.sqrt(value * (1 - value) * independent)
        further = max(skewness, 0) * (2 * NORMAL**2 + 1) / 6 * np.sqrt(chance)
        further += self._bend(hits, size, value, known.influence)
        return replace(found, high=float(min(found.high + further, 1)))

    def _bend(self, hits: int, size: int, value: float, influence: Floats) -> float:
        """How far FPIR lies above its tangent where other people are drawn, by whom it is NORMAL deviations higher.

        Twice as many people of a crowd make four times as many matches: where the sample has few of them, the tangent
        falls short (the quadratic term of the ABC interval, DiCiccio and Efron 1992).
        """
        deviation = float(np.sqrt(influence @ influence))
        if not deviation:
            return 0.0
        drawn = np.maximum(1 + NORMAL * influence / deviation, 0)  # how often each person then counts
        matched = np.bincount(self.probe[:hits], drawn[self.entry[:hits]], len(self.person))
        found, own = self._found(size), self.weight * drawn[self.person]
        bent = float(own @ np.interp(matched, np.arange(len(found)), found) / own.sum())
        return max(bent - value - NORMAL * deviation, 0.0)

    def _spread(self, hits: int, size: int) -> Spread:
        matched, found = self._matched(hits), self._found(size)
        probe, entry, people = self.probe[:hits], self.entry[:hits], self.people
        value = float(self.weight @ found[matched])
        own = np.bincount(self.person, self.weight * found[matched], people)
        each = self.weight[probe] * (found[matched] - found[matched - 1])[probe]  # the change without that hit
        influence = own - value / people + np.bincount(entry, each, people) - each.sum() / people
        first, second = self.person[probe], entry
        codes = np.minimum(first, second).astype(np.int64) * people + np.maximum(first, second)
        shared = np.bincount(np.unique(codes, return_inverse=True)[1], each)
        twice = shared @ shared - shared.sum() ** 2 / searches(1, people)  # shared parts were counted twice
        squares = influence**2
        chance = value * (1 - value) / searches(size, people)
        variance = float(squares.sum() - twice)
        return Spread(
            max(variance / chance, 1.0) if chance > 0 else 1.0, influence,
            float(np.sum(squares * influence) - np.sum(shared**3)),
            float(2 * squares.sum() ** 2 / (squares @ squares)) if variance > 0 else people - 1.0,
        )  # fmt: skip

    def _matched(self, hits: int) -> Ints:
        """Number of people that each probe matches [P]."""
        return np.bincount(self.probe[:hits], minlength=len(self.person))

    def _matches(self, hits: int) -> float:
        """Mean share of other people that a person matches."""
        return float(self.weight[self.probe[:hits]].sum()) / (self.people - 1)

    def _found(self, size: int) -> Floats:
        """Probability that a gallery of `size` contains one of k matching people, by k [M]."""
        others = self.people - 1
        missed = np.maximum(1 - size / np.arange(others, 0, -1), 0)
        return np.append(0, 1 - np.cumprod(missed))


@dataclass(frozen=True)
class Spread:
    """Variation of FPIR with the people in the sample.

    Attributes:
        effect: design effect: the variance divided by that of independent searches; at least 1.
        influence: contribution of each person to the deviation [M].
        third: third central moment.
        freedom: degrees of freedom of the variance.
    """

    effect: float
    influence: Floats
    third: float
    freedom: float


def _hits(rows: cosine.ExactRows, subjects: Ints, templates: cosine.ExactRows, keep: int) -> tuple[Floats, Ints]:
    """The highest scores of images [P] with templates [M] of other people, falling, and the indices of both [2, H]."""
    step = max(_CELLS // len(templates), 1)
    found = Highest(keep)
    for start in range(0, len(rows), step):
        tile = cosine.matrix(rows[start : start + step], templates)
        tile[np.arange(len(tile)), subjects[start : start + step]] = -np.inf
        row, column = np.nonzero(tile > found.bound)
        found.add(tile[row, column], np.stack([row + start, column], 1).astype(np.int32))
    scores, owners = found.falling()
    return scores, owners.T
