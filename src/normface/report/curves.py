"""Plots of Results as SVG: ROC, DET, scores, identification, evidence. None if there is nothing to draw."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..types import Floats, Result
from .plots import COLORS, GRAY, STYLES, literal, single, svg
from .wording import DISCARD, label, measure, uneven

POINTS = 600  # at most, of a drawn curve
PERCENTS = (1e-4, 1e-3, 0.01, 0.1, 1, 5, 20, 40, 60, 80, 95, 99)  # marked on probit axes


def roc(results: Mapping[str, Result]) -> str | None:
    """Plot TAR against FAR on a logarithmic axis, one curve per system."""
    found = _curves(results, "roc", "far", "tar")
    if not found:
        return None
    figure, axes = single("False accept rate (FAR)", "True accept rate (TAR)", width=5.4)
    least, lowest, most = 0.1, 1.0, max(far[-1] for *_, far, _ in found)
    for i, name, far, tar in found:
        least = min(least, far[far > 0].min(initial=1))
        lowest = min(lowest, tar[far >= least].min(initial=1))
        far, tar = _thinned(np.maximum(far, 1e-12), tar, np.log10(np.maximum(far, 1e-12)))
        axes.plot(far, tar, STYLES[i % 4], color=COLORS[i % 6], label=literal(name), drawstyle="steps-post")
    # From the lowest TAR on; otherwise all good systems would be one line at the top.
    bottom = max(0.0, 1 - 1.15 * (1 - lowest)) if lowest > 0.5 else 0.0
    axes.set(xscale="log", xlim=(least, max(most, 2 * least)), ylim=(bottom, 1 + 0.02 * max(1 - bottom, 0.01)))
    return _finished(figure, axes, "ROC: true accept rate against false accept rate", "lower right")


def det(results: Mapping[str, Result]) -> str | None:
    """Plot FRR against FAR on normal-deviate axes (Martin et al. 1997), where normal scores give a straight line."""
    from scipy.special import ndtri

    found = []
    for i, name, far, tar in _curves(results, "roc", "far", "tar"):
        inside = (far > 0) & (far < 1) & (tar > 0) & (tar < 1)
        if inside.sum() > 1:
            x, y = ndtri(far[inside]), ndtri(1 - tar[inside])
            found.append((i, name, *_thinned(x, y, x)))
    if not found:
        return None
    figure, axes = single("False accept rate (%)", "False reject rate (%)", width=5.4)
    for i, name, x, y in found:
        axes.plot(x, y, STYLES[i % 4], color=COLORS[i % 6], label=literal(name))
    for side, values in (("x", [x for *_, x, _ in found]), ("y", [y for *_, y in found])):
        # Space of a label on its axis: side by side below, one above the other at the left
        room = {p: 0.025 + 0.018 * len(f"{p:g}") if side == "x" else 0.08 for p in PERCENTS}
        low = min(each.min() for each in values) - 0.05
        high = min(max(each.max() for each in values), 0.0) + 0.05  # rates above one half are not useful
        ticks: dict[float, str] = {}
        taken = low
        for p in PERCENTS:
            at, half = float(ndtri(p / 100)), room[p] * (high - low) / 2
            if low <= at <= high and (at - half > taken or not ticks):
                ticks[at], taken = f"{p:g}", at + half
        getattr(axes, f"set_{side}ticks")(list(ticks), list(ticks.values()))
        getattr(axes, f"set_{side}lim")(low, max(high, low + 0.1))
    return _finished(figure, axes, "DET: false reject rate against false accept rate", "upper right")


def histogram(name: str, result: Result) -> str | None:
    """Plot histograms of genuine and impostor scores, with the threshold if there is one."""
    curve = result.curves.get("histogram")
    if not curve:
        return None
    measured = _measure(result)
    figure, axes = single(measured, "Share of comparisons (%)", width=5.4)
    edges, used = np.asarray(curve["edges"]), np.zeros(len(curve["edges"]) - 1)
    for kind, color, hatch in (("impostor", COLORS[1], "////"), ("genuine", COLORS[0], "")):
        counts = np.asarray(curve[kind], float)
        share = 100 * counts / max(counts.sum(), 1)
        used += share
        axes.stairs(share, edges, fill=True, alpha=0.45, color=color, hatch=hatch, label=kind)
        axes.stairs(share, edges, color=color)
    if (threshold := result.facts.get("threshold")) is not None:
        of_folds = "mean threshold" if "folds" in result.facts else "threshold"
        axes.axvline(threshold, color=GRAY, linestyle="--", label=f"{of_folds} {threshold:.3f}")
    seen = np.flatnonzero(used > 0.005)
    if seen.size:
        axes.set_xlim(edges[max(seen[0] - 2, 0)], edges[min(seen[-1] + 3, len(edges) - 1)])
    axes.set_ylim(0, 1.3 * axes.dataLim.ymax)  # room for the legend
    axes.set_title(literal(name), color=GRAY, fontsize=11)
    return _finished(
        figure, axes, f"Histogram of genuine and impostor {measured.lower()}s of {name}", "best", always=True
    )


def cmc(results: Mapping[str, Result]) -> str | None:
    """Plot the share of probes whose mate is among the first ranks (closed set)."""
    found = _curves(results, "cmc", "rank", "rate")
    if not found:
        return None
    figure, axes = single("Rank", "Share of probes found", width=5.4)
    for i, name, rank, rate in found:
        axes.plot(rank, rate, STYLES[i % 4], color=COLORS[i % 6], label=literal(name), drawstyle="steps-post")
    most = max(float(rank.max()) for _, _, rank, _ in found)
    least = min(float(rate.min()) for *_, rate in found)
    bottom = max(0.0, 1 - 1.15 * (1 - least))
    top = 1 + 0.02 * max(1 - bottom, 0.01)
    axes.set(xscale="log" if most > 20 else "linear", xlim=(1, max(most, 2)), ylim=(bottom, top))
    return _finished(figure, axes, "CMC: share of probes found against rank", "lower right")


def identification(results: Mapping[str, Result]) -> str | None:
    """Plot the share of enrolled probes detected and identified against the false positive identification rate."""
    found = _curves(results, "dir", "fpir", "dir")
    if not found:
        return None
    figure, axes = single("False positive identification rate (FPIR)", "Detection and identification rate", width=5.4)
    least = 0.1
    for i, name, fpir, rate in found:
        least = min(least, fpir[fpir > 0].min(initial=1))
        fpir, rate = _thinned(np.maximum(fpir, 1e-12), rate, np.log10(np.maximum(fpir, 1e-12)))
        axes.plot(fpir, rate, STYLES[i % 4], color=COLORS[i % 6], label=literal(name), drawstyle="steps-post")
    axes.set(xscale="log", xlim=(least, 1), ylim=(0, 1.005))
    return _finished(figure, axes, "Open-set identification: DIR against FPIR", "lower right")


def calibration(name: str, result: Result) -> str | None:
    """Plot the likelihood ratio against the score, by the logistic and by the best monotonic map."""
    curve = result.curves.get("calibration")
    if not curve:
        return None
    score, pav, logistic = (np.asarray(curve[key]) for key in ("score", "pav", "logistic"))
    measured = _measure(result)
    figure, axes = single(measured, "Likelihood ratio, one person : two", width=5.4)
    axes.plot(score, pav / math.log(10), drawstyle="steps-post", color=COLORS[1], label="best rising map (PAV)")
    axes.plot(score, logistic / math.log(10), STYLES[1], color=COLORS[0], label="logistic map, used")
    if (threshold := result.facts.get("threshold")) is not None:
        axes.axvline(threshold, color=GRAY, linestyle=":", label=f"threshold {threshold:.3f}")
    axes.axhline(0, color=GRAY, linewidth=0.8)
    low, high = (math.floor(pav.min() / math.log(10)), math.ceil(pav.max() / math.log(10)))
    ticks = range(low, high + 1, max(1, (high - low) // 6))
    axes.set_yticks(list(ticks), [f"{10**k:,}" if k >= 0 else f"1/{10**-k:,}" for k in ticks])
    axes.set_title(literal(name), color=GRAY, fontsize=11)
    return _finished(figure, axes, f"Likelihood ratio against {measured.lower()} of {name}", "upper left", always=True)


def discard(results: Mapping[str, Result], rate: str) -> str | None:
    """Plot `rate` (frr, far) against the share of images discarded, a line for each quality of each system.

    Per person if few people make many of the genuine comparisons.
    """
    if any(uneven(result.facts) for result in results.values()):
        rate += "_per_person"
    found = [
        (name, kind.removeprefix(DISCARD), {axis: np.asarray(values, float) for axis, values in curve.items()})
        for name, result in results.items() for kind, curve in result.curves.items() if kind.startswith(DISCARD)
    ]  # fmt: skip
    if not found:
        return None
    figure, axes = single("Images discarded, the worst first (%)", f"{label(rate)} of the others (%)", width=5.4)
    for i, (name, quality, curve) in enumerate(found):
        x, color = 100 * curve["discarded"], COLORS[i % 6]
        told = quality if len(results) == 1 else f"{name}: {quality}"
        axes.fill_between(x, 100 * curve[f"{rate}_low"], 100 * curve[f"{rate}_high"], color=color, alpha=0.12)
        axes.plot(x, 100 * curve[rate], STYLES[i % 4], color=color, label=literal(told))
    axes.set_xlim(0, max(float(100 * curve["discarded"][-1]) for *_, curve in found) or 1)
    axes.set_ylim(0, 1.3 * max(float(100 * curve[rate].max()) for *_, curve in found) or 1)
    what = f"Error versus discard: {label(rate)} against the share of images discarded"
    return _finished(figure, axes, what, "best", always=True)


def _measure(result: Result) -> str:
    return measure(str(result.facts.get("comparisons", result.protocol))).capitalize()


def _curves(results: Mapping[str, Result], kind: str, x: str, y: str) -> list[tuple[int, str, Floats, Floats]]:
    """Return place, name and axes of each system that has such a curve."""
    return [
        (i, name, np.asarray(result.curves[kind][x], float), np.asarray(result.curves[kind][y], float))
        for i, (name, result) in enumerate(results.items())
        if result.curves.get(kind)
    ]


def _thinned(x: Floats, y: Floats, along: Floats) -> tuple[Floats, Floats]:
    """Thin a curve to at most POINTS points, evenly by the values `along`, to keep pages small."""
    if len(x) <= POINTS:
        return x, y
    wanted = np.linspace(along[0], along[-1], POINTS)
    kept = np.unique(np.r_[0, np.searchsorted(along, wanted).clip(0, len(x) - 1), len(x) - 1])
    return x[kept], y[kept]


def _finished(figure: Any, axes: Any, description: str, place: str, always: bool = False) -> str:
    if always or len(axes.lines) > 1:
        axes.legend(frameon=False, labelcolor=GRAY, loc=place, fontsize=9)
    return svg(figure, description)
