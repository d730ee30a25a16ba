"""Clips drawn for the tests, with photographs that move."""

import os

import cv2
import numpy as np

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # OpenCV reads it once, at the first clip
SPEED, HEIGHT, WIDTH = 10, 300, 640


def write_clip(path, frames):
    """A clip of frames; each is a list of (photograph, left edge), the last one in front."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), SPEED, (WIDTH, HEIGHT))
    for shown in frames:
        image = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
        for photograph, left in shown:
            height, width = photograph.shape[:2]
            x0, x1 = max(left, 0), min(left + width, WIDTH)
            if x0 < x1:
                image[20 : 20 + height, x0:x1] = photograph[:, x0 - left : x1 - left]
        writer.write(np.ascontiguousarray(image[..., ::-1]))
    writer.release()
    return path
