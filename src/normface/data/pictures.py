"""One picture in any usual form: a path, bytes, a file, a Pillow image, an array or a tensor."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, DataError, InputError
from ..types import Image
from .decoding import decode, from_pillow

Order = Literal["RGB", "BGR"]
Picture = Any  # a path, bytes, a binary file object, a Pillow image, a NumPy array or a torch tensor
DIM = 16  # a picture of 0 to 255 whose maximum is below this is almost black


def read_image(picture: Picture, *, order: Order = "RGB", strict: bool = False) -> Image:
    """Read one picture as RGB [H, W, 3] uint8.

    picture:
        - a path, bytes or binary file object of an image file, see `decode`;
        - a Pillow image, turned upright by its Exif block;
        - a NumPy array [H, W, 3], [H, W, 4] (transparent: put on white), [H, W] or [H, W, 1] (gray), or with the
          channels first; a torch tensor likewise, also on a GPU. Values are uint8, other numbers from 0 to 255, or
          floats from 0 to 1, which are multiplied by 255. Ambiguous values raise InputError.
    order: of an array's channels; "BGR" for what OpenCV reads. strict: see `decode`.

    Raises DataError for a missing or damaged file, InputError for an array that is not a picture.
    """
    return decoded(open_picture(picture, order), name_of(picture), strict=strict)


def open_picture(picture: Picture, order: Order = "RGB") -> bytes | Image:
    """Return the bytes of an encoded picture, or the pixels [H, W, 3] uint8 RGB of a decoded one; see `read_image`."""
    if order not in get_args(Order):
        raise ConfigError("order RGB or BGR", repr(order), "correct order")
    if isinstance(picture, str | os.PathLike):
        return _file(picture)
    if isinstance(picture, bytes | bytearray | memoryview):
        return bytes(picture)
    pillow = sys.modules.get("PIL.Image")
    if pillow is not None and isinstance(picture, pillow.Image):
        try:
            return from_pillow(picture)
        except (ValueError, OSError) as error:
            raise DataError("a whole Pillow image of 8 or 16 bits", str(error), "convert it to RGB") from error
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(picture, torch.Tensor):
        tensor = picture.detach().cpu()
        if tensor.is_floating_point():
            tensor = tensor.float()  # NumPy knows no bfloat16
        return _pixels(tensor.numpy(), order, channels_first=True)
    if isinstance(picture, np.ndarray):
        return _pixels(picture, order, channels_first=False)
    if callable(getattr(picture, "read", None)):
        data = picture.read()
        if isinstance(data, bytes):
            return data
        raise InputError("a file opened for bytes", f"one that reads {type(data).__name__}", "open it with mode 'rb'")
    raise InputError(
        "a path, bytes, a binary file, a Pillow image, a NumPy array or a torch tensor", type(picture).__name__,
        "pass one picture; several as a list",
    )  # fmt: skip


def decoded(opened: bytes | Image, name: str, *, strict: bool = False) -> Image:
    """Decode what `open_picture` returned, if it is encoded."""
    return opened if isinstance(opened, np.ndarray) else decode(opened, name, strict=strict)


def name_of(picture: Picture, fallback: str = "the photograph") -> str:
    """Return the name of a picture for messages: its path, or `fallback`."""
    return os.fspath(picture) if isinstance(picture, str | os.PathLike) else fallback


def _file(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        got = (isinstance(error, OSError) and error.strerror) or repr(error)
        raise DataError(f"{path} to be an image file", got, "give the path of an image") from error


def _pixels(array: NDArray[Any], order: Order, *, channels_first: bool) -> Image:
    """RGB [H, W, 3] uint8 of an array; `channels_first` decides where the first and the last axis may be channels."""
    shape = list(array.shape)
    if array.ndim == 2:
        array = array[..., None]
    elif array.ndim == 3 and array.shape[0] in (1, 3, 4) and (channels_first or array.shape[2] not in (1, 3, 4)):
        array = np.moveaxis(array, 0, 2)
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or not array.size:
        raise InputError(
            "a picture [H, W, 3] (or [H, W] gray, [H, W, 4], or channels first)", f"{array.dtype} of shape {shape}",
            "pass one picture; several as a list",
        )  # fmt: skip
    pixels = _bytes(array)
    colors, alpha = (pixels[..., :3], pixels[..., 3:]) if pixels.shape[2] == 4 else (pixels, None)
    if colors.shape[2] == 1:
        colors = np.repeat(colors, 3, axis=2)
    if order == "BGR":
        colors = colors[..., ::-1]
    if alpha is not None:  # on white, rounded
        share = alpha.astype(np.uint16)
        colors = ((colors * share + 255 * (255 - share) + 127) // 255).astype(np.uint8)
    return np.ascontiguousarray(colors)


def _bytes(array: NDArray[Any]) -> Image:
    """Convert values to uint8 if their scale is unambiguous."""
    kind, wanted = array.dtype.kind, "values from 0 to 255, or floats from 0 to 1"
    if array.dtype == np.uint8:
        return np.asarray(array, np.uint8)
    if kind not in "iuf" or array.dtype == np.uint16:
        do = "divide 16 bits by 257 (12 bits by 16)" if kind == "u" else "convert it to uint8"
        raise InputError(wanted, f"{array.dtype}", do)
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 255):  # also NaN
        raise InputError(wanted, f"{array.dtype} from {low:.4g} to {high:.4g}", "undo its normalization")
    if kind != "f":
        return array.astype(np.uint8)
    if 1 < high < DIM:
        raise InputError(wanted, f"{array.dtype} up to {high:.4g}, which may be either", "convert it to uint8")
    return np.asarray(np.rint(array * 255 if high <= 1 else array), np.uint8)
