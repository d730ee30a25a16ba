"""Random augmentation of batches of aligned crops, from random numbers drawn on the host.

On a GPU, the device does all of it. On CPUs, the decoding thread does the geometry (`move`: OpenCV, on bytes).
"""

from __future__ import annotations

import math
from functools import lru_cache

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..faces import retarget
from ..types import Bools, Floats, Image, InputSpec
from .config import DataConfig

_NUMBERS = (
    "mirror", "rotate", "zoom", "right", "down", "contrast", "brightness", "colour",
    "crop", "crop_area", "crop_shape", "crop_x", "crop_y", "low", "low_size",
    "cover", "cover_area", "cover_shape", "cover_x", "cover_y", "cover_grey",
    "blur", "blur_size", "clean", "mix", "mix_share",
)  # fmt: skip
_SPOILING = {"light": 0.0, "colour": 0.0, "blur": 0.0, "low_resolution": 0.0, "occlude": 0.0}
_BLUR = 4.0  # pixels, the largest standard deviation
_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as `InputSpec.prepare`


def draw(count: int, rng: np.random.Generator) -> Floats:
    """Draw the random numbers [count, n] in [0, 1) for `augment` of `count` crops.

    All are drawn whatever is enabled, so that one option does not change the effect of another.
    """
    return rng.random((count, len(_NUMBERS)))


def augment(images: Tensor, numbers: Tensor, config: DataConfig, *, moved: bool = False) -> Tensor:
    """Augment RGB crops [N, H, W, 3] uint8 by `config`. Returns pixels [N, 3, H, W] float32 in [0, 255].

    Each crop depends only on its own row of `numbers` [N, n]. `moved`: `move` has been applied to the crops already.
    """
    by = _by_name(numbers)
    x = images.permute(0, 3, 1, 2).float()
    if not moved and _moves(config):
        x = _moved(x, config, by)
    elif not moved and config.mirror:
        x = torch.where(_each(by["mirror"] < 0.5), x.flip(3), x)
    if config.light or config.colour:
        x = _lit(x, config, by)
    if config.blur:
        x = _blurred(x, config, by)
    if config.low_resolution:
        x = _reduced(x, config, by)
    if config.occlude:
        x = _covered(x, config, by)
    return x


