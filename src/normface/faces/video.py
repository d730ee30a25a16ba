"""Frames of a video, by OpenCV's reader."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ..errors import ConfigError, DataError
from ..types import Image

SUFFIXES = frozenset((".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm"))
RATE = 5.0  # frames used per second
LOST = 50  # consecutive unreadable frames after which reading stops
_log = logging.getLogger("normface")


class Frame(NamedTuple):
    """A frame of a video.

    Attributes:
        seconds: from the start.
        image: pixels [H, W, 3] uint8 RGB.
        length: seconds of the whole video, from its header.
    """

    seconds: float
    image: Image
    length: float


def is_video(picture: object) -> bool:
    """Return whether this is the path of a video, by its name."""
    return isinstance(picture, str | os.PathLike) and Path(os.fspath(picture)).suffix.lower() in SUFFIXES


def read_frames(path: str | Path, *, rate: float = RATE) -> Iterator[Frame]:
    """Yield `rate` frames of each second of a video, or all if it has fewer.

    A warning counts frames that cannot be decoded; they are skipped.
    Raises DataError for a missing, empty or unreadable file, and for one without pictures.
    """
    if not rate > 0:
        raise ConfigError("a rate above 0 frames per second", str(rate), "correct the rate")
    path = Path(path)
    if not path.is_file():
        raise DataError(f"a video at {path}", "a folder" if path.is_dir() else "nothing there", "correct the path")
    if not path.stat().st_size:
        raise DataError(f"a video at {path}", "an empty file", "copy it again")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # quiet: our own messages say the same
    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            raise DataError(f"a video stream in {path}", "none that can be read", "give an mp4, avi, mov, mkv or webm")
        yield from _sampled(capture, path, rate)
    finally:
        capture.release()


def _sampled(capture: cv2.VideoCapture, path: Path, rate: float) -> Iterator[Frame]:
    speed = capture.get(cv2.CAP_PROP_FPS)
    speed = speed if np.isfinite(speed) and speed > 0 else 25.0
    total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))  # an estimate in some containers, 0 in others
    number = good = bad = row = 0
    due = 0.0  # time of the next frame to use, in seconds
    while row < LOST:
        seconds = number / speed
        grabbed = capture.grab()
        if not grabbed and number >= total:
            break
        found = None
        if grabbed and seconds >= due - 1e-9:
            read, pixels = capture.retrieve()
            found = pixels if read and pixels is not None else None
        if not grabbed or (seconds >= due - 1e-9 and found is None):
            bad, row = bad + 1, row + 1
        elif found is not None:
            due += 1 / rate
            good, row = good + 1, 0
            yield Frame(seconds, cv2.cvtColor(found, cv2.COLOR_BGR2RGB), total / speed)
        number += 1
    if not good:
        raise DataError(f"frames in {path}", "none that can be decoded", "copy it again, or convert it to mp4")
    if bad:
        _log.warning("%s: %d frames cannot be decoded", path, bad)
