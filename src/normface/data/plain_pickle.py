"""Reading pickles of plain data safely: no name in the file is imported, called or changed.

Python's unpickler, even with a list of allowed names, calls methods of real objects with values from the file, and
NumPy's `dtype.__setstate__` then follows pointers chosen by the file. This reader interprets the opcodes itself. It
only makes Python's lists, tuples, strings and numbers, or an `Array`. A name in the file is only a label for a few
rules.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

DTYPES = frozenset(
    {"b1", "?", *(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)), *(f"f{n}" for n in (2, 4, 8))}
)


class Foreign(Exception):
    """A pickle with something other than plain data; the text names it."""


@dataclass(frozen=True)
class Array:
    """A NumPy array as its parts: dtype such as `<f4`, shape, and content in C order (bytes, or Latin-1 text)."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes | str

    @property
    def count(self) -> int:
        """Number of items by the shape. Raises Foreign for an invalid one."""
        shape: Any = self.shape
        if not (isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape) and len(shape) <= 8):
            raise Foreign("an array without a shape")
        return math.prod(shape)

    def values(self) -> np.ndarray[Any, Any]:
        """Return the flat array. Raises Foreign for dtypes other than numbers, or bytes that do not fit."""
        if self.dtype.lstrip("<>|=") not in DTYPES:
            raise Foreign(f"an array of dtype {self.dtype[:20]!r}")
        kind = np.dtype(self.dtype)
        if len(self.data) != kind.itemsize * self.count:
            raise Foreign("an array whose bytes do not fit its shape")
        return np.frombuffer(binary(self.data), kind)


class _Name(NamedTuple):
    module: str
    name: str


class _Dtype:
    """A dtype under construction: its code, and the byte order once BUILD has set it."""

    def __init__(self, code: str) -> None:
        self.code = code

    def build(self, state: Any) -> None:
        if not (isinstance(state, tuple) and len(state) >= 2 and state[1] in ("<", ">", "|", "=")):
            raise Foreign("a dtype that is no number's")
        self.code = state[1] + self.code


class _Raw:
    """An array under construction: empty until BUILD sets dtype, shape and bytes."""

    array: Array | None = None

    def build(self, state: Any) -> None:
        match state:
            case (int(), tuple() as shape, _Dtype() as dtype, order, bytes() | str() as data):
                if order and len(shape) > 1:
                    raise Foreign("an array in Fortran's order")
                self.array = Array(dtype.code, shape, data)
            case _:
                raise Foreign("an array that is no array of numbers")


