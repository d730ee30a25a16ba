"""Training as InsightFace's arcface_torch does it, on a CPU: `train_v2.py` with its backbone, head and SGD.

From a checkout whose folder recognition/arcface_torch the environment variable ARCFACE_TORCH names. What wants a GPU is
turned round: `.cuda()` does nothing, one process is a gloo group of one, its float16 (for GPUs alone) is off. Left out,
in its favour: DistributedDataParallel and the data loader; images come as the float tensors that the loader gives.
"""

import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import torch
import torch.distributed as td
from torch import Tensor, nn

from benchmarks.harness.sheet import MissingPeer


def trainer(classes: int, dim: int = 512) -> Callable[[Tensor, Tensor], float]:
    """A step of IResNet-18 with ArcFace: images [B, 3, 112, 112] in [-1, 1] and labels [B] → the loss."""
    root = Path(os.environ.get("ARCFACE_TORCH", ""))
    if not (root / "partial_fc_v2.py").exists():
        raise MissingPeer(
            "arcface_torch",
            "git clone --depth 1 https://github.com/deepinsight/insightface && "
            "export ARCFACE_TORCH=$PWD/insightface/recognition/arcface_torch",
        )
    sys.path.insert(0, str(root))
    get_model, margin, head = (
        getattr(import_module(module), name)
        for module, name in (
            ("backbones", "get_model"), ("losses", "CombinedMarginLoss"), ("partial_fc_v2", "PartialFC_V2")
        )
    )  # fmt: skip
    torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
    if not td.is_initialized():
        store = td.HashStore()  # type: ignore[attr-defined]
        td.init_process_group("gloo", store=store, rank=0, world_size=1)
    backbone = get_model("r18", dropout=0.0, fp16=False, num_features=dim).train()
    classifier = head(margin(64, 1.0, 0.5, 0.0), dim, classes, 1.0, False).train()
    groups = [{"params": part.parameters()} for part in (backbone, classifier)]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=5e-4)
    # Its own scheduler passes an argument that torch no longer takes; this one is torch's of the same curve.
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, 1000)

    def step(images: Tensor, labels: Tensor) -> float:
        loss = classifier(backbone(images), labels.clone())
        loss.backward()
        nn.utils.clip_grad_norm_(backbone.parameters(), 5)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        return float(loss.item())

    return step
