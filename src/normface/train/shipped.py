"""The default model as the start of a run: its ONNX file, turned back into a network that can be trained.

In the file weights have 8 bits and batch norms are folded into the convolutions before them. Each weight becomes its
code times its scale, as the file itself computes it, so nothing is lost beside the shipped model; beside the network
that it was made from, cosines lose up to 3e-4 (`normface.parity` in the file). Batch norm's own numbers are gone:
`settle` measures them anew, on the images that training goes on with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .. import models
from ..checkpoint import ORIGIN, Checkpoint, RowShard, check_fit
from ..data import Reader
from ..embed.loading import DEFAULT
from ..embed.session import open_onnx
from ..errors import require
from ..faces import retarget
from ..models import Model
from .augment import prepare

NAME = "default"
NETWORK: dict[str, Any] = {"name": "smallresnet", "options": {"channels": [32, 64, 128, 256], "units": [1, 2, 2]}}
LICENCE = "for research only, as its training data (docs/model-card.md)"
IMAGES, AT_ONCE = 512, 64  # measured by `settle`


@dataclass(frozen=True)
class Shipped(Checkpoint):
    """A checkpoint in memory; `held` has its tensors by name."""

    held: Mapping[str, Tensor]

    def fill(self, tensors: Mapping[str, Tensor | RowShard]) -> None:
        """Copy these tensors in place."""
        for name, t in tensors.items():
            assert isinstance(t, Tensor)
            t.copy_(self.held[name])


def start_checkpoint(run: str) -> Checkpoint:
    """Open the checkpoint that a run starts from: a run folder's, or the default model. Raises as Checkpoint.read."""
    if run != NAME or Path(run).exists():
        return Checkpoint.read(run)
    with torch.device("meta"):
        model = models.build(NETWORK["name"], **NETWORK["options"])
    held = {f"model.{name}": t for name, t in unfolded(model, _constants(DEFAULT)).items()}
    origin = {
        "name": "normface's default model", "repository": "normface", "licence": LICENCE,
        "sha256": open_onnx(DEFAULT, certified=False).sha256,
    }  # fmt: skip
    facts = {"classes": 0, "images": 0, ORIGIN: origin}
    return Shipped(DEFAULT, {"model": NETWORK}, 0, facts, {name: t.to("meta") for name, t in held.items()}, held)


def unfolded(model: Model, constants: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict with the constants of a file that `embed.export` wrote; batch norms only add their biases.

    Raises ModelError for those of another network.
    """
    norms = {name: module.eps for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
    given = dict(constants)
    for name in list(given):
        if name.endswith(".weight_bias"):  # of a layer with its batch norm, which comes next
            given[f"{_next(name.removesuffix('.weight_bias'))}.bias"] = given.pop(name)
    for norm in norms.keys() & {name.removesuffix(".bias") for name in given}:
        bias, eps = given[f"{norm}.bias"], norms[norm]
        given[f"{norm}.weight"] = torch.full_like(bias, (1 + eps) ** 0.5)
        given[f"{norm}.running_mean"] = torch.zeros_like(bias)
        given[f"{norm}.running_var"] = torch.ones_like(bias)
        given[f"{norm}.num_batches_tracked"] = torch.zeros((), dtype=torch.int64)
    shapes = ({name: t.shape for name, t in each.items()} for each in (model.state_dict(), given))
    check_fit(f"network {NETWORK['name']!r}", *shapes)
    return given


@torch.no_grad()
def settle(model: Model, batches: Iterable[Tensor]) -> None:
    """Give batch norms the statistics of images [N, C, H, W], and keep what the network computes in evaluation.

    Then it computes nearly the same in training, where batch norm takes the statistics of each batch.
    """
    sums: dict[_BatchNorm, list[Tensor]] = {}

    def look(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        assert isinstance(norm, _BatchNorm)
        x = inputs[0].double().transpose(0, 1).flatten(1)
        found = [torch.full((), x.shape[1], dtype=x.dtype, device=x.device), x.sum(1), x.square().sum(1)]
        sums[norm] = [a + b for a, b in zip(sums[norm], found, strict=True)] if norm in sums else found

    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    hooks = [norm.register_forward_pre_hook(look) for norm in norms]
    training = model.training
    model.eval()
    for batch in batches:
        model(batch)
    model.train(training)
    for hook in hooks:
        hook.remove()
    for norm, (count, total, squares) in sums.items():
        assert norm.running_mean is not None
        assert norm.running_var is not None
        factor = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        shift = norm.bias.double() - norm.running_mean.double() * factor
        mean = total / count
        variance = squares / count - mean.square()
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.weight.copy_(factor * (variance + norm.eps).sqrt())
        norm.bias.copy_(shift + mean * factor)


def crops_for(model: Model, reader: Reader) -> Iterable[Tensor]:
    """Yield up to IMAGES crops of a Reader, evenly spaced, as input of the network; the same on all ranks."""
    rows = np.linspace(0, len(reader) - 1, min(IMAGES, len(reader))).astype(np.int64)
    device = next(model.parameters()).device
    for some in np.array_split(rows, -(-len(rows) // AT_ONCE)):
        crops = np.concatenate([retarget(reader.read(row)[None], model.spec.template) for row in some.tolist()])
        pixels = torch.from_numpy(crops).to(device).permute(0, 3, 1, 2).float()
        yield prepare(pixels, model.spec)


def _next(layer: str) -> str:
    """The layer after this one in a Sequential: "body.3.body.0" → "body.3.body.1"."""
    sequence, _, place = layer.rpartition(".")
    return f"{sequence}.{int(place) + 1}"


def _constants(path: Path) -> dict[str, Tensor]:
    """Weights and biases of an ONNX file, with codes of 8 bits times their scales."""
    onnx = require("onnx", "train")
    held = {each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer}
    found = {name: value for name, value in held.items() if not name.endswith((".int8", ".scale"))}
    for name, codes in held.items():
        if name.endswith(".int8"):
            whole = name.removesuffix(".int8")
            found[whole] = codes.astype(np.float32) * held[f"{whole}.scale"]
    # What is not float are the shapes of reshapes.
    return {name: torch.from_numpy(value.copy()) for name, value in found.items() if value.dtype == np.float32}
