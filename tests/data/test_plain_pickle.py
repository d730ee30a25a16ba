"""Verification sets as pickles: all forms that others write, and programs of opcodes by grammar."""

import pickle
import random
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from normface.data.bins import parse, read_bin
from normface.data.plain_pickle import Foreign
from normface.errors import DataError

IMAGES = [b"one", b"two two", b"\xff\xd8three", b"4"]
FORMS = {
    "bytes": IMAGES,
    "bytearrays": [bytearray(image) for image in IMAGES],
    "arrays": [np.frombuffer(image, np.uint8) for image in IMAGES],  # InsightFace's small_lfw.bin
    "columns": [np.frombuffer(image, np.uint8)[:, None] for image in IMAGES],  # of cv2.imencode
    "a tuple": tuple(IMAGES),
}
TRUTHS = {
    "booleans": [True, False],
    "NumPy's": [np.True_, np.False_],
    "floats": [1.0, 0.0],
    "NumPy's floats": [np.float32(1), np.float64(0)],
    "integers": [np.int64(1), 0],
    "an array": np.array([True, False]),
    "an array of integers": np.array([1, 0]),
    "an array of floats": np.array([1, 0], ">f4"),
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("truth", TRUTHS)
@pytest.mark.parametrize("form", FORMS)
def test_every_form(form, truth, protocol):
    images, same = parse(pickle.dumps((FORMS[form], TRUTHS[truth]), protocol))
    assert images == IMAGES
    assert same.tolist() == [True, False]


@pytest.mark.parametrize(
    ("same", "message"),
    [(["0", "1"], "'0' as a truth value"), (["False", "True"], "'False'"), ([2, 0], "other than 0 and 1"),
     ([float("nan"), 1], "other than 0 and 1"), ([None, True], "NoneType"), (np.array(["1", "0"]), "dtype 'U1'")],
)  # fmt: skip
def test_truth_values_that_are_none(tmp_path, same, message):
    (tmp_path / "set.bin").write_bytes(pickle.dumps((IMAGES, same)))
    with pytest.raises(DataError, match=message):
        read_bin(tmp_path / "set.bin")


def test_pixels_in_place_of_files(tmp_path):
    (tmp_path / "set.bin").write_bytes(pickle.dumps(([np.zeros((4, 4, 3), np.uint8)] * 2, [True])))
    with pytest.raises(DataError, match=r"an array \|u1 of shape \(4, 4, 3\), not as an encoded file"):
        read_bin(tmp_path / "set.bin")


def test_a_pointer_in_a_dtype():
    """`numpy.dtype.__setstate__` would follow it; the process once died of this file."""
    crafted = Path(__file__).parents[3] / "shared" / "cases" / "crafted-pointer.bin"
    if not crafted.exists():
        pytest.skip("no ../shared/cases")
    with pytest.raises(DataError, match="dtype 'V8'"):
        read_bin(crafted)


def test_one_image_named_often_takes_its_memory_once():
    """100,000 times a megabyte of Python 2's text, in 300 kB: bytes are made once."""
    text = b"T" + struct.pack("<I", 2**20) + bytes(2**20) + b"q\0"
    program = b"\x80\x02](" + text + b"h\0" * 99_999 + b"e](" + b"K\1" * 50_000 + b"e\x86."
    images, _ = parse(program)
    assert len(images) == 100_000
    assert len({id(image) for image in images}) == 1


@pytest.mark.parametrize("use", [b"\x93.", b"(h\0t(h\0t\x86.", b"](h\0e\x86.", b"h\0\x86."])
def test_nested_tuples_are_neither_hashed_nor_printed(use):
    """Each tuple holds the one before twice: 2¹⁰⁰ in all."""
    tuples = b")q\0" + b"h\0h\0\x86q\0" * 100
    with pytest.raises((Foreign, ValueError, IndexError)):
        parse(b"\x80\x02" + tuples + use)


GLOBALS = [
    ("numpy", "dtype"), ("numpy", "ndarray"), ("_codecs", "encode"), ("builtins", "bytearray"), ("os", "system"),
    ("numpy.core.multiarray", "scalar"), ("numpy.core.multiarray", "_reconstruct"), ("builtins", "eval"),
    ("numpy._core.numeric", "_frombuffer"), ("numpy._core.multiarray", "_reconstruct"), ("builtins", "getattr"),
]  # fmt: skip
CODES = ["u1", "b1", "f4", "f8", "i8", "V8", "O8", "S1", "U1", "M8", "<f4", "f", ""]


STRAY = [
    b"R", b"b", b"0", b"(", b"e", b"a", b"t", b"\x85", b"\x93", b"2", b"\x81", b"}", b"s", b"\x89", b"N", b"h\0", 
    b"q\1",
    b"l", b"d", b"Q",
]  # fmt: skip


class Program:
    """Random programs: opcodes that fit the stack, in which now and then one does not."""

    def __init__(self, seed):
        self.draw, self.out, self.memo = random.Random(seed), [], 0

    def put(self, *parts):
        self.out += parts
        if self.draw.random() < 0.03:  # an opcode out of place
            self.out.append(self.draw.choice(STRAY))

    def text(self, word):
        data = word.encode()
        self.put(self.draw.choice([b"X" + struct.pack("<I", len(data)), b"\x8c" + bytes([len(data)])]) + data)

    def binary(self):
        data = self.draw.randbytes(self.draw.choice([0, 1, 4, 8, 16]))
        kind = self.draw.randrange(4)
        head = [b"C" + bytes([len(data)]), b"B" + struct.pack("<I", len(data)), b"U" + bytes([len(data)]),
                b"\x96" + struct.pack("<Q", len(data))][kind]  # fmt: skip
        self.put(head + data)

    def number(self):
        value = self.draw.choice([0, 1, 2, 3, 8, 255, 65535, 2**31 - 1])
        self.put(self.draw.choice([b"K" + bytes([value % 256]), b"J" + struct.pack("<i", value), b"I%d\n" % value,
                                   b"G" + struct.pack(">d", value), b"\x8a\x09" + b"\xff" * 8 + b"\x7f",
                                   b"I01\n", b"\x88", b"\x89", b"N"]))  # fmt: skip

    def name(self):
        module, attribute = self.draw.choice(GLOBALS)
        if self.draw.random() < 0.5:
            self.put(b"c" + module.encode() + b"\n" + attribute.encode() + b"\n")
        else:
            self.text(module), self.text(attribute), self.put(b"\x93")

    def dtype(self, depth):
        self.put(b"cnumpy\ndtype\n")
        self.text(self.draw.choice(CODES)), self.number(), self.number(), self.put(b"\x87R")
        if self.draw.random() < 0.7:
            self.put(b"(")
            self.number(), self.text(self.draw.choice("<>|=?"))
            for _ in range(self.draw.choice([6, 6, 1])):
                self.value(depth - 1) if self.draw.random() < 0.1 else self.put(b"N")
            self.put(b"tb")

    def shape(self):
        self.put(b"(")
        for _ in range(self.draw.randrange(3)):
            self.number()
        self.put(b"t")

    def array(self, depth):
        if self.draw.random() < 0.5:
            self.put(b"cnumpy._core.numeric\n_frombuffer\n(")
            self.binary(), self.dtype(depth), self.shape(), self.text("C"), self.put(b"tR")
            return
        self.put(b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n(K\0tC\1b\x87R(K\1")
        self.shape(), self.dtype(depth), self.put(b"\x89"), self.binary(), self.put(b"tb")

    def value(self, depth):
        kind = self.draw.randrange(6 if depth <= 0 else 12)
        if kind == 0:
            self.binary()
        elif kind == 1:
            self.text(self.draw.choice([*CODES, "latin1", "True", "0"]))
        elif kind in (2, 3):
            self.number()
        elif kind == 4 and self.memo:
            self.put(b"h" + bytes([self.draw.randrange(self.memo)]))
        elif kind == 5:
            self.name()
        elif kind in (6, 7):
            self.put(b"](" if kind == 6 else b"(")
            for _ in range(self.draw.randrange(4)):
                self.value(depth - 1)
            self.put(b"e" if kind == 6 else b"t")
        elif kind == 8:
            self.dtype(depth)
        elif kind == 9:
            self.array(depth)
        elif kind == 10:  # a call, or a state
            self.name() if self.draw.random() < 0.7 else self.value(depth - 1)
            self.put(b"(")
            for _ in range(self.draw.randrange(4)):
                self.value(depth - 1)
            self.put(self.draw.choice([b"tR", b"tb"]))
        else:
            self.value(depth - 1)
        if self.draw.random() < 0.1 and self.memo < 250:
            self.put(b"q" + bytes([self.memo]))
            self.memo += 1

    def bytes(self):
        self.put(b"\x80\x04](")
        for _ in range(2 * self.draw.randrange(1, 3)):
            self.binary() if self.draw.random() < 0.5 else self.array(2) if self.draw.random() < 0.7 else self.value(3)
        self.put(b"e")
        if self.draw.random() < 0.4:
            self.array(2)
        else:
            self.put(b"](")
            for _ in range(self.draw.randrange(1, 3)):
                self.put(self.draw.choice([b"\x88", b"\x89"])) if self.draw.random() < 0.7 else self.value(2)
            self.put(b"e")
        self.put(b"\x86.")
        return b"".join(self.out)


WATCHED = []
sys.addaudithook(lambda event, args: WATCHED.append((event, args)) if HOOK and event in EVENTS else None)
HOOK, EVENTS = [], {"import", "exec", "compile", "os.system", "open", "pickle.find_class", "object.__setattr__"}


@pytest.mark.parametrize("count", [2_000, pytest.param(100_000, marks=pytest.mark.nightly)])
def test_programs_by_grammar(count):
    """Each is refused with an error of a few kinds, or is plain data; nothing is imported, called or opened."""
    read = 0
    programs = [Program(seed).bytes() for seed in range(count)]
    for program in programs:
        HOOK.append(True)
        try:
            images, same = parse(program)
        except (Foreign, ValueError, LookupError, TypeError, OverflowError):
            continue
        finally:
            HOOK.clear()
        read += 1
        assert all(type(image) is bytes for image in images)
        assert same.dtype == bool
        assert sum(map(len, {id(image): image for image in images}.values())) <= len(program)
    assert not WATCHED
    assert read > count // 100  # the grammar reaches what is valid


def test_the_file_says_what_was_wrong(tmp_path):
    (tmp_path / "set.bin").write_bytes(b"\x80\x04cposix\nsystem\nX\4\0\0\0true\x85R.")
    with pytest.raises(DataError, match=r"a pickle with posix\.system; give a file of InsightFace"):
        read_bin(tmp_path / "set.bin")
