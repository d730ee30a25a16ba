"""BLUFR on LFW: verification and open-set identification at low false accept rates, 10 trials (Liao et al. 2014).

Threshold of a trial: the k-th largest impostor score, k = round(FAR · N) (PAPER.md §4); what reaches it is accepted.
Shape suffixes: N images of a trial, G gallery images, P probes, S subjects.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..types import Embeddings, Estimate, Floats, Ints, Result
from . import PROTOCOLS
from .intervals import percentiles, resampled
from .pairs import rows_of

FARS, DIR_FAR, RANKS = (0.001, 0.0001), 0.01, (1, 10)
_TILE = 512  # rows of cosines at a time
_SPARE = 2  # times k: impostor scores kept, so that resampled thresholds lie among them


@dataclass(frozen=True)
class Trial:
    """Rows of `Config.ids`, counted from 0."""

    test: Ints
    gallery: Ints
    probes: Ints


@dataclass(frozen=True)
class Config:
    """The protocol's file: image ids, the subject of each, the trials; `sha256` is the file's."""

    ids: NDArray[np.str_]
    subjects: Ints
    trials: list[Trial]
    sha256: str


def read_blufr(path: str | Path) -> Config:
    """Read `blufr_lfw_config.mat`. Raises DataError for another file, or one whose numbers contradict each other."""
    from scipy.io import loadmat

    try:
        data = Path(path).read_bytes()
        raw = loadmat(str(path))
        names = [str(np.ravel(each)[0]) for each in np.ravel(raw["imageList"])]
        subjects = np.ravel(raw["labels"]).astype(np.int64)
        parts = [
            [np.ravel(each).astype(np.int64) - 1 for each in np.ravel(raw[key])]  # MATLAB counts from 1
            for key in ("testIndex", "galIndex", "probIndex")
        ]
        trials = [Trial(*each) for each in zip(*parts, strict=True)]
    except Exception as error:  # SciPy's reader raises nearly anything for a damaged file
        raise DataError(f"BLUFR's configuration in {path}", f"'{error!r}'", "take blufr_lfw_config.mat") from error
    ids = np.array([name if "/" in name else f"{name.rpartition('_')[0]}/{name}" for name in names])
    for trial in trials:
        for rows in (trial.test, trial.gallery, trial.probes):
            if not rows.size or rows.min() < 0 or rows.max() >= len(ids):
                raise DataError(f"rows 1 to {len(ids)} in {path}", "others, or none", "take blufr_lfw_config.mat")
        if len(np.unique(subjects[trial.gallery])) < len(trial.gallery):
            raise DataError(f"one gallery image a person in {path}", "two", "take blufr_lfw_config.mat")
    if len(subjects) != len(ids) or not trials:
        raise DataError(f"a label for each of {len(ids)} images in {path}", f"{len(subjects)}", "take the original")
    return Config(ids, np.unique(subjects, return_inverse=True)[1], trials, hashlib.sha256(data).hexdigest())


@PROTOCOLS.register
def blufr(
    embeddings: Embeddings,
    config_file: str | Path,
    *,
    replicates: int = 200,
    conditions: Mapping[str, Any] | None = None,
) -> Result:
    """BLUFR: VR at FAR 0.1 % and 0.01 % over all pairs of a trial, DIR at FAR 1 % for ranks 1 and 10.

    Args:
        embeddings: of every image of the list (13,233), ids `Name/Name_0001.jpg`.
        replicates: of the bootstrap over subjects, which gives the intervals of the means.
        conditions: recorded among the facts.

    Returns:
        vr@far=…, dir@far=…,rank=…: means over the trials; the facts hold each trial's values and mean - std, which
        others report.

    Raises:
        DataError: another file, images without a vector, too few impostors for a FAR.
    """
    config = read_blufr(config_file)
    (rows,) = rows_of(embeddings, config.ids)
    vectors = embeddings.vectors.astype(np.float32)
    names = [f"vr@far={far:g}" for far in FARS] + [f"dir@far={DIR_FAR:g},rank={rank}" for rank in RANKS]
    trials = [
        (Verification.of(vectors[rows[trial.test]], config.subjects[trial.test]),
         Identification.of(vectors, rows, trial, config.subjects))
        for trial in config.trials
    ]  # fmt: skip

    def rates(weights: Floats | None) -> Floats:
        """Of every trial [T, 4]; `weights`: how often each subject was drawn [S]."""
        return np.array(
            [
                [*(one.rate(far, weights) for far in FARS), *(other.rate(rank, weights) for rank in RANKS)]
                for one, other in trials
            ]
        )

    found = rates(None)
    means, stds = found.mean(0), found.std(0, ddof=1) if len(found) > 1 else np.zeros(found.shape[1])
    subjects = int(config.subjects.max()) + 1
    lows, highs = percentiles(resampled(lambda weights: rates(weights).mean(0), subjects, replicates))
    count = sum(len(one.genuine) for one, _ in trials), sum(len(other.score) for _, other in trials)
    metrics = {
        name: Estimate(float(means[i]), min(float(lows[i]), float(means[i])), max(float(highs[i]), float(means[i])),
                       count[i >= len(FARS)])
        for i, name in enumerate(names)
    }  # fmt: skip
    facts = {
        "trials": len(trials), "subjects": subjects, "images": len(config.ids), "replicates": replicates,
        "mean_minus_std": dict(zip(names, (means - stds).tolist(), strict=True)),
        "by_trial": dict(zip(names, found.T.tolist(), strict=True)),
        "impostor_pairs": [one.impostors for one, _ in trials],
        "thresholds": {f"far={far:g}": [one.threshold(far, None) for one, _ in trials] for far in FARS},
        "config_sha256": config.sha256, "notes": ["intervals: bootstrap over subjects, the same in all trials"],
        **(conditions or {}),
    }  # fmt: skip
    return Result("blufr", metrics, {}, facts)


@dataclass(frozen=True)
class Verification:
    """All pairs of a trial: every genuine score, the highest impostor ones, and whose they are."""

    genuine: Floats
    genuine_subject: Ints
    tail: Floats  # descending
    tail_subjects: Ints  # [n, 2]
    sizes: Ints  # images a subject [S]
    impostors: int

    @classmethod
    def of(cls, vectors: Floats, subjects: Ints) -> Verification:
        """From a trial's vectors [N, D]. Raises DataError where the pairs cannot resolve the lowest FAR."""
        order = np.argsort(subjects, kind="stable")
        vectors, subjects = vectors[order], subjects[order]
        first = np.searchsorted(subjects, subjects)  # of each image's subject: impostors lie before
        sizes = np.bincount(subjects)
        impostors = int(first.sum())
        if min(FARS) * impostors < 1:
            raise DataError(
                f"{round(1 / min(FARS)):,} impostor pairs and more", f"{impostors:,}", "evaluate more people"
            )
        wanted = max(round(_SPARE * max(FARS) * impostors), 1)
        tail, pairs, bound = np.zeros(0, np.float32), np.zeros((0, 2), np.int64), -np.inf
        genuine, whose = [], []
        for start in range(0, len(vectors), _TILE):
            stop = min(start + _TILE, len(vectors))
            part = vectors[start:stop] @ vectors[:stop].T
            for row in range(start, stop):
                own = part[row - start, first[row] : row]
                genuine.append(own.copy())
                whose.append(np.full(len(own), subjects[row]))
                part[row - start, first[row] :] = -np.inf
            at = np.flatnonzero(part > bound)
            tail = np.concatenate([tail, part.ravel()[at]])
            pairs = np.concatenate([pairs, subjects[np.stack(divmod(at, stop), 1) + (start, 0)]])
            if len(tail) > 2 * wanted or stop == len(vectors):
                best = np.argpartition(-tail, min(wanted, len(tail)) - 1)[:wanted]
                tail, pairs = tail[best], pairs[best]
                bound = float(tail.min()) if len(tail) == wanted else -np.inf
        down = np.argsort(-tail, kind="stable")
        return cls(np.concatenate(genuine), np.concatenate(whose), tail[down], pairs[down], sizes, impostors)

    def threshold(self, far: float, weights: Floats | None) -> float:
        """The k-th largest impostor score; with weights, the one that so much of their weight reaches."""
        if weights is None:
            return float(self.tail[max(round(far * self.impostors), 1) - 1])
        each = weights[: len(self.sizes)] * self.sizes
        total = (each.sum() ** 2 - (each**2).sum()) / 2
        reached = np.cumsum(weights[self.tail_subjects].prod(1))
        return float(self.tail[min(int(np.searchsorted(reached, far * total)), len(self.tail) - 1)])

    def rate(self, far: float, weights: Floats | None) -> float:
        """The share of genuine pairs that reach the threshold."""
        accepted = self.genuine >= self.threshold(far, weights)
        return float(np.average(accepted, weights=None if weights is None else weights[self.genuine_subject]))


