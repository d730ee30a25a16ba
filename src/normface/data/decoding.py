"""Decoding of photographs to RGB pixels. A damaged file raises an error with its name and returns no pixels.

The one exception is a JPEG without its last bytes, see `decode`.
"""

from __future__ import annotations

import io
import logging
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from ..errors import DataError
from ..types import Floats, Image
from . import image_kinds
from .image_kinds import EXTENSIONS, JPEG

__all__ = [
    "EXTENSIONS", "MAX_PIXELS", "Cost", "Reduced", "as_ppm", "decode", "decode_reduced", "decoding_cost", "extension",
    "from_pillow", "reduce",
]  # fmt: skip

MAX_PIXELS = 89_478_485  # Pillow's own limit: 256 MiB of RGB
LOST = 0.05  # maximum share of a JPEG's pixels that may be missing at its end
TWELVE_BITS = 0xFFF

_log = logging.getLogger("normface")
_SOI, _EOI, _SOS, _EXIF = b"\xff\xd8", b"\xff\xd9", b"\xff\xda", b"Exif\0\0"
_TURNS: dict[int, Any] = {  # Exif orientation → slices of the image; from 5 on, of the transposed image
    2: np.s_[:, ::-1], 3: np.s_[::-1, ::-1], 4: np.s_[::-1],
    5: np.s_[:], 6: np.s_[:, ::-1], 7: np.s_[::-1, ::-1], 8: np.s_[::-1],
}  # fmt: skip
_FILLERS = (b"\x5a\xa5\x3c\x96", b"\xfe", b"\xff\x00\x13\x77\xe1")  # not markers; a single value might change little
_STRIP = 1 << 20  # pixels that Pillow converts at a time
_BESIDE = {
    "PNG": 5,
    "GIF": 8,
    "BMP": 8,
}  # bytes per pixel in Pillow; for other formats and for 16 bits at most 30
_TEXT = 64 << 20  # maximum bytes of text that Pillow unpacks from a PNG
_warning_filters = threading.Lock()  # these settings are global; Pillow decodes outside of the lock


Box = tuple[int, int, int, int]  # x0, y0, x1, y1


class Cost(NamedTuple):
    """Size of an image, and an upper bound of the bytes that decoding needs in addition to the returned pixels."""

    height: int
    width: int
    beside: int


class Reduced(NamedTuple):
    """An image at 1/`factor` of its size; its (x, y) is ((x, y) + ½)·factor − ½ + `offset` in the whole image.

    `size` is (height, width) of the whole image. Points of an image at factor 1 are converted without rounding.
    """

    image: Image
    factor: int
    offset: tuple[int, int]
    size: tuple[int, int]

    def to_whole(self, points: Floats) -> Floats:
        """Convert points [N, 2] of the reduced image to the whole image."""
        return np.asarray(points * self.factor + (self.factor - 1) / 2 + self.offset)

    def to_reduced(self, points: Floats) -> Floats:
        """Convert points [N, 2] of the whole image to the reduced image."""
        return np.asarray((points - self.offset - (self.factor - 1) / 2) / self.factor)


def decode(
    data: bytes, name: object, out: Image | None = None, *, strict: bool = False, max_pixels: int = MAX_PIXELS
) -> Image:
    """Decode the image in `data`, upright, as RGB [H, W, 3], into `out` if its shape fits.

    `str(name)` is for messages only.

    Supports the kinds of files in `image_kinds` and applies the Exif orientation. Keeps the upper 8 of 16 bits (or of
    12, if no pixel exceeds 4095), puts transparent images on white, and returns the first frame of an animation.

    A JPEG without its last bytes is read with a warning if at most 5 % of its pixels are missing, and is an error with
    `strict`. Raises DataError for anything else: empty, truncated or damaged files, and, before decoding, images of
    more than `max_pixels`. The `got` of the error is only the reason.
    """
    if out is not None and _placed(data, out):
        return out
    image = _decoded(data, name, None, strict, max_pixels).image
    if out is None or image.shape != out.shape:
        return image
    out[:] = image
    return out


