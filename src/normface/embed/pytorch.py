"""Networks run by PyTorch in float32: a model in memory, or that of a run folder."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save as to_bytes

from .. import models
from ..checkpoint import Checkpoint, load_state
from ..errors import ModelError
from ..models import Model
from ..types import Floats
from .network import Network, Run, operating_point


@dataclass(frozen=True)
class TorchRun:
    """A model as a function: [N, C, H, W] float32 → features [N, D], computed in float32 without gradients."""

    model: Model

    def __call__(self, pixels: NDArray[np.float32]) -> Floats:
        with torch.inference_mode():
            x = torch.from_numpy(pixels).to(next(self.model.parameters()).device)
            features: Floats = self.model(x).float().cpu().numpy()
        return features


def torch_runner(model: Model) -> Run:
    """Return a model as the function of a Network, which can be pickled if the model can."""
    return TorchRun(model)


def load_model(run: str | Path) -> tuple[Model, str]:
    """Load the network of a run in evaluation mode, averaged if available, and the SHA-256 of its names and values.

    Raises ModelError if there is none, or it does not fit the network in its configuration.
    """
    checkpoint = Checkpoint.read(run)
    try:
        name, options = checkpoint.config["model"]["name"], dict(checkpoint.config["model"]["options"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            "a model's name and options in the configuration", f"neither in {checkpoint.folder}", "train it again"
        ) from error
    state = checkpoint.part("average") or checkpoint.part("model")
    model = models.build(name, **options)
    load_state(model, state, f"model {name!r}")
    digest = hashlib.sha256(to_bytes(state))  # safetensors sorts the names, so equal weights give equal bytes
    return model.eval(), digest.hexdigest()


def open_run(run: Path, *, certified: bool = True) -> Network:
    """Open the network of a run folder with its operating point. Raises ModelError as `load_model` does."""
    model, sha256 = load_model(run)
    return Network(torch_runner(model), model.spec, sha256, operating_point(run) if certified else None, run.name)
