"""Batches as a pure function of (seed, step): a run resumes anywhere with nothing to restore."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache, partial

import numpy as np

from ..ahead import ahead
from ..data import Reader
from ..errors import ConfigError, DataError
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
        part: this rank's number and the number of ranks: each gives its even part of every batch.

    Raises:
        ConfigError: `config.per_person`, or the number of ranks, does not divide the batch.
        DataError: fewer images than one batch, or fewer people than it shows.
    """

    def __init__(
        self,
        reader: Reader,
        spec: InputSpec,
        config: DataConfig,
        *,
        batch: int,
        seed: int,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        if len(reader) < batch:
            raise DataError(f"at least one batch of {batch} images", f"{len(reader)}", "lower optim.batch")
        rank, ranks = part
        if batch % ranks:
            raise ConfigError(f"an optim.batch that {ranks} ranks can share evenly", f"{batch}", "change one of them")
        self.part = slice(rank * batch // ranks, (rank + 1) * batch // ranks)
        self.reader, self.spec, self.config, self.seed = reader, spec, config, seed
        self.per_epoch = len(reader) // batch
        self.rows: Callable[[int], Ints]
        if config.per_person is None:
            self.rows = partial(_shuffled, len(reader), batch, seed)
        else:
            if batch % config.per_person:
                raise ConfigError(
                    "an optim.batch that is a multiple of data.per_person", f"{batch} and {config.per_person}",
                    "correct one of them",
                )  # fmt: skip
            self.rows = PKSampler(reader.labels, batch // config.per_person, config.per_person, seed=seed).rows

    def __getitem__(self, step: int) -> tuple[Floats, Ints]:
        """Network input [b, C, H, W] float32 and labels [b] int64 of one step: this rank's part of the batch."""
        rows = self.rows(step)[self.part]
        crops = [retarget(self.reader.read(int(row))[None], self.spec.template) for row in rows]
        rng = np.random.default_rng([self.seed, *divmod(step, self.per_epoch)])
        return self.spec.prepare(augment(np.concatenate(crops), self.config, rng, self.part.start)), self.reader.labels[
            rows
        ]

    def run(self, start: int, stop: int) -> Iterator[tuple[Floats, Ints]]:
        """The batches of steps [start, stop) in order, decoded ahead by a thread."""
        return ahead(self.__getitem__, range(start, stop))


class PKSampler:
    """Batches of P people × K images, for losses that compare images of a batch (`Contrastive`, `Triplet`).

    People come in shuffled passes, each once a pass (the rest that fills no batch is left for other passes); a person
    with fewer than K images shows some twice. `torch.utils.data.DataLoader(…, batch_sampler=PKSampler(…))` works too:
    each iteration gives one pass, and the next goes on.

    Args:
        labels: of the images [N].
        people, per_person: P and K.
        seed: decides the batches, together with the step.

    Raises:
        DataError: fewer than P people.
    """

    def __init__(self, labels: Ints, people: int, per_person: int, *, seed: int = 0) -> None:
        count = len(np.unique(labels))
        if people < 1 or per_person < 1 or count < people:
            raise DataError(
                f"at least {people} people, and one image of each", f"{count} and {per_person}",
                "use a smaller batch, or more images a person",
            )  # fmt: skip
        self.people, self.per_person, self.seed, self.passes = people, per_person, seed, 0
        order = np.argsort(labels, kind="stable")
        self.images = np.split(order, np.flatnonzero(np.diff(np.asarray(labels)[order])) + 1)

    def rows(self, step: int) -> Ints:
        """The images of a step [P·K], person by person."""
        turn, place = divmod(step, len(self))
        chosen = _order(self.seed, turn, len(self.images))[place * self.people : (place + 1) * self.people]
        rng = np.random.default_rng([self.seed, turn, place])
        return np.concatenate([self._draw(self.images[person], rng) for person in chosen])

    def _draw(self, images: Ints, rng: np.random.Generator) -> Ints:
        # Whole rounds through the person's images, then a part of one: no image more than once oftener than another.
        rounds = -(-self.per_person // len(images))
        return np.concatenate([rng.permutation(images) for _ in range(rounds)])[: self.per_person]

    def __len__(self) -> int:
        """Steps a pass."""
        return len(self.images) // self.people

    def __iter__(self) -> Iterator[list[int]]:
        first = self.passes * len(self)
        self.passes += 1
        return (self.rows(step).tolist() for step in range(first, first + len(self)))


def _shuffled(count: int, batch: int, seed: int, step: int) -> Ints:
    """The images of a step [batch], each once an epoch."""
    epoch, place = divmod(step, count // batch)
    return _order(seed, epoch, count)[place * batch : (place + 1) * batch]


@lru_cache(maxsize=1)
def _order(seed: int, epoch: int, count: int) -> Ints:
    """The order of an epoch's images (or a pass's people), drawn once for all its batches."""
    return np.random.default_rng([seed, epoch]).permutation(count)
