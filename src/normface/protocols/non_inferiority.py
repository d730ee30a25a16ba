"""Non-inferiority test: is a smaller model as good as its original on a list of pairs?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError, DataError
from ..types import Embeddings, Estimate, Result
from .intervals import unused
from .named_pairs import rows_of
from .paired_tar import difference
from .pairs import read_lfw_pairs, scores


def gate(
    full: Embeddings,
    smaller: Embeddings,
    pairs_file: str | Path,
    *,
    far: float,
    max_loss: float,
    replicates: int | None = None,
    conditions: Mapping[str, Any] | None = None,
) -> Result:
    """Measure the loss of TAR of a smaller model at a false accept rate, with a paired interval over people.

    Each model has its own threshold for `far`. The interval includes its uncertainty (`paired_tar.difference`).
    `replicates` is deprecated and has no effect.

    Args:
        full, smaller: embeddings of every image of the list, in the same space (the facts report their cosines).
        max_loss: limit for the upper end of the interval, as a share of all genuine pairs.
        conditions: added to the facts.

    Returns:
        tar_full, tar_smaller, tar_loss (full - smaller). Facts: `passed`, the limit, the rate, and the lowest cosine
        between both models' embeddings of an image.

    Raises:
        DataError: a malformed list, ids without vectors, too few impostors for `far`.
        ConfigError: a limit outside 0 to 1.
    """
    unused(replicates)
    if not 0 <= max_loss < 1:
        raise ConfigError("a loss of TAR from 0 to 1", str(max_loss), "give a small part of 1, such as 0.01")
    named = read_lfw_pairs(pairs_file)
    both = [scores(each, named.within(each)) for each in (full, smaller)]
    people, same = named.people, named.same
    found = difference(both, people, far)  # refuses a rate that these pairs cannot resolve
    if full.vectors.shape[1] != smaller.vectors.shape[1]:
        lengths = f"{full.vectors.shape[1]} and {smaller.vectors.shape[1]}"
        raise DataError("embeddings of one length", lengths, "compare models of different spaces by: normface compare")
    count = int(same.sum())
    metrics = {"tar_loss": Estimate(found.value, *found.interval(found.value, found.error), count)}
    for name, value, error in zip(("tar_full", "tar_smaller"), found.tars, found.errors, strict=True):
        low, high = found.interval(value, error)
        metrics[name] = Estimate(value, max(low, 0.0), min(high, 1.0), count)
    images = np.unique([named.left, named.right])
    cosines = np.einsum("nd,nd->n", *(each.vectors[rows_of(each, images)[0]] for each in (full, smaller)))
    facts = {
        "passed": metrics["tar_loss"].high <= max_loss, "max_loss": max_loss, "far": far,
        "people": int(np.max(people)) + 1, "min_cosine": float(cosines.min()),
        "pairs_sha256": named.sha256, **(conditions or {}),
    }  # fmt: skip
    return Result("gate", metrics, {}, facts)