def decode_reduced(
    data: bytes,
    name: object,
    shorter: int,
    *,
    box: Box | None = None,
    strict: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> Reduced:
    """Decode at a half, a quarter or an eighth of the size if the shorter side keeps `shorter` pixels.

    A JPEG is decoded at that size, in a fraction of the time; other formats are decoded whole and averaged. Of the
    others `box` (x0, y0, x1, y1 in the whole image) is the part that is wanted: no more is returned if nothing has to
    be turned, which saves memory.
    """
    return _decoded(data, name, shorter, strict, max_pixels, box)


def decoding_cost(data: bytes, name: object, *, max_pixels: int = MAX_PIXELS) -> Cost:
    """Estimate from the header what decoding with `strict` needs. Raises DataError as `decode`."""
    with _named(name):
        if data.startswith(_SOI):
            with suppress(_Undecided):
                height, width = _jpeg_size(data, max_pixels)
                return Cost(height, width, _beside_jpeg(data, width * height))
        image = _opened(data, max_pixels)
        pixels = image.width * image.height
        wide = image.format == "PNG" and data[24:25] == b"\x10"
        text = _TEXT if b"zTXt" in data or b"iTXt" in data else 0
        return Cost(image.height, image.width, (30 if wide else _BESIDE.get(image.format, 30)) * pixels + text)


def reduce(image: Image, shorter: int | None) -> Reduced:
    """Average the pixels of an image [H, W, 3] to a half, a quarter or an eighth, as `decode_reduced` does."""
    from PIL import Image as pillow

    height, width = image.shape[:2]
    factor = _factor(height, width, shorter)
    if factor == 1:
        return Reduced(image, 1, (0, 0), (height, width))
    part = pillow.fromarray(np.ascontiguousarray(image[: height // factor * factor, : width // factor * factor]))
    return Reduced(np.asarray(part.reduce(factor)), factor, (0, 0), (height, width))


def extension(data: bytes) -> str:
    """Return the file extension for an image's first bytes, `.jpg` if unknown."""
    return (image_kinds.kind_of(data) or JPEG).extensions[0]


def as_ppm(image: Image) -> bytes:
    """Encode an RGB image [H, W, 3] as a binary PPM (P6), which `decode` only copies."""
    return _ppm_header(image.shape) + image.tobytes()


def _placed(data: bytes, out: Image) -> bool:
    """Decode an `as_ppm` file or a whole JPEG of this size without Exif into `out`; returns False for other files."""
    if data.startswith(b"P6"):
        head = _ppm_header(out.shape)
        if not data.startswith(head) or len(data) - len(head) != out.size:
            return False  # comments, other depths, truncated, trailing bytes: leave it to Pillow
        out[:] = np.frombuffer(data, np.uint8, offset=len(head)).reshape(out.shape)
        return True
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        if (height, width, 3) != out.shape or data.find(_EXIF, 0, data.find(_SOS)) >= 0 or not out.flags.c_contiguous:
            return False
        simplejpeg.decode_jpeg(data, strict=True, buffer=out)
    except ValueError:
        return False
    return True


def _ppm_header(shape: tuple[int, ...]) -> bytes:
    return b"P6\n%d %d\n255\n" % (shape[1], shape[0])


def _decoded(
    data: bytes, name: object, shorter: int | None, strict: bool, limit: int, box: Box | None = None
) -> Reduced:
    with _named(name):
        if jpeg := _jpeg(data, name, shorter, strict, limit):
            return _upright(*jpeg)
        pixels, factor, size, exif, (x, y) = _other(data, shorter, limit, box)
        found = _upright(pixels, factor, size, exif)
        return found._replace(offset=(found.offset[0] + x, found.offset[1] + y))


@contextmanager
def _named(name: object) -> Iterator[None]:
    """Raise every error of the decoders as a DataError about `name`."""
    try:
        yield
    except Exception as error:  # simplejpeg, Pillow and its codecs each have their own
        raise DataError(
            f"{name} to be an image ({image_kinds.NAMES})",
            str(error) or repr(error),
            "replace the file or remove it",
        ) from error


def _factor(height: int, width: int, shorter: int | None) -> int:
    """By which factor an image may be reduced."""
    return next((k for k in (8, 4, 2) if min(height, width) // k >= shorter), 1) if shorter else 1


def _jpeg(
    data: bytes, name: object, shorter: int | None, strict: bool, limit: int
) -> tuple[Image, int, tuple[int, int], bytes] | None:
    """Pixels, factor, whole size and Exif of a JPEG; None if simplejpeg cannot decode it but Pillow may."""
    if not data.startswith(_SOI):
        return None
    try:
        height, width = _jpeg_size(data, limit)
    except _Undecided:
        return None
    factor = _factor(height, width, shorter)
    size = {"min_height": -(-height // factor), "min_width": -(-width // factor), "min_factor": factor}
    try:
        image: Image = simplejpeg.decode_jpeg(data, strict=True, **size)
    except ValueError as error:
        if "Invalid SOS" in str(error):  # harmless, some phones write it; Pillow skips it
            return None
        if strict or "Premature end" not in str(error) or (lost := _lost(data)) > LOST:
            raise
        _warn_of_lost(str(name), f"{lost:.1%}")
        image = simplejpeg.decode_jpeg(data, strict=False, **size)
    # Exif is in the header; a second picture with its own may follow
    start = data.find(_EXIF, 0, data.find(_SOS))
    # libjpeg rounds the sides up: cut off pixels that stand for part of a block
    image = image[: height // factor, : width // factor]
    return image, factor, (height, width), data[start : start + 0xFFFF] if start >= 0 else b""


class _Undecided(Exception):
    """simplejpeg cannot read this JPEG, but Pillow may."""


def _jpeg_size(data: bytes, limit: int) -> tuple[int, int]:
    """Height and width of a JPEG. Raises _Undecided, and ValueError for too many pixels."""
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:  # also valid files of rare chroma subsampling
        raise _Undecided from error
    _check_size(width, height, limit)
    return height, width


def _beside_jpeg(data: bytes, pixels: int) -> int:
    """Bytes that decoding a JPEG needs in addition to its output: the coefficients, unless it has one baseline scan."""
    at, frame = 2, 0
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        if 0xC0 <= data[at + 1] <= 0xCF and data[at + 1] not in (0xC4, 0xC8, 0xCC):
            frame = at
        at += 1 if data[at + 1] == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    if not frame or data[at : at + 2] != _SOS:
        return 12 * pixels
    sampling = [(byte >> 4) * (byte & 15) for byte in data[frame + 11 : frame + 10 + 3 * data[frame + 9] : 3]]
    coefficients = int(2 * pixels * sum(sampling) / max(1, *sampling, 1))
    if data[frame + 1] in (0xC2, 0xC6, 0xCA, 0xCE):  # progressive
        return coefficients
    behind = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    several = data.find(_SOS, behind, max(behind, data.find(_EOI, behind))) >= 0
    if several or data[behind - 3 : behind] != b"\0\x3f\0":  # Pillow decodes what simplejpeg rejects
        return coefficients + 4 * pixels
    return 0


def _lost(data: bytes) -> float:
    """Share of a JPEG's pixels that depend on its missing bytes.

    The decoder fills them with gray. Other bytes in place of the missing ones change exactly these pixels.
    """
    whole = data + b"\0" if data.endswith(b"\xff") else data  # otherwise the next byte would become a marker
    filled = simplejpeg.decode_jpeg(data, strict=False)
    changed = [simplejpeg.decode_jpeg(whole + each * (len(data) // len(each) + 64), strict=False) for each in _FILLERS]
    return max(float((filled != each).any(axis=2).mean()) for each in changed)


@lru_cache(1024)
def _warn_of_lost(name: str, share: str) -> None:
    """Warn once per file, because training reads it in every epoch."""
    _log.warning("%s lacks its last bytes; %s of its pixels are missing", name, share)


def _other(
    data: bytes, shorter: int | None, limit: int, box: Box | None
) -> tuple[Image, int, tuple[int, int], bytes, tuple[int, int]]:
    """Pixels, factor, whole size and Exif by Pillow, and the place (x, y) of the first pixel."""
    from PIL import Image as pillow

    image = _opened(data, limit)
    image.load()
    exif = image.info.get("exif", b"")  # after load: PNG may have it after the pixels
    color = image.format == "PNG" and data[24:25] == b"\x10" and not image.mode.startswith("I")
    if color and np.asarray(image).max() <= TWELVE_BITS >> 8:
        image = pillow.fromarray(_eight_bits(_wide_png(data)))
    image = _narrow(image)
    factor = _factor(image.height, image.width, shorter)
    part = (0, 0, image.width, image.height) if box is None or _orientation(exif) != 1 else box
    pixels, corner = _on_white(image, factor, part)
    return pixels, factor, (image.height, image.width), exif, corner


def _opened(data: bytes, limit: int) -> Any:
    """Pillow's image, before decoding."""
    from PIL import Image as pillow  # not needed for JPEG: importing it takes as long as decoding one
    from PIL import UnidentifiedImageError

    kind = image_kinds.kind_of(data)
    if kind is None:
        raise ValueError(image_kinds.describe_other(data))
    image_kinds.prepare(kind)
    with _warning_filters, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            # Only the recognized kind, because others of Pillow's, such as EPS, would start other programs.
            image = pillow.open(io.BytesIO(data), formats=(kind.format,))
        except pillow.DecompressionBombError as error:
            raise ValueError(f"more than {MAX_PIXELS:,} pixels") from error
        except UnidentifiedImageError as error:
            raise ValueError(f"a damaged {kind.name}") from error
    _check_size(*image.size, limit)
    return image


def from_pillow(image: Any) -> Image:
    """RGB pixels [H, W, 3] of a Pillow image, upright as its Exif block says; else as `decode`. Raises ValueError."""
    _check_size(image.width, image.height, MAX_PIXELS)
    image.load()
    exif = image.info.get("exif", b"")
    pixels, _ = _on_white(_narrow(image), 1, (0, 0, image.width, image.height))
    return _upright(pixels, 1, pixels.shape[:2], exif).image


def _narrow(image: Any) -> Any:
    """Convert one of Pillow's images to 8 bits per channel."""
    from PIL import Image as pillow

    if image.mode.startswith("I"):  # 16 bits, which Pillow would clip
        wide = np.asarray(image)
        if wide.min() < 0 or wide.max() > 0xFFFF:
            raise ValueError("more than 16 bits a pixel")
        return pillow.fromarray(_eight_bits(wide))
    if image.mode == "F":
        raise ValueError("floating-point pixels")
    return image


def _on_white(image: Any, factor: int, box: Box) -> tuple[Image, tuple[int, int]]:
    """RGB pixels of the part `box` of one of Pillow's images, transparent ones laid on white, averaged over `factor`²
    pixels; and the place (x, y) of the first one.

    Strip by strip: Pillow's images take four bytes a pixel, and every step makes another.
    """
    from PIL import Image as pillow

    # In averaged pixels, and at least one of them
    width, height = image.width // factor, image.height // factor
    x, y = (min(max(low // factor, 0), size - 1) for low, size in ((box[0], width), (box[1], height)))
    right, below = (min(max(-(-high // factor), low + 1), size)
                    for low, high, size in ((x, box[2], width), (y, box[3], height)))  # fmt: skip
    pixels = np.empty((below - y, right - x, 3), np.uint8)
    rows = max(1, _STRIP // (image.width * factor))
    for top in range(0, len(pixels), rows):
        bottom = min(top + rows, len(pixels))
        strip = image.crop((x * factor, (y + top) * factor, right * factor, (y + bottom) * factor))
        if strip.has_transparency_data:
            white = pillow.new("RGBA", strip.size, "white")
            strip = pillow.alpha_composite(white, strip.convert("RGBA"))
        strip = strip.convert("RGB")
        pixels[top:bottom] = strip.reduce(factor) if factor > 1 else strip
    return pixels, (x * factor, y * factor)


def _eight_bits(wide: NDArray[Any]) -> Image:
    """The upper 8 bits of 16, or of 12 if no pixel needs more, because cameras store 12-bit data in this way."""
    return (wide >> (4 if wide.max() <= TWELVE_BITS else 8)).astype(np.uint8)


def _wide_png(data: bytes) -> NDArray[np.uint16]:
    """A color PNG's 16-bit pixels, RGB or RGBA; Pillow keeps 8 bits of them."""
    import cv2

    found: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return np.asarray(cv2.cvtColor(found, cv2.COLOR_BGR2RGB if found.shape[2] == 3 else cv2.COLOR_BGRA2RGBA))


def _check_size(width: int, height: int, limit: int) -> None:
    if width * height > limit:
        raise ValueError(f"{width} × {height} pixels, more than {limit:,}")


def _upright(image: Image, factor: int, size: tuple[int, int], exif: bytes) -> Reduced:
    """Turn the image as its Exif block says."""
    orientation = _orientation(exif)
    if orientation == 1:
        return Reduced(np.ascontiguousarray(image), factor, (0, 0), size)
    rest = tuple(side % factor for side in size)  # (below, right): cut off
    if orientation > 4:
        image, size, rest = image.swapaxes(0, 1), size[::-1], rest[::-1]
    turn = _TURNS[orientation]
    steps = [part.step for part in turn] if isinstance(turn, tuple) else [turn.step]
    below, right = (left if step == -1 else 0 for left, step in zip(rest, (*steps, None)[:2], strict=True))
    return Reduced(np.ascontiguousarray(image[turn]), factor, (right, below), size)


def _orientation(exif: bytes) -> int:
    """Orientation in an Exif block; 1 (upright) if the block is broken."""
    exif = exif.removeprefix(_EXIF)
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, start)
        entries = (struct.unpack_from(f"{order}HHIH", exif, start + 2 + 12 * i) for i in range(count))
        orientation = next((value for tag, _, _, value in entries if tag == 0x0112), 1)
    except struct.error:
        return 1
    return orientation if orientation in _TURNS else 1
