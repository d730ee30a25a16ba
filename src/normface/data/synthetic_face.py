"""Drawn faces: the person (Identity) and the conditions of the picture (Nuisance) are separate.

All coordinates are in units of the 112×112 template, so the same code draws an aligned crop and a photograph. Parts
that depend only on the person are painted once for all pictures, in a layer below and a layer above the moving parts.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from ..types import Floats, Image

# Eyes, nose and mouth corners of the 112×112 template (PAPER.md §3), left to right as seen in the image.
TEMPLATE = np.array([(38.29, 51.70), (73.53, 51.50), (56.03, 71.74), (41.55, 92.37), (70.73, 92.20)])
MIDDLE = np.array([56.0, 66.0])  # of the head; its half axes are about 37 and 50
SKINS = np.array([(255, 224, 204), (241, 194, 160), (214, 160, 118), (172, 118, 80), (126, 82, 56), (84, 54, 40)])
HAIRS = np.array(
    [(24, 20, 20), (58, 40, 30), (104, 70, 44), (166, 124, 72), (214, 180, 120), (150, 70, 40), (170, 170, 172)]
)
IRISES = np.array([(60, 38, 24), (92, 62, 34), (110, 100, 60), (84, 120, 90), (90, 126, 160), (120, 130, 138)])

Self = TypeVar("Self")
Planes = NDArray[np.float32]


def _draw(cls: type[Self], rng: np.random.Generator, strength: float = 1.0) -> Self:
    """One number for each field, standard normal and cut at ±2, times `strength`."""
    values = strength * rng.normal(size=len(fields(cls))).clip(-2, 2)  # type: ignore[arg-type]
    return cls(*values.tolist())


@dataclass(frozen=True)
class Identity:
    """Traits of a person, each in standard deviations from the average face."""

    skin: float
    redness: float
    width: float
    jaw: float
    chin: float
    forehead: float
    eye_gap: float
    eye_size: float
    eye_open: float
    eye_tilt: float
    iris: float
    brow_height: float
    brow_thick: float
    brow_arch: float
    brow_slant: float
    nose_length: float
    nose_width: float
    nose_bridge: float
    mouth_width: float
    mouth_height: float
    upper_lip: float
    lower_lip: float
    lip_colour: float
    hair: float
    hairline: float
    parting: float
    hair_length: float
    hair_body: float
    beard: float
    folds: float
    freckles: float
    marks: float
    seed: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Identity:
        """Draw a random person."""
        return _draw(cls, rng)

    def landmarks(self) -> Floats:
        """This person's five landmarks in a frontal picture: [5, 2], template units."""
        eyes, mouth = 1.0 * self.eye_gap, 1.3 * self.mouth_width
        down = 0.9 * self.nose_length
        shift = np.array([(-eyes, 0), (eyes, 0), (0, down), (-mouth, self.mouth_height), (mouth, self.mouth_height)])
        # Alignment removes a common shift.
        return np.asarray(TEMPLATE + shift - shift.mean(0))


@dataclass(frozen=True)
class Nuisance:
    """Conditions of a picture, each in standard deviations; all 0 is a frontal studio portrait."""

    yaw: float
    pitch: float
    light_x: float
    light_y: float
    ambient: float
    warmth: float
    gain: float
    contrast: float
    smile: float
    mouth_open: float
    eye_closed: float
    brow_raise: float
    gaze: float
    shift_x: float
    shift_y: float
    turn: float
    size: float
    blur: float
    noise: float
    jpeg: float
    occlusion: float
    occlusion_x: float
    occlusion_y: float
    glasses: float
    background: float
    seed: float

    @classmethod
    def draw(cls, rng: np.random.Generator, strength: float = 1.0) -> Nuisance:
        """Draw random conditions of a picture; `strength` scales all of them, 0 gives the studio portrait."""
        return _draw(cls, rng, strength)


class _View(NamedTuple):
    """A square picture: pixels per side, pixels per template unit, template coordinates of its upper left corner."""

    size: int
    zoom: float
    corner: tuple[float, float]


