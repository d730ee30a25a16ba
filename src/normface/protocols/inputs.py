"""Registry of protocols, and the inputs of each: its lists and the images that they name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from ..errors import ConfigError, DataError
from ..registry import Registry
from ..types import Bools, Embeddings, Result
from .metrics import refuse_equal
from .named_pairs import Ids, NamedPairs

F = TypeVar("F", bound=Callable[..., Any])
CROPS = ("-112x112.zip", "-112x96.zip", "-112x112", "-112x96")  # suffixes of the set's name
PROTOCOLS: Registry[Result] = Registry("protocol", __name__.rpartition(".")[0])


@dataclass(frozen=True)
class Inputs:
    """What a protocol reads, declared in its file by `@reads`.

    Attributes:
        lists: its published files, below a data folder; a pattern may match several. The protocol takes their paths in
            this order, after the embeddings.
        ids: the form of the image names in the lists, for the documentation.
        pairs: reads a list of pairs with its group columns; None if the protocol has no listed pairs. The last list
            contains the evaluated pairs.
        images: (paths of the lists, ids [N]) → mask of the ids in the lists [N]. None: the images of the pairs, or all
            images if there are no pairs.
        every: (paths of the lists, ids [N] with a vector) → the images whose pairs are all compared, and the SHA-256
            of the file that names them; None if not all pairs are compared.
        vectors: True if it takes embeddings, False if it takes scores.
        videos: whether the lists name videos, whose frames are the images: id `VIDEO/frame`.
    """

    lists: tuple[str, ...] = ()
    ids: str = "Name/image"
    pairs: Callable[[Path], tuple[NamedPairs, Mapping[str, Ids]]] | None = None
    images: Callable[[Sequence[Path], Ids], Bools] | None = None
    every: Callable[[Sequence[Path], Ids], tuple[Ids, str]] | None = None
    vectors: bool = True
    videos: bool = False

    def find_lists(self, data: Path | None) -> list[Path]:
        """Find the lists below `data`. Raises ConfigError without it, DataError for a pattern without a match."""
        if data is None and self.lists:
            raise ConfigError("--data, or --list", "neither", "say where the protocol's lists are")
        found = []
        for pattern in self.lists:
            assert data is not None
            if "*" not in pattern:
                found.append(data / pattern)
            elif matches := sorted(data.glob(pattern)):
                found += matches
            else:
                raise DataError(
                    f"{pattern} in {data}", "nothing", "put the published lists there, or name them: --list"
                )
        return found

    def find_crops(self, data: Path | None) -> Path:
        """Find the aligned crops below `data`: the `.bin` list itself, SET/SET-112x112.zip and the like, or `crops`.

        Raises ConfigError without `data`, DataError if there are none.
        """
        if data is None:
            raise ConfigError("--data, or --crops", "neither", "say where the aligned crops are")
        first = self.lists[0] if self.lists else ""
        if first.endswith(".bin"):
            return data / first
        folder = first.partition("/")[0] if "/" in first else ""
        names = [f"{folder}{end}" for end in CROPS] if folder else []
        places = [data / folder / name for name in (*names, "crops.zip", "crops")]
        place = next((place for place in places if place.exists()), None)
        if place is None:
            raise DataError(
                "aligned crops", f"none of {', '.join(map(str, places))}", "put them there, or name them: --crops"
            )
        return place

    def named(self, lists: Sequence[Path], ids: Ids) -> Bools:
        """Mask of the `ids` [N] that the lists name [N]. Raises DataError for malformed lists."""
        if self.images is not None:
            return self.images(lists, ids)
        if self.pairs is None:
            return np.ones(len(ids), bool)
        pairs = [self.pairs(path)[0] for path in lists]
        return np.isin(ids, np.concatenate([side for each in pairs for side in (each.left, each.right)]))

    def read_pairs(self, lists: Sequence[Path]) -> tuple[NamedPairs, Mapping[str, Ids]] | None:
        """Read the evaluated pairs and their group columns; None if the protocol has none."""
        return self.pairs(lists[-1]) if self.pairs is not None else None


def reads(
    *lists: str,
    ids: str = Inputs.ids,
    pairs: Callable[[Path], tuple[NamedPairs, Mapping[str, Ids]]] | None = None,
    images: Callable[[Sequence[Path], Ids], Bools] | None = None,
    every: Callable[[Sequence[Path], Ids], tuple[Ids, str]] | None = None,
    vectors: bool = True,
    videos: bool = False,
) -> Callable[[F], F]:
    """Decorate a protocol, below `@PROTOCOLS.register`, with its `Inputs`. It then refuses equal embeddings."""

    def declare(protocol: F) -> F:
        @wraps(protocol)
        def judge(embeddings: Embeddings, *args: Any, **options: Any) -> Result:
            refuse_equal(embeddings.vectors)
            found: Result = protocol(embeddings, *args, **options)
            return found

        declared = cast(F, judge) if vectors else protocol
        declared.inputs = Inputs(lists, ids, pairs, images, every, vectors, videos)  # type: ignore[attr-defined]
        return declared

    return declare


def inputs_of(protocol: str) -> Inputs:
    """Return the inputs of the protocol with this name: only embeddings, if it declares none.

    Raises ConfigError for an unknown name.
    """
    declared: Inputs = getattr(PROTOCOLS[protocol], "inputs", Inputs())
    return declared
