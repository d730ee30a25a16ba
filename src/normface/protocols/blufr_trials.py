"""BLUFR on LFW: verification and open-set identification at low false accept rates, 10 trials (Liao et al. 2014).

The threshold of a trial is the k-th largest impostor score, k = round(FAR · N) (PAPER.md §4). Scores at or above it are
accepted. Shape suffixes: N images of a trial, G gallery images, P probes, S subjects.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, reason
from ..types import Bools, Embeddings, Floats, Ints, Result
from .inputs import PROTOCOLS, reads
from .intervals import percentiles, resampled
from .metrics import corners
from .named_pairs import Ids, partly, people, present, rows_of
from .open_set import Search
from .tally import Tally, bounded, tally_all_pairs

BLUFR_FARS, DIR_FAR, RANKS = (0.001, 0.0001), 0.01, (1, 10)
KEYS = ("imageList", "labels", "testIndex", "galIndex", "probIndex")  # of the configuration


@dataclass(frozen=True)
class Trial:
    """One trial: rows of `Config.ids`, counted from 0."""

    test: Ints
    gallery: Ints
    probes: Ints


@dataclass(frozen=True)
class Config:
    """BLUFR's configuration: image ids, the subject of each, the trials. `sha256` is the hash of the file."""

    ids: Ids
    subjects: Ints
    trials: list[Trial]
    sha256: str

    @property
    def listed(self) -> Bools:
        """Mask of the images that any trial needs [N]."""
        found = np.zeros(len(self.ids), bool)
        for trial in self.trials:
            found[np.concatenate([trial.test, trial.gallery, trial.probes])] = True
        return found

    def without(self, absent: Bools) -> Config:
        """Return the trials without some images [N]."""
        trials = [
            Trial(*(each[~absent[each]] for each in (trial.test, trial.gallery, trial.probes))) for trial in self.trials
        ]
        return Config(self.ids, self.subjects, trials, self.sha256)


def read_blufr(path: str | Path) -> Config:
    """Read `blufr_lfw_config.mat`. Raises DataError for another file or for contradictory numbers."""
    from scipy.io import loadmat

    want, do = f"BLUFR's configuration in {path}", "take blufr_lfw_config.mat"
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"BLUFR's configuration at {path}", reason(error), do) from error
    try:
        raw = loadmat(BytesIO(data))
    except Exception as error:  # SciPy's reader raises nearly anything for a damaged file
        raise DataError(want, "no MATLAB file of version 7 or older, or a damaged one", do) from error
    if absent := [key for key in KEYS if key not in raw]:
        held = ", ".join(key for key in raw if not key.startswith("__")) or "nothing"
        raise DataError(want, f"none of {', '.join(absent)}, but {held}", do)
    try:
        names = [str(np.ravel(each)[0]) for each in np.ravel(raw["imageList"])]
        subjects = np.ravel(raw["labels"]).astype(np.int64)
        parts = [
            [np.ravel(each).astype(np.int64) - 1 for each in np.ravel(raw[key])]  # MATLAB counts from 1
            for key in KEYS[2:]
        ]
        trials = [Trial(*each) for each in zip(*parts, strict=True)]
    except (IndexError, TypeError, ValueError) as error:
        raise DataError(want, "arrays of other kinds and sizes under its names", do) from error
    ids = np.array([name if "/" in name else f"{name.rpartition('_')[0]}/{name}" for name in names])
    for trial in trials:
        for rows in (trial.test, trial.gallery, trial.probes):
            if not rows.size or rows.min() < 0 or rows.max() >= len(ids):
                raise DataError(f"rows 1 to {len(ids)} in {path}", "others, or none", "take blufr_lfw_config.mat")
        if len(np.unique(subjects[trial.gallery])) < len(trial.gallery):
            raise DataError(f"one gallery image a person in {path}", "two", "take blufr_lfw_config.mat")
    if len(subjects) != len(ids) or not trials:
        raise DataError(f"a label for each of {len(ids)} images in {path}", f"{len(subjects)}", "take the original")
    named = people(ids.tolist())[1]
    if len({len(np.unique(each)) for each in (named, subjects, named * (subjects.max() + 1) + subjects)}) > 1:
        raise DataError(f"labels in {path} that agree with the images' names", "others", "take blufr_lfw_config.mat")
    return Config(ids, np.unique(subjects, return_inverse=True)[1], trials, hashlib.sha256(data).hexdigest())


def _every(lists: Sequence[Path], ids: Ids) -> tuple[Ids, str]:
    """Mask of the test images of all trials."""
    config = read_blufr(lists[0])
    return config.ids[np.unique(np.concatenate([trial.test for trial in config.trials]))], config.sha256


