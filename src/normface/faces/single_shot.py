"""Base of detectors with one network: fit a photograph into its input, run it, suppress overlapping boxes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, ModelError
from ..inference import Device, Session
from ..types import Face, Floats, Image
from .alignment import check_photograph
from .suppression import nms

SIZE = 640  # side of the input, if the network accepts any
OVERLAP = 0.4  # of two boxes' union, above which the worse box is dropped


class Candidates(NamedTuple):
    """Boxes [N, 4], landmarks [N, 5, 2] and scores [N], in pixels of the network's input."""

    boxes: Floats
    landmarks: Floats
    scores: Floats


class SingleShot:
    """A detector of one network; a subclass prepares its pixels and decodes its outputs.

    Args:
        weights: the ONNX file.
        threshold: of the faces' scores.
        size: side of the square that a photograph is fitted into, a multiple of 32, if the network takes any size.
        device: for `inference.Session`.

    Raises:
        ModelError: the file is missing, or is another network.
    """

    fetchable = ""  # the name of a catalogue entry

    def __init__(
        self, weights: str | Path | None = None, threshold: float = 0.5, size: int = SIZE, device: Device = "auto"
    ) -> None:
        name, do = type(self).__name__, f"fetch one: normface fetch {self.fetchable}, or give --weights FILE"
        if weights is None or not Path(weights).is_file():
            raise ModelError(f"the weights of {name}", f"nothing at {weights}" if weights else "none", do)
        if size < 32 or size % 32 or not 0 < threshold < 1:
            raise InputError("size a multiple of 32 and 0 < threshold < 1", f"{size} and {threshold}", "correct them")
        self.weights, self.threshold = str(weights), threshold
        self._net = Session(Path(weights), device)
        source = self._net.session.get_inputs()[0]
        height, width = source.shape[2:] if len(source.shape) == 4 else (0, 0)
        self._size = tuple(side if isinstance(side, int) and side > 0 else size for side in (height, width))
        self._source = source.name
        try:
            self._candidates(np.zeros((*self._size, 3), np.uint8))
        except Exception as error:  # any error caused by another network's outputs
            raise ModelError(f"the weights of {name}", f"{weights} ('{error}')", do) from error

    @property
    def device(self) -> str:
        """The device on which the network runs."""
        return self._net.device

    def detect(self, image: Image) -> list[Face]:
        """Detect faces in a photograph [H, W, 3] uint8 RGB, most confident first. Raises InputError otherwise."""
        check_photograph(image)
        scale = min(want / side for want, side in zip(self._size, image.shape, strict=False))
        height, width = (
            max(1, min(want, round(side * scale))) for want, side in zip(self._size, image.shape, strict=False)
        )
        place = np.zeros((*self._size, 3), np.uint8)
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        place[:height, :width] = cv2.resize(image, (width, height), interpolation=method)
        found = self._candidates(place)
        boxes, landmarks = found.boxes.astype(np.float64) / scale, found.landmarks.astype(np.float64) / scale
        keep = nms(boxes, found.scores, np.zeros(len(boxes), np.intp), OVERLAP)
        return [Face(tuple(boxes[i].tolist()), landmarks[i], float(found.scores[i])) for i in keep]

    def detect_many(self, images: Sequence[Image]) -> list[list[Face]]:
        """Detect faces in several photographs."""
        return [self.detect(image) for image in images]

    def _candidates(self, image: Image) -> Candidates:
        pixels = np.ascontiguousarray(self.prepare(image).transpose(2, 0, 1)[None], np.float32)
        outputs = [each.reshape(-1, each.shape[-1]) for each in self._net.run({self._source: pixels})]
        return self.decode(outputs, (image.shape[0], image.shape[1]))

    def prepare(self, image: Image) -> NDArray[np.float32]:
        """Convert pixels [H, W, 3] uint8 RGB to the network's input."""
        raise NotImplementedError

    def decode(self, outputs: list[Floats], size: tuple[int, int]) -> Candidates:
        """Decode the outputs, each [N, C], for an input of `size` (height, width); scores above the threshold."""
        raise NotImplementedError


def of_width(outputs: list[Floats], width: int) -> list[Floats]:
    """Return the outputs with `width` columns, the longest first. Raises ValueError if there are none."""
    found = sorted((each for each in outputs if each.shape[1] == width), key=len, reverse=True)
    if not found:
        raise ValueError(f"no output with {width} columns")
    return found
