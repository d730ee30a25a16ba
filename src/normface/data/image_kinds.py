"""Kinds of image files: first bytes, name and extensions, and the package that decodes them."""

from __future__ import annotations

from importlib import import_module
from typing import NamedTuple


class Kind(NamedTuple):
    """A kind of image file.

    Attributes:
        name: for messages.
        format: Pillow's name.
        extensions: of its files, the commonest first.
        plugin: module that adds it to Pillow, if Pillow needs one; `install` is the command for it.
    """

    name: str
    format: str
    extensions: tuple[str, ...]
    plugin: str = ""
    install: str = ""


JPEG = Kind("JPEG", "JPEG", (".jpg", ".jpeg", ".jpe", ".jfif"))
PNG = Kind("PNG", "PNG", (".png", ".apng"))
WEBP = Kind("WebP", "WEBP", (".webp",))
BMP = Kind("BMP", "BMP", (".bmp",))
GIF = Kind("GIF", "GIF", (".gif",))
PPM = Kind("PPM", "PPM", (".ppm", ".pgm", ".pbm", ".pnm"))
TIFF = Kind("TIFF", "TIFF", (".tif", ".tiff"))
JPEG_2000 = Kind("JPEG 2000", "JPEG2000", (".jp2", ".j2k", ".jpx", ".jpf"))
AVIF = Kind("AVIF", "AVIF", (".avif",), "PIL._avif", "pip install --upgrade 'pillow>=11.3'")
HEIC = Kind("HEIC", "HEIF", (".heic", ".heif", ".hif"), "pillow_heif", "pip install 'normface[heif]'")
JPEG_XL = Kind("JPEG XL", "JXL", (".jxl",), "pillow_jxl", "pip install pillow-jxl-plugin")
KINDS = (JPEG, PNG, WEBP, BMP, GIF, PPM, TIFF, JPEG_2000, AVIF, HEIC, JPEG_XL)
NAMES = ", ".join(kind.name for kind in KINDS)
EXTENSIONS = tuple(extension for kind in KINDS for extension in kind.extensions)

_BEGINNINGS = (
    (b"\xff\xd8", JPEG), (b"\x89PNG", PNG), (b"GIF8", GIF), (b"BM", BMP),
    (b"II*\0", TIFF), (b"MM\0*", TIFF), (b"II+\0", TIFF), (b"MM\0+", TIFF),
    (b"\0\0\0\x0cjP  ", JPEG_2000), (b"\xff\x4f\xff\x51", JPEG_2000),
    (b"\xff\x0a", JPEG_XL), (b"\0\0\0\x0cJXL ", JPEG_XL),
)  # fmt: skip
_BRANDS = {b"avif": AVIF, b"avis": AVIF} | dict.fromkeys(b"heic heix heim heis hevc hevx mif1 msf1".split(), HEIC)


def kind_of(data: bytes) -> Kind | None:
    """Return the kind of the image that begins with `data`, or None for other files."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return WEBP
    if data[:1] == b"P" and data[1:2] in b"123456" and data[2:3].isspace():
        return PPM
    if data[4:8] == b"ftyp":  # the first known brand; "mif1" comes before "avif" in some files
        end = int.from_bytes(data[:4], "big")
        brands = [data[at : at + 4] for at in (8, *range(16, min(end, 256), 4))]
        known = [_BRANDS[brand] for brand in brands if brand in _BRANDS]
        return AVIF if AVIF in known else known[0] if known else None
    return next((kind for start, kind in _BEGINNINGS if data.startswith(start)), None)


def prepare(kind: Kind) -> None:
    """Load the package that decodes this kind. Raises ValueError naming the command that installs it."""
    if not kind.plugin:
        return
    try:
        module = import_module(kind.plugin)
    except ImportError as error:
        raise ValueError(f"{kind.name}, which needs another package ({kind.install})") from error
    if kind is HEIC:
        module.register_heif_opener()


def describe_other(data: bytes) -> str:
    """Describe a file that is not an image, for messages."""
    if not data:
        return "an empty file"
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "a web page (HTML)"
    if start.startswith((b"<?xml", b"<svg")):
        return "XML or SVG"
    if start.startswith(b"%pdf"):
        return "a PDF"
    if data[4:8] == b"ftyp" or data.startswith(b"\x1aE\xdf\xa3") or (data[:4] == b"RIFF" and data[8:12] == b"AVI "):
        return "a video"
    return "bytes of none of these formats"
