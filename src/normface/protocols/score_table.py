"""Tables of scores, CSV or Parquet: `score, same[, a, b][, fold][, group…]`, read in parts, of any length.

Each row becomes a record of a few bytes in a temporary file, and computations read the records in parts. Only the names
of the images and the genuine comparisons stay in memory.
"""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import SEEK_END, TextIOWrapper
from itertools import islice
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, reason, require
from ..types import Bools, Floats, Ints
from .lists import TRUTH
from .named_pairs import Ids, people
from .pairs import connected

ROWS = 1 << 14  # read at a time: their cells fit into the processor's cache
IN_MEMORY = 1 << 26  # bytes of records; longer tables are kept on disk
HEADER = "score, same[, a, b][, fold][, group…]"
FIXED = ("score", "same", "a", "b", "fold")
Records = NDArray[np.void]


@dataclass(frozen=True)
class ScoreTable:
    """Scored comparisons [M].

    Attributes:
        rows, genuine: number of comparisons, and of genuine ones.
        low, high: the lowest and the highest score.
        ids: [N] names of the images; None if the table has no columns `a` and `b`.
        subjects: [N] the person on each image, from 0; None without `ids`.
        folds: number of folds; 1 without a column `fold`.
        groups: column → its values; a record contains their indices.
        sha256: hash of the file.
        pairs_sha256: hash of the comparisons without their scores: equal for two systems with the same comparisons.
    """

    rows: int
    genuine: int
    low: float
    high: float
    ids: Ids | None
    subjects: Ints | None
    folds: int
    groups: dict[str, Ids]
    sha256: str
    pairs_sha256: str
    dtype: np.dtype[Any]
    spool: IO[bytes]

    @property
    def impostors(self) -> int:
        """Number of impostor comparisons."""
        return self.rows - self.genuine

    def parts(self) -> Iterator[Records]:
        """Iterate over the records: `score`, `same`, `left` and `right` (indices in `ids`), `fold` and the groups."""
        self.spool.seek(0)
        while data := self.spool.read(ROWS * self.dtype.itemsize):
            yield np.frombuffer(data, self.dtype)

    def whole(self) -> Records:
        """All records [M]."""
        return np.concatenate(list(self.parts()))


