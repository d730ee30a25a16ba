"""eDifFIQA(T) (Babnik, Peer, Štruc 2024): a small network that estimates the quality of faces, run by OpenCV."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from ..errors import ModelError
from ..types import Image, InputSpec
from .alignment import retarget

# As its authors prepare crops: RGB, 112×112, pixels from -1 to 1.
_SPEC = InputSpec(112, 112, mean=(127.5,) * 3, std=(127.5,) * 3, template="112x112")


class EDifFIQA:
    """Face quality by the network in a file. Raises ModelError for a file with another network."""

    def __init__(self, path: Path) -> None:
        try:
            self._network = cv2.dnn.readNetFromONNX(str(path))
            self(np.zeros((1, 112, 112, 3), np.uint8))
        except Exception as error:  # cv2.error, or any error caused by another network's output
            raise ModelError(
                "the network eDifFIQA", f"{path} ('{error}')", "fetch it: normface fetch ediffiqa"
            ) from error

    def __call__(self, crop: Image) -> float:
        """Quality of an aligned crop [1, height, width, 3] uint8 RGB of a known template: higher is better."""
        self._network.setInput(_SPEC.prepare(retarget(crop, _SPEC.template)))
        return float(np.ravel(self._network.forward()).item())
