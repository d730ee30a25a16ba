"""`decode` against oracles: NumPy for turns, scaling and compositing, Pillow's encoders for the formats."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image as pillow
from tests.laws.test_readers import mutations

from normface.data import decode, decode_reduced, read_image
from normface.data.decoding import EXTENSIONS, _lost, as_ppm
from normface.data.image_kinds import AVIF, JPEG, JPEG_2000, TIFF, WEBP, kind_of
from normface.errors import DataError

Y, X = np.mgrid[:24, :40]
RGB = np.stack([6 * X, 10 * Y, 3 * (X + Y)], -1).astype(np.uint8)
UPRIGHT = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: np.rot90(np.fliplr(a), 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(np.fliplr(a), -1),
    8: lambda a: np.rot90(a, 1),
}


def encode(image, format: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image = image if isinstance(image, pillow.Image) else pillow.fromarray(image)
    image.save(file, format, **options)
    return file.getvalue()


def exif(orientation: int, endian: str = "<") -> bytes:
    mark = b"II" if endian == "<" else b"MM"
    return b"Exif\0\0" + mark + struct.pack(f"{endian}HIHHHIHHI", 42, 8, 1, 0x0112, 3, 1, orientation, 0, 0)


def png16(levels: np.ndarray, color: int) -> bytes:
    """A 16-bit PNG written by hand, as Pillow writes no color ones."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    return png(levels.shape[1], levels.shape[0], 16, color, rows)


