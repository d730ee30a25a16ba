"""Additions to a protocol's result for reports: calibration, the hardest errors, error rates by group."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ..types import Calibration, OperatingPoint, Result
from .calibration import calibrate
from .comparisons import Comparisons
from .group_rates import Names, slices
from .intervals import unused
from .metrics import corners, span

ROC_POINTS = 800  # at most, of a ROC


def detailed(
    result: Result,
    comparisons: Comparisons,
    threshold: float,
    by_image: Mapping[str, Names] | None = None,
    by_comparison: Mapping[str, Names] | None = None,
    *,
    replicates: int | None = None,
) -> Result:
    """Return the result with calibration, the hardest errors, and rates by group.

    Adds the curve `calibration`, the facts `cllr` and `min_cllr`, the `hardest` errors at a threshold, and `slices` if
    groups are given (arguments of `slices`). `replicates` is deprecated and has no effect.
    """
    unused(replicates)
    return _with(result, calibrate(*comparisons.counts()), comparisons, threshold, by_image, by_comparison)


def certified(
    point: OperatingPoint,
    comparisons: Comparisons,
    by_image: Mapping[str, Names] | None = None,
    by_comparison: Mapping[str, Names] | None = None,
    *,
    conditions: Mapping[str, Any] | None = None,
    replicates: int | None = None,
) -> Result:
    """Return a certificate as a Result: far and tar at its threshold, also per person, ROC, histograms, and `detailed`.

    The ROC ends where impostors are counted but not listed. The facts contain the whole certificate.
    `replicates` is deprecated and has no effect.
    """
    unused(replicates)
    assert point.calibration
    curve = comparisons.roc()
    last = len(curve.far)
    if comparisons.below is not None:
        last = int(np.searchsorted(-curve.thresholds, -float(comparisons.below[0].max(initial=-np.inf))))
    exact = {name: getattr(curve, name)[:last] for name in ("thresholds", "false_accepts", "true_accepts")}
    drawn = corners(replace(curve, **exact))
    kept = np.unique(np.geomspace(1, len(drawn["far"]), ROC_POINTS).astype(int) - 1)  # dense where there are few errors
    scores, *kinds = comparisons.counts()
    edges = np.linspace(*span(float(scores.min()), float(scores.max())), 101)
    genuine, impostor = (np.histogram(scores, edges, weights=kind)[0].astype(int).tolist() for kind in kinds)
    curves = {
        "roc": {axis: np.array(values)[kept].tolist() for axis, values in drawn.items()},
        "histogram": {"edges": edges.tolist(), "genuine": genuine, "impostor": impostor},
    }
    facts = {
        "comparisons": point.protocol, "threshold": point.threshold, "target_far": point.target_far,
        "images": len(comparisons.ids), "people": len(np.unique(comparisons.subjects)),
        "model_sha256": point.model_sha256, "data_sha256": point.data_sha256,
        "confident": point.confident, "commonest_five": point.commonest_five,
        "notes": ["The threshold was chosen on the comparisons it is judged by: its rates are slightly flattering."],
        **(conditions or {}), "operating_point": json.loads(point.to_json()),
    }  # fmt: skip
    found = {
        name: each
        for name in ("far", "tar", "far_per_person", "tar_per_person")
        if (each := getattr(point, name)) is not None
    }
    result = Result("calibrate", found, curves, facts)
    return _with(result, point.calibration, comparisons, point.threshold, by_image, by_comparison)


def _with(
    result: Result,
    calibration: Calibration,
    comparisons: Comparisons,
    threshold: float,
    by_image: Mapping[str, Names] | None,
    by_comparison: Mapping[str, Names] | None,
) -> Result:
    starts = np.array(calibration.pav_scores)
    score = np.unique(np.r_[starts, np.linspace(starts[0], max(comparisons.scores.max(), starts[-1]), 100)])
    pav = np.array(calibration.pav_llrs)[np.searchsorted(starts, score, side="right") - 1]
    logistic = [calibration.llr(each) for each in score.tolist()]
    drawn = {"score": score.tolist(), "pav": pav.tolist(), "logistic": logistic}
    facts: dict[str, Any] = {
        **result.facts, "cllr": calibration.cllr, "min_cllr": calibration.min_cllr,
        "hardest": comparisons.hardest(threshold),
    }  # fmt: skip
    if by_image or by_comparison:
        facts["slices"] = slices(comparisons, threshold, by_image or {}, by_comparison)
    return replace(result, curves={**result.curves, "calibration": drawn}, facts=facts)
