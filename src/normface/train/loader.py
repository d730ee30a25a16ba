"""Batches as a pure function of (seed, step), so a run can resume at any step without loader state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..data import Reader
from ..errors import ConfigError, DataError
from ..faces import retarget
from ..prefetch import map_ahead
from ..system_facts import usable_cores
from ..types import Floats, Image, InputSpec, Ints
from .augment import draw, mix, move
from .config import DataConfig

UNKNOWN = -1  # the label of an image without identity


class Batch(NamedTuple):
    """A batch: crops [b, H, W, 3] uint8, labels [b] int64, random numbers [b, n] for `augment`, and rows [b] in the
    Reader."""

    images: Image
    labels: Ints
    numbers: Floats
    rows: Ints


class Mixed:
    """Labeled images followed by unlabeled ones with the label -1, as a Reader for `Batches`."""

    def __init__(self, labeled: Reader, unlabelled: Reader) -> None:
        self.parts = labeled, unlabelled
        self.ids = np.concatenate([labeled.ids, unlabelled.ids])
        self.identities = labeled.identities
        self.labels: Ints = np.concatenate([labeled.labels, np.full(len(unlabelled), UNKNOWN)])

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, index: int, out: Image | None = None) -> Image:
        """Image `index`, as `Reader.read`."""
        first = len(self.parts[0])
        return self.parts[0].read(index, out) if index < first else self.parts[1].read(index - first, out)


class Batches:
    """Shuffled batches from a Reader of aligned crops; thread-safe.

    Args:
        reader: images and labels.
        spec: the network's InputSpec.
        batch: images per step; an incomplete batch at the end of an epoch is dropped.
        seed: determines order and augmentation, together with the step.
        part: rank and world size; each rank returns its even part of every batch.
        views: number of augmentations per image, one per epoch, repeated cyclically; None for a new one each epoch.

    Raises:
        ConfigError: `config.per_person`, or the world size, does not divide the batch.
        DataError: fewer images than one batch, or fewer people than it requires.
        InputError: crops of a template that differs from the network's by more than a border.
    """

    def __init__(
        self,
        reader: Reader | Mixed,
        spec: InputSpec,
        config: DataConfig,
        *,
        batch: int,
        seed: int,
        part: tuple[int, int] = (0, 1),
        views: int | None = None,
    ) -> None:
        if len(reader) < batch:
            raise DataError(f"at least one batch of {batch} images", f"{len(reader)}", "lower optim.batch")
        rank, ranks = part
        if batch % ranks:
            raise ConfigError(f"an optim.batch that is a multiple of {ranks} ranks", f"{batch}", "change one of them")
        self.part = slice(rank * batch // ranks, (rank + 1) * batch // ranks)
        retarget(reader.read(0)[None], spec.template)  # what does not fit is refused before anything is written
        self.reader, self.spec, self.config = reader, spec, config
        self.batch, self.seed, self.views = batch, seed, views
        self.per_epoch = len(reader) // batch
        self._of_view = lru_cache(maxsize=2)(self._draw_view)
        self.rows: Callable[[int], Ints]
        if config.per_person is None:
            self.rows = Shuffle(reader.labels, batch, seed=seed, balance=config.balance).rows
        else:
            if batch % config.per_person:
                raise ConfigError(
                    "an optim.batch that is a multiple of data.per_person", f"{batch} and {config.per_person}",
                    "correct one of them",
                )  # fmt: skip
            self.rows = PKSampler(reader.labels, batch // config.per_person, config.per_person, seed=seed).rows

    def __getitem__(self, step: int) -> Batch:
        """Return this rank's part of the batch of a step."""
        rows = self.rows(step)[self.part]
        images = np.empty((len(rows), self.spec.height, self.spec.width, 3), np.uint8)
        for place, row in zip(images, rows.tolist(), strict=True):
            image = self.reader.read(row, place)
            if image is not place:  # of another template
                place[:] = retarget(image[None], self.spec.template)[0]
        if self.views:
            numbers = self._of_view(self.view(step))[rows]
        else:
            numbers = draw(self.batch, np.random.default_rng([self.seed, *divmod(step, self.per_epoch)]))[self.part]
        labels = self.reader.labels[rows]
        if self.config.mix:
            labels = np.where(mix(images, numbers, self.config), UNKNOWN, labels)
        return Batch(images, labels, numbers, rows)

    def view(self, step: int) -> int:
        """Return the number of the view at a step."""
        return step // self.per_epoch % (self.views or 1)

    def _draw_view(self, view: int) -> Floats:
        return draw(len(self.reader), np.random.default_rng([self.seed, len(self.reader), view]))

    def run(self, start: int, stop: int, device: torch.device) -> Iterator[tuple[Tensor, ...]]:
        """Yield the parts of a Batch for steps [start, stop) in order, as tensors on the device.

        Threads decode ahead: for a GPU into pinned memory, copied while the network computes; for CPUs with the
        geometry applied (`augment.move`).
        """
        if device.type != "cuda":  # one thread: the network needs the other cores

            def moved(step: int) -> Batch:
                batch = self[step]
                move(batch.images, batch.numbers, self.config)
                return batch

            for batch in map_ahead(moved, range(start, stop)):
                yield tuple(map(torch.from_numpy, batch))
            return
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

        def load(step: int) -> tuple[list[Tensor], torch.cuda.Event]:
            # The current device is each thread's own: without it, pinned memory would open a context on the first GPU.
            with torch.cuda.device(device), torch.cuda.stream(stream):
                copies = [torch.from_numpy(part).pin_memory().to(device, non_blocking=True) for part in self[step]]
                return copies, stream.record_event()

        threads = max(1, min(8, usable_cores() // torch.cuda.device_count() - 1))
        for copies, copied in map_ahead(load, range(start, stop), depth=2 * threads, threads=threads):
            computing = torch.cuda.current_stream(device)
            computing.wait_event(copied)
            for copy in copies:
                copy.record_stream(computing)
            yield tuple(copies)


class Shuffle:
    """Batches in random order over all images; an epoch has as many draws as there are images.

    With `balance` b, a person with n images gets a share ∝ n^(1-b) of the draws: 0 shows every image once per epoch, 1
    every person equally often. Within a person, image counts differ by at most one.
    """

    def __init__(self, labels: Ints, batch: int, *, seed: int = 0, balance: float = 0.0) -> None:
        self.batch, self.seed, self.per_epoch = batch, seed, len(labels) // batch
        self.count = len(labels)
        self.people = by_person(labels) if balance else []
        sizes = np.array([len(images) for images in self.people], np.float64)
        self.shares = sizes ** (1 - balance) / (sizes ** (1 - balance)).sum() * self.count
        self.order = lru_cache(maxsize=2)(self._order)  # threads may stand on both sides of an epoch's end

    def rows(self, step: int) -> Ints:
        """Return the rows of the images of a step [batch]."""
        epoch, place = divmod(step, self.per_epoch)
        return self.order(epoch)[place * self.batch : (place + 1) * self.batch]

    def _order(self, epoch: int) -> Ints:
        rng = np.random.default_rng([self.seed, epoch])
        if not self.people:
            return rng.permutation(self.count)
        # Systematic sampling: each person's whole part, and the fractions by chance, in all exactly `count`.
        ends = np.floor(np.cumsum(self.shares) + rng.random())
        ends[-1] = self.count
        quotas = np.diff(ends, prepend=0).astype(int)
        return rng.permutation(
            np.concatenate([rounds(images, quota, rng) for images, quota in zip(self.people, quotas, strict=True)])
        )


class PKSampler:
    """Batches of P people × K images, for losses that compare images of a batch (`Contrastive`, `Triplet`).

    Each pass is a shuffle of all people (an incomplete batch is dropped); people with fewer than K images show
    some twice. Also works as `torch.utils.data.DataLoader(…, batch_sampler=PKSampler(…))`: each iteration gives one
    pass, and the next continues with new ones.

    Args:
        labels: of the images [N].
        people, per_person: P and K.
        seed: determines the batches, together with the step.

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
        self.images = by_person(labels)
        self.order = lru_cache(maxsize=2)(self._order)

    def rows(self, step: int) -> Ints:
        """Return the rows of the images of a step [P·K], person by person."""
        turn, place = divmod(step, len(self))
        chosen = self.order(turn)[place * self.people : (place + 1) * self.people]
        rng = np.random.default_rng([self.seed, turn, place])
        return np.concatenate([rounds(self.images[person], self.per_person, rng) for person in chosen])

    def _order(self, turn: int) -> Ints:
        return np.random.default_rng([self.seed, turn]).permutation(len(self.images))

    def __len__(self) -> int:
        """Number of steps per pass."""
        return len(self.images) // self.people

    def __iter__(self) -> Iterator[list[int]]:
        first = self.passes * len(self)
        self.passes += 1
        return (self.rows(step).tolist() for step in range(first, first + len(self)))


def by_person(labels: Ints) -> list[Ints]:
    """Return the rows of each person's images, people in the order of their labels."""
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(np.asarray(labels)[order])) + 1)


def rounds(images: Ints, count: int, rng: np.random.Generator) -> Ints:
    """Draw `count` of a person's images: whole shuffled rounds, then part of one."""
    turns = -(-count // len(images))
    return np.concatenate([rng.permutation(images) for _ in range(turns)] or [images])[:count]
