"""Photographs without a template: failures to acquire and to enrol, and rates that count them.

The terms follow ISO/IEC 19795-1. FTA is the share of photographs in which no face is detected or which are rejected.
FTE is the share of people who cannot be enrolled with any photograph. A genuine comparison with such a photograph is a
false non-match. An impostor comparison with one is not made, so failures do not improve thresholds and false accept
rates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..types import WITHOUT, Bools, Embeddings, Estimate, Ints, OperatingPoint, Result, ScoreSet
from .comparisons import Comparisons, of_list, persons
from .intervals import over_folds, proportion, standard_error
from .named_pairs import Ids, NamedPairs, people, rows_of
from .rates import Listed, rate
from .tally import of_pairs

LOWEST = -1.0  # score of a comparison with a failure, below any threshold


@dataclass(frozen=True)
class Failures:
    """Photographs that gave no template.

    Attributes:
        ids: [N] of all photographs.
        reasons: id → reason, for those without a template.
        counted: whether comparisons with them count as false non-matches.
    """

    ids: Ids
    reasons: Mapping[str, str]
    counted: bool = True

    @property
    def failed(self) -> Bools:
        """Mask of the photographs without a template [N]."""
        return self.missing(self.ids)

    def rates(self) -> dict[str, Estimate]:
        """Compute `fta` over photographs, with an interval over people, and `fte` over people."""
        whose = people(self.ids.tolist())[1]
        missed, count = whose[self.failed], int(whose.max()) + 1
        found = rate(Listed.of(missed, missed, count), Listed.of(whose, whose, count))
        assert found
        none = count - len(np.unique(whose[~self.failed]))
        return {"fta": found.estimate, "fte": proportion(none, count)}

    def facts(self) -> dict[str, Any]:
        """Return the fact `failures`: their number, the reasons, and whether they count."""
        kinds = Counter(reason.partition(":")[0] for reason in self.reasons.values())
        return {
            "failures": {
                "counted": self.counted, "photographs": len(self.ids), "failed": len(self.reasons),
                "reasons": dict(kinds.most_common()),
            }
        }  # fmt: skip

    def missing(self, ids: Ids) -> Bools:
        """Mask of the ids that are failures."""
        return np.isin(ids, list(self.reasons))

    def explain(self, facts: Mapping[str, Any], named: NamedPairs | None, known: Ids) -> dict[str, Any]:
        """Return facts with those of failures, without `partial` if all images without a vector are failures."""
        told = {**facts, **self.facts()}
        if named is not None:
            ids = np.concatenate([named.left, named.right])
            if (np.isin(ids, known) | self.missing(ids)).all():
                told.pop("partial", None)
        return told


def require_others(failures: Failures, named: NamedPairs, embeddings: Embeddings) -> None:
    """Raise DataError for listed images that neither have a vector nor are failures."""
    ids = np.unique(np.concatenate([named.left, named.right]))
    rows_of(embeddings, ids[~failures.missing(ids)])


def evaluated(result: Result, embeddings: Embeddings, named: NamedPairs | None, failures: Failures) -> Result:
    """Return a protocol's result with FTA and FTE and, if failures count, the rates of the pairs `named` with them.

    `result` covers the pairs in which both images have a vector. If failures count, `tar@far=…`, `tar_per_person@far=…`
    and `accuracy` include them, and the former values are named `…_without_failures`. Accuracy counts pairs that were
    not compared as wrong.
    """
    facts = failures.explain(result.facts, named, embeddings.ids)
    notes = [*facts.get("notes", [])]
    found = dict(result.metrics)
    if failures.counted and named is not None:
        available = named.available(embeddings)[0]
        fars = [float(name.partition("@far=")[2]) for name in found if name.startswith("tar@far=")]
        if fars:
            whole = _with_lost(of_list(embeddings, available), *_lost(named, failures))
            scores = ScoreSet(whole.scores, whole.same, np.zeros(len(whole.scores), int))
            left, right = whole.subjects[whole.left], whole.subjects[whole.right]
            counted = of_pairs(scores, left, right, max(fars)).tar(fars)
            found = _beside(found, {name: each for name, each in counted.items() if name in found})
        if "accuracy" in found:
            accuracy, of_folds = _accuracy(found["accuracy"], named, available, facts)
            found = _beside(found, {"accuracy": accuracy})
            facts |= of_folds
        notes.append("EER and AUC are of the comparisons made, without failures")
    elif failures.counted:
        notes.append("rates of this protocol leave failures out")
    return replace(result, metrics=found | failures.rates(), facts={**facts, "notes": notes})


def calibrated(
    result: Result, point: OperatingPoint, comparisons: Comparisons, named: NamedPairs | None, failures: Failures
) -> Result:
    """Return a calibration's result with FTA and FTE and, if failures count, `tar` and `tar_per_person` with them.

    named: the listed pairs; None if every pair of the images was compared.
    """
    found = dict(result.metrics)
    if failures.counted:
        lost = _lost(named, failures) if named is not None else _every_lost(failures)
        whole = _with_lost(comparisons, *lost)
        names = {"tar": False, "tar_per_person": True}
        counted = {
            name: whole.rates(point.threshold, per_person=each)[1].estimate
            for name, each in names.items() if name in found
        }  # fmt: skip
        found = _beside(found, counted)
    facts = failures.explain(result.facts, named, comparisons.ids)
    return replace(result, metrics=found | failures.rates(), facts=facts)


def _beside(found: Mapping[str, Estimate], counted: Mapping[str, Estimate]) -> dict[str, Estimate]:
    """Merge rates that count failures with those that do not, each under its own name."""
    both: dict[str, Estimate] = {}
    for name, each in found.items():
        both[name] = counted.get(name, each)
        if name in counted:
            kind, at, condition = name.partition("@")
            both[f"{kind}{WITHOUT}{at}{condition}"] = each
    return both


def _lost(named: NamedPairs, failures: Failures) -> tuple[Ids, Ids]:
    """The listed genuine pairs with a failure."""
    lost = named.same & (failures.missing(named.left) | failures.missing(named.right))
    return named.left[lost], named.right[lost]


def _every_lost(failures: Failures) -> tuple[Ids, Ids]:
    """The genuine pairs with a failure among all pairs of images."""
    whose, failed = people(failures.ids.tolist())[1], failures.failed
    left: list[Ints] = []
    right: list[Ints] = []
    for person in np.unique(whose[failed]):
        one, other = np.triu_indices(int((whose == person).sum()), 1)
        rows = np.flatnonzero(whose == person)
        lost = failed[rows[one]] | failed[rows[other]]
        left.append(rows[one[lost]])
        right.append(rows[other[lost]])
    empty = np.zeros(0, int)
    return failures.ids[np.concatenate([empty, *left])], failures.ids[np.concatenate([empty, *right])]


def _with_lost(comparisons: Comparisons, left: Ids, right: Ids) -> Comparisons:
    """Add genuine comparisons that were not made, of images that may be new, with the lowest score."""
    sides = [np.concatenate([comparisons.ids[rows], more]) for rows, more in
             ((comparisons.left, left), (comparisons.right, right))]  # fmt: skip
    ids, rows = np.unique(np.concatenate([comparisons.ids, *sides]), return_inverse=True)
    one, other = np.split(rows[len(comparisons.ids) :], 2)
    same = np.concatenate([comparisons.same, np.ones(len(left), bool)])
    scores = np.concatenate([comparisons.scores, np.full(len(left), LOWEST)])
    return Comparisons(scores, same, one, other, ids, persons(ids, one, other, same), comparisons.below)


def _accuracy(
    made: Estimate, named: NamedPairs, available: NamedPairs, facts: Mapping[str, Any]
) -> tuple[Estimate, dict[str, Any]]:
    """Accuracy that counts pairs without a comparison as wrong, and the facts of its folds."""
    pairs, by_fold = len(named.same), np.array(facts.get("fold_accuracy", ()))
    if len(by_fold) < 2:
        return proportion(round(made.value * made.n), pairs), {}
    whole = np.bincount(named.fold)
    if len(whole) > len(by_fold):  # folds without any comparison are removed
        share = by_fold * len(available.same) / pairs
    else:
        share = by_fold * np.bincount(available.fold) / whole
    told = {"fold_accuracy": share.tolist(), "standard_error": standard_error(share)}
    return over_folds(float(share.mean()), share, pairs), told
