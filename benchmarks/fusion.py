"""Several photographs of a person: what 1, 2 and 4 enrolled photographs give, by LFW people with at least 5 crops.

Of each person, 4 crops drawn at random are enrolled and up to 4 others are probes. Each probe is compared with every
enrolled person by the best of the enrolled vectors, by their fused template, or by both (the best of all), as
`normface enrol` keeps them. TAR at a FAR of 0.1 % is over all these comparisons, with its own threshold; FAR and TAR at
the threshold of the model's certificate say what a gallery does. Vectors are kept in build/benchmarks/fusion.npz.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.harness.faces import shared
from benchmarks.harness.sheet import ROOT, LeftOut, Sheet
from normface.conditions import Assessment
from normface.data import open_reader
from normface.embed import Embedder
from normface.faces import signals
from normface.types import Embeddings, Floats

QUICK = None
KEPT = ROOT / "build" / "benchmarks" / "fusion.npz"
ENROLLED, PROBES = 4, 4
FAR = 0.001


def run(sheet: Sheet) -> None:
    """Numbers for each count of photographs, way of fusing and weight."""
    if not (shared() / "lfw" / "lfw-112x96.zip").exists():
        raise LeftOut("real faces are not there; set NORMFACE_DATA")
    embedder = Embedder.load()
    assert embedder.operating_point
    vectors, quality, people = photographs(embedder)
    sheet.put("people", len(set(people.tolist())))
    for count in (1, 2, 4):
        for way in WAYS if count > 1 else ("best",):
            for name in quality if way != "best" else ("equal",):
                sheet.measure(
                    f"{count} photographs/{way}, weights {name}", judged, vectors, quality[name], people, count, way,
                    embedder.operating_point.threshold,
                )  # fmt: skip


def photographs(embedder: Embedder) -> tuple[Floats, dict[str, Floats], Any]:
    """Vectors [N, D] of the crops, their weights by several signs of quality, and whom they show [N]."""
    reader = open_reader(shared() / "lfw" / "lfw-112x96.zip")
    draw = np.random.default_rng(0)
    rows = []
    for label in np.flatnonzero(np.bincount(reader.labels) > ENROLLED):
        rows += draw.permutation(np.flatnonzero(reader.labels == label))[: ENROLLED + PROBES].tolist()
    chosen = reader.select(rows)
    if not KEPT.exists():
        KEPT.parent.mkdir(parents=True, exist_ok=True)
        embedder.embed(chosen).save(KEPT)
    found = Embeddings.load(KEPT)
    known: list[Assessment] = []
    point = embedder.operating_point
    seen = [signals(chosen.read(row)) for row in range(len(chosen))]
    if point and point.conditions:
        known = point.conditions.assess(found.vectors, seen)
    weights = {
        "equal": np.ones(len(found)), "norm": found.norms,
        "1 − risk": np.array([1 - (each.risk or 0) for each in known]),
        "log sharpness": np.log1p([each["sharpness"] for each in seen]),
    }  # fmt: skip
    return found.vectors, weights, chosen.identities[chosen.labels]


def best(scores: Floats, fused: Floats) -> Floats:
    """Of each photograph's scores [P, N] the highest; the fused template is not used."""
    return np.asarray(scores.max(0))


WAYS: dict[str, Callable[[Floats, Floats], Floats]] = {
    "best": best, "fused": lambda scores, fused: fused, "both": lambda scores, fused: np.maximum(scores.max(0), fused),
}  # fmt: skip


def judged(vectors: Floats, weights: Floats, people: Any, count: int, way: str, threshold: float) -> dict[str, float]:
    """Rates over all comparisons of probes with people."""
    names = np.unique(people)
    probes = np.concatenate([np.flatnonzero(people == name)[ENROLLED:] for name in names])
    genuine, scores = people[probes][:, None] == names, np.empty((len(probes), len(names)))
    for column, name in enumerate(names):
        rows = np.flatnonzero(people == name)[:count]
        fused = Embedder.fuse(vectors[rows], weights[rows])
        scores[:, column] = WAYS[way](vectors[rows] @ vectors[probes].T, vectors[probes] @ fused)
    same, other = scores[genuine], np.sort(scores[~genuine])
    cut = other[-int(FAR * len(other)) - 1]
    return {
        "tar_at_far_0.001": round(float((same > cut).mean()), 4), "threshold": round(float(cut), 4),
        "tar_at_the_certified_threshold": round(float((same >= threshold).mean()), 4),
        "far_at_the_certified_threshold": round(float((other >= threshold).mean()), 6),
        "genuine": len(same), "impostor": len(other),
    }  # fmt: skip
