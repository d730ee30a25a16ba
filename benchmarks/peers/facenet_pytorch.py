"""MTCNN of facenet-pytorch (github timesler/facenet-pytorch), from a checkout whose folder FACENET_PYTORCH names.

The package wants an old torch, and torchvision. Photographs as arrays need one function of torchvision alone,
`batched_nms`: greedy, a photograph at a time, as torchvision documents it, written here with NumPy.
"""

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness.sheet import MissingPeer


def load(min_face: float) -> Any:
    """The detector with thresholds and pyramid factor as it sets them, which are the paper's."""
    root = Path(os.environ.get("FACENET_PYTORCH", ""))
    if not (root / "data" / "onet.pt").exists():
        raise MissingPeer(
            "facenet-pytorch",
            "git clone --depth 1 https://github.com/timesler/facenet-pytorch && "
            "export FACENET_PYTORCH=$PWD/facenet-pytorch (its data/*.pt must be there)",
        )
    if "facenet_pytorch.models.mtcnn" not in sys.modules:
        for name in ("torchvision", "torchvision.transforms", "torchvision.ops", "torchvision.ops.boxes"):
            sys.modules[name] = ModuleType(name)
        vars(sys.modules["torchvision.transforms"])["functional"] = None
        vars(sys.modules["torchvision.ops.boxes"])["batched_nms"] = batched_nms
        for name, place in (("facenet_pytorch", root), ("facenet_pytorch.models", root / "models")):
            # Empty: the package's own __init__ imports more of torchvision.
            sys.modules[name] = ModuleType(name)
            sys.modules[name].__path__ = [str(place)]
    from facenet_pytorch.models.mtcnn import MTCNN

    return MTCNN(min_face_size=min_face)


def batched_nms(boxes: Tensor, scores: Tensor, owners: Tensor, limit: float) -> Tensor:
    """Rows to keep, best first: none overlaps a better one of its owner by more than `limit`."""
    if not len(boxes):
        return torch.empty(0, dtype=torch.int64)
    corners = boxes.numpy() + (owners.to(boxes) * (boxes.max() + 1)).numpy()[:, None]
    area = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    order = np.argsort(-scores.numpy(), kind="stable")
    keep = []
    while order.size:
        best, order = order[0], order[1:]
        keep.append(best)
        low = np.maximum(corners[best, :2], corners[order, :2])
        high = np.minimum(corners[best, 2:], corners[order, 2:])
        wide, tall = np.maximum(high - low, 0).T
        order = order[wide * tall <= limit * (area[best] + area[order] - wide * tall)]
    return torch.as_tensor(np.array(keep))