_MARK = object()
_NUMPY = ("numpy.core", "numpy._core")
_VALUES = frozenset(
    {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BINSTRING", "SHORT_BINSTRING", "BINUNICODE", "SHORT_BINUNICODE",
     "BINUNICODE8", "STRING", "UNICODE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT",
     "BINFLOAT"}
)  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def loads(data: bytes) -> Any:
    """Read a pickle of lists, tuples, strings, bytes, numbers, truth values and arrays.

    Bytes of old protocols and strings of Python 2 become Latin-1 text (see `binary`). They are not copied, even if the
    file refers to them several times. Raises Foreign for anything else, and ValueError, IndexError, KeyError or
    TypeError for a damaged file.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        found = []
        while (value := stack.pop()) is not _MARK:
            found.append(value)
        return found[::-1]

    argument: Any
    for kind, argument, _ in pickletools.genops(data):
        name = kind.name
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "BYTEARRAY8":
            stack.append(bytes(argument))
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("EMPTY_LIST", "EMPTY_TUPLE"):
            stack.append([] if name == "EMPTY_LIST" else ())
        elif name in ("LIST", "TUPLE"):
            stack.append(since_mark() if name == "LIST" else tuple(since_mark()))
        elif name in _TUPLES:
            items = [_plain(stack.pop()) for _ in range(_TUPLES[name])]
            stack.append(tuple(items[::-1]))
        elif name in ("APPEND", "APPENDS"):
            items = [_plain(stack.pop())] if name == "APPEND" else since_mark()
            if not isinstance(stack[-1], list):
                raise Foreign("something appended to what is no list")
            stack[-1].extend(items)
        elif name in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
            memo[len(memo) if name == "MEMOIZE" else int(argument)] = _plain(stack[-1])
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[int(argument)])
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            module, attribute = argument.split(" ") if name == "GLOBAL" else (stack.pop(-2), stack.pop())
            if not (isinstance(module, str) and isinstance(attribute, str)):
                raise Foreign("a name that is no text")
            if (module, attribute) not in _MAKERS:
                raise Foreign(f"{module[:40]}.{attribute[:40]}")
            stack.append(_Name(module, attribute))
        elif name == "REDUCE":
            given, called = stack.pop(), stack.pop()
            if not isinstance(called, _Name) or not isinstance(given, tuple):
                raise Foreign("a call")
            stack.append(_MAKERS[called](*given))
        elif name == "BUILD":
            state = stack.pop()
            if not isinstance(stack[-1], _Dtype | _Raw):
                raise Foreign("an object with a state")
            stack[-1].build(state)
        elif name == "POP":
            stack.pop()
        elif name == "STOP":
            return _plain(stack.pop())
        elif name not in ("PROTO", "FRAME"):
            raise Foreign(f"the opcode {name}")
    raise Foreign("no end")


def finished(value: Any) -> Any:
    """Return a value as plain data: the finished array instead of the object that built it."""
    if isinstance(value, _Raw):
        if value.array is None:
            raise Foreign("an array without contents")
        return value.array
    if isinstance(value, _Name | _Dtype):
        raise Foreign("a name without use")
    return value


def _plain(value: Any) -> Any:
    if value is _MARK:
        raise Foreign("an unfinished list")
    return value


def binary(value: bytes | str) -> bytes:
    """Convert Latin-1 text to bytes."""
    return value.encode("latin-1") if isinstance(value, str) else value


def _bytes(value: Any = b"", codec: Any = "latin-1") -> bytes | str:
    if not isinstance(value, bytes | str) or codec not in ("latin1", "latin-1"):
        raise Foreign("bytes in another encoding than Latin-1")
    return value


def _dtype(code: Any, align: Any = False, copy: Any = False) -> _Dtype:
    if not isinstance(code, str) or code.lstrip("<>|=") not in DTYPES:
        raise Foreign(f"an array of dtype {str(code)[:20]!r}")
    return _Dtype(code.lstrip("<>|="))


def _scalar(dtype: Any, data: Any = None) -> Any:
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | str):
        raise Foreign("a NumPy number without a type")
    return Array(dtype.code, (), data).values()[0].item()


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Raw:
    if kind != _Name("numpy", "ndarray"):
        raise Foreign("an array of another kind")
    return _Raw()


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any = "C") -> Array:
    if not isinstance(dtype, _Dtype) or not isinstance(shape, tuple) or (order != "C" and len(shape) > 1):
        raise Foreign("an array that is no array of numbers")
    return Array(dtype.code, shape, _bytes(data))


def _ndarray(*_: Any) -> Any:
    raise Foreign("a call of numpy.ndarray")


_MAKERS: dict[tuple[Any, Any], Callable[..., Any]] = {
    ("_codecs", "encode"): _bytes,
    ("numpy", "dtype"): _dtype,
    ("numpy", "ndarray"): _ndarray,
    **{(module, kind): _bytes for module in ("builtins", "__builtin__") for kind in ("bytes", "bytearray")},
    **{(f"{package}.multiarray", "scalar"): _scalar for package in _NUMPY},
    **{(f"{package}.multiarray", "_reconstruct"): _reconstruct for package in _NUMPY},
    **{(f"{package}.numeric", "_frombuffer"): _frombuffer for package in _NUMPY},
}