def move(images: Image, numbers: Floats, config: DataConfig) -> None:
    """Mirror, shift, rotate, zoom and crop RGB crops [N, H, W, 3] uint8 in place, on the host, as `augment` does first.

    Positions are rounded to 1/32 pixel, results to whole gray levels.
    """
    by = _by_name(torch.from_numpy(numbers))
    if _moves(config):
        height, width = images.shape[1:3]
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        for image, place in zip(images, _places(config, by, height, width).numpy(), strict=True):
            image[:] = cv2.warpAffine(image, place, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    elif config.mirror:
        mirrored = (by["mirror"] < 0.5).numpy()
        images[mirrored] = images[mirrored, :, ::-1]


def clean(
    images: Tensor, numbers: Tensor, config: DataConfig, pixels: Tensor, share: float, *, moved: bool = False
) -> Tensor:
    """Return the pixels [N, 3, H, W] that `augment` made, for a share of the crops without what spoils a view.

    That is light, color, blur, low resolution and occlusion; mirroring, shifts, turns, zoom and cuts stay.
    """
    chosen = _by_name(numbers)["clean"] < share
    if not chosen.any():
        return pixels
    seen = augment(images[chosen], numbers[chosen], config.model_copy(update=_SPOILING), moved=moved)
    return pixels.index_put((chosen,), seen)


def mix(images: Image, numbers: Floats, config: DataConfig) -> Bools:
    """Mix crops [N, H, W, 3] uint8 with the next one in place: λ · own + (1 - λ) · next, λ uniform in [0, 1) (mixup).

    Returns which were mixed [N]: `config.mix` of them, by the random numbers.
    """
    by = _by_name(torch.from_numpy(numbers))
    chosen = (by["mix"] < config.mix).numpy()
    share = by["mix_share"].numpy()[chosen, None, None, None]
    images[chosen] = np.rint(share * images[chosen] + (1 - share) * np.roll(images, -1, 0)[chosen])
    return chosen


def prepare(pixels: Tensor, spec: InputSpec) -> Tensor:
    """Convert pixels [N, 3, h, w] float32 of crops of any template to network input [N, C, H, W]; see InputSpec.

    Raises InputError for another size.
    """
    height, width = pixels.shape[2:]
    if (height, width) != (spec.height, spec.width):  # where each pixel comes from: cut or padded as `retarget` does
        rows, columns = _fitting(height, width, spec.template, pixels.device)
        pixels = pixels[:, :, rows][:, :, :, columns]
    if spec.channels == 1:
        pixels = _gray(pixels)
    elif spec.order == "BGR":
        pixels = pixels.flip(1)
    mean, std = (_constant(tuple(values), pixels.device) for values in (spec.mean, spec.std))
    if len({*spec.mean}) == len({*spec.std}) == 1:  # one number is subtracted from all: much quicker on CPUs
        mean, std = mean[0], std[0]
    return (pixels - mean).div_(std)


def _moves(config: DataConfig) -> bool:
    return bool(config.shift or config.rotate or config.zoom or config.crop)


def _moved(x: Tensor, config: DataConfig, by: dict[str, Tensor]) -> Tensor:
    """Mirrored, shifted, turned, zoomed and cut out by one interpolation; the border is repeated outwards."""
    height, width = x.shape[2:]
    places = _places(config, by, height, width)
    size, middle, inverse = _units(height, width, x.device)
    theta = inverse @ (places @ size - middle)
    return F.grid_sample(x, F.affine_grid(theta, list(x.shape), True), padding_mode="border", align_corners=True)


@lru_cache(maxsize=4)
def _units(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """From grid_sample's units, -1 to 1 between the middles of the outermost pixels, to pixels.

    Returns the map [3, 3] of homogeneous places, the middle in its last column [2, 3], and the map back of
    directions [2, 2].
    """
    size = torch.tensor([[width - 1, 0, width - 1], [0, height - 1, height - 1], [0, 0, 2]], dtype=torch.float32) / 2
    middle = torch.tensor([[0, 0, width - 1], [0, 0, height - 1]], dtype=torch.float32) / 2
    return size.to(device), middle.to(device), torch.linalg.inv(size)[:2, :2].to(device)


def _places(config: DataConfig, by: dict[str, Tensor], height: int, width: int) -> Tensor:
    """Affine maps [N, 2, 3] from a pixel (x, y, 1) of the result to the place in the crop that it shows."""
    across, along = _sides(by, "crop", (0.2, 1.0)) if config.crop else (torch.ones_like(by["crop"]),) * 2
    chosen = by["crop"] < config.crop
    across, along = torch.where(chosen, across, 1), torch.where(chosen, along, 1)
    # A pixel p of the result shows the place `center + turn·(size·(p - middle))` of the crop.
    zoom = 1 + config.zoom * _both(by["zoom"])
    turn = torch.deg2rad(config.rotate * _both(by["rotate"]))
    flip = torch.where(by["mirror"] < 0.5, -1, 1) if config.mirror else 1
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    wide, tall = across * flip / zoom, along / zoom
    a, b, c, d = turn.cos() * wide, -turn.sin() * tall, turn.sin() * wide, turn.cos() * tall
    center_x = middle_x + (1 - across) * width / 2 * _both(by["crop_x"]) - config.shift * _both(by["right"])
    center_y = middle_y + (1 - along) * height / 2 * _both(by["crop_y"]) - config.shift * _both(by["down"])
    right, down = center_x - a * middle_x - b * middle_y, center_y - c * middle_x - d * middle_y
    return torch.stack([a, b, right, c, d, down], 1).view(-1, 2, 3)


def _lit(x: Tensor, config: DataConfig, by: dict[str, Tensor]) -> Tensor:
    """Of other saturation, contrast and brightness."""
    if config.colour:
        x = torch.lerp(_gray(x), x, 1 + _each(config.colour * _both(by["colour"])))
    contrast, brightness = (_each(config.light * _both(by[name])) for name in ("contrast", "brightness"))
    return ((x - 127.5) * (1 + contrast) + 127.5 * (1 + brightness)).clamp(0, 255)


def _blurred(x: Tensor, config: DataConfig, by: dict[str, Tensor]) -> Tensor:
    """Smoothed by a Gaussian whose standard deviation is 0 to 4 pixels; near the border of what lies inside."""
    sigma = torch.where(by["blur"] < config.blur, _BLUR * by["blur_size"], 0)
    down, across = (_gaussian(side, sigma) for side in x.shape[2:])
    return down[:, None] @ x @ across[:, None].mT


def _gaussian(side: int, sigma: Tensor) -> Tensor:
    """[N, side, side]: the weights of a line's pixels in each pixel of the result, for sigma [N]."""
    places = torch.arange(side, device=sigma.device, dtype=sigma.dtype)
    apart = (places[:, None] - places).square()
    weights = torch.exp(-apart / (2 * sigma.square() + 1e-9)[:, None, None])
    return weights / weights.sum(2, keepdim=True)


def _reduced(x: Tensor, config: DataConfig, by: dict[str, Tensor]) -> Tensor:
    """Reduced to between a fifth and the whole of their size, and enlarged again."""
    down, across = (
        _resampling(side, x.device)[
            torch.where(by["low"] < config.low_resolution, (side * (0.2 + 0.8 * by["low_size"])).round().long(), side)
        ]
        for side in x.shape[2:]
    )
    return (down[:, None] @ x @ across[:, None].mT).clamp(0, 255)


def _covered(x: Tensor, config: DataConfig, by: dict[str, Tensor]) -> Tensor:
    """With a gray rectangle over 2 to 33 % of them."""
    height, width = x.shape[2:]
    across, along = _sides(by, "cover", (0.02, 0.33))
    left, top = by["cover_x"] * (1 - across) * width, by["cover_y"] * (1 - along) * height
    columns, rows = torch.arange(width, device=x.device) + 0.5, torch.arange(height, device=x.device) + 0.5
    inside_x = (columns >= _rows(left)) & (columns < _rows(left + across * width))
    inside_y = (rows >= _rows(top)) & (rows < _rows(top + along * height))
    inside = inside_x[:, None, :] & inside_y[:, :, None] & _rows(by["cover"] < config.occlude)[:, None]
    return torch.where(inside[:, None], _each(255 * by["cover_grey"]), x)


@lru_cache(maxsize=4)
def _resampling(side: int, device: torch.device) -> Tensor:
    """[side + 1, side, side]: number n averages a line of pixels down to n and interpolates it up again."""
    eye = torch.eye(side)[None]
    each = [eye[0]] + [
        F.interpolate(F.interpolate(eye, n, mode="area"), side, mode="linear")[0].T for n in range(1, side + 1)
    ]
    return torch.stack(each).to(device)


def _by_name(numbers: Tensor) -> dict[str, Tensor]:
    return dict(zip(_NUMBERS, numbers.to(torch.float32).T, strict=True))


def _sides(by: dict[str, Tensor], name: str, area: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Width and height, as fractions, of rectangles of a random area and shape (3:4 to 4:3), at most the whole."""
    low, high = area
    size = (low + (high - low) * by[f"{name}_area"]).sqrt()
    shape = torch.exp(_both(by[f"{name}_shape"]) * 0.5 * math.log(4 / 3))
    return (size * shape).clamp(max=1), (size / shape).clamp(max=1)


def _gray(x: Tensor) -> Tensor:
    return (x * _constant(_LUMA, x.device)).sum(1, keepdim=True)


@lru_cache(maxsize=16)
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Numbers [n, 1, 1] on a device: copied there once, not in each step, where the host would wait for the copy."""
    return torch.tensor(values, dtype=torch.float32, device=device).view(-1, 1, 1)


@lru_cache(maxsize=4)
def _fitting(height: int, width: int, template: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows and columns of a crop that make up one of another template. Raises InputError as `retarget` does."""
    grid = np.indices((height, width)).transpose(1, 2, 0).astype(np.uint8)
    places = retarget(grid[None], template)[0].astype(np.int64)
    return torch.from_numpy(places[:, 0, 0]).to(device), torch.from_numpy(places[0, :, 1]).to(device)


def _both(number: Tensor) -> Tensor:
    """[0, 1) → [-1, 1)."""
    return 2 * number - 1


def _rows(number: Tensor) -> Tensor:
    return number[:, None]


def _each(number: Tensor) -> Tensor:
    return number.view(-1, 1, 1, 1)