@dataclass(frozen=True)
class Identification:
    """Probes against a gallery: score and rank of the genuine ones' mate, the best score of the others."""

    score: Floats
    rank: Ints
    subject: Ints
    best: Floats  # descending
    best_subject: Ints

    @classmethod
    def of(cls, vectors: Floats, rows: Ints, trial: Trial, subjects: Ints) -> Identification:
        """Of one trial; `rows`: where each image's vector is."""
        gallery = subjects[trial.gallery]
        column = np.full(int(subjects.max()) + 1, -1)
        column[gallery] = np.arange(len(gallery))
        mates = column[subjects[trial.probes]]
        known = mates >= 0
        if not known.any() or known.all():
            raise DataError("probes of people inside and outside the gallery", "one kind alone", "take the original")
        scores, ranks, best = [], [], []
        for start in range(0, len(trial.probes), _TILE):
            some = slice(start, start + _TILE)
            part = vectors[rows[trial.probes[some]]] @ vectors[rows[trial.gallery]].T
            inside = known[some]
            own = part[inside, mates[some][inside]]
            scores.append(own)
            ranks.append((part[inside] > own[:, None]).sum(1) + 1)
            best.append(part[~inside].max(1))
        top = np.concatenate(best)
        down = np.argsort(-top, kind="stable")
        people = subjects[trial.probes]
        return cls(np.concatenate(scores), np.concatenate(ranks), people[known], top[down], people[~known][down])

    def rate(self, rank: int, weights: Floats | None) -> float:
        """DIR at FAR 1 %: the share of genuine probes whose mate is among the first `rank` and is accepted."""
        if weights is None:
            at = max(round(DIR_FAR * len(self.best)), 1) - 1
        else:
            reached = np.cumsum(weights[self.best_subject])
            at = min(int(np.searchsorted(reached, DIR_FAR * reached[-1])), len(self.best) - 1)
        found = (self.score >= self.best[at]) & (self.rank <= rank)
        return float(np.average(found, weights=None if weights is None else weights[self.subject]))
