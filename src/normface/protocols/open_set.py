"""Identification of probes in a gallery. Closed set: CMC. Open set: DIR at FPIR, with probes of unenrolled people.

Also MegaFace's measure: the share of mates at rank 1 among increasing numbers of distractors.
Shape suffixes: P probes, G gallery images, K probes with a mate, U without, S subjects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import cosine
from ..errors import DataError
from ..types import Bools, Embeddings, Estimate, Floats, Ints, Result
from .inputs import PROTOCOLS, reads
from .intervals import percentiles, resampled
from .lists import read_table
from .metrics import resolve
from .named_pairs import Ids, partly, present, rows_of
from .tally import at_kth, bounded

RANKS, FPIRS = (1, 5, 10), (0.1, 0.01)
_CELLS = 1 << 22  # of a tile of cosines
ROLES = ("gallery", "probe", "distractor")


@dataclass(frozen=True)
class Search:
    """Results of searching a gallery for all probes.

    Attributes:
        score, rank, subject: [K] of probes with a mate: the mate's score (its best image), its rank among the people of
            the gallery (equal scores count as better), and the person.
        best, best_subject: [U] of the other probes, falling: the highest score of any person, and the probe's person.
    """

    score: Floats
    rank: Ints
    subject: Ints
    best: Floats
    best_subject: Ints

    @classmethod
    def of(cls, probes: Floats, probe_subjects: Ints, gallery: Floats, gallery_subjects: Ints) -> Search:
        """Search unit rows [P, D] in a gallery of unit rows [G, D], with the person of each row.

        Several gallery images of one person form one entry.
        """
        order = np.argsort(gallery_subjects, kind="stable")
        probes, gallery, entries = cosine.exact(probes), cosine.exact(gallery[order]), gallery_subjects[order]
        starts = np.flatnonzero(np.append(True, entries[1:] != entries[:-1]))
        entries = entries[starts]
        column = np.searchsorted(entries, probe_subjects).clip(max=len(entries) - 1)
        known = entries[column] == probe_subjects
        scores, ranks, best = [], [], [np.zeros(0, np.float32)]
        step = max(_CELLS // len(gallery), 1)
        for start in range(0, len(probes), step):
            some = slice(start, start + step)
            part = cosine.matrix(probes[some], gallery)
            if len(starts) < len(gallery):
                part = np.maximum.reduceat(part, starts, axis=1)
            inside = known[some]
            own = part[inside, column[some][inside]]
            scores.append(own)
            ranks.append((part[inside] >= own[:, None]).sum(1))
            if not inside.all():
                best.append(part[~inside].max(1))
        top = np.concatenate(best)
        down = np.argsort(top)[::-1]
        return cls(
            np.concatenate(scores),
            np.concatenate(ranks),
            probe_subjects[known],
            top[down],
            probe_subjects[~known][down],
        )

    def identified(self, rank: int, threshold: float = -np.inf, weights: Floats | None = None) -> float:
        """Share of probes with a mate whose mate has at most rank `rank` and reaches the threshold."""
        found = (self.score >= threshold) & (self.rank <= rank)
        if weights is None:
            return float(found.mean())
        each = weights[self.subject]
        return float(each[found].sum() / each.sum()) if each.any() else np.nan

    def threshold(self, fpir: float, weights: Floats | None = None) -> float:
        """Return the lowest threshold that at most the share `fpir` of the probes without a mate reach.

        Raises DataError if there are too few such probes to resolve `fpir`.
        """
        resolve(fpir, len(self.best))
        if weights is None:
            at = int(fpir * len(self.best) * (1 + 1e-12))
        else:
            reached = np.cumsum(weights[self.best_subject])
            at = int(np.searchsorted(reached, fpir * reached[-1] * (1 + 1e-12), side="right"))
        return float(np.nextafter(self.best[at], np.inf, dtype=self.best.dtype)) if at < len(self.best) else -np.inf

    def kth(self, fpir: float, weights: Floats | None = None) -> float:
        """Return BLUFR's threshold: the k-th highest score of the probes without a mate, k = round(fpir · U)."""
        if weights is None:
            return at_kth(self.best, max(round(fpir * len(self.best)), 1) - 1)
        reached = np.cumsum(weights[self.best_subject])
        return at_kth(self.best, int(np.searchsorted(reached, fpir * reached[-1])))

    def cmc(self, ranks: int = 100) -> dict[str, list[float]]:
        """Return the cumulative match characteristic, for plots."""
        rank = np.arange(1, ranks + 1)
        rate = np.searchsorted(np.sort(self.rank), rank, side="right") / len(self.rank)
        return {"rank": rank.tolist(), "rate": rate.tolist()}

    def dir(self, points: int = 200) -> dict[str, list[float]]:
        """Return DIR at rank 1 against FPIR, for plots: 1 - DIR is the FNIR of a DET curve."""
        fpir = np.unique(np.geomspace(1, len(self.best), points).astype(int)) / len(self.best)
        return {"fpir": fpir.tolist(), "dir": [self.identified(1, self.threshold(each)) for each in fpir.tolist()]}


