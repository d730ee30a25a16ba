"""Bytes of any common image format → upright uint8 RGB."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import PIL.Image
import simplejpeg
from PIL import ImageOps

from ..errors import DataError
from ..types import Image

_ORIENTATION = 0x0112  # EXIF tag


def decode(data: bytes, name: str) -> Image:
    """Decode an image file's bytes to uint8 RGB [H, W, 3], turned upright as its EXIF orientation says.

    JPEG goes through libjpeg-turbo; everything else (PNG, WebP, BMP, CMYK JPEG, palettes, 16 bits, first frames)
    through Pillow. 16-bit values are scaled to 8 bits; transparent pixels are laid over white.
    Raises DataError naming `name` for anything that is not one whole image.
    """
    # Only JPEGs with an EXIF block can be turned; the others take the fast path.
    if data[:2] == b"\xff\xd8" and b"Exif\0" not in data[:4096]:
        try:
            return np.asarray(simplejpeg.decode_jpeg(data, "RGB"))
        except ValueError as error:
            if b"Unsupported color" not in str(error).encode():
                raise _broken(name, str(error)) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Pillow warns of bombs and corrupt metadata
            with PIL.Image.open(io.BytesIO(data)) as image:
                return _rgb(image)
    except Exception as error:  # every Pillow plugin has its own
        raise _broken(name, "no bytes" if not data else str(error)) from error


def read_image(path: str | Path) -> Image:
    """Decode one file; see `decode`. Raises DataError for a missing file or a folder too."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError("an image file", f"{path} ('{error.strerror}')", "correct the path") from error
    return decode(data, str(path))


def _rgb(image: PIL.Image.Image) -> Image:
    orientation = image.getexif().get(_ORIENTATION, 1)
    image.load()
    if orientation != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        levels = np.asarray(image, np.float64)
        if image.mode != "F":
            levels = levels / 257  # 16 bits: 65535 → 255
        return np.repeat(np.rint(levels).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


def _broken(name: str, reason: str) -> DataError:
    return DataError("a whole image", f"{name} ('{reason}')", "replace or remove it")
