"""All pairs of images, for the lowest false accept rates; and identification among distractors, as in MegaFace.

No array of size N² is kept. Cosines are computed in tiles, and the tally keeps what low rates need.
Shape suffixes: N images, D distractors, P probes, K pairs of a probe and its mate.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from .. import cosine
from ..errors import DataError
from ..types import Embeddings, Floats, Ints, Result
from . import metrics
from .inputs import PROTOCOLS, reads
from .intervals import percentiles, resampled, unused
from .named_pairs import Ids, people
from .open_set import listed, listed_images
from .tally import SHARED, across, bounded, tally_all_pairs

EXHAUSTIVE_FARS = (1e-3, 1e-4, 1e-5, 1e-6)
SMALL_SET_FARS = (1e-1, 1e-2)
_CELLS = 1 << 22  # of a tile of cosines


def _every(lists: Sequence[Path], ids: Ids) -> tuple[Ids, str]:
    """Mask of all images that have a vector."""
    return ids, hashlib.sha256("\n".join(sorted(ids.tolist())).encode()).hexdigest()


@PROTOCOLS.register
@reads(every=_every)
def all_pairs(
    embeddings: Embeddings,
    *,
    fars: tuple[float, ...] = EXHAUSTIVE_FARS,
    replicates: int | None = None,
    conditions: Mapping[str, Any] | None = None,
) -> Result:
    """Every image with every other: the lowest false accept rates that a set can show.

    Args:
        embeddings: ids `Name/image`; a person is what stands before the last `/`.
        fars: rates to report. Rates that the pairs cannot resolve are left out, with a note. If none of the default
            rates remains, 1 % or 10 % is reported.
        replicates: deprecated, without effect.
        conditions: added to the facts.

    Returns:
        tar@far=… by the conservative rule, exact, and tar_per_person@far=…, the mean over people, with intervals over
        people; ROC and histograms.

    Raises:
        DataError: no person with two images, only one person, or no rate that the pairs can resolve.
    """
    unused(replicates)
    names, subjects = people(embeddings.ids.tolist())
    vectors = embeddings.vectors.astype(np.float32)
    sizes = np.bincount(subjects).astype(np.int64)
    impostors = (len(vectors) ** 2 - int((sizes**2).sum())) // 2
    if not impostors or len(names) == len(vectors):
        raise DataError("several people, and somebody twice", f"{len(names):,} of {len(vectors):,} images",
                        "name images Name/image")  # fmt: skip
    able, notes = metrics.resolvable(fars, impostors)
    if not able and fars == EXHAUSTIVE_FARS:  # a small set resolves only a higher rate
        fars = SMALL_SET_FARS
        able = metrics.resolvable(fars, impostors)[0][-1:]
    if not able:
        metrics.resolve(max(fars), impostors)
    found = tally_all_pairs(vectors, subjects, max(able))
    facts = {
        "images": len(vectors), "people": len(names), "genuine_pairs": len(found.genuine), "impostor_pairs": impostors,
        "thresholds": {f"far={far:g}": found.threshold(far) for far in able},
        **found.facts(able), "notes": [*notes, SHARED], **(conditions or {}),
    }  # fmt: skip
    curves = {"roc": metrics.corners(found.roc()), "histogram": found.histogram()}
    return Result("all_pairs", found.tar(able), curves, facts)


@PROTOCOLS.register
@reads("distractors.csv", ids="as in the list", images=listed_images)
def distractors(
    embeddings: Embeddings,
    list_file: str | Path,
    *,
    partial: bool = False,
    replicates: int = 200,
    seed: int = 0,
    conditions: Mapping[str, Any] | None = None,
) -> Result:
    """MegaFace's question of your own images: is the mate still first among 10, 100, … distractors?

    Each image of a probe's person in turn is enrolled alone with the distractors, as MegaFace does (Kemelmacher 2016).

    Args:
        embeddings: of every image the list names.
        list_file: a CSV file `id, person, role` with the roles probe and distractor (and gallery: mates that are not
            searched for).
        partial: leave out images without vectors; the facts say so.
        replicates: number of bootstrap samples over people, for rank 1.
        seed: for drawing the smaller sets of distractors; each is a subset of the next.
        conditions: added to the facts.

    Returns:
        rank1@distractors=… for 10, 100, … and all distractors; tar@far=… of probes against mates and distractors, down
        to 1e-6 if they resolve it. Curve distractors: count, rate.

    Raises:
        DataError: a malformed list, ids without vectors, no distractors, no probe with a mate.
    """
    vectors, subject, role, facts = listed(embeddings, list_file, partial)
    rows = cosine.exact(vectors)
    probe, other = np.flatnonzero(role == "probe"), np.flatnonzero(role == "distractor")
    if not len(other):
        raise DataError("distractors", f"none in {list_file}", "list some")
    mates = np.flatnonzero(role != "distractor")
    pairs = np.argwhere((subject[probe][:, None] == subject[mates]) & (probe[:, None] != mates))
    if not len(pairs):
        raise DataError("probes with a second image of their person", f"none in {list_file}", "list some")
    searched, enrolled = probe[pairs[:, 0]], mates[pairs[:, 1]]
    own = cosine.paired(rows[searched], rows[enrolled])
    sizes = [10**power for power in range(1, 10) if 10**power < len(other)] + [len(other)]
    shuffled = np.random.default_rng(seed).permutation(other)
    first = _better(rows, probe, pairs[:, 0], own, shuffled, sizes) == 0  # [len(sizes), K]
    whose, count = subject[searched], int(subject.max()) + 1

    def rates(weights: Floats | None) -> Floats:
        if weights is None:
            return np.asarray(first.mean(1))
        each = weights[whose]
        return np.asarray(first @ each) / each.sum() if each.any() else np.full(len(first), np.nan)

    lows, highs = percentiles(resampled(rates, count, replicates))
    found = {
        f"rank1@distractors={size}": bounded(float(value), float(low), float(high), len(own))
        for size, value, low, high in zip(sizes, rates(None), lows, highs, strict=True)
    }
    able, notes = metrics.resolvable(EXHAUSTIVE_FARS, len(probe) * len(other))
    tars = {}
    if able:
        tally = across(rows[probe], subject[probe], rows[other], subject[other], max(able))
        down = np.argsort(own)[::-1]
        tally = replace(tally, genuine=own[down], genuine_subject=whose[down])
        tars = tally.tar(able)
        facts |= tally.facts(able)
    facts |= {
        "probes": len(probe), "distractors": len(other), "searches": len(own), "people": len(np.unique(whose)),
        "impostor_pairs": len(probe) * len(other), "seed": seed, 
        "notes": [*notes, "intervals of rank 1: bootstrap over people", *[SHARED] * bool(able)],
        **(conditions or {}),
    }  # fmt: skip
    drawn = {"distractors": {"count": [int(size) for size in sizes], "rate": rates(None).tolist()}}
    return Result("distractors", found | tars, drawn, facts)


def _better(rows: cosine.ExactRows, probe: Ints, place: Ints, own: Floats, others: Ints, sizes: Sequence[int]) -> Ints:
    """Count the first `sizes` distractors that are at least as similar to a probe as its mate [len(sizes), K].

    rows: from `cosine.exact`.
    `place` [K] is the probe of each pair, rising; `own` [K] the mate's score.
    """
    found = np.zeros((len(sizes), len(own)), np.int64)
    cuts = np.searchsorted(place, np.arange(len(probe) + 1))
    step = max(_CELLS // len(probe), 1)
    for stage, (low, high) in enumerate(pairwise([0, *sizes])):
        for start in range(low, high, step):
            tile = cosine.matrix(rows[probe], rows[others[start : min(start + step, high)]])
            tile.sort(axis=1)
            for row, some in enumerate(map(slice, cuts[:-1].tolist(), cuts[1:].tolist())):
                found[stage:, some] += tile.shape[1] - np.searchsorted(tile[row], own[some])
    return found
