"""Batches of 112×112 JPEGs on one core: ours beside the bare decoder and plain PIL → float Datasets.

Rounds are interleaved; the median counts. All read the same images in the same order: the bare decoder from memory, the
plain Dataset from files (torch's DataLoader, no workers), ours from the zip that the data came in and from packs: of
the JPEGs, and of decoded pixels (`normface pack --pixels`). All of it lies in the system's cache.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from PIL import Image as pillow
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.harness.faces import faces, kind_of_faces
from benchmarks.harness.sheet import Sheet
from normface.data import Images, open_reader, write
from normface.data.decoding import as_ppm
from normface.train.config import DataConfig
from normface.train.loader import Batches
from normface.types import InputSpec

QUICK = 40
BATCH = 64
SPEC = InputSpec(112, 112, template="112x112")


class Numpy(Dataset[tuple[Tensor, int]]):
    """As often seen: Pillow, then NumPy, whose division makes float64."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        with pillow.open(self.files[index]) as file:
            pixels = np.array(file.convert("RGB"))
        if np.random.rand() < 0.5:  # noqa: NPY002
            pixels = pixels[:, ::-1]
        return torch.from_numpy(((pixels / 255 - 0.5) / 0.5).transpose(2, 0, 1).copy()).float(), index


class Plain(Dataset[tuple[Tensor, int]]):
    """As most projects feed a network: Pillow, a mirrored half, then what torchvision's ToTensor and Normalize do."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files
        self.mean = self.std = torch.full((3, 1, 1), 0.5)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        with pillow.open(self.files[index]) as file:
            image = file.convert("RGB")
        if torch.rand(1) < 0.5:
            image = image.transpose(pillow.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
        return pixels.sub_(self.mean).div_(self.std), index


def run(sheet: Sheet) -> None:
    """images/s of one core, and ratios; quick: of 1,024 images."""
    sheet.figures["faces"] = kind_of_faces()
    sheet.measure("", _measure, sheet.pick(24, 8), sheet.pick(7, 3), sheet.pick(None, 1024))


def _measure(steps: int, rounds: int, images: int | None) -> dict[str, Any]:
    torch.set_num_threads(1)
    reader = open_reader(faces() / "train" / "faces-112.zip")
    with tempfile.TemporaryDirectory() as folder:
        jpegs = [row for row in range(len(reader)) if reader.ids[row].endswith(".jpg")][:images]
        reader = reader.select(jpegs)
        rows = np.concatenate([_batches(reader).rows(step) for step in range(steps)]).tolist()
        encoded = [reader.encoded(row) for row in rows]
        files = [Path(folder, f"{place}.jpg") for place in range(len(rows))]
        for file, data in zip(files, encoded, strict=True):
            file.write_bytes(data)
        write(reader.records(), Path(folder, "pack"), "arrow")
        pixels = (record._replace(image=as_ppm(reader.read(row))) for row, record in enumerate(reader.records()))
        write(pixels, Path(folder, "pixels"), "arrow")
        packed, raw = open_reader(Path(folder, "pack")), open_reader(Path(folder, "pixels"))
        plain = DataLoader(Plain(files), batch_size=BATCH)
        plainer = DataLoader(Numpy(files), batch_size=BATCH)
        ways: dict[str, Callable[[], object]] = {
            "simplejpeg alone": lambda: _decode(encoded),
            "PIL to float": lambda: list(plain),
            "PIL to float by NumPy": lambda: list(plainer),
            "ours, zip": lambda: _take(_batches(reader), steps),
            "ours, pack": lambda: _take(_batches(packed), steps),
            "ours, pack of pixels": lambda: _take(_batches(raw), steps),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(rounds + 1):
            for name, way in ways.items():
                began = time.process_time()
                way()
                times[name] += [time.process_time() - began] * (turn > 0)  # the first warms up
    speeds = {name: len(rows) / statistics.median(spent) for name, spent in times.items()}
    ours = [name for name in ways if name.startswith("ours")]
    return {
        "images": len(rows), "bytes_per_image": round(statistics.mean(map(len, encoded))), "rounds": rounds,
        "images_per_second_and_core": {name: round(speed) for name, speed in speeds.items()},
        "share_of_simplejpeg": {name: round(speeds[name] / speeds["simplejpeg alone"], 3) for name in ours},
        "times_pil_to_float": {
            plain: {name: round(speeds[name] / speeds[plain], 2) for name in ours}
            for plain in ways
            if plain.startswith("PIL")
        },
    }  # fmt: skip


def _batches(reader: Images) -> Batches:
    return Batches(reader, SPEC, DataConfig(), batch=BATCH, seed=0)


def _decode(encoded: Sequence[bytes]) -> None:
    for data in encoded:
        simplejpeg.decode_jpeg(data)  # a list of the pixels would count new memory, a seventh of its time


def _take(batches: Batches, steps: int) -> None:
    for step in range(steps):
        batches[step]
