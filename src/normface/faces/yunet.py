"""YuNet (Wu, Peng, Yu 2023), run by OpenCV from an ONNX file: faster than MTCNN, and detects turned faces."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from cv2.utils import logging

from ..errors import ConfigError, ModelError
from ..inference import Device
from ..types import Face, Image
from . import DETECTORS
from .alignment import check_photograph

_WHERE = "fetch it: normface fetch yunet, or give its ONNX file: --weights FILE"


@DETECTORS.register
class yunet:
    """YuNet for faces of about 10 to 300 pixels.

    Args:
        weights: the ONNX file, such as `yunet_n_dynamic.onnx`.
        threshold: of the faces' scores.
        device: "auto" or "cpu": OpenCV runs it.

    Raises:
        ModelError: the file is missing or is not YuNet.
        ConfigError: another device.
    """

    device = "cpu"

    def __init__(self, weights: str | Path | None = None, threshold: float = 0.7, device: Device = "auto") -> None:
        if device not in ("auto", "cpu"):
            raise ConfigError("--device cpu for YuNet, which OpenCV runs", device, "drop --device, or take scrfd-10g")
        if weights is None or not Path(weights).is_file():
            raise ModelError("the weights of YuNet", f"nothing at {weights}" if weights else "none", _WHERE)
        self.weights, self.threshold = str(weights), threshold
        self._own = threading.local()  # OpenCV's detector stores the image size: one per thread
        try:
            self.detect(np.zeros((64, 64, 3), np.uint8))
        except Exception as error:  # cv2.error, or any error caused by another network's outputs
            raise ModelError("the weights of YuNet", f"{weights} ('{error}')", _WHERE) from error

    def __reduce__(self) -> tuple[type[yunet], tuple[str, float]]:
        return yunet, (self.weights, self.threshold)

    def detect(self, image: Image) -> list[Face]:
        """Detect faces in a photograph [H, W, 3] uint8 RGB, most confident first. Raises InputError otherwise."""
        check_photograph(image)
        net = self._net()
        net.setInputSize(image.shape[1::-1])
        _, rows = net.detect(np.ascontiguousarray(image[..., ::-1]))
        faces = []
        for row in np.empty((0, 15)) if rows is None else rows.astype(np.float64):
            x, y, width, height = row[:4]
            # The person's right eye comes first, which is on the left of the image.
            faces.append(Face((x, y, x + width - 1, y + height - 1), row[4:14].reshape(5, 2), float(row[14])))
        return sorted(faces, key=lambda face: -face.score)

    def detect_many(self, images: Sequence[Image]) -> list[list[Face]]:
        """Detect faces in several photographs."""
        return [self.detect(image) for image in images]

    def _net(self) -> Any:
        if not hasattr(self._own, "net"):
            level = logging.getLogLevel()
            logging.setLogLevel(logging.LOG_LEVEL_ERROR)  # OpenCV 5 warns about a setting that is not ours
            self._own.net = cv2.FaceDetectorYN.create(self.weights, "", (64, 64), self.threshold, 0.3, 5000)
            logging.setLogLevel(level)
        return self._own.net
