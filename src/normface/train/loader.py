"""Batches as a pure function of (seed, step): a run resumes anywhere with nothing to restore."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from ..ahead import ahead
from ..data import Reader
from ..errors import DataError
from ..faces import retarget
from ..types import Floats, InputSpec, Ints
from .augment import augment
from .config import DataConfig


class Batches:
    """Shuffled, augmented batches from a Reader of aligned crops.

    Args:
        reader: images and labels.
        spec: what the network wants.
        batch: images a step; the rest of an epoch that fills no batch is left for other epochs.
        seed: decides order and augmentation, together with the step.

    Raises:
        DataError: fewer images than one batch.
    """

    def __init__(self, reader: Reader, spec: InputSpec, config: DataConfig, *, batch: int, seed: int) -> None:
        if len(reader) < batch:
            raise DataError(f"at least one batch of {batch} images", f"{len(reader)}", "lower optim.batch")
        self.reader, self.spec, self.config, self.batch, self.seed = reader, spec, config, batch, seed
        self.per_epoch = len(reader) // batch

    def __getitem__(self, step: int) -> tuple[Floats, Ints]:
        """Network input [B, C, H, W] float32 and labels [B] int64 of one step."""
        epoch, place = divmod(step, self.per_epoch)
        rows = _order(self.seed, epoch, len(self.reader))[place * self.batch : (place + 1) * self.batch]
        crops = [retarget(self.reader.read(int(row))[None], self.spec.template) for row in rows]
        rng = np.random.default_rng([self.seed, epoch, place])
        return self.spec.prepare(augment(np.concatenate(crops), self.config, rng)), self.reader.labels[rows]

    def run(self, start: int, stop: int) -> Iterator[tuple[Floats, Ints]]:
        """The batches of steps [start, stop) in order, decoded ahead by a thread."""
        return ahead(self.__getitem__, range(start, stop))


@lru_cache(maxsize=1)
def _order(seed: int, epoch: int, count: int) -> Ints:
    """The order of an epoch's images, drawn once for all its batches."""
    return np.random.default_rng([seed, epoch]).permutation(count)