def read_scores(path: str | Path, *, progress: Callable[[int, int], object] | None = None) -> ScoreTable:
    """Read a table of scores; a higher score means more similar.

    The format is CSV, or Parquet (with pyarrow) if the name ends in `.parquet`. `same` is 1 or 0 (or true/false,
    yes/no); `a` and `b` name the images; other columns are groups of comparisons. progress is called with the bytes (of
    Parquet: rows) read and in total.

    Raises DataError naming the file and the row: no header, a missing column, another number of values, a score that is
    not finite, an image compared with itself, contradictory labels, only one kind of comparison, equal scores only.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            head, blocks = _parquet(file) if path.suffix == ".parquet" else _csv(file)
            return _gathered(path, head, blocks, digest, progress)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError("a table of scores", f"{path}: {reason(error)}", "correct the path or the file") from error


class Encoded(NamedTuple):
    """A text column: its `distinct` values, and the index of each row among them [M]."""

    distinct: Sequence[Any]
    place: Ints

    @classmethod
    def of(cls, column: Sequence[Any] | Encoded) -> Encoded:
        """Encode a column of texts; one that is encoded is returned as it is."""
        if isinstance(column, Encoded):
            return column
        distinct = {text: number for number, text in enumerate(dict.fromkeys(column))}
        return cls(list(distinct), np.fromiter(map(distinct.__getitem__, column), np.int32, len(column)))

    @property
    def texts(self) -> list[str]:
        """The distinct values without surrounding spaces; "" for missing ones."""
        return ["" if text is None else str(text).strip() for text in self.distinct]


class Block(NamedTuple):
    """Some rows: their numbers in the file, their columns, and the progress of reading."""

    numbers: Sequence[int]
    columns: Mapping[str, Any]
    done: int
    total: int


def _csv(file: BinaryIO) -> tuple[list[str], Iterator[Block]]:
    total = file.seek(0, SEEK_END)
    file.seek(0)
    lines = csv.reader(TextIOWrapper(file, encoding="utf-8-sig", newline=""), skipinitialspace=True)
    head = _names(next((row for row in lines if any(map(str.strip, row))), []))

    def blocks() -> Iterator[Block]:
        first = lines.line_num + 1
        while rows := list(islice(lines, ROWS)):
            numbers: Sequence[int] = range(first, first + len(rows))
            if any(len(row) != len(head) for row in rows):
                kept = [(number, row) for number, row in zip(numbers, rows, strict=True) if any(map(str.strip, row))]
                numbers, rows = [number for number, _ in kept], [row for _, row in kept]
                for number, row in kept:
                    if len(row) != len(head):
                        raise DataError(
                            f"{len(head)} values", f"{','.join(row)!r} in line {number} of {file.name}", "correct it"
                        )
            if rows:
                yield Block(numbers, dict(zip(head, zip(*rows, strict=True), strict=True)), file.tell(), total)
            first = lines.line_num + 1

    return head, blocks()


def _parquet(file: BinaryIO) -> tuple[list[str], Iterator[Block]]:
    require("pyarrow", "data")
    from pyarrow import ArrowException, DictionaryArray
    from pyarrow.parquet import ParquetFile

    try:
        table = ParquetFile(file)
    except ArrowException as error:
        raise DataError("a Parquet file", f"{file.name}: {reason(error)}", "correct the file") from error
    head = _names(table.schema_arrow.names)

    def blocks() -> Iterator[Block]:
        first, total = 1, table.metadata.num_rows
        for batch in table.iter_batches(ROWS):
            columns: dict[str, Any] = {}
            for name, column in zip(head, batch.columns, strict=True):
                if name == "score":
                    columns[name] = column.to_numpy(zero_copy_only=False)
                else:
                    if isinstance(column, DictionaryArray):  # a categorical column, which may have nulls of its own
                        column = column.dictionary_decode()
                    coded = column.dictionary_encode(null_encoding="encode")
                    columns[name] = Encoded(coded.dictionary.to_pylist(), coded.indices.to_numpy())
            after = first + batch.num_rows
            yield Block(range(first, after), columns, after - 1, total)
            first = after

    return head, blocks()


def _names(head: Sequence[str]) -> list[str]:
    """The names of columns, in lower case."""
    return [name.strip().lower() for name in head]


class _Codes(dict[str, int]):
    """Numbers for texts, in order of appearance."""

    def of(self, column: Encoded) -> Ints:
        return np.array([self.setdefault(text, len(self)) for text in column.texts], np.int32)[column.place]


def _gathered(
    path: Path,
    head: list[str],
    blocks: Iterator[Block],
    digest: str,
    progress: Callable[[int, int], object] | None,
) -> ScoreTable:
    if not {"score", "same"} <= set(head) or len(set(head)) < len(head) or ("a" in head) != ("b" in head):
        got = ", ".join(head) or "nothing"
        raise DataError(f"a header {HEADER}", f"{got!r} in {path}", "write one, each name once")
    where = f"{'row' if path.suffix == '.parquet' else 'line'} {{}} of {path}"
    images, folds = _Codes(), _Codes()
    groups = {name: _Codes() for name in head if name not in FIXED}
    sides = ["left", "right"] * ("a" in head)
    dtype = np.dtype([
        ("score", "f8"), ("same", "?"), ("fold", "i4"), *((side, "i4") for side in sides),
        *((f"group {name}", "i4") for name in groups),
    ])  # fmt: skip
    spool = SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115 - it lives as long as the table
    rows = genuine = 0
    low, high, pairs = math.inf, -math.inf, hashlib.sha256()
    for block in blocks:
        part = np.zeros(len(block.numbers), dtype)
        part["score"] = _finite(block, where)
        encoded = {name: Encoded.of(block.columns[name]) for name in head if name != "score"}
        truths = np.array([TRUTH.get(text.lower(), -1) for text in encoded["same"].texts])
        _refuse(block, encoded["same"], truths < 0, "1 or 0 (true or false, yes or no) under `same`", where)
        part["same"] = truths[encoded["same"].place] == 1
        if "fold" in encoded:
            part["fold"] = folds.of(encoded["fold"])
        for name, side in zip("ab", sides, strict=False):
            blank = np.array([not text for text in encoded[name].texts])
            _refuse(block, encoded[name], blank, f"the name of an image under `{name}`", where)
            part[side] = images.of(encoded[name])
        for name, codes in groups.items():
            part[f"group {name}"] = codes.of(encoded[name])
        for name in ("same", "fold", *sides):
            pairs.update(part[name].tobytes())
        spool.write(part.tobytes())
        rows, genuine = rows + len(part), genuine + int(part["same"].sum())
        low, high = min(low, float(part["score"].min())), max(high, float(part["score"].max()))
        if progress:
            progress(block.done, block.total)
    if not rows:
        raise DataError("at least one comparison", f"none in {path}", "list some")
    if genuine in (0, rows):
        raise DataError(
            "genuine and impostor comparisons", f"only {'genuine' if genuine else 'impostor'} ones in {path}",
            "give comparisons of both kinds, of at least two people",
        )  # fmt: skip
    if low == high:
        raise DataError("scores that differ", f"{low:g} for all {rows:,} comparisons in {path}", "correct the scores")
    pairs.update("\n".join(images).encode())
    names = np.array(list(images)) if sides else None
    values = {name: np.array(list(codes)) for name, codes in groups.items()}
    table = ScoreTable(
        rows, genuine, low, high, names, None, max(len(folds), 1), values, digest, pairs.hexdigest(), dtype, spool
    )
    return table if names is None else _with_subjects(table, names, path)


def _finite(block: Block, where: str) -> Floats:
    """Return the scores of a block. Raises DataError for one that is not finite."""
    column = block.columns["score"]
    try:
        scores = np.fromiter(map(float, column), np.float64, len(column))
        if np.isfinite(scores).all():
            return scores
    except (TypeError, ValueError):
        pass
    for number, each in zip(block.numbers, column, strict=True):
        try:
            finite = math.isfinite(float(each))
        except (TypeError, ValueError):
            finite = False
        if not finite:
            raise DataError(
                "a finite number under `score`",
                f"{str(each)!r} in {where.format(number)}",
                "correct it, or drop the row",
            )
    raise AssertionError


def _refuse(block: Block, column: Encoded, wrong: Bools, want: str, where: str) -> None:
    """Raise DataError, expecting `want`, at the first row whose text is `wrong`."""
    if wrong.any():
        row = int(np.flatnonzero(wrong[column.place])[0])
        got = column.texts[column.place[row]]
        raise DataError(want, f"{got!r} in {where.format(block.numbers[row])}", "correct it")


def _with_subjects(table: ScoreTable, names: Ids, path: Path) -> ScoreTable:
    """Add the person on each image.

    This is its folder, if the folders agree with the labels of all comparisons. Otherwise images connected by genuine
    comparisons, directly or indirectly, show one person. Raises DataError for contradictory labels.
    """
    folders = people(names.tolist())[1]
    agree, edges = True, []
    for part in table.parts():
        left, right, same = part["left"], part["right"], part["same"]
        if (twice := np.flatnonzero(left == right)).size:
            raise DataError(
                "two images a comparison", f"{names[left[twice[0]]]} against itself in {path}", "leave it out"
            )
        agree = agree and bool(((folders[left] == folders[right]) == same).all())
        edges.append(np.stack([left[same], right[same]]))
    if agree:
        return replace(table, subjects=folders)
    one, other = np.concatenate(edges, axis=1)
    subjects = connected(one, other, len(names))
    for part in table.parts():
        left, right = part["left"], part["right"]
        if (wrong := np.flatnonzero(~part["same"] & (subjects[left] == subjects[right]))).size:
            pair = f"{names[left[wrong[0]]]} and {names[right[wrong[0]]]}"
            raise DataError(
                "labels that agree",
                f"{pair} are different, but other comparisons make them one person in {path}", "correct them",
            )  # fmt: skip
    return replace(table, subjects=subjects)