@PROTOCOLS.register
@reads(
    "lfw/blufr_lfw_config.mat", ids="Name/Name_0001.jpg", every=_every,
    images=lambda lists, ids: np.isin(ids, read_blufr(lists[0]).ids),
)  # fmt: skip
def blufr(
    embeddings: Embeddings,
    config_file: str | Path,
    *,
    partial: bool = False,
    replicates: int = 200,
    conditions: Mapping[str, Any] | None = None,
) -> Result:
    """BLUFR: VR at FAR 0.1 % and 0.01 % over all pairs of a trial, DIR at FAR 1 % for ranks 1 and 10.

    Args:
        embeddings: of every image of the list (13,233), ids `Name/Name_0001.jpg`.
        partial: leave out images without vectors; the facts say so.
        replicates: number of bootstrap samples over subjects, for the intervals of the means.
        conditions: added to the facts.

    Returns:
        vr@far=…, vr_per_person@far=… (over people), dir@far=…,rank=…: means over the trials. The facts contain each
        trial's values and mean - std, which other papers report. Curves of the first trial: roc, histogram, cmc, dir.

    Raises:
        DataError: another file, images without a vector, too few impostors for a FAR.
    """
    config = read_blufr(config_file)
    facts: dict[str, Any] = {}
    if partial:
        (kept,), told = present(embeddings, config.ids)
        facts = partly(told, int(kept.sum()), len(kept), "images")
        config = config.without(~kept)
    (rows,) = rows_of(embeddings, config.ids[config.listed])
    vectors = np.empty((len(config.ids), embeddings.vectors.shape[1]), np.float32)
    vectors[config.listed] = embeddings.vectors[rows]
    names = [f"{name}@far={far:g}" for name in ("vr", "vr_per_person") for far in BLUFR_FARS]
    names += [f"dir@far={DIR_FAR:g},rank={rank}" for rank in RANKS]
    trials = [
        (_pairs(vectors, config.subjects, trial), _search(vectors, config.subjects, trial)) for trial in config.trials
    ]

    def rates(weights: Floats | None) -> Floats:
        """Of every trial [T, 6]; `weights`: how often each subject was drawn [S]."""
        return np.array([
            [
                *_verified(pairs, weights),
                *(search.identified(rank, search.kth(DIR_FAR, weights), weights) for rank in RANKS),
            ]
            for pairs, search in trials
        ])  # fmt: skip

    found = rates(None)
    means, stds = found.mean(0), found.std(0, ddof=1) if len(found) > 1 else np.zeros(found.shape[1])
    subjects = int(config.subjects.max()) + 1
    lows, highs = percentiles(resampled(lambda weights: rates(weights).mean(0), subjects, replicates))
    count = [sum(len(pairs.genuine) for pairs, _ in trials)] * len(BLUFR_FARS)
    count += [sum(len(np.unique(pairs.genuine_subject)) for pairs, _ in trials)] * len(BLUFR_FARS)
    count += [sum(len(search.rank) for _, search in trials)] * len(RANKS)
    metrics = {name: bounded(*each) for name, *each in zip(names, means, lows, highs, count, strict=True)}
    facts |= {
        "trials": len(trials), "subjects": subjects, "images": int(config.listed.sum()), "replicates": replicates,
        "mean_minus_std": dict(zip(names, (means - stds).tolist(), strict=True)),
        "by_trial": dict(zip(names, found.T.tolist(), strict=True)),
        "impostor_pairs": [pairs.impostors for pairs, _ in trials],
        "commonest_five": max(pairs.facts(BLUFR_FARS)["commonest_five"] for pairs, _ in trials),
        "thresholds": [
            {f"far={far:g}": at for far, at in zip(BLUFR_FARS, pairs.thresholds(BLUFR_FARS, kth=True), strict=True)}
            for pairs, _ in trials
        ],
        "config_sha256": config.sha256, "notes": ["intervals: bootstrap over subjects, the same in all trials"],
        **(conditions or {}),
    }  # fmt: skip
    pairs, search = trials[0]
    curves = {"roc": corners(pairs.roc()), "histogram": pairs.histogram(), "cmc": search.cmc(), "dir": search.dir()}
    return Result("blufr", metrics, curves, facts)


def _verified(pairs: Tally, weights: Floats | None) -> list[float]:
    """VR at each FAR: over all comparisons, and as a mean over people."""
    thresholds = pairs.thresholds(BLUFR_FARS, weights, kth=True)
    return [pairs.accepted(each, some) for some in (weights, pairs.per_person(weights)) for each in thresholds]


def _pairs(vectors: Floats, subjects: Ints, trial: Trial) -> Tally:
    """Tally all pairs of a trial's test images. Raises DataError if they cannot resolve the lowest FAR."""
    sizes = np.bincount(subjects[trial.test])
    impostors = (len(trial.test) ** 2 - int((sizes**2).sum())) // 2
    if min(BLUFR_FARS) * impostors < 1:
        raise DataError(
            f"{round(1 / min(BLUFR_FARS)):,} impostor pairs and more", f"{impostors:,}", "evaluate more people"
        )
    return tally_all_pairs(vectors[trial.test], subjects[trial.test], max(BLUFR_FARS))


def _search(vectors: Floats, subjects: Ints, trial: Trial) -> Search:
    """Search a trial's probes in its gallery."""
    people, enrolled = subjects[trial.probes], subjects[trial.gallery]
    found = Search.of(vectors[trial.probes], people, vectors[trial.gallery], enrolled)
    if not (len(found.rank) and len(found.best)):
        raise DataError("probes of people inside and outside the gallery", "one kind alone", "take the original")
    return found
