"""Random variation of aligned crops, drawn from a generator that the caller seeds."""

from __future__ import annotations

import cv2
import numpy as np

from ..types import Image
from .config import DataConfig

DRAWS = 7  # numbers an image takes


def augment(crops: Image, config: DataConfig, rng: np.random.Generator, start: int = 0) -> Image:
    """Vary crops [N, H, W, 3] uint8 as `config` says; the same generator state gives the same result.

    `start`: images of the batch that come before these, whose numbers are passed over.
    """
    rng.random(start * DRAWS)
    varied = np.empty_like(crops)
    height, width = crops.shape[1:3]
    centre = ((width - 1) / 2, (height - 1) / 2)
    for i, crop in enumerate(crops):
        # All numbers are drawn whatever is switched on, so that one option does not change another's draws.
        mirrored, *draws = rng.random(), *rng.uniform(-1, 1, 6)
        if config.mirror and mirrored < 0.5:
            crop = crop[:, ::-1]
        if config.shift or config.rotate or config.zoom:
            warp = cv2.getRotationMatrix2D(centre, config.rotate * draws[0], 1 + config.zoom * draws[1])
            warp[:, 2] += config.shift * np.array(draws[2:4])
            crop = cv2.warpAffine(crop, warp, (width, height), borderMode=cv2.BORDER_REPLICATE)
        if config.light:
            contrast, brightness = 1 + config.light * draws[4], 127.5 * config.light * draws[5]
            levels = (np.arange(256) - 127.5) * contrast + 127.5 + brightness
            crop = levels.clip(0, 255).astype(np.uint8)[crop]
        varied[i] = crop
    return varied
