"""LFW, CFP, AgeDB, CALFW and CPLFW in InsightFace's `.bin` format: ten folds in the order of the pairs.

The files contain no names. An image's id is its index: `000000`, `000001`, …. The interval of TAR at a FAR treats
pairs as independent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..data.bins import read_bin
from ..errors import DataError
from ..types import Embeddings, Result
from .inputs import PROTOCOLS, reads
from .named_pairs import NamedPairs
from .pairs import judge

PAIRS: dict[str, int | None] = {
    "bin": None,
    "lfw_bin": 6000,
    "cfp_fp": 7000,
    "cfp_ff": 7000,
    "agedb_30": 6000,
    "calfw": 6000,
    "cplfw": 6000,
}
FOLDS = 10


class _BinProtocol(Protocol):
    __name__: str

    def __call__(
        self,
        embeddings: Embeddings,
        bin_file: str | Path,
        *,
        pca: float | None = None,
        partial: bool = False,
        conditions: Mapping[str, Any] | None = None,
    ) -> Result: ...


def read_bin_pairs(path: str | Path, pairs: int | None = None) -> NamedPairs:
    """Read the pairs of a `.bin`, in ten folds. Raises DataError for another file or another number of pairs."""
    images, left, right, same = read_bin(path)
    if pairs is not None and len(same) != pairs:
        raise DataError(f"{pairs:,} pairs", f"{len(same):,} in {path}", "take the published file")
    if len(same) % FOLDS:
        raise DataError(f"a multiple of {FOLDS} pairs", f"{len(same):,} in {path}", "leave the last pairs out")
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    ids = np.asarray(images.ids)
    return NamedPairs(ids[left], ids[right], same, np.arange(len(same)) * FOLDS // len(same), digest)


def _register(name: str, title: str) -> _BinProtocol:
    def protocol(
        embeddings: Embeddings,
        bin_file: str | Path,
        *,
        pca: float | None = None,
        partial: bool = False,
        conditions: Mapping[str, Any] | None = None,
    ) -> Result:
        named = read_bin_pairs(bin_file, PAIRS[name])
        return judge(name, embeddings, named, people=None, pca=pca, partial=partial, conditions=conditions)

    protocol.__name__ = protocol.__qualname__ = name
    count = f"{PAIRS[name]:,} " if PAIRS[name] else ""
    protocol.__doc__ = f"""{title}: {count}pairs in ten folds, judged as LFW's; ids are `000000` and on.

    Args, returns and raises as `lfw`, but `bin_file` for the list, and of TAR Clopper and Pearson's interval.
    """
    declare = reads(f"{name.removesuffix('_bin')}.bin", ids="000000", pairs=lambda path: (read_bin_pairs(path), {}))
    return PROTOCOLS.register(declare(protocol))


bin = _register("bin", "A verification set of your own, --list FILE.bin")
lfw_bin = _register("lfw_bin", "LFW from InsightFace's lfw.bin")
cfp_fp = _register("cfp_fp", "Celebrities in Frontal-Profile, frontal against profile")
cfp_ff = _register("cfp_ff", "Celebrities in Frontal-Profile, frontal against frontal")
agedb_30 = _register("agedb_30", "AgeDB, 30 years between the two of a pair")
calfw = _register("calfw", "Cross-Age LFW")
cplfw = _register("cplfw", "Cross-Pose LFW")
