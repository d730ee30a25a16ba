"""Conditions of a certificate: which photographs it covers, and reasons for others.

A threshold's error rates are valid only for photographs like those it was measured on. To most networks, blurred, dark
or covered faces look alike, and so do children's: they accept strangers among them far more often. `embed.learn` makes
conditions from sets of faces. A certificate contains them, and a photograph outside them is *undecided*.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import ConfigError, ModelError

Numbers = NDArray[np.floating[Any]]
Rows = tuple[tuple[float, ...], ...]

# Signal → fault below its range, fault above it, and remedies. `faces.signals` measures the signals.
# Light comes first, because sharpness and contrast also fall in the dark.
SIGNALS = {
    "light": ("too dark", "too bright", "light the face evenly"),
    "sharpness": ("blurred", "too sharp or too noisy", "hold still and focus", "take it in better light, unsharpened"),
    "contrast": ("of too little contrast", "of too much contrast", "light the face evenly"),
    "detail": ("without fine detail", "noisy", "give the original photograph, taken in better light"),
    "eyes": ("covered at the eyes", "too much contrast at the eyes", "uncover the eyes"),
    "mouth": ("covered at the mouth", "too much contrast at the mouth", "uncover the mouth"),
    "eye_distance": ("too small", "too large", "come nearer, or give a photograph with more pixels"),
    "detection": ("hardly recognizable as a face", "too certain a face", "show the face upright and uncovered"),
    "shape": ("squeezed in width", "squeezed in height", "keep the photograph's proportions, and face the camera"),
}


@dataclass(frozen=True)
class Assessment:
    """What conditions say of one photograph.

    Attributes:
        risk: estimated share of strangers in such photographs that the photograph would match; None if unknown.
        outside: sentences with each fault and its remedy; empty if the photograph is inside the conditions.
        signals: measured values by name.
    """

    risk: float | None = None
    outside: tuple[str, ...] = ()
    signals: Mapping[str, float] = field(default_factory=dict)

    @property
    def inside(self) -> bool:
        """Whether decisions on this photograph are covered by the certificate."""
        return not self.outside

    @property
    def words(self) -> str:
        """The risk for people: about 1 in 40 strangers."""
        if self.risk is None:
            return "unknown"
        if self.risk > 0.5:
            return f"most strangers photographed likewise ({100 * self.risk:.0f} %)"
        return f"about 1 in {_round(1 / max(self.risk, 1e-6)):,} strangers photographed likewise"


@dataclass(frozen=True)
class Conditions:
    """Ranges of signals, and directions of embeddings in which photographs outside the conditions lie.

    The log-odds of each kind against an ordinary photograph is linear in the unit embedding, in the log1p of the
    signals named, and in 1; the log of their summed odds is the photograph's *score*.

    Attributes:
        ranges: signal → lowest and highest value inside.
        kinds: [K] kinds of photographs outside, such as "blurred" or "children".
        signals: [S] the crop's signals that the weights use.
        weights: [K, D + S + 1].
        cut: the highest score inside.
        risk_scores, risk_shares: rising steps: from `risk_scores[i]` on, the share `risk_shares[i]` of impostor pairs
            was accepted.
        facts: how they were made, and their effect on other photographs, JSON values.
    """

    ranges: Mapping[str, tuple[float, float]]
    kinds: tuple[str, ...]
    signals: tuple[str, ...]
    weights: Rows
    cut: float
    risk_scores: tuple[float, ...]
    risk_shares: tuple[float, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            ranges = {name: (float(low), float(high)) for name, (low, high) in self.ranges.items()}
            rows = tuple(tuple(map(float, row)) for row in self.weights)
            steps = [tuple(map(float, each)) for each in (self.risk_scores, self.risk_shares)]
            fits = (
                len(rows) == len(self.kinds) > 0 and len(set(map(len, rows))) == 1
                and len(rows[0]) > len(self.signals) + 1 and {*ranges, *self.signals} <= SIGNALS.keys()
                and len(steps[0]) == len(steps[1]) > 0 and all(list(each) == sorted(each) for each in steps)
                and np.isfinite([*(x for row in rows for x in row), *steps[0], *steps[1], self.cut]).all()
            )  # fmt: skip
        except (TypeError, ValueError, AttributeError):
            fits = False
        if not fits:
            raise ConfigError("conditions as normface writes them", "others", "make them: calibrate --conditions")
        made = {"ranges": ranges, "weights": rows, "risk_scores": steps[0], "risk_shares": steps[1],
                "kinds": tuple(self.kinds), "signals": tuple(self.signals)}  # fmt: skip
        for name, value in made.items():
            object.__setattr__(self, name, value)

    @property
    def dim(self) -> int:
        """Length of the embeddings."""
        return len(self.weights[0]) - len(self.signals) - 1

    def log_odds(self, vectors: Numbers, signals: Mapping[str, Numbers]) -> NDArray[np.float64]:
        """Compute log-odds [N, K] of each kind against an ordinary photograph.

        Takes unit `vectors` [N, D] and `signals`, [N] each. Raises ModelError for embeddings of another length.
        """
        rows = np.asarray(vectors, np.float64)
        if rows.ndim != 2 or rows.shape[1] != self.dim:
            raise ModelError(
                f"embeddings [N, {self.dim}], as of the model of these conditions", f"{list(rows.shape)}",
                "calibrate that model with --conditions",
            )  # fmt: skip
        odds: NDArray[np.float64] = inputs(rows, signals, self.signals) @ np.array(self.weights).T
        return odds

    def assess(self, vectors: Numbers, signals: Sequence[Mapping[str, float]]) -> list[Assessment]:
        """Assess photographs: unit `vectors` [N, D], and the signals of each (those of a detection may be missing)."""
        if not len(signals):
            return []
        columns = {name: np.array([each[name] for each in signals]) for name in self.signals}
        odds = self.log_odds(vectors, columns)
        totals = scores(odds)
        return [self._one(*each) for each in zip(odds, totals, signals, strict=True)]

    def risk(self, score: float) -> float:
        """Estimated share of strangers in such photographs that a photograph with this score would match."""
        step = int(np.searchsorted(self.risk_scores, score, side="right"))
        return self.risk_shares[max(step - 1, 0)]

    def _one(self, odds: Numbers, score: float, signals: Mapping[str, float]) -> Assessment:
        found = []
        for name, (below, above, *mends) in SIGNALS.items():
            low, high = self.ranges.get(name, (-math.inf, math.inf))
            value = signals.get(name)
            if value is not None and not low <= value <= high:
                bound = f"below {low:.3g}" if value < low else f"above {high:.3g}"
                mend = mends[0] if value < low else mends[-1]
                found.append(f"{below if value < low else above} ({name} {value:.3g}, {bound}): {mend}")
        if score > self.cut:
            kind = self.kinds[int(np.argmax(odds))]
            found.append(f"looks like a photograph of the kind {kind!r}: give one without that")
        return Assessment(self.risk(float(score)), tuple(found), dict(signals))


def inputs(vectors: Numbers, signals: Mapping[str, Numbers], names: Sequence[str]) -> NDArray[np.float64]:
    """Inputs of the weights of `Conditions` [N, D + S + 1]."""
    columns = [np.log1p(np.maximum(np.asarray(signals[name], np.float64), 0)) for name in names]
    return np.column_stack([np.asarray(vectors, np.float64), *columns, np.ones(len(vectors))])


def scores(odds: Numbers) -> NDArray[np.float64]:
    """[N, K] log-odds → [N] the log of the summed odds."""
    highest = odds.max(1)
    total: NDArray[np.float64] = highest + np.log(np.exp(odds - highest[:, None]).sum(1))
    return total


def _round(number: float) -> int:
    """Round to two digits."""
    size: int = 10 ** max(0, math.floor(math.log10(number)) - 1)
    return round(number / size) * size
