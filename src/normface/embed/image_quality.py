"""Quality of the images that a protocol compares, for error-versus-discard curves; higher is better."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ..conditions import scores
from ..data import open_reader
from ..data.catalogue import fetched, find
from ..errors import ConfigError, DataError
from ..faces import retarget, sharpness, signals
from ..faces.ediffiqa import EDifFIQA
from ..types import Embeddings, Floats, Image
from .embedder import Embedder

QUALITIES = ("sharpness", "norm", "risk", "ediffiqa")


def image_quality(
    name: str,
    vectors: Embeddings,
    crops: Path | None,
    *,
    model: Path | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Floats:
    """Measure the quality of each image that has a vector [N].

    Args:
        name: `sharpness` of the crop (`faces.sharpness`); `norm` of the feature; `risk`, the negative log-odds by which
            the model's certificate sees the image outside its conditions; `ediffiqa`, a network that was fetched, or
            `ediffiqa=FILE`.
        vectors: of both orientations summed, for `risk`.
        crops: the aligned images; `norm` needs none.
        model: as for `Embedder.load`, for `risk`.
        progress: called with images done and in total.

    Raises:
        ConfigError: another name, no crops, a model without conditions.
        ModelError: eDifFIQA was not fetched, or is another file.
        DataError: norms that are all equal, images without a crop.
    """
    kind, _, file = name.partition("=")
    if kind not in QUALITIES or (file and kind != "ediffiqa"):
        raise ConfigError(f"a quality among {', '.join(QUALITIES)}", repr(name), "choose one of them")
    if kind == "norm":
        if np.ptp(vectors.norms) < 1e-5 * float(vectors.norms.max()):
            raise DataError("norms that differ", "unit vectors", "give the features before they are normalized")
        return vectors.norms
    if crops is None:
        raise ConfigError(f"aligned crops for --quality {kind}", "vectors alone", "name them: --crops")
    images = _crops(vectors, crops, progress)
    if kind == "sharpness":
        return np.array([sharpness(crop) for crop in images])
    if kind == "ediffiqa":
        network = EDifFIQA(Path(file) if file else fetched(find(kind, "quality")))
        return np.array([network(crop[None]) for crop in images])
    embedder = Embedder.load(model)
    conditions = embedder.operating_point.conditions if embedder.operating_point else None
    if conditions is None:
        raise ConfigError(
            "a model whose certificate has conditions, for --quality risk", f"none of {embedder.name}",
            "make them: normface calibrate --conditions",
        )  # fmt: skip
    found = [signals(retarget(crop[None], embedder.spec.template)[0]) for crop in images]
    columns = {signal: np.array([each[signal] for each in found]) for signal in conditions.signals}
    return -scores(conditions.log_odds(vectors.vectors, columns))


def _crops(vectors: Embeddings, crops: Path, progress: Callable[[int, int], object] | None) -> Iterator[Image]:
    """The crop of each vector, in their order. Raises DataError where there is none."""
    reader = open_reader(crops)
    rows = {name: row for row, name in enumerate(reader.ids.tolist())}
    for done, id in enumerate(vectors.ids.tolist(), start=1):
        if id not in rows:
            raise DataError("a crop of each image that has a vector", f"none of {id}", "name others: --crops")
        yield reader.read(rows[id])
        if progress:
            progress(done, len(vectors))