def estimates(
    searches: Sequence[Search], subjects: int, *, ranks: Sequence[int] = RANKS, fpirs: Sequence[float] = FPIRS,
    replicates: int = 200,
) -> tuple[dict[str, Estimate], list[str]]:  # fmt: skip
    """Compute cmc@rank=… and dir@fpir=…,rank=1: means over searches of several galleries, bootstrapped over people.

    Notes name each FPIR that the probes without a mate cannot resolve.
    """
    able = [fpir for fpir in fpirs if all(fpir * len(each.best) >= 1 - 1e-9 for each in searches)]
    least = min(len(each.best) for each in searches)
    notes = [
        f"DIR at FPIR {fpir:g} left out: {least} probes without a mate cannot resolve it"
        for fpir in fpirs if fpir not in able
    ]  # fmt: skip
    names = [f"cmc@rank={rank}" for rank in ranks] + [f"dir@fpir={fpir:g},rank=1" for fpir in able]

    def rates(weights: Floats | None) -> Floats:
        each = [
            [one.identified(rank, weights=weights) for rank in ranks]
            + [one.identified(1, one.threshold(fpir, weights), weights) for fpir in able]
            for one in searches
        ]
        return np.asarray(np.mean(each, axis=0))

    values = rates(None)
    lows, highs = percentiles(resampled(rates, subjects, replicates))
    count = sum(len(one.rank) for one in searches)
    found = {n: bounded(v, low, high, count) for n, v, low, high in zip(names, values, lows, highs, strict=True)}
    return found, [*notes, "intervals: bootstrap over people"]


def listed_images(lists: Sequence[Path], ids: Ids) -> Bools:
    """Mask of the images in a list of roles."""
    return np.isin(ids, read_roles(lists[0])[0])


@PROTOCOLS.register
@reads("identification.csv", ids="as in the list", images=listed_images)
def identification(
    embeddings: Embeddings,
    list_file: str | Path,
    *,
    partial: bool = False,
    replicates: int = 200,
    conditions: Mapping[str, Any] | None = None,
) -> Result:
    """Your own gallery and probes: a CSV file with the columns `id, person, role`.

    Args:
        embeddings: of every image the list names.
        list_file: role is gallery, probe, or distractor: an enrolled image of a person without a probe (the person may
            be empty). The search is an open one if there are probes of people who are not enrolled.
        partial: leave out images without vectors; the facts say so.
        replicates: number of bootstrap samples over people.
        conditions: added to the facts.

    Returns:
        cmc@rank=… over the probes with a mate; dir@fpir=…,rank=1: the share of these that are also accepted, at a
        threshold that at most the stated share of the other probes reaches. Curves cmc and, for open searches, dir.

    Raises:
        DataError: a malformed list, ids without vectors, no probe with a mate.
    """
    vectors, subject, role, facts = listed(embeddings, list_file, partial)
    probe = role == "probe"
    if not np.isin(subject[probe], subject[~probe]).any():
        raise DataError("probes of people in the gallery", f"none in {list_file}", "enrol some of them")
    search = Search.of(vectors[probe], subject[probe], vectors[~probe], subject[~probe])
    found, notes = estimates([search], int(subject.max()) + 1, replicates=replicates)
    facts |= {
        "gallery": int((~probe).sum()), "gallery_people": len(np.unique(subject[~probe])),
        "distractors": int((role == "distractor").sum()), "probes_with_mate": len(search.rank),
        "probes_without_mate": len(search.best), "notes": notes, **(conditions or {}),
    }  # fmt: skip
    curves = {"cmc": search.cmc()} | ({"dir": search.dir()} if len(search.best) else {})
    return Result("identification", found, curves, facts)


def listed(embeddings: Embeddings, list_file: str | Path, partial: bool) -> tuple[Floats, Ints, Ids, dict[str, Any]]:
    """Return vectors [N, D] of the listed images, their people from 0 [N], their roles [N], and facts about the list.

    With `partial`, images without a vector are left out and the facts say so. Otherwise they raise DataError. Other
    errors are those of `read_roles`.
    """
    ids, person, role, sha256 = read_roles(list_file)
    facts: dict[str, Any] = {"list_sha256": sha256}
    if partial:
        (kept,), told = present(embeddings, ids)
        facts |= partly(told, int(kept.sum()), len(ids), "listed images")
        ids, person, role = ids[kept], person[kept], role[kept]
    (rows,) = rows_of(embeddings, ids)
    return embeddings.vectors[rows], np.unique(person, return_inverse=True)[1], role, facts


def read_roles(path: str | Path) -> tuple[Ids, Ids, Ids, str]:
    """Read ids, people and roles [N] of a CSV file `id, person, role`, and its hash.

    Distractors without a person get one each.

    Raises DataError naming the file and the line: no header, a missing value, an unknown role, a repeated id, a
    distractor whose person is also a probe.
    """
    header = "id, person, role"
    _, rows, sha256 = read_table(path, f"a CSV file {header}", header, "id", "person", "role")
    for number, row in rows:
        if row["role"] not in ROLES or not row["id"] or not (row["person"] or row["role"] == "distractor"):
            got = ",".join(row.values())
            raise DataError(
                f"an id, a person and a role among {', '.join(ROLES)}", f"{got!r} in line {number} of {path}",
                "correct it",
            )  # fmt: skip
    if not rows:
        raise DataError("at least one image", f"none in {path}", "list some")
    ids, role = np.array([row["id"] for _, row in rows]), np.array([row["role"] for _, row in rows])
    person = np.array([row["person"] or f"\0{number}" for number, row in rows])
    unique, times = np.unique(ids, return_counts=True)
    if len(unique) < len(ids):
        raise DataError("each id once", f"{unique[times > 1][0]} again in {path}", "leave one out")
    if (both := np.isin(person[role == "distractor"], person[role == "probe"])).any():
        raise DataError(
            "distractors of whom no image is a probe", f"{person[role == 'distractor'][both][0]!r} in {path}",
            "enrol them as gallery",
        )  # fmt: skip
    return ids, person, role, sha256