class _Canvas:
    """Planes [C, size, size] to paint on: red, green, blue and, in a layer, the transparency."""

    def __init__(self, planes: Planes, view: _View) -> None:
        self.planes, self.view = planes, view

    def fill(self, points: Floats, color: Any, opacity: float = 1.0, soft: float = 0.0) -> None:
        """Paint a polygon [N, 2], or several apart [K, N, 2]; `soft` is the blur of the edge in template units."""
        if opacity <= 0:
            return
        size, zoom, corner = self.view
        # The mask is drawn twice as large, in sixteenths of a pixel, then shrunk: smooth edges.
        corners = np.rint((points - corner) * (zoom * 32)).astype(np.int32)
        x, y, width, height = cv2.boundingRect(corners.reshape(-1, 2))
        margin = int(4 * soft * zoom) + 2
        left, right = max(x // 32 - margin, 0), min((x + width) // 32 + margin + 1, size)
        top, bottom = max(y // 32 - margin, 0), min((y + height) // 32 + margin + 1, size)
        if left >= right or top >= bottom:
            return
        mask = np.zeros((2 * (bottom - top), 2 * (right - left)), np.uint8)
        corners -= np.array((32 * left, 32 * top), np.int32)
        cv2.fillPoly(mask, list(corners.reshape(-1, *corners.shape[-2:])), 255, cv2.LINE_AA, 4)
        mask = cv2.resize(mask, (right - left, bottom - top), interpolation=cv2.INTER_AREA)
        weight = mask * np.float32(opacity / 255)
        if soft:
            weight = cv2.GaussianBlur(weight, (0, 0), soft * zoom)
        ink = np.zeros((len(self.planes), 1, 1), np.float32)
        ink[:3, 0, 0] = color
        part = self.planes[:, top:bottom, left:right]
        part += weight * (ink - part)


_ROUND = np.linspace(0, 2 * np.pi, 40, endpoint=False)
_CIRCLE = np.stack([np.cos(_ROUND), np.sin(_ROUND)], 1)
_LIPS = np.linspace(-1, 1, 15)  # from corner to corner
_BROW = np.linspace(-1, 1, 9)  # from the nose outwards
_MIRROR = np.array([(-1, 1), (1, 1)])  # factors for the right half: both sides, left first


def _ellipse(center: Any, rx: float, ry: float, tilt: Any = 0.0) -> Floats:
    """Ellipse [40, 2], or [K, 40, 2] for centers [K, 2]."""
    c, s = np.cos(tilt), np.sin(tilt)
    axes = np.array([(rx * c, -ry * s), (rx * s, ry * c)]).T
    return np.asarray(np.asarray(center)[..., None, :] + _CIRCLE @ axes)


def _between(one: Floats, other: Floats) -> Floats:
    """Polygon between two lines [..., N, 2] with the same direction."""
    return np.concatenate([one, other[..., ::-1, :]], -2)


def _blend(palette: NDArray[np.int64], deviation: float) -> Floats:
    """Color from a palette, by a deviation from -2 to 2."""
    place = (deviation + 2) / 4 * (len(palette) - 1)
    index = min(int(place), len(palette) - 2)
    return np.asarray(palette[index] + (place - index) * (palette[index + 1] - palette[index]))


def _head(who: Identity, grow: float = 0.0) -> Floats:
    """Outline of the head: an egg whose lower half has the jaw's width and the chin's length."""
    x, y = _CIRCLE.T
    width = 38 + 1.8 * who.width + grow
    below = np.maximum(y, 0)
    narrow = 1 - (0.26 - 0.06 * who.jaw) * below**2
    height = np.where(y > 0, 50 + 2.5 * who.chin, 54 + 2.5 * who.forehead) + grow
    return np.stack([MIDDLE[0] + width * x * narrow, MIDDLE[1] + height * y], 1)


def _hair(canvas: _Canvas, who: Identity, behind: bool) -> None:
    if who.hair_length < -1.4:  # bald
        return
    color = _blend(HAIRS, who.hair)
    if behind:
        if who.hair_length > 0.2:
            reach = MIDDLE[1] + 14 + 24 * who.hair_length
            wide = 45 + 2 * who.width + 3 * who.hair_body
            down = np.array([(-wide, -20), (wide, -20), (wide + 2, 10), (wide - 4, reach - MIDDLE[1])])
            sides = np.concatenate([down, (down * (-1, 1))[:1:-1]])
            canvas.fill(MIDDLE + sides, color * 0.8, soft=2)
        return
    # Along the skull from ear to ear, and back along the hairline with its parting.
    skull = _head(who, 4.5 + 1.5 * who.hair_body)
    outer = np.concatenate([skull[20:], skull[:1]]) + (0, -4)
    line, parting = 24 - 4 * who.hairline, 5 * who.parting
    wide = 37 + 1.8 * who.width
    inner = [(wide, 56), (wide - 3, 42), (wide - 10, line + 7), (0.6 * wide, line + 1), (parting + 7, line - 1),
             (parting, line - 6), (parting - 7, line - 1), (-0.6 * wide, line + 1), (10 - wide, line + 7),
             (3 - wide, 42), (-wide, 56)]  # fmt: skip
    canvas.fill(np.concatenate([outer, np.array(inner) + (MIDDLE[0], 0)]), color, soft=1.0)


def _eyes(canvas: _Canvas, who: Identity, how: Nuisance, centers: Floats, skin: Floats) -> None:
    wide = 7.6 + 0.7 * who.eye_size
    lid = min(max(1 - 0.35 * how.eye_closed, 0.25), 1)
    tall = (3.5 + 0.45 * who.eye_size + 0.45 * who.eye_open) * lid
    tilt = -_MIRROR[:, 0] * 0.06 * who.eye_tilt
    canvas.fill(_ellipse(centers, wide + 3, tall + 4, tilt), skin * 0.78, 0.5, soft=2)
    canvas.fill(_ellipse(centers, wide, tall, tilt), (238, 234, 230))
    irises = centers + (1.6 * how.gaze, 0)
    canvas.fill(_ellipse(irises, min(3.6, wide), min(3.6, tall)), _blend(IRISES, who.iris))
    canvas.fill(_ellipse(irises, 1.7, min(1.7, tall)), (12, 10, 10))
    canvas.fill(_ellipse(irises - (1.1, min(1.1, tall / 2)), 0.6, 0.6), (255, 255, 255), 0.9)
    upper, lower = (_ellipse(centers, wide + more, tall + by, tilt)[:, 20:] for more, by in ((0.4, 0.5), (0, -0.8)))
    canvas.fill(_between(upper, lower), skin * 0.25)
    hair = np.minimum(_blend(HAIRS, who.hair), 120) * 0.8
    arch, slant = (2.0 + 0.9 * who.brow_arch) * (1 - _BROW**2), (0.6 + 0.8 * who.brow_slant) * _BROW
    brow = np.stack([9.5 * _BROW, slant - arch - 10.5 - 0.9 * who.brow_height - 1.1 * how.brow_raise], 1)
    thick = np.outer((1.3 + 0.4 * who.brow_thick) * (1.1 - 0.3 * _BROW), (0, 1))
    canvas.fill(centers[:, None] + _MIRROR[:, None] * _between(brow - thick, brow + thick), hair, 0.9, soft=0.5)


def _nose(canvas: _Canvas, who: Identity, tip: Floats, skin: Floats) -> None:
    wide = 6.6 + 0.9 * who.nose_width
    bridge = 2.6 + 0.6 * who.nose_bridge
    edge = np.array([(bridge, -19), (bridge + 1, -8), (wide, 0), (wide - 2, 2.5)])
    canvas.fill(tip + _MIRROR[:, None] * _between(edge, edge * (0.55, 1)), skin * 0.72, 0.55, soft=1.0)
    canvas.fill(_ellipse(tip + _MIRROR * (0.55 * wide, 3.0), 2.0, 1.1), skin * 0.35, 0.9, soft=0.4)
    ridge = np.array([(-1.3, -18), (1.3, -18), (2.2, -2), (-2.2, -2)])
    canvas.fill(tip + ridge, np.minimum(skin * 1.14, 255), 0.5, soft=1.2)


def _mouth(canvas: _Canvas, who: Identity, how: Nuisance, corners: Floats, skin: Floats) -> None:
    left, right = corners
    middle, half = (left + right) / 2, (right - left)[0] / 2
    half *= 1 + 0.05 * max(0.0, how.smile)
    rest = 1 - _LIPS**2
    lift = 1.3 * how.smile  # corners up, middle down
    line = np.stack([middle[0] + half * _LIPS, middle[1] + lift * (rest - 0.6)], 1)
    opening = max(0.0, 2.2 * how.mouth_open + 0.6 * how.smile)
    upper = (2.4 + 0.7 * who.upper_lip) * (rest**0.6) * (1 - 0.25 * np.exp(-((_LIPS / 0.18) ** 2)))
    lower = (3.2 + 0.8 * who.lower_lip) * rest**0.7
    lips = skin * (0.80, 0.58, 0.58) + 14 * who.lip_colour * np.array([1.0, -0.4, -0.3])
    gap = opening * np.outer(rest, (0, 1))
    high, low = line - (0, 0.4) - 0.3 * gap, line + 0.7 * gap
    canvas.fill(_between(high - np.outer(upper, (0, 1)), high), lips * 0.92, soft=0.35)
    canvas.fill(_between(low, low + np.outer(lower, (0, 1))), lips, soft=0.35)
    canvas.fill(_between(high - (0, 0.2), low + (0, 0.3)), (60, 22, 24))
    if opening > 1.2:
        canvas.fill(_between(high[3:-3], (high + (low - high) * 0.55)[3:-3]), (236, 232, 224))


def _skin_marks(canvas: _Canvas, who: Identity, skin: Floats, points: Floats) -> None:
    rng = np.random.default_rng(int((who.seed + 2) * 1e9))  # the same marks in every picture
    if who.beard > 0.3:
        chin = _head(who)
        chin = chin[chin[:, 1] > MIDDLE[1] + 8]
        canvas.fill(chin, _blend(HAIRS, who.hair) * 0.7, min(0.75, 0.4 * who.beard), soft=4)
        canvas.fill(_ellipse(points[3:].mean(0), 13, 9), skin, 0.35, soft=3)
    folds = points[2] + _MIRROR[:, None] * [(9, 0), (16, 14), (17.5, 14), (10.5, -1)]
    canvas.fill(folds, skin * 0.6, max(0.0, 0.12 + 0.15 * who.folds), soft=0.9)
    cheeks = _ellipse(MIDDLE + _MIRROR * (21, 12), 9, 7)
    canvas.fill(cheeks, skin * (1.02, 0.84, 0.82), 0.35 + 0.1 * who.redness, soft=4)
    for _ in range(int(max(0.0, 9 * who.freckles))):
        canvas.fill(_ellipse(MIDDLE + rng.normal(0, (18, 6)) + (0, 4), 0.6, 0.6), skin * 0.72, 0.6)
    for _ in range(int(max(0.0, 0.7 + 0.9 * who.marks))):
        canvas.fill(_ellipse(MIDDLE + rng.uniform((-28, -30), (28, 40)), *rng.uniform(0.7, 1.3, 2)), skin * 0.45, 0.9)


def _occlude(canvas: _Canvas, how: Nuisance, points: Floats) -> None:
    if how.glasses > 1.3:
        lenses, inner = _ellipse(points[:2] + (0, 1), 12.5, 9.5), _ellipse(points[:2] + (0, 1), 11.2, 8.2)
        canvas.fill(lenses, (24, 22, 24), 0.97 if how.glasses > 1.75 else 0.12)
        canvas.fill(_between(np.concatenate([lenses, lenses[:, :1]], 1), inner), (30, 26, 26), 0.95)
        canvas.fill(np.array([(50, 49), (62, 49), (62, 51), (50, 51)]), (30, 26, 26))
    if how.occlusion > 1.3:
        rng = np.random.default_rng(int(abs(how.seed) * 1e9))
        center = MIDDLE + 34 * np.array([np.sign(how.occlusion_x), 0.6 * how.occlusion_y])
        rx, ry = rng.uniform(12, 24, 2)
        shape = _ellipse(center, rx, ry, rng.uniform(0, 3))
        canvas.fill(shape, rng.uniform(20, 220, 3), soft=0.8)


@lru_cache(maxsize=4)
def _surface(view: _View) -> tuple[Planes, Planes, Planes]:
    """Ellipsoid head: normals [3, H, W]; 0 inside to 1 outside; x, y, depth and 1 [4, H, W], which poses combine."""
    steps = (np.arange(view.size, dtype=np.float32) + 0.5) / view.zoom - 0.5
    x, y = np.meshgrid(steps + view.corner[0] - float(MIDDLE[0]), steps + view.corner[1] - float(MIDDLE[1]))
    radius = np.hypot(x / 46, y / 62)
    normals = np.stack([x / 46, y / 62, np.sqrt(np.maximum(0.1, 1 - radius**2))])
    depth = 24 * np.sqrt(np.maximum(0, 1 - (x / 42) ** 2 - (y / 58) ** 2))
    depth += 11 * np.exp(-(x**2) / 40 - (y - 4) ** 2 / 120)  # the nose stands out
    depth -= 19  # of the landmarks: alignment takes their motion away
    return normals, np.clip((radius - 0.8) / 0.3, 0, 1), np.stack([x, y, depth, np.ones_like(x)])


def _shade(canvas: _Canvas, how: Nuisance) -> None:
    """Apply Lambert's law on an ellipsoid head, and the light's color."""
    normals, outside, _ = _surface(canvas.view)
    light = np.array([0.55 * how.light_x, -0.35 + 0.4 * how.light_y, 1.0])
    light /= np.linalg.norm(light)
    lambert = np.maximum(0, np.einsum("c,chw->hw", light.astype(np.float32), normals))
    lambert += outside * (np.float32(0.5) - lambert)  # the background is lit evenly
    ambient = min(max(0.5 + 0.12 * how.ambient, 0.2), 0.8)
    color = np.exp(np.array([0.10, 0.0, -0.12]) * how.warmth + 0.22 * how.gain)
    canvas.planes *= ambient + (1.08 - ambient) * lambert
    canvas.planes *= color.astype(np.float32)[:, None, None]


def _pose(canvas: _Canvas, how: Nuisance) -> Planes:
    """Turn the head a little by shifting pixels with the depth under them, then shift the crop: [H, W, 3]."""
    yaw, pitch = 0.22 * how.yaw, 0.14 * how.pitch
    source_x = 1 / np.cos(yaw), 0, -np.sin(yaw), -0.9 * how.shift_x  # times x, y, depth and 1
    source_y = 0, 1 / np.cos(pitch), -np.sin(pitch), -0.9 * how.shift_y
    turn, size = 0.035 * how.turn, 1 + 0.025 * how.size
    c, s = np.cos(turn) / size, np.sin(turn) / size
    _, zoom, corner = canvas.view
    matrix = zoom * np.array([(c, -s), (s, c)]) @ np.array([source_x, source_y])
    matrix[:, 3] += (MIDDLE - corner + 0.5) * zoom - 0.5
    u, v = np.einsum("ic,chw->ihw", matrix.astype(np.float32), _surface(canvas.view)[2])
    pixels = cv2.merge(list(canvas.planes))
    return np.asarray(cv2.remap(pixels, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


def _expose(pixels: Planes, how: Nuisance) -> Image:
    """Simulate the camera: contrast, blur, noise, JPEG."""
    pixels = (pixels - 128) * np.float32(1 + 0.15 * how.contrast) + 128
    if how.blur > 0.3:
        pixels = cv2.GaussianBlur(pixels, (0, 0), 0.9 * how.blur)
    if how.noise > 0:
        rng = np.random.default_rng(int(abs(how.seed) * 1e9) + 1)
        pixels += rng.normal(0, 7 * how.noise, pixels.shape)
    image = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    if how.jpeg > 0:
        image = simplejpeg.decode_jpeg(simplejpeg.encode_jpeg(image, max(10, int(90 - 30 * how.jpeg))))
    return image


@lru_cache(maxsize=8)
def _person(who: Identity, view: _View) -> tuple[Floats, Floats, Planes, Planes]:
    """Parts shared by a person's pictures: skin; landmarks; layers [4, H, W] below and above the eyes and mouth."""
    under, over = (_Canvas(np.zeros((4, view.size, view.size), np.float32), view) for _ in range(2))
    under.planes[3] = over.planes[3] = 1
    skin = (_blend(SKINS, who.skin) * (1, 1 - 0.02 * who.redness, 1 - 0.03 * who.redness)).clip(20, 255)
    points = who.landmarks()
    _hair(under, who, behind=True)
    under.fill(MIDDLE + np.array([(-20, 30), (20, 30), (24, 75), (60, 95), (-60, 95), (-24, 75)]), skin * 0.72)
    under.fill(_ellipse(MIDDLE + _MIRROR * (38 + 1.8 * who.width, 0), 5, 10), skin * 0.88)
    under.fill(_head(who), skin)
    _skin_marks(under, who, skin, points)
    _nose(over, who, points[2], skin)
    _hair(over, who, behind=False)
    return skin, points, under.planes, over.planes


def render(
    who: Identity, how: Nuisance, *, size: int = 112, zoom: float = 1.0, corner: tuple[float, float] = (0.0, 0.0)
) -> Image:
    """Draw a face: uint8 RGB [size, size, 3]. The same arguments give the same bytes.

    Args:
        size: of the picture in pixels.
        zoom: pixels per template unit; 1 with size 112 is the aligned crop.
        corner: template coordinates of the picture's upper left.
    """
    rng = np.random.default_rng(int(abs(how.seed) * 1e9) + 2)
    backdrop = (
        np.array([150.0, 156, 162])
        + 38 * how.background * np.array([1, 0.8, 0.6])
        + 22 * rng.normal(size=3) * (how.seed != 0)
    )
    view = _View(size, zoom, corner)
    skin, points, under, over = _person(who, view)
    canvas = _Canvas(under[:3] + under[3] * backdrop.clip(0, 255).astype(np.float32)[:, None, None], view)
    _eyes(canvas, who, how, points[:2], skin)
    _mouth(canvas, who, how, points[3:], skin)
    canvas.planes *= over[3]
    canvas.planes += over[:3]
    _occlude(canvas, how, points)
    _shade(canvas, how)
    return _expose(_pose(canvas, how), how)
