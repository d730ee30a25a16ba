"""Is a smaller model as good as the one it was made from? A paired test of non-inferiority on a list of pairs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError, DataError
from ..types import Embeddings, Estimate, Floats, Result
from . import metrics
from .intervals import percentiles, resampled_pairs
from .lookup import rows_of
from .pairs import read_lfw_pairs, scores


def gate(
    full: Embeddings,
    smaller: Embeddings,
    pairs_file: str | Path,
    *,
    far: float,
    max_loss: float,
    replicates: int = 1000,
    conditions: Mapping[str, Any] | None = None,
) -> Result:
    """What a smaller model loses in TAR at a false accept rate, with a paired interval by a bootstrap over people.

    Each model has its own threshold for `far`, found anew in every sample of people: its uncertainty counts too.

    Args:
        full, smaller: embeddings of every image of the list, in the same space (cosines of the two are reported).
        max_loss: the loss, as a part of all genuine pairs, that the whole interval must stay at or below.
        conditions: recorded among the facts.

    Returns:
        tar_full, tar_smaller, tar_loss (full - smaller). Facts: `passed`, the limit, the rate, and the least cosine
        between the models' embeddings of one image.

    Raises:
        DataError: a malformed list, ids without vectors, too few impostors for `far`.
        ConfigError: a limit outside 0 to 1.
    """
    if not 0 <= max_loss < 1:
        raise ConfigError("a loss of TAR from 0 to 1", str(max_loss), "give a small part of 1, such as 0.01")
    named = read_lfw_pairs(pairs_file)
    both = [scores(each, named.within(each)) for each in (full, smaller)]
    metrics.at_far(metrics.roc(both[0]), far)  # refuses a rate that these pairs cannot resolve
    if full.vectors.shape[1] != smaller.vectors.shape[1]:
        lengths = f"{full.vectors.shape[1]} and {smaller.vectors.shape[1]}"
        raise DataError("embeddings of one length", lengths, "compare models of different spaces by: normface compare")
    people, same = named.people, named.same
    falling = [np.argsort(-each.impostor, kind="stable") for each in both]

    def rates(weights: Floats) -> Floats:
        genuine, impostor = weights[same], weights[~same]
        return np.array([
            genuine @ (each.genuine > _highest_refused(each.impostor[order], impostor[order], far))
            / max(genuine.sum(), 1)  # of a tiny list a sample may hold no genuine pair
            for each, order in zip(both, falling, strict=True)
        ])  # fmt: skip

    values = rates(np.ones(len(same)))
    draws = resampled_pairs(rates, people, same, replicates)
    losses = np.concatenate([draws, draws[:, :1] - draws[:, 1:]], axis=1)
    lows, highs = percentiles(losses)
    found = {
        name: Estimate(float(value), min(float(low), float(value)), max(float(high), float(value)), int(same.sum()))
        for name, value, low, high in zip(
            ("tar_full", "tar_smaller", "tar_loss"), [*values, values[0] - values[1]], lows, highs, strict=True
        )
    }
    images = np.unique([named.left, named.right])
    cosines = np.einsum("nd,nd->n", *(each.vectors[rows_of(each, images)[0]] for each in (full, smaller)))
    facts = {
        "passed": found["tar_loss"].high <= max_loss, "max_loss": max_loss, "far": far,
        "people": int(np.max(people)) + 1, "replicates": replicates, "min_cosine": float(cosines.min()),
        "pairs_sha256": named.sha256, **(conditions or {}),
    }  # fmt: skip
    return Result("gate", found, {}, facts)


def _highest_refused(falling: Floats, weights: Floats, far: float) -> float:
    """The highest impostor score that is not accepted at `far`: what is above it is accepted."""
    reached = np.cumsum(weights)
    allowed = far * reached[-1] * (1 + 1e-12)
    at = int(np.searchsorted(reached, allowed, side="right"))
    return float(falling[at]) if at < len(falling) else -np.inf
