"""SHA-256 of the constants of an ONNX file, read from its bytes, because the package onnx is optional.

An ONNX file is a Protocol Buffers message: a sequence of fields, each a key (number and wire type) with its value.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from ..errors import DataError, ModelError, reason

GRAPH, INITIALIZER = 7, 5  # fields of ModelProto and GraphProto
DIMS, KIND, NAME, RAW, EXTERNAL = 1, 2, 8, 9, 13  # of TensorProto
DTYPES = {1: "<f4", 2: "|u1", 3: "|i1", 4: "<u2", 5: "<i2", 6: "<i4", 7: "<i8", 9: "|b1", 10: "<f2", 11: "<f8",
          12: "<u4", 13: "<u8"}  # fmt: skip
Value = int | memoryview


def fingerprint(model: bytes, folder: Path | None = None) -> str:
    """Compute the SHA-256 of the constants of a serialized ModelProto: names, types, shapes and values.

    Equal weights have equal hashes.

    folder: location of weights that are stored outside the file.
    Raises DataError for other bytes, ModelError for external weights that cannot be read.
    """
    found = []
    for number, graph in _fields(memoryview(model)):
        if number == GRAPH and isinstance(graph, memoryview):
            found += [_Tensor(value) for field, value in _fields(graph)
                      if field == INITIALIZER and isinstance(value, memoryview)]  # fmt: skip
    digest = hashlib.sha256()
    for tensor in sorted(found, key=lambda each: each.name):
        digest.update(f"{tensor.name} {tensor.dtype} {tensor.shape}\n".encode())
        digest.update(tensor.raw if tensor.raw is not None else tensor.whole)
        if tensor.external:
            digest.update(_outside(tensor.external, folder))
    return digest.hexdigest()


class _Tensor:
    """A TensorProto. Values that are not raw bytes are compared in their stored form: `whole`."""

    def __init__(self, whole: memoryview) -> None:
        self.name, self.dtype, self.whole = "", "", whole
        self.raw: memoryview | None = None
        dims: list[int] = []
        self.external: dict[str, str] = {}
        for number, value in _fields(whole):
            if isinstance(value, int):
                if number == DIMS:
                    dims.append(value)
                elif number == KIND:
                    self.dtype = DTYPES.get(value, str(value))
            elif number == DIMS:  # packed
                dims += _packed(value)
            elif number == NAME:
                self.name = str(value, "utf-8", "replace")
            elif number == RAW:
                self.raw = value
            elif number == EXTERNAL:
                entry = {field: str(text, "utf-8", "replace") for field, text in _fields(value)
                         if isinstance(text, memoryview)}  # fmt: skip
                self.external[entry.get(1, "")] = entry.get(2, "")
        self.shape = tuple(dims)


def _fields(message: memoryview) -> Iterator[tuple[int, Value]]:
    """Number and value of each field: an integer, or the bytes of anything else. Raises DataError for other bytes."""
    at, end = 0, len(message)
    try:
        while at < end:
            key, at = _varint(message, at)
            kind = key & 7
            if kind == 0:
                value, at = _varint(message, at)
                yield key >> 3, value
                continue
            if kind == 2:
                size, at = _varint(message, at)
            else:
                size = {1: 8, 5: 4}[kind]
            if at + size > end:
                raise IndexError
            yield key >> 3, message[at : at + size]
            at += size
    except (IndexError, KeyError) as error:
        raise DataError("an ONNX model", "other or damaged bytes", "export it again") from error


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """An integer with 7 bits per byte, lowest first, and the position after it."""
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7


def _packed(message: memoryview) -> list[int]:
    values, at = [], 0
    while at < len(message):
        value, at = _varint(message, at)
        values.append(value)
    return values


def _outside(entry: dict[str, str], folder: Path | None) -> bytes:
    path = (folder or Path()) / entry.get("location", "")
    try:
        with path.open("rb") as file:
            file.seek(int(entry.get("offset", 0)))
            return file.read(int(entry.get("length", -1)))
    except (OSError, ValueError) as error:
        raise ModelError(f"the model's weights at {path}", reason(error), "put the file beside the model") from error
