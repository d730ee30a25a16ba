"""Rewriting of ONNX files before ONNX Runtime reads them, without the package `onnx`.

Messages are lists of fields; field numbers are those of onnx.proto3.
"""

from __future__ import annotations

from collections.abc import Iterator

_GRAPH, _NODE, _INPUT, _OUTPUT, _OPERATOR = 7, 1, 1, 2, 4
_INITIALIZER, _SPARSE, _GRAPH_INPUT, _ATTRIBUTE = 5, 15, 11, 5  # of a graph; of a node
_SUBGRAPHS = (6, 11)  # of an attribute
_VALUE_NAME, _TENSOR_NAME = 1, 8
_BYTES = 2  # the wire type of strings and messages
_FIXED = {1: 8, 5: 4}  # bytes of the wire types of fixed length


def without_prelu(model: bytes) -> bytes:
    """Replace PRelu(z, a) in an ONNX model by relu(z) + a·(z − relu(z)): identical results for finite z.

    ONNX Runtime 1.32 vectorizes these operators but not PRelu: MTCNN's networks take 0.6 of the time.
    Raises ValueError or IndexError for bytes that are not a protocol buffer.
    """
    parts = []
    for number, field, content in _fields(model):
        if number == _GRAPH:
            nodes = (_rewritten(inner) if n == _NODE else whole for n, whole, inner in _fields(content))
            field = _field(_GRAPH, b"".join(nodes))
        parts.append(field)
    return b"".join(parts)


def count_inputs(model: bytes) -> int:
    """Count the inputs of an ONNX model's graph, constants among them. 0 for other bytes."""
    try:
        return sum(number == _GRAPH_INPUT for graph in _graphs(model) for number, _, _ in _fields(graph))
    except (ValueError, IndexError):
        return 0


def without_spare_inputs(model: bytes) -> bytes:
    """Remove the inputs of a graph that no node reads, and inputs that are constants with their own value.

    Raises ValueError or IndexError for bytes that are not a protocol buffer.
    """
    parts = []
    for number, field, content in _fields(model):
        if number == _GRAPH:
            held = list(_fields(content))
            constants = {_inner(inner, _TENSOR_NAME) for n, _, inner in held if n == _INITIALIZER}
            constants |= {_inner(_inner(inner, 1), _TENSOR_NAME) for n, _, inner in held if n == _SPARSE}
            wanted = _read_by(content) - constants
            kept = (whole for n, whole, inner in held if n != _GRAPH_INPUT or _inner(inner, _VALUE_NAME) in wanted)
            field = _field(_GRAPH, b"".join(kept))
        parts.append(field)
    return b"".join(parts)


def _graphs(model: bytes) -> Iterator[bytes]:
    return (content for number, _, content in _fields(model) if number == _GRAPH)


def _read_by(graph: bytes) -> set[bytes]:
    """Names that a graph's nodes read, including those of nested graphs."""
    names: set[bytes] = set()
    for number, _, node in _fields(graph):
        if number == _NODE:
            for kind, _, content in _fields(node):
                if kind == _INPUT:
                    names.add(content)
                elif kind == _ATTRIBUTE:
                    names |= {n for k, _, inner in _fields(content) if k in _SUBGRAPHS for n in _read_by(inner)}
    return names


def _inner(message: bytes, wanted: int) -> bytes:
    return next((content for number, _, content in _fields(message) if number == wanted), b"")


def _rewritten(node: bytes) -> bytes:
    """A node as a field of its graph; a PRelu becomes the four nodes that replace it."""
    fields = [(number, content) for number, _, content in _fields(node)]
    if (_OPERATOR, b"PRelu") not in fields:
        return _field(_NODE, node)
    z, slope = (content for number, content in fields if number == _INPUT)
    y = next(content for number, content in fields if number == _OUTPUT)
    steps = [
        (b"Relu", [z], y + b":positive"),
        (b"Sub", [z, y + b":positive"], y + b":negative"),
        (b"Mul", [y + b":negative", slope], y + b":scaled"),
        (b"Add", [y + b":positive", y + b":scaled"], y),
    ]
    return b"".join(_field(_NODE, _node(*step)) for step in steps)


def _node(operator: bytes, inputs: list[bytes], output: bytes) -> bytes:
    given = b"".join(_field(_INPUT, name) for name in inputs)
    return given + _field(_OUTPUT, output) + _field(_OPERATOR, operator)


def _fields(message: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """(number, the whole field, its content) of each field; a number's content is empty."""
    at = 0
    while at < len(message):
        start = at
        tag, at = _varint(message, at)
        content = b""
        if tag & 7 == _BYTES:
            length, at = _varint(message, at)
            content = message[at : at + length]
            if len(content) < length:
                raise ValueError("a field beyond the end")
            at += length
        elif tag & 7 == 0:
            _, at = _varint(message, at)
        elif tag & 7 in _FIXED:
            at += _FIXED[tag & 7]
        else:
            raise ValueError(f"wire type {tag & 7}")
        yield tag >> 3, message[start:at], content


def _field(number: int, content: bytes) -> bytes:
    return _encoded(number << 3 | _BYTES) + _encoded(len(content)) + content


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """The number at an offset, seven bits per byte, lowest first; and the offset after it."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _encoded(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])
