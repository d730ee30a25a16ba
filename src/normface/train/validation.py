"""Validation on held-out people during training; keeps the best network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import dist
from ..checkpoint import Checkpoint, finished
from ..data import Reader
from ..embed import Embedder, Network
from ..embed.pytorch import torch_runner
from ..errors import DataError
from ..protocols import metrics
from ..protocols.tally import tally_all_pairs
from ..types import Floats
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

    Comparisons are streamed, never all held; the EER is exact to a bin of 0.001. Ranks share the embedding, and the
    first rank's figures decide for all.

    Args:
        steps: per epoch.
    """

    def __init__(self, config: TrainConfig, reader: Reader, run: Path, *, steps: int) -> None:
        self.config, self.reader, self.folder = config.validate_on, reader, run / BEST
        self.interval = max(1, round(config.validate_on.every * steps))

    def due(self, done: int, total: int) -> bool:
        """Return True if validation is due after this many steps."""
        return done % self.interval == 0 or done == total

    def __call__(self, state: State, done: int, facts: Mapping[str, Any]) -> dict[str, float]:
        """Validate after `done` steps; store the network if it is the best so far. Returns the figures."""
        state.agree_on_buffers()
        model = state.best
        training = model.training
        model.eval()
        network = Network(torch_runner(model), state.model.spec, sha256="")
        vectors = self._embed(Embedder(network), model.dim)
        model.train(training)
        curve = tally_all_pairs(vectors, self.reader.labels, FAR).roc()
        figures = torch.tensor([curve.tar[metrics.at_far(curve, FAR)], metrics.eer(curve)], dtype=torch.float64)
        found = dict(zip(("validation_tar", "validation_eer"), dist.first(figures).tolist(), strict=True))
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

    def _embed(self, embedder: Embedder, dim: int) -> Floats:
        """Embed the images, each rank an even part. Returns all unit vectors [N, D] on every rank."""
        count = len(self.reader)
        each = -(-count // dist.world())
        mine = np.arange(dist.rank() * each, min((dist.rank() + 1) * each, count))
        vectors = np.zeros((each, dim), np.float32)
        if len(mine):
            vectors[: len(mine)] = embedder.embed(self.reader.select(mine), mirror="none").vectors
        return dist.gather(torch.from_numpy(vectors)).numpy()[:count]

    def _best(self) -> tuple[float, int] | None:
        """Return the best TAR so far and its step, from the first rank's disk, so that it survives resuming."""
        kept = Checkpoint.read(self.folder) if dist.rank() == 0 and finished(self.folder) else None
        figures = [kept.facts["validation_tar"], kept.step] if kept else [-1, 0]
        tar, step = dist.first(torch.tensor(figures, dtype=torch.float64)).tolist()
        return None if tar < 0 else (tar, int(step))
