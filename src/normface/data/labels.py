"""The column, key or file with the person's name of each image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import ConfigError, DataError
from ..registry import meant

# Names used by other data sets, the most reliable first; `name` may be an image's.
LABELS = (
    "identity", "identity_id", "person", "person_id", "subject", "subject_id", "label", "labels", "class", "class_id",
    "cls", "name",
)  # fmt: skip
UNKNOWN = "unknown"  # name of the person for images without labels


def label_column(columns: Sequence[str], asked: str | None, where: object) -> str | None:
    """Choose the column of people's names: the requested one, or one with a usual name; None if there is none.

    Raises ConfigError if the requested column is missing.
    """
    if asked is not None:
        if asked not in columns:
            raise ConfigError(
                f"a column of {where} ({', '.join(columns)})", f"--label-column {asked}", meant(asked, columns)
            )
        return asked
    known = {column.casefold(): column for column in reversed(columns)}
    return next((known[name] for name in LABELS if name in known), None)


def unlabelled(others: Sequence[str], where: object) -> DataError:
    """Return the error for a set in which no column is recognized as labels."""
    return DataError(
        f"a column of labels in {where}, called {', '.join(LABELS)}", ", ".join(others),
        f"name it: --label-column {others[0]}",
    )  # fmt: skip


def identity(value: Any, name: str) -> str:
    """Convert a label to a person's name. Raises DataError for a missing one."""
    if isinstance(value, bool | int | str) and (text := str(value).strip()):
        return text
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    raise DataError(f"a label of {name}", repr(value)[:40], "correct the label, or leave the image out")
