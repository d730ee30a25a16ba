"""Validation on held-out people during training; keeps the best network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoint import Checkpoint, finished
from ..data import Reader
from ..embed import Embedder, Network
from ..embed.pytorch import torch_runner
from ..errors import DataError
from ..protocols import metrics
from ..types import ScoreSet
from .config import TrainConfig
from .state import State

FAR = 0.001
BEST = "best"


def hold_out(reader: Reader, config: TrainConfig) -> tuple[Reader, Reader | None]:
    """Split off the images of `config.validate_on.people` people, drawn by the seed. Returns both parts.

    Raises DataError if fewer than two people remain, or too few are held out for a false accept rate of 0.1 %.
    """
    count = config.validate_on.people
    if not count:
        return reader, None
    people = len(reader.identities)
    if people - count < 2:
        raise DataError(f"at least {count + 2} people, to hold out {count}", f"{people}", "lower validate_on.people")
    chosen = np.random.default_rng(config.seed).permutation(people)[:count]
    out = np.isin(reader.labels, chosen)
    apart = reader.select(np.flatnonzero(out))
    sizes = np.bincount(apart.labels)
    genuine = int((sizes * (sizes - 1) // 2).sum())
    impostors = len(apart) * (len(apart) - 1) // 2 - genuine
    if not genuine or impostors * FAR < 1:
        raise DataError(
            f"1 genuine and {round(1 / FAR):,} impostor comparisons among the people held out",
            f"{genuine} and {impostors}", "raise validate_on.people",
        )  # fmt: skip
    return reader.select(np.flatnonzero(~out)), apart


class Validation:
    """TAR at FAR 0.1 % and EER over all comparisons of the held-out images; stores the best network in RUN/best.

    Args:
        steps: per epoch.
    """

    def __init__(self, config: TrainConfig, reader: Reader, run: Path, *, steps: int) -> None:
        self.config, self.reader, self.folder = config.validate_on, reader, run / BEST
        self.interval = max(1, round(config.validate_on.every * steps))
        one, other = np.triu_indices(len(reader), k=1)
        self.pairs, self.same = (one, other), reader.labels[one] == reader.labels[other]

    def due(self, done: int, total: int) -> bool:
        """Return True if validation is due after this many steps."""
        return done % self.interval == 0 or done == total

    def __call__(self, state: State, done: int, facts: Mapping[str, Any]) -> dict[str, float]:
        """Validate after `done` steps; store the network if it is the best so far. Returns the figures."""
        model = state.best
        training = model.training
        model.eval()
        network = Network(torch_runner(model), state.model.spec, sha256="")
        vectors = Embedder(network).embed(self.reader, mirror="none").vectors
        model.train(training)
        one, other = self.pairs
        cosines = (vectors @ vectors.T)[one, other].astype(np.float64)
        curve = metrics.roc(ScoreSet(cosines, self.same, np.zeros(len(cosines), np.int64)))
        found = {"validation_tar": float(curve.tar[metrics.at_far(curve, FAR)]), "validation_eer": metrics.eer(curve)}
        best = self._best()
        if best is None or found["validation_tar"] > best[0]:
            state.save(self.folder, done, {**facts, **found})
        return found

    def enough(self, done: int) -> bool:
        """Return True if the run should end, because validation has not improved for long enough."""
        best = self._best()
        if self.config.patience is None or best is None:
            return False
        return (done - best[1]) // self.interval >= self.config.patience

    def _best(self) -> tuple[float, int] | None:
        """Return the best TAR so far and its step, from disk, so that it survives resuming."""
        if not finished(self.folder):
            return None
        best = Checkpoint.read(self.folder)
        return best.facts["validation_tar"], best.step
