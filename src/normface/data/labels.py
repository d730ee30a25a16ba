"""The column, key or file that says who an image shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import ConfigError, DataError
from ..registry import meant

# As data sets of others call it, the surest first; `name` may be an image's.
LABELS = (
    "identity", "identity_id", "person", "person_id", "subject", "subject_id", "label", "labels", "class", "class_id",
    "cls", "name",
)  # fmt: skip
UNKNOWN = "unknown"  # the person of images without labels


def label_column(columns: Sequence[str], asked: str | None, where: object) -> str | None:
    """Choose the column of people's names: the one asked for, or one with a usual name; None if there is none.

    Raises ConfigError if the one asked for is not there.
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
    """The error for a set whose columns beside the images' are not known as labels."""
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
