"""Faces grouped by person: fused templates beside average linkage, connected components and Chinese whispers, on LFW.

All 13,233 crops (5,749 people) are grouped at the certificate's thresholds: of verification, and of searches among
1,000 and 5,000 templates. Pairwise precision and recall count pairs of images; B-cubed those of the mean image (Amigó
et al., 2009). A wrong merge is a face in a group most of which is somebody else; `mixed` counts the groups with such
faces. HDBSCAN needs all distances, so 2,000 people drawn at random stand for all. Vectors are kept in
build/benchmarks/grouping.npz.
"""

from collections.abc import Callable

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import pdist

from benchmarks.harness.faces import shared
from benchmarks.harness.sheet import ROOT, LeftOut, Sheet, peer
from normface.data import open_reader
from normface.embed import Embedder
from normface.embed.grouping import group_vectors, numbered
from normface.types import Embeddings, Floats, Ints

QUICK = None
KEPT = ROOT / "build" / "benchmarks" / "grouping.npz"
SIZES, PEOPLE, ROUNDS = (1_000, 5_000), 2_000, 20


def run(sheet: Sheet) -> None:
    """Agreement with the names for each method and threshold."""
    archive = shared() / "lfw" / "lfw-112x96.zip"
    if not archive.exists():
        raise LeftOut("real faces are not there; set NORMFACE_DATA")
    embedder = Embedder.load()
    if not KEPT.exists():
        KEPT.parent.mkdir(parents=True, exist_ok=True)
        embedder.embed(open_reader(archive)).save(KEPT)
    found = Embeddings.load(KEPT)
    names = numbered([id.partition("/")[0] for id in found.ids.tolist()])
    point = embedder.operating_point
    assert point
    cuts = [point.threshold, *(point.for_search(size).threshold for size in SIZES)]
    for method, group in METHODS.items():
        for cut in cuts:
            sheet.measure(f"all/{method}/{cut:.4f}", judged, group, found.vectors, cut, names)
    some = np.isin(names, np.random.default_rng(0).permutation(int(names.max()) + 1)[:PEOPLE])
    vectors, names = found.vectors[some], numbered(names[some])
    for cut in cuts[1:]:
        sheet.measure(f"{PEOPLE} people/fused templates/{cut:.4f}", judged, group_vectors, vectors, cut, names)
    sheet.measure(f"{PEOPLE} people/HDBSCAN", lambda: agreement(hdbscan(vectors), names))


def judged(group: Callable[[Floats, float], Ints], vectors: Floats, cut: float, names: Ints) -> dict[str, float]:
    """The agreement of one method at one threshold."""
    return agreement(group(vectors, cut), names)


def edges(vectors: Floats, cut: float) -> tuple[Ints, Ints, Floats]:
    """Pairs of rows with a cosine of at least `cut`, and the cosine."""
    parts = []
    for start in range(0, len(vectors), 1024):
        cosines = vectors[start : start + 1024] @ vectors.T
        i, j = np.nonzero(cosines >= cut)
        once = i + start < j
        parts.append((i[once] + start, j[once], cosines[i[once], j[once]]))
    i, j, cosine = (np.concatenate(each) for each in zip(*parts, strict=True))
    return i, j, cosine


def average(vectors: Floats, cut: float) -> Ints:
    """Average linkage by SciPy, with all distances in memory."""
    tree = linkage(pdist(np.asarray(vectors, np.float64), "cosine"), "average")
    return numbered(fcluster(tree, 1 - cut, "distance"))


def components(vectors: Floats, cut: float) -> Ints:
    """Connected components of the graph of `edges`, which is single linkage."""
    i, j, cosine = edges(vectors, cut)
    graph = coo_matrix((cosine, (i, j)), (len(vectors), len(vectors)))
    return numbered(connected_components(graph, directed=False)[1])


def whispers(vectors: Floats, cut: float) -> Ints:
    """Chinese whispers (Biemann, 2006): each face takes the label of most weight among its neighbors, in turn."""
    i, j, cosine = edges(vectors, cut)
    both = (np.r_[cosine, cosine], (np.r_[i, j], np.r_[j, i]))
    graph = coo_matrix(both, (len(vectors), len(vectors))).tocsr()
    labels, draw = np.arange(len(vectors)), np.random.default_rng(0)
    for _ in range(ROUNDS):
        before = labels.copy()
        for row in draw.permutation(len(vectors)):
            inside = slice(graph.indptr[row], graph.indptr[row + 1])
            around, at = np.unique(labels[graph.indices[inside]], return_inverse=True)
            if len(around):
                labels[row] = around[np.bincount(at, graph.data[inside]).argmax()]
        if (labels == before).all():
            break
    return numbered(labels)


def hdbscan(vectors: Floats) -> Ints:
    """HDBSCAN of scikit-learn, which has no threshold; what it calls noise is alone."""
    cluster = peer("sklearn.cluster", "pip install 'normface[ytf]'")
    rows = np.asarray(vectors, np.float64)
    model = cluster.HDBSCAN(min_cluster_size=2, min_samples=1, metric="precomputed", copy=False)
    labels = model.fit_predict(np.clip(1 - rows @ rows.T, 0, 2))
    alone = labels < 0
    labels[alone] = labels.max() + 1 + np.arange(alone.sum())
    return numbered(labels)


METHODS: dict[str, Callable[[Floats, float], Ints]] = {
    "fused templates": group_vectors, "average linkage": average, "connected components": components,
    "Chinese whispers": whispers,
}  # fmt: skip


def agreement(labels: Ints, names: Ints) -> dict[str, float]:
    """Pairwise and B-cubed precision, recall and F of groups, and the faces and groups that are wrong."""
    (person, group), both = np.unique(np.stack([names, labels]), axis=1, return_counts=True)
    people, groups = np.bincount(names), np.bincount(labels)
    pairs = [float((n * (n - 1) / 2).sum()) for n in (both, groups, people)]
    most = np.zeros(len(groups))
    np.maximum.at(most, group, both)
    cubed = [float((both**2 / n).sum() / len(names)) for n in (groups[group], people[person])]
    precision, recall = pairs[0] / max(pairs[1], 1), pairs[0] / max(pairs[2], 1)
    rates = {
        "pairwise_precision": precision, "pairwise_recall": recall, "pairwise_f": f(precision, recall),
        "bcubed_precision": cubed[0], "bcubed_recall": cubed[1], "bcubed_f": f(*cubed),
        "wrong_merges": float((len(names) - most.sum()) / len(names)),
    }  # fmt: skip
    counts = {"groups": len(groups), "mixed": int((np.bincount(group) > 1).sum()), "faces": len(names)}
    return {**{name: round(rate, 4) for name, rate in rates.items()}, **counts}


def f(precision: float, recall: float) -> float:
    """Harmonic mean."""
    return 2 * precision * recall / max(precision + recall, 1e-12)