def png(width: int, height: int, depth: int, color: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


def close(got, wanted, tolerance: int) -> None:
    assert got.dtype == np.uint8
    assert got.shape == wanted.shape
    assert np.abs(got.astype(int) - wanted).max() <= tolerance


@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize(("format", "options"), [("JPEG", {}), ("PNG", {}), ("WEBP", {"lossless": True})])
def test_every_exif_orientation(format, options, orientation, endian):
    turned = decode(encode(RGB, format, exif=exif(orientation, endian), **options), "a")
    np.testing.assert_array_equal(turned, UPRIGHT[orientation](decode(encode(RGB, format, **options), "a")))
    assert turned.flags.c_contiguous


@pytest.mark.parametrize("block", [exif(0), exif(9), exif(6)[:-9], b"Exif\0\0II", b"Exif\0\0nonsense", b"Exif\0\0"])
def test_broken_exif_turns_nothing(block):
    np.testing.assert_array_equal(decode(encode(RGB, "JPEG", exif=block), "a"), decode(encode(RGB, "JPEG"), "a"))


def test_exif_of_a_second_picture_is_not_ours():
    first, second = encode(RGB, "JPEG"), encode(RGB, "JPEG", exif=exif(6))
    assert decode(first + second, "a").shape == RGB.shape


@pytest.mark.parametrize("format", ["PNG", "BMP", "PPM", "WEBP"])
def test_lossless_formats_are_exact(format):
    np.testing.assert_array_equal(
        decode(encode(RGB, format, **{"lossless": True} if format == "WEBP" else {}), "a"), RGB
    )


def test_jpeg_colours():
    close(decode(encode(RGB, "JPEG", quality=98, subsampling=0), "a"), RGB, 6)
    gray = RGB[..., 0]
    close(decode(encode(gray, "JPEG", quality=98), "a"), np.stack([gray] * 3, -1), 6)
    close(decode(encode(RGB, "JPEG", quality=98, progressive=True, subsampling=0), "a"), RGB, 6)
    inks = pillow.fromarray(RGB).convert("CMYK")  # written inverted with an Adobe marker, as Photoshop does
    cmyk = encode(inks, "JPEG", quality=98)
    assert b"Adobe" in cmyk
    close(decode(cmyk, "a"), RGB, 6)


def test_jpeg_whose_scan_header_is_odd_but_harmless():
    data = encode(RGB, "JPEG")
    scan = data.index(b"\xff\xda")
    end = scan + 2 + int.from_bytes(data[scan + 2 : scan + 4], "big")
    odd = data[: end - 3] + b"\0\0\0" + data[end:]
    close(decode(odd, "a"), decode(data, "a"), 2)
    with pytest.raises(DataError, match="truncated"):
        decode(odd[:-40], "a")


def test_grey_palette_and_one_bit():
    gray, bits = RGB[..., 1], RGB[..., 0] > 99
    np.testing.assert_array_equal(decode(encode(gray), "a"), np.stack([gray] * 3, -1))
    np.testing.assert_array_equal(decode(encode(bits), "a"), np.stack([bits * np.uint8(255)] * 3, -1))
    palette = pillow.fromarray(RGB).quantize(16)
    for format in ("PNG", "GIF", "BMP"):
        np.testing.assert_array_equal(decode(encode(palette, format), "a"), np.asarray(palette.convert("RGB")))


def test_sixteen_bits_are_scaled_not_clipped():
    wide = RGB.astype(np.uint16) * 257
    np.testing.assert_array_equal(decode(png16(wide, 2), "a"), RGB)
    np.testing.assert_array_equal(decode(png16(wide[..., 1], 0), "a"), np.stack([RGB[..., 1]] * 3, -1))
    pgm = b"P5 40 24 65535\n" + wide[..., 1].astype(">u2").tobytes()
    np.testing.assert_array_equal(decode(pgm, "a"), np.stack([RGB[..., 1]] * 3, -1))


def test_twelve_bits_in_sixteen_are_scaled():
    """Cameras store 12-bit data so, up to 4095: as 16 bits it would be almost black."""
    twelve = RGB.astype(np.uint16) * 16 + RGB // 16
    assert 255 < twelve.max() <= 4095
    np.testing.assert_array_equal(decode(png16(twelve, 2), "a"), RGB)
    np.testing.assert_array_equal(decode(png16(twelve[..., 1], 0), "a"), np.stack([RGB[..., 1]] * 3, -1))
    more = twelve.copy()
    more[0, 0, 0] = 4096
    np.testing.assert_array_equal(decode(png16(more, 2), "a"), more >> 8)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["TIFF", "JPEG2000", "AVIF", "HEIF"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_other_kinds_are_read_upright(kind, orientation):
    """Against Pillow's encoders. JPEG 2000 has no Exif here; TIFF has the orientation among its own tags."""
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    big = RGB.repeat(4, 0).repeat(4, 1)  # codecs of blocks blur edges
    turned = {"tiffinfo": {0x112: orientation}} if kind == "TIFF" else {"exif": exif(orientation)}
    best = {"AVIF": {"quality": 100}, "HEIF": {"quality": 100}}.get(kind, {})
    wanted = UPRIGHT[1 if kind == "JPEG2000" else orientation](big)
    found = decode(encode(big, kind, **turned, **best), "a")
    assert found.shape == wanted.shape
    assert np.abs(found.astype(int) - wanted).mean() < 2


def test_a_missing_package_is_named_with_its_command(monkeypatch):
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    jpeg_xl = b"\0\0\0\x0cJXL \r\n\x87\n"
    for module in ("pillow_heif", "pillow_jxl"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DataError, match=r"got HEIC, which needs another package \(pip install 'normface\[heif\]'\)"):
        decode(heic, "a")
    with pytest.raises(DataError, match=r"got JPEG XL, which needs another package \(pip install pillow-jxl-plugin\)"):
        decode(jpeg_xl, "a")


def test_kinds_by_first_bytes():
    for format, kind in (("JPEG", JPEG), ("TIFF", TIFF), ("AVIF", AVIF), ("JPEG2000", JPEG_2000), ("WEBP", WEBP)):
        assert kind_of(encode(RGB, format)) is kind
    assert kind_of(b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif") is AVIF
    assert kind_of(b"\0\0\0\x18ftypmp42\0\0\0\0isom") is None


def photograph(side=320):
    """A picture with as much detail as a photograph's, so that its scan is long."""
    noise = pillow.fromarray(np.random.default_rng(3).integers(0, 256, (side // 4, side // 4, 3), dtype=np.uint8))
    return noise.resize((side, side), pillow.Resampling.BICUBIC)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_short_of_its_last_bytes_is_read_with_a_warning(progressive, caplog):
    data = encode(photograph(), "JPEG", quality=90, progressive=progressive)
    whole = decode(data, "a")
    for short in (1, 2, 3, 40):
        name = f"{short}-{progressive}.jpg"
        found = decode(data[:-short], name)
        assert (found != whole).any(axis=2).mean() <= 0.05
        assert f"{name} lacks its last bytes" in caplog.messages[-1]
        assert decode_reduced(data[:-short], name, 80).image.shape == (80, 80, 3)
        with pytest.raises(DataError, match="Premature end"):
            decode(data[:-short], name, strict=True)
    warnings = len(caplog.messages)
    decode(data[:-2], f"2-{progressive}.jpg")
    assert len(caplog.messages) == warnings  # told once
    for short in (len(data) // 8, len(data) // 2):
        with pytest.raises(DataError, match="Premature end"):
            decode(data[:-short], "a")


@pytest.mark.parametrize("image", [RGB, photograph(112), RGB[..., 0]], ids=["small", "crop", "gray"])
def test_the_missing_part_of_a_jpeg_is_measured(image):
    """Against the whole file, for every number of missing bytes of a small one and every 37th of others."""
    data = encode(image, "JPEG", quality=90)
    whole = decode(data, "a")
    scan = len(data) - data.index(b"\xff\xda")
    for short in range(2, scan // 2, 1 if len(data) < 1000 else 37):
        missing = (simplejpeg.decode_jpeg(data[:-short], strict=False) != whole).any(axis=2).mean()
        assert missing * 0.9 <= _lost(data[:-short]) <= missing + 0.17  # one of six blocks may be right by chance


def test_transparency_is_laid_on_white():
    alpha = (X * 6).astype(np.uint8)
    weight = alpha[..., None] / 255
    close(decode(encode(np.dstack([RGB, alpha])), "a"), np.rint(RGB * weight + 255 * (1 - weight)), 1)
    gray = RGB[..., 0]
    wanted = np.rint(gray * weight[..., 0] + 255 * (1 - weight[..., 0]))
    both = pillow.merge("LA", [pillow.fromarray(gray), pillow.fromarray(alpha)])
    close(decode(encode(both), "a"), np.stack([wanted] * 3, -1), 1)
    colors = pillow.fromarray(RGB).quantize(8)
    index = np.asarray(colors)[0, 0]
    for format, clear in (("PNG", bytes([*[255] * index, 0])), ("GIF", int(index))):
        image = decode(encode(colors, format, transparency=clear), "a")
        assert (image[np.asarray(colors) == index] == 255).all()


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "AVIF", "TIFF"])
def test_animations_give_the_first_frame(format):
    frames = [pillow.new("RGB", (9, 7), color) for color in ("red", "blue")]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encode(frames[0], format, save_all=True, append_images=frames[1:], **options)
    close(decode(data, "a"), np.asarray(frames[0]), 3 if format == "AVIF" else 0)


NOISE = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
WHOLE = {format: encode(NOISE, format) for format in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM")}
BOMB = png(10_000, 9_500, 1, 0, b"")  # what it says is refused before anything is unpacked
REFUSED = {
    "empty.jpg": (b"", "an empty file"),
    "letter.jpg": (b"Dear all,\n", "none of these"),
    "eps.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "none of these"),
    "start.jpg": (b"\xff\xd8", "damaged JPEG"),
    "bomb.png": (BOMB, "10000 × 9500 pixels, more than 89,478,485"),
    "worse.png": (png(20_000, 10_000, 1, 0, b""), "more than 89,478,485"),
    "bomb.jpg": (
        WHOLE["JPEG"].replace(struct.pack(">HH", 64, 48), struct.pack(">HH", 60_000, 60_000), 1),
        "pixels",
    ),
    **{f"{format}.cut": (data[: len(data) // 2], "") for format, data in WHOLE.items()},
    "end.jpg": (WHOLE["JPEG"][:-200], "Premature end"),
    "page.jpg": (b"\n<!DOCTYPE html><html><title>404</title>", "a web page"),
    "page.png": (b"<html>", "a web page"),
    "clip.jpg": (b"\0\0\0\x18ftypmp42\0\0\0\0isom", "a video"),
    "paper.jpg": (b"%PDF-1.7", "a PDF"),
    "late.png": (WHOLE["PNG"][:-300], "truncated"),
    "flipped.jpg": (WHOLE["JPEG"][:900] + b"\xff\x00\xff\xd0" + WHOLE["JPEG"][904:], ""),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_file_and_say_what_to_do(name):
    data, reason = REFUSED[name]
    with pytest.raises(DataError) as caught:
        decode(data, name)
    assert reason in caught.value.got
    assert f"expected {name} to be an image (JPEG, PNG" in str(caught.value)
    assert f"got {caught.value.got}; replace the file" in str(caught.value)


@pytest.mark.filterwarnings("error")
def test_random_damage_never_escapes_as_another_error():
    rng = np.random.default_rng(1)
    for data in WHOLE.values():
        for _ in range(60):
            broken = bytearray(data)
            for at in rng.integers(0, min(len(data), 400), 3):
                broken[at] = rng.integers(256)
            try:
                image = decode(bytes(broken), "a")
            except DataError:
                continue
            assert image.dtype == np.uint8
            assert image.shape[2:] == (3,)


def test_a_ppm_is_what_pillow_writes_and_comes_back_by_a_copy():
    assert as_ppm(NOISE) == WHOLE["PPM"]
    place = np.zeros_like(NOISE)
    assert decode(as_ppm(NOISE), "a", place) is place
    np.testing.assert_array_equal(place, NOISE)
    np.testing.assert_array_equal(decode(as_ppm(NOISE[:, ::-1, ::-1]), "a"), NOISE[:, ::-1, ::-1])
    np.testing.assert_array_equal(decode(WHOLE["PPM"], "a", np.zeros((48, 64, 3), np.uint8)), NOISE)  # not its size


PIXELS = NOISE.tobytes()
ODD = {
    "as written": b"P6\n48 64\n255\n" + PIXELS, "one line": b"P6 48 64 255 " + PIXELS,
    "a comment": b"P6\n# by hand\n48 64\n255\n" + PIXELS, "bytes behind": WHOLE["PPM"] + b"more",
    "seven bits": b"P6\n48 64\n127\n" + bytes(each // 2 for each in PIXELS),
    "sixteen bits": b"P6\n48 64\n65535\n" + NOISE.astype(">u2").tobytes(),
    "cut short": WHOLE["PPM"][:-1], "no pixels": b"P6\n48 64\n255\n", "no header": b"P6\n", "no height": b"P6\n48\n",
    "nothing in it": b"P6\n0 64\n255\n", "negative": b"P6\n-48 64\n255\n" + PIXELS,
    "a bomb": b"P6\n99999 99999\n255\n" + PIXELS, "absurd": b"P6\n" + b"9" * 400 + b" 64\n255\n" + PIXELS,
    "maxval 0": b"P6\n48 64\n0\n" + PIXELS, "maxval 70000": b"P6\n48 64\n70000\n" + PIXELS,
}  # fmt: skip


@pytest.mark.parametrize("format", ["PPM", "JPEG"])
def test_a_place_with_gaps(format):
    wide = np.zeros((64, 96, 3), np.uint8)
    place = wide[:, ::2]
    assert decode(WHOLE[format], "a", place) is place
    np.testing.assert_array_equal(place, decode(WHOLE[format], "a"))
    assert not wide[:, 1::2].any()


def verdict(data, out=None):
    try:
        return decode(data, "a", out)
    except DataError as error:
        return error.got


def same_either_way(data):
    """What a place of the image's size receives is what comes without one, or the same refusal."""
    found, plain = verdict(data, np.zeros_like(NOISE)), verdict(data)
    assert type(found) is type(plain)
    np.testing.assert_array_equal(found, plain)
    return not isinstance(plain, str)


@pytest.mark.parametrize("name", ODD)
def test_ppms_of_all_kinds(name):
    good = same_either_way(ODD[name])
    assert good == (name in ("as written", "one line", "a comment", "bytes behind", "seven bits", "sixteen bits"))


@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_mutated_ppms(count):
    """The short way takes none that Pillow would refuse or see otherwise."""
    rng, good = np.random.default_rng(0), 0
    for data in mutations(WHOLE["PPM"][:15], count, seed=0):
        good += same_either_way(data + PIXELS[: len(PIXELS) - int(rng.integers(2))])
    assert 0 < good < count


def test_read_image(tmp_path: Path):
    (tmp_path / "ä b.png").write_bytes(encode(RGB))
    np.testing.assert_array_equal(read_image(tmp_path / "ä b.png"), RGB)
    for path, got in ((tmp_path / "absent.jpg", "No such file"), (tmp_path, "directory")):
        with pytest.raises(DataError, match=r"expected .* to be an image file, got .*; give the path") as caught:
            read_image(str(path))
        assert str(path) in str(caught.value)
        assert got in caught.value.got
    (tmp_path / "bad.jpg").write_bytes(b"?")
    with pytest.raises(DataError, match=r"bad\.jpg to be an image"):
        read_image(tmp_path / "bad.jpg")


def test_extensions_are_lower_case():
    assert all(extension == extension.lower() and extension.startswith(".") for extension in EXTENSIONS)


@pytest.mark.slow
@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_reduced_is_a_known_part_of_the_whole(format, orientation):
    """A bright spot is found where `to_whole` says, for sides that no factor divides, however the image is turned."""
    y, x = np.mgrid[:403, :530]
    for spot in ((60, 90), (470, 330)):
        blob = 255 * np.exp(-((x - spot[0]) ** 2 + (y - spot[1]) ** 2) / (2 * 12**2))
        data = encode(np.repeat(blob.astype(np.uint8)[..., None], 3, 2), format, exif=exif(orientation))
        whole = decode(data, "a")
        for shorter, factor in ((500, 1), (404, 1), (202, 1), (201, 2), (100, 4), (50, 8), (1, 8)):
            reduced = decode_reduced(data, "a", shorter)
            assert (reduced.factor, reduced.size) == (factor, whole.shape[:2])
            assert reduced.image.shape == (whole.shape[0] // factor, whole.shape[1] // factor, 3)
            found = reduced.to_whole(center(reduced.image)[None])
            np.testing.assert_allclose(found[0], center(whole), atol=0.3)
            np.testing.assert_allclose(reduced.to_reduced(found)[0], center(reduced.image), atol=1e-9)


def center(image):
    light = image[..., 0].astype(float) ** 2
    rows, columns = np.mgrid[: light.shape[0], : light.shape[1]]
    return np.array([(columns * light).sum(), (rows * light).sum()]) / light.sum()


def test_reduced_refuses_what_decode_refuses():
    for data in (b"", b"text", encode(RGB, "JPEG")[:-30]):
        with pytest.raises(DataError, match="a to be an image"):
            decode_reduced(data, "a", 4)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_a_part_is_cut_from_the_whole(mode):
    """At every factor, aligned to it, and never empty; a JPEG and a turned file come whole."""
    image = np.random.default_rng(0).integers(0, 256, (403, 530, 4), np.uint8)
    data = encode(pillow.fromarray(image).convert(mode))
    boxes = (100, 33, 301, 250), (-50, -9, 120, 90), (500, 390, 900, 900), (0, 0, 530, 403), (600, 500, 700, 600)
    for shorter, factor in ((404, 1), (201, 2), (50, 8)):
        whole = decode_reduced(data, "a", shorter)
        for box in boxes:
            part = decode_reduced(data, "a", shorter, box=box)
            assert (part.factor, part.size) == (factor, whole.size)
            x, y = part.offset[0] // factor, part.offset[1] // factor
            height, width = part.image.shape[:2]
            assert (part.image == whole.image[y : y + height, x : x + width]).all()
            inner = [min(max(each, 0), most // factor * factor) for each, most in zip(box, (530, 403) * 2, strict=True)]
            assert x * factor <= inner[0] or inner[0] >= 530 // factor * factor
            assert (x + width) * factor >= inner[2]
            assert (y + height) * factor >= inner[3]
            corner = whole.to_reduced(part.to_whole(np.zeros((1, 2))))
            np.testing.assert_allclose(corner, [[x, y]], atol=1e-9)
    for kept in (encode(RGB, "JPEG"), encode(RGB, exif=exif(6))):
        assert (decode_reduced(kept, "a", 9, box=(3, 3, 9, 9)).image == decode_reduced(kept, "a", 9).image).all()
