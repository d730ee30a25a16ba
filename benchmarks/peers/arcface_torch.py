"""Training as InsightFace's arcface_torch does it: `train_v2.py` with its backbone, head and SGD.

From a checkout whose folder recognition/arcface_torch the environment variable ARCFACE_TORCH names. On a GPU as it
comes: float16 under autocast with its GradScaler. On a CPU what wants a GPU is turned round: `.cuda()` does nothing,
one process is a gloo group of one, float16 is off. Left out, in its favor: DistributedDataParallel and the data
loader; images come as the float tensors that the loader gives.
"""

import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.distributed as td
from torch import Tensor, nn

from benchmarks.harness.sheet import MissingPeer


def trainer(
    classes: int, dim: int = 512, *, network: str = "r18", device: str = "cpu", folder: str | None = None
) -> Callable[[Tensor, Tensor], float]:
    """A step of an IResNet with ArcFace: images [B, 3, 112, 112] in [-1, 1] and labels [B] → the loss."""
    get_model, classifier = _parts(folder, device)
    half = device == "cuda"
    backbone = get_model(network, dropout=0.0, fp16=half, num_features=dim).train().to(device)
    head = classifier(dim, classes, half).train().to(device)
    groups = [{"params": part.parameters()} for part in (backbone, head)]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=5e-4)
    # Its own scheduler passes an argument that torch no longer takes; this one is torch's of the same curve.
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, 1000)
    scaler = torch.amp.GradScaler(device, growth_interval=100, enabled=half)

    def step(images: Tensor, labels: Tensor) -> float:
        loss = head(backbone(images), labels.clone())
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(backbone.parameters(), 5)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        schedule.step()
        return float(loss.item())

    return step


def head(weight: nn.Parameter, folder: str | None, device: str) -> Callable[[Tensor, Tensor], None]:
    """Forward and backward of its PartialFC_V2 at rate 1 with ArcFace, on features [B, D] and given weights [C, D]."""
    _, classifier = _parts(folder, device)
    part = classifier(weight.shape[1], 2, device == "cuda").train().to(device)
    part.weight, part.num_local = weight, len(weight)
    return lambda features, labels: part(features, labels.clone()).backward()


def _parts(folder: str | None, device: str) -> tuple[Any, Callable[[int, int, bool], Any]]:
    """Its backbones, and its head as a function of dimensions, classes and whether it computes in float16."""
    root = Path(folder or os.environ.get("ARCFACE_TORCH", ""))
    if not (root / "partial_fc_v2.py").exists():
        raise MissingPeer(
            "arcface_torch",
            "git clone --depth 1 https://github.com/deepinsight/insightface && "
            "export ARCFACE_TORCH=$PWD/insightface/recognition/arcface_torch",
        )
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    get_model, margin, classifier = (
        getattr(import_module(module), name)
        for module, name in (
            ("backbones", "get_model"), ("losses", "CombinedMarginLoss"), ("partial_fc_v2", "PartialFC_V2")
        )
    )  # fmt: skip
    if device == "cpu":
        torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
    if not td.is_initialized():
        store = td.HashStore()  # type: ignore[attr-defined]
        td.init_process_group("nccl" if device == "cuda" else "gloo", store=store, rank=0, world_size=1)
    return get_model, lambda dim, classes, half: classifier(margin(64, 1.0, 0.5, 0.0), dim, classes, 1.0, half)
