"""One picture in every form that people have, and what is refused in words."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from normface.data import read_image
from normface.errors import ConfigError, DataError, InputError

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (9, 7, 3), dtype=np.uint8)
GRAY = RNG.integers(0, 256, (9, 7), dtype=np.uint8)


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def forms(tmp_path):
    path = tmp_path / "ä b.png"
    path.write_bytes(png(RGB))
    chw = np.moveaxis(RGB, 2, 0)
    return {
        "str": str(path), "Path": path, "bytes": png(RGB), "bytearray": bytearray(png(RGB)),
        "memoryview": memoryview(png(RGB)), "BytesIO": io.BytesIO(png(RGB)), "file": path.open("rb"),
        "PIL": Image.fromarray(RGB), "PIL from a file": Image.open(path), "array": RGB, "not contiguous": RGB.copy("F"),
        "channels first": chw, "int64": RGB.astype(int), "float 0..255": RGB.astype(np.float32),
        "float 0..1": RGB / 255, "float16 0..255": RGB.astype(np.float16), "tensor": torch.from_numpy(chw.copy()),
        "tensor, channels last": torch.from_numpy(RGB), "tensor 0..1": torch.from_numpy(chw / 255).requires_grad_(),
        "bfloat16": torch.from_numpy(chw.copy()).to(torch.bfloat16),
    }  # fmt: skip


def test_every_form_gives_the_same_pixels(tmp_path):
    for name, picture in forms(tmp_path).items():
        found = read_image(picture)
        assert (found.dtype, found.flags.c_contiguous) == (np.uint8, True), name
        np.testing.assert_array_equal(found, RGB, err_msg=name)


def test_the_order_of_opencv():
    np.testing.assert_array_equal(read_image(RGB[..., ::-1], order="BGR"), RGB)
    np.testing.assert_array_equal(read_image(torch.from_numpy(RGB[..., ::-1].copy()), order="BGR"), RGB)
    with pytest.raises(ConfigError, match="order RGB or BGR"):
        read_image(RGB, order="GBR")


@pytest.mark.parametrize("gray", [GRAY, GRAY[..., None], GRAY[None], GRAY / 255, Image.fromarray(GRAY), png(GRAY)])
def test_gray(gray):
    np.testing.assert_array_equal(read_image(gray), np.repeat(GRAY[..., None], 3, axis=2))


def test_transparent_ones_are_put_on_white():
    alpha = RNG.integers(0, 256, (9, 7, 1), dtype=np.uint8)
    rgba = np.concatenate([RGB, alpha], 2)
    wanted = np.rint(RGB * (alpha / 255) + 255 * (1 - alpha / 255))
    for picture in (rgba, rgba / 255, Image.fromarray(rgba), png(rgba), torch.from_numpy(np.moveaxis(rgba, 2, 0))):
        assert np.abs(read_image(picture).astype(int) - wanted).max() <= 1
    np.testing.assert_array_equal(read_image(rgba[..., [2, 1, 0, 3]], order="BGR"), read_image(rgba))


def test_a_pillow_image_is_turned_as_its_exif_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB).save(tmp_path / "turned.png", exif=exif)
    upright = np.rot90(RGB, -1)
    np.testing.assert_array_equal(read_image(tmp_path / "turned.png"), upright)
    np.testing.assert_array_equal(read_image(Image.open(tmp_path / "turned.png")), upright)


def test_pillow_images_of_16_bits_and_palettes():
    wide = Image.fromarray(RNG.integers(0, 65536, (9, 7), dtype=np.uint16))
    np.testing.assert_array_equal(read_image(wide)[..., 0], np.asarray(wide) >> 8)
    palette = Image.fromarray(RGB).quantize(8)
    np.testing.assert_array_equal(read_image(palette), np.asarray(palette.convert("RGB")))
    with pytest.raises(DataError, match="floating-point pixels"):
        read_image(Image.new("F", (3, 3)))


@pytest.mark.parametrize(
    ("array", "got"),
    [
        (RGB.astype(np.uint16), "uint16; divide 16 bits by 257"),
        (RGB / 127.5 - 1, "float64 from -1 to .*undo its normalization"),
        (np.full((4, 4, 3), np.nan), "from nan to nan"),
        (RGB.astype(int) * 3, "int64 from "),
        (RGB / 255 * 1.5, "float64 up to 1.*which may be either"),
        (RGB > 99, "got bool"),
        (RGB.astype(object), "got object"),
        (np.zeros((2, 9, 7, 3), np.uint8), r"uint8 of shape \[2, 9, 7, 3\]; pass one picture; several as a list"),
        (np.zeros((9, 7, 2), np.uint8), r"shape \[9, 7, 2\]"),
        (np.zeros((0, 7, 3), np.uint8), r"shape \[0, 7, 3\]"),
        (np.zeros(5), "shape"),
    ],
)
def test_what_may_mean_two_things_is_refused(array, got):
    with pytest.raises(InputError, match=got):
        read_image(array)


def test_other_things(tmp_path):
    for thing in (None, 7, [RGB], {"path": "a.jpg"}):
        with pytest.raises(InputError, match="expected a path, bytes, a binary file, a Pillow image, a NumPy array or"):
            read_image(thing)
    with pytest.raises(InputError, match="reads str; open it with mode 'rb'"):
        read_image(io.StringIO("text"))
    for name in ("none.jpg", "\0.jpg"):
        with pytest.raises(DataError, match="give the path of an image"):
            read_image(name)
    (tmp_path / "page.jpg").write_text("<!doctype html><title>Not found</title>")
    (tmp_path / "empty.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"page\.jpg to be an image .*got a web page"):
        read_image(tmp_path / "page.jpg")
    with pytest.raises(DataError, match=r"empty\.jpg to be an image .*an empty file"):
        read_image(tmp_path / "empty.jpg")
    with pytest.raises(DataError, match="the photograph to be an image .*an empty file"):
        read_image(b"")
    with pytest.raises(DataError, match="whole Pillow image"):
        read_image(Image.open(io.BytesIO(png(np.tile(RGB, (30, 30, 1)))[:-900])))
