"""Read list files: text, and CSV with a header."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

from ..errors import DataError, reason

Rows = list[tuple[int, dict[str, str]]]  # line number, column → cell
TRUTH = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}  # under `same`


def read_text(path: str | Path, want: str) -> tuple[str, str]:
    """Read a list's text and its SHA-256. Raises DataError, expecting `want`, if the file is missing or not text."""
    try:
        content = Path(path).read_bytes()
        return content.decode("utf-8-sig"), hashlib.sha256(content).hexdigest()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(want, f"{path}: {reason(error)}", "correct the path or the file") from error


def read_table(path: str | Path, want: str, header: str, *columns: str) -> tuple[list[str], Rows, str]:
    """Read columns (lower-case names), rows and SHA-256 of a CSV file; empty lines are skipped.

    Raises DataError naming the file and the line: a missing file, a file that is not text, a header without `columns`
    (`header` describes the right one) or with a repeated name, a line with another number of values.
    """
    text, digest = read_text(path, want)
    lines = csv.reader(text.splitlines(), skipinitialspace=True)
    try:
        rows = [(lines.line_num, [cell.strip() for cell in row]) for row in lines if any(map(str.strip, row))]
    except csv.Error as error:
        raise DataError(want, f"{path}: {reason(error)} in line {lines.line_num}", "correct the file") from error
    head = [name.lower() for name in rows[0][1]] if rows else []
    if not set(columns) <= set(head) or len(set(head)) < len(head):
        got = ", ".join(head) or "nothing"
        raise DataError(f"a header {header}", f"{got!r} in {path}", "write one, each name once")
    for number, row in rows[1:]:
        if len(row) != len(head):
            raise DataError(f"{len(head)} values", f"{','.join(row)!r} in line {number} of {path}", "correct it")
    return head, [(number, dict(zip(head, row, strict=True))) for number, row in rows[1:]], digest
