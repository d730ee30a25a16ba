"""Validation during training, on held-out people or by any protocol; keeps the best network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from .. import dist
from ..checkpoint import Checkpoint, finished
from ..data import Reader
from ..embed import Embedder, Network
from ..embed.embedder import Mirror
from ..embed.listed import open_listed
from ..embed.pytorch import torch_runner
from ..errors import ConfigError, DataError
from ..protocols import PROTOCOLS, inputs_of, metrics
from ..protocols.tally import tally_all_pairs
from ..types import Embeddings, Floats
from .config import TrainConfig, ValidateConfig
from .state import State

FAR = 0.001
FALLING = ("eer", "far", "frr", "fnir", "fpir")  # metrics of which less is better
BEST, DECIDES = "best", "validation"  # folder of the best network; the fact by which it is the best


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


class Judge(Protocol):
    """Images to embed during training, and what is measured on their vectors."""

    images: Reader
    mirror: Mirror

    def __call__(self, vectors: Floats) -> dict[str, float]:
        """Map unit vectors [N, D] of the images to figures by name; of the first, more is better."""


class HeldOut:
    """TAR at FAR 0.1 % and EER over all comparisons of images.

    Comparisons are streamed, never all held; the EER is exact to a bin of 0.001.
    """

    mirror: Mirror = "none"

    def __init__(self, images: Reader) -> None:
        self.images = images

    def __call__(self, vectors: Floats) -> dict[str, float]:
        curve = tally_all_pairs(vectors, self.images.labels, FAR).roc()
        return {"validation_tar": float(curve.tar[metrics.at_far(curve, FAR)]), "validation_eer": metrics.eer(curve)}


class Listed:
    """A protocol of `normface evaluate` on the images that its lists name, with the mirror sum as there.

    Raises ConfigError for an unknown protocol, one that judges no vectors, or missing files.
    """

    mirror: Mirror = "sum"

    def __init__(self, config: ValidateConfig) -> None:
        assert config.protocol is not None
        self.protocol, self.metric, inputs = config.protocol, config.metric, inputs_of(config.protocol)
        if not inputs.vectors:
            raise ConfigError("validate_on.protocol of vectors", config.protocol, "name another protocol")
        data = None if config.data is None else Path(config.data)
        self.lists = [Path(each) for each in config.lists] or inputs.find_lists(data)
        itself = self.lists[0] if self.lists and self.lists[0].suffix == ".bin" else None  # the list has the images
        crops = Path(config.crops) if config.crops else itself or inputs.find_crops(data)
        self.images, self.ids = open_listed(config.protocol, self.lists, crops)

    def __call__(self, vectors: Floats) -> dict[str, float]:
        result = PROTOCOLS.build(self.protocol, Embeddings(vectors, self.ids), *self.lists)
        found = {name: estimate.value for name, estimate in result.metrics.items() if math.isfinite(estimate.value)}
        rising = [name for name in found if not name.startswith(FALLING)]
        first = self.metric or rising[0]
        if first not in rising:
            raise ConfigError(f"validate_on.metric among {', '.join(rising)}", first, "correct it")
        return {f"validation_{name}": found[name] for name in sorted(found, key=lambda each: each != first)}


def judge_of(reader: Reader, config: TrainConfig) -> tuple[Reader, Judge | None]:
    """Return the images to train on, and the judge that the configuration asks for."""
    if config.validate_on.protocol:
        return reader, Listed(config.validate_on)
    reader, apart = hold_out(reader, config)
    return reader, HeldOut(apart) if apart else None


class Validation:
    """Figures of a judge during training; stores the best network in RUN/best.

    Ranks share the embedding, and the first rank's figures decide for all.

    Args:
        steps: per epoch.
    """

    def __init__(self, config: TrainConfig, judge: Judge, run: Path, *, steps: int) -> None:
        self.config, self.judge, self.folder = config.validate_on, judge, run / BEST
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
        found = self.judge(vectors)
        values = dist.first(torch.tensor(list(found.values()), dtype=torch.float64)).tolist()
        best = self._best()
        if best is None or values[0] > best[0]:
            state.save(self.folder, done, {**facts, **dict(zip(found, values, strict=True)), DECIDES: values[0]})
        return dict(zip(found, values, strict=True))

    def enough(self, done: int) -> bool:
        """Return True if the run should end, because validation has not improved for long enough."""
        best = self._best()
        if self.config.patience is None or best is None:
            return False
        return (done - best[1]) // self.interval >= self.config.patience

    def _embed(self, embedder: Embedder, dim: int) -> Floats:
        """Embed the images, each rank an even part. Returns all unit vectors [N, D] on every rank."""
        images, mirror = self.judge.images, self.judge.mirror
        count = len(images)
        each = -(-count // dist.world())
        mine = np.arange(dist.rank() * each, min((dist.rank() + 1) * each, count))
        vectors = np.zeros((each, dim), np.float32)
        if len(mine):
            vectors[: len(mine)] = embedder.embed(images.select(mine), mirror=mirror).vectors
        return dist.gather(torch.from_numpy(vectors)).numpy()[:count]

    def _best(self) -> tuple[float, int] | None:
        """Return the best figure so far and its step, from the first rank's disk, so that it survives resuming."""
        kept = Checkpoint.read(self.folder) if dist.rank() == 0 and finished(self.folder) else None
        figures = [kept.facts.get(DECIDES, kept.facts.get("validation_tar")), kept.step] if kept else [-1, 0]
        value, step = dist.first(torch.tensor(figures, dtype=torch.float64)).tolist()
        return None if value < 0 else (value, int(step))
