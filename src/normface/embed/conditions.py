"""Conditions of a certificate, learned from ordinary faces, from degraded ones, and from other faces outside."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression, minimize

from ..conditions import Conditions, inputs, scores
from ..data import Reader
from ..errors import DataError
from ..faces import retarget, signals
from ..faces.alter import alterations
from ..types import Bools, Embeddings, Floats, Image
from .embedder import Embedder

FACES = 500  # number of faces for each degradation
FEWEST = 50  # minimum of photographs of a kind
USED = ("sharpness", "light", "contrast", "detail")  # signals used by the weights
PARTS = ("eyes", "mouth")  # signals near 0 if one color covers them: the limit is half of the lowest value found
TAIL = 0.0003  # share of ordinary photographs beyond each end of a signal's range
SHARE = 0.007  # share of ordinary photographs beyond the limit
HIGHEST = 1e6  # for signals without an upper limit
# For the detection, whatever the faces, because no network was measured on smaller or worse ones.
DETECTION = {"eye_distance": (15.0, HIGHEST), "detection": (0.98, 1.0), "shape": (0.7, 1.55)}
PENALTY = 3e-3
STEPS = 12  # of the map from score to risk
Progress = Callable[[int, int], object]


@dataclass(frozen=True)
class Sample:
    """Photographs of one kind: unit `vectors` [N, D], `signals` of their crops, [N] each, and the `people` [N]."""

    vectors: Floats
    signals: Mapping[str, Floats]
    people: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.vectors)

    def take(self, rows: Any) -> Sample:
        """Return some of the photographs."""
        return Sample(self.vectors[rows], {k: v[rows] for k, v in self.signals.items()}, self.people[rows])

    def inputs(self) -> NDArray[np.float64]:
        """Return the inputs of the regression."""
        return inputs(self.vectors, self.signals, USED)


def learn(
    embedder: Embedder,
    inside: Reader,
    faces: Sequence[Reader],
    outside: Mapping[str, Reader],
    *,
    vectors: Embeddings | None = None,
    threshold: float,
    seed: int = 0,
    progress: Progress | None = None,
) -> Conditions:
    """Learn the conditions of an embedder at a threshold.

    inside: aligned crops that the certificate was measured on; they define the ranges and the limit.
    faces: ordinary faces of other people; some of the first set are also degraded in every way (`faces.alter`).
    outside: unaltered faces that are outside, such as {"children": …}.
    vectors: of the images inside, by id, both orientations summed, if they are known.
    progress is called with images done and in total.
    Raises DataError for fewer than FEWEST images of a kind.
    """
    draw, template = np.random.default_rng(seed), embedder.template
    altered = faces[0].select(np.sort(draw.permutation(len(faces[0]))[:FACES]))
    ways = alterations(template)
    total = len(inside) + sum(map(len, [*faces, *outside.values()])) + len(ways) * len(altered)
    done = 0

    def sample(reader: Reader, alter: Callable[[Image], Image] | None = None) -> Sample:
        nonlocal done
        found = measure(embedder, reader, alter, lambda now: progress and progress(done + now, total))
        done += len(reader)
        return found

    ordinary = [sample(each) for each in faces]
    kinds = {name: sample(altered, lambda crop, way=way: way(crop, draw)) for name, way in ways.items()}  # type: ignore[misc]
    kinds |= {name: sample(reader) for name, reader in outside.items()}
    own = sample(inside) if vectors is None else _known(embedder, inside, vectors)
    return fit(own, ordinary, kinds, threshold=threshold)


def measure(
    embedder: Embedder,
    reader: Reader,
    alter: Callable[[Image], Image] | None = None,
    progress: Callable[[int], object] = lambda done: None,
) -> Sample:
    """Embed the crops of a reader, after altering them if requested."""
    features: list[Floats] = []
    found: list[dict[str, float]] = []
    for start in range(0, len(reader), 64):
        rows = range(start, min(start + 64, len(reader)))
        crops = np.concatenate([retarget(reader.read(row)[None], embedder.spec.template) for row in rows])
        if alter:
            crops = np.stack([alter(crop) for crop in crops])
        features.append(embedder.features(crops))
        found += [signals(crop, template=embedder.template) for crop in crops]
        progress(len(found))
    vectors = Embeddings(np.concatenate(features), np.arange(len(found)).astype(str)).vectors
    return Sample(vectors, _columns(found), _people(reader))


def _people(reader: Reader) -> NDArray[np.str_]:
    """The person on each image; if all are in one folder, each image is another person."""
    return reader.identities[reader.labels] if len(reader.identities) > 1 else reader.ids


def _columns(found: Sequence[Mapping[str, float]]) -> dict[str, Floats]:
    """Convert the signals of each crop to an array [N] per signal that the weights or ranges use."""
    return {
        name: np.array([each[name] for each in found])
        for name in (*USED, *PARTS)
        if all(name in each for each in found)
    }


def _known(embedder: Embedder, reader: Reader, vectors: Embeddings) -> Sample:
    """The crops of a reader that have vectors."""
    rows = {name: row for row, name in enumerate(reader.ids.tolist())}
    kept = [(row, rows[name]) for row, name in enumerate(vectors.ids.tolist()) if name in rows]
    found = [
        signals(retarget(reader.read(row)[None], embedder.spec.template)[0], template=embedder.template)
        for _, row in kept
    ]
    chosen = [row for _, row in kept]
    return Sample(vectors.vectors[[row for row, _ in kept]], _columns(found), _people(reader)[chosen])


def fit(
    inside: Sample,
    ordinary: Sequence[Sample],
    kinds: Mapping[str, Sample],
    *,
    threshold: float,
    share: float = SHARE,
) -> Conditions:
    """Fit conditions to measured photographs: see `learn`. The share `share` of `inside` lies beyond the limit.

    The limit and the risks come from scores by weights that were fitted without the same people.
    Raises DataError for fewer than FEWEST photographs of a kind.
    """
    sets = [inside, *ordinary, *kinds.values()]
    names = ["calibration", *["--conditions FACES"] * len(ordinary), *(f"the condition {kind}" for kind in kinds)]
    for name, each in zip(names, sets, strict=True):
        if len(each) < FEWEST:
            raise DataError(f"at least {FEWEST} photographs for {name}", str(len(each)), "give more")
    target = np.repeat(np.array([0] * (1 + len(ordinary)) + list(range(1, len(kinds) + 1))), [len(x) for x in sets])
    x = np.concatenate([each.inputs() for each in sets])
    people = np.concatenate([each.people for each in sets])
    half = np.array([hashlib.sha256(f"half of {name}".encode()).digest()[0] % 2 for name in people.tolist()], bool)
    odds = np.empty((len(x), len(kinds)))
    for part in (half, ~half):
        odds[part] = x[part] @ _logistic(x[~part], target[~part], len(kinds)).T
    found, own = scores(odds), np.arange(len(x)) < len(inside)
    cut = float(np.quantile(found[own], 1 - share))
    vectors = np.concatenate([each.vectors for each in sets])
    steps = _risks(vectors, found, target, people, threshold)
    ranges = {name: tuple(np.quantile(inside.signals[name], [TAIL, 1 - TAIL]).tolist()) for name in USED}
    for name in (name for name in PARTS if name in inside.signals):
        ranges[name] = float(np.quantile(inside.signals[name], TAIL)) / 2, HIGHEST
    facts = {
        "threshold": threshold, "inside": len(inside), "faces": sum(map(len, ordinary)),
        "outside": {name: len(each) for name, each in kinds.items()},
        "undecided": {
            "inside": float((found[own] > cut).mean()),
            **{name: float((found[target == k] > cut).mean()) for k, name in enumerate(kinds, 1)},
        },
    }  # fmt: skip
    weights = _logistic(x, target, len(kinds))
    rounded = [[float(f"{value:.5g}") for value in row] for row in weights.tolist()]
    return Conditions({**ranges, **DETECTION}, tuple(kinds), USED, tuple(map(tuple, rounded)), cut, *steps, facts)


def _logistic(x: Floats, target: NDArray[np.integer[Any]], kinds: int) -> NDArray[np.float64]:
    """Weights [K, F] of a multinomial logistic regression with a squared penalty; class 0 has log-odds 0.

    Ordinary photographs have the same total weight as all kinds together, and all kinds have equal weights.
    """
    counts = np.bincount(target, minlength=kinds + 1)
    weight = np.where(target == 0, 0.5 / max(counts[0], 1), 0.5 / kinds / np.maximum(counts[target], 1))
    middle, spread = x[:, :-1].mean(0), x[:, :-1].std(0) + 1e-9
    scaled = np.column_stack([(x[:, :-1] - middle) / spread, np.ones(len(x))])
    hot = np.eye(kinds + 1)[target][:, 1:]

    def loss(flat: Floats) -> tuple[float, Floats]:
        w = flat.reshape(kinds, -1)
        z = scaled @ w.T
        top = np.maximum(z.max(1), 0)
        e = np.exp(z - top[:, None])
        total = np.exp(-top) + e.sum(1)
        value = weight @ (top + np.log(total) - (z * hot).sum(1)) + PENALTY / 2 * (w[:, :-1] ** 2).sum()
        slope = (weight[:, None] * (e / total[:, None] - hot)).T @ scaled
        slope[:, :-1] += PENALTY * w[:, :-1]
        return float(value), slope.ravel()

    found = minimize(loss, np.zeros(kinds * scaled.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 300})
    w = found.x.reshape(kinds, -1)
    out = w.copy()
    out[:, :-1] /= spread
    out[:, -1] -= out[:, :-1] @ middle
    return np.asarray(out)


def _risks(
    vectors: Floats, found: Floats, target: NDArray[Any], people: NDArray[np.str_], threshold: float
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Rising steps from score to the accepted share of impostor pairs of the same kind with similar scores."""
    edges = np.unique(np.quantile(found, np.linspace(0, 1, STEPS + 1))[:-1])
    step = np.searchsorted(edges, found, side="right") - 1
    hits, pairs = np.zeros(len(edges)), np.zeros(len(edges))
    for number in range(len(edges)):
        for kind in np.unique(target):
            rows = np.flatnonzero((step == number) & (target == kind))
            alike = vectors[rows] @ vectors[rows].T >= threshold
            other: Bools = np.triu(people[rows][:, None] != people[rows], 1)
            hits[number] += (alike & other).sum()
            pairs[number] += other.sum()
    kept = pairs > 0
    return tuple(edges[kept].tolist()), tuple(_rising(hits[kept], pairs[kept]).tolist())


def _rising(hits: Floats, pairs: Floats) -> NDArray[np.float64]:
    """Fit the best rising shares by pooling neighbors that fall."""
    shares = isotonic_regression(hits / pairs, weights=pairs).x
    return np.asarray(np.maximum.accumulate(shares))  # rounding of the pools may leave a falling step
