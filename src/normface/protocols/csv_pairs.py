"""A user's own pairs: a CSV file with the columns `a, b, same`, optionally `fold`, and groups (sex, age, …)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..types import Embeddings, Ints, Result
from .comparisons import persons
from .inputs import PROTOCOLS, reads
from .lists import TRUTH, read_table
from .named_pairs import NamedPairs
from .pairs import joined, judge, scores
from .verification import NO_FOLDS, areas, curves, rates, separation


def read_pairs_csv(path: str | Path) -> tuple[NamedPairs, dict[str, NDArray[np.str_]]]:
    """Read pairs [M] and their group columns, name → values [M]. Without `fold` all pairs are in one fold.

    `same` is 1 or 0 (or true/false, yes/no). `fold` is any label; folds are numbered in order of appearance.

    Raises DataError naming the file and the line: no header, a missing column or value, a pair of an image with itself,
    a repeated pair, contradictory labels.
    """
    header = "a, b, same[, fold][, group…]"
    head, rows, sha256 = read_table(path, "a CSV file of pairs", header, "a", "b", "same")
    for number, row in rows:
        if not (row["a"] and row["b"]):
            raise DataError(
                f"{len(head)} values", f"{','.join(row.values())!r} in line {number} of {path}", "correct it"
            )
        if row["same"].lower() not in TRUTH:
            raise DataError("1 or 0 under `same`", f"{row['same']!r} in line {number} of {path}", "correct it")
    if not rows:
        raise DataError("at least one pair", f"none in {path}", "list some")
    columns = {name: np.array([row[name] for _, row in rows]) for name in head}
    left, right = columns.pop("a"), columns.pop("b")
    same = np.array([TRUTH[each.lower()] for each in columns.pop("same").tolist()])
    fold = np.zeros(len(same), np.int64)
    if "fold" in columns:
        _, first, code = np.unique(columns.pop("fold"), return_index=True, return_inverse=True)
        fold = np.argsort(np.argsort(first))[code]
    named = NamedPairs(left, right, same, fold, sha256)
    _consistent(named, [number for number, _ in rows], path)
    return named, columns


@PROTOCOLS.register
@reads("pairs.csv", ids="as in the list", pairs=read_pairs_csv)
def pairs_csv(
    embeddings: Embeddings,
    pairs_file: str | Path,
    *,
    pca: float | None = None,
    partial: bool = False,
    replicates: int = 200,
    conditions: Mapping[str, Any] | None = None,
) -> Result:
    """Your own pairs. With folds as LFW; without, what needs no threshold of best accuracy.

    Args:
        embeddings: of every image the list names.
        pairs_file: `a, b, same[, fold][, group…]`; see `read_pairs_csv`.
        pca, partial: as for `lfw`; a PCA needs folds.
        replicates: of the bootstrap over people, for EER and AUC.
        conditions: recorded among the facts.

    Returns:
        eer, auc, tar@far=…, tar_per_person@far=…, and with folds accuracy. People are the folders of the images if
        every label agrees with them, else who genuine pairs join; intervals are over them, with folds Student's for
        accuracy, EER and AUC.

    Raises:
        DataError: a malformed or contradictory list, ids without vectors, folds of unequal size.
    """
    named, groups = read_pairs_csv(pairs_file)
    facts: dict[str, Any] = {"groups": sorted(groups)} if groups else {}
    people = subjects(named)
    if partial:
        kept = np.isin(named.left, embeddings.ids) & np.isin(named.right, embeddings.ids)
        people = people[0][kept], people[1][kept]
    if named.fold.any():
        return judge(
            "pairs_csv", embeddings, named, people=people, pca=pca, partial=partial,
            conditions=facts | dict(conditions or {}),
        )  # fmt: skip
    if pca is not None:
        raise DataError("a column `fold` for --pca", "none", "add one, or drop --pca")
    if partial:
        named, told = named.available(embeddings)
        facts = told | facts
    pooled = scores(embeddings, named.within(embeddings))
    found = areas(pooled, people, replicates)
    tars, of_tars = rates(pooled, people)
    of_tars["notes"].append(NO_FOLDS)
    facts |= {
        "pairs": len(pooled.same), "people": len(np.unique([*people[0], *people[1]])), "d_prime": separation(pooled),
        "pairs_sha256": named.sha256, **of_tars, **(conditions or {}),
    }  # fmt: skip
    return Result("pairs_csv", found | tars, curves(pooled), facts)


def subjects(named: NamedPairs) -> tuple[Ints, Ints]:
    """Return the person on both sides of each pair, from 0: the images' folders, or genuine pairs (`persons`)."""
    images, codes = np.unique(np.concatenate([named.left, named.right]), return_inverse=True)
    left, right = np.split(codes, 2)
    who = persons(images, left, right, named.same)
    return who[left], who[right]


def _consistent(named: NamedPairs, lines: list[int], path: str | Path) -> None:
    """Raise DataError for an image paired with itself, a repeated pair, or an impostor pair of one person."""

    def refuse(expected: str, row: int, got: str, do: str) -> None:
        pair = f"{named.left[row]} and {named.right[row]}"
        raise DataError(expected, f"{pair} {got} (line {lines[row]} of {path})", do)

    if (same := np.flatnonzero(named.left == named.right)).size:
        refuse("two images a pair", int(same[0]), "are one", "leave it out")
    sides = np.sort(np.stack([named.left, named.right], 1), 1)
    _, first, code = np.unique(sides, axis=0, return_index=True, return_inverse=True)
    if (again := np.flatnonzero(first[code.ravel()] != np.arange(len(code)))).size:
        row = int(again[0])
        before = int(first[code.ravel()[row]])
        if named.same[row] != named.same[before]:
            refuse("labels that agree", row, f"are both same and different (see line {lines[before]})", "correct one")
        refuse("each pair once", row, f"are listed twice (see line {lines[before]})", "leave one out")
    one, other = np.split(np.unique(np.concatenate([named.left, named.right]), return_inverse=True)[1], 2)
    left, right = joined(one, other, named.same, 2 * len(one))
    if (wrong := np.flatnonzero(~named.same & (left == right))).size:
        refuse(
            "labels that agree", int(wrong[0]), "are different, but other pairs make them one person", "correct them"
        )
