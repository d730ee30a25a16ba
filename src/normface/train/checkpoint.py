"""Checkpoints: one safetensors file with JSON in its header, no pickle; there whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from .. import models
from ..atomic import replacing
from ..embed import certificate
from ..errors import ModelError
from ..models import Model
from ..types import OperatingPoint
from .config import TrainConfig, parse_config

FILE = "checkpoint.safetensors"
FORMAT = "normface-checkpoint-1"


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after `step` steps.

    Attributes:
        tensors: "model.…", "loss.…" and "momentum.…" → tensor.
        config: of the run.
        step: steps done.
        facts: of the data: number of classes and images, SHA-256 of the list of images.
    """

    tensors: Mapping[str, Tensor]
    config: TrainConfig
    step: int
    facts: Mapping[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose name begins with `prefix` and a dot, without it."""
        return {name[len(prefix) + 1 :]: t for name, t in self.tensors.items() if name.startswith(prefix + ".")}

    def write(self, run: Path) -> None:
        """Save into the folder `run`. Raises DataError where that fails; the previous checkpoint then still stands."""
        header = {
            "format": FORMAT, "config": self.config.model_dump_json(),
            "step": str(self.step), "facts": json.dumps(self.facts),
        }  # fmt: skip
        content = save({name: t.detach().cpu().contiguous() for name, t in self.tensors.items()}, header)
        with replacing(run / FILE) as temporary:
            temporary.write_bytes(content)

    @classmethod
    def read(cls, path: str | Path) -> Checkpoint:
        """Load from a run folder, or from the file itself. Raises ModelError for anything else."""
        path = Path(path)
        path = path / FILE if path.is_dir() else path
        if not path.is_file():
            raise ModelError(f"a run with {FILE}", f"nothing at {path}", "train it first: normface train")
        try:
            with safe_open(path, "pt") as file:
                header = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
        except (SafetensorError, OSError) as error:
            raise ModelError("a checkpoint in safetensors", f"{path} ('{error}')", "train it again") from error
        if header.get("format") != FORMAT:
            raise ModelError(
                f"a checkpoint of format {FORMAT}", f"{path} with {header.get('format')!r}",
                "train it with this version",
            )  # fmt: skip
        try:
            raw, step, facts = json.loads(header["config"]), int(header["step"]), json.loads(header["facts"])
        except (KeyError, ValueError) as error:
            raise ModelError("config, step and facts in the header", f"{path} ('{error}')", "train it again") from error
        return cls(tensors, parse_config(raw, str(path)), step, facts)


def load_state(module: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Strict load_state_dict. Raises ModelError naming the first key or shape that does not fit."""
    own = module.state_dict()
    faults = [f"{key} is missing" for key in own if key not in state]
    faults += [f"{key} is not known" for key in state if key not in own]
    faults += [
        f"{key} has shape {list(state[key].shape)}, not {list(own[key].shape)}"
        for key in own
        if key in state and own[key].shape != state[key].shape
    ]
    if faults:
        raise ModelError(
            f"a checkpoint of this {what}", f"{len(faults)} differences (first: {faults[0]})",
            "use the configuration the checkpoint was trained with",
        )  # fmt: skip
    module.load_state_dict(dict(state))


def load_model(run: str | Path) -> tuple[Model, str]:
    """The network of a run in evaluation mode, and the SHA-256 of its weights (names and values)."""
    checkpoint = Checkpoint.read(run)
    config, state = checkpoint.config.model, checkpoint.part("model")
    model = models.build(config.name, **config.options)
    load_state(model, state, f"model {config.name!r}")
    digest = hashlib.sha256(save(state))  # safetensors orders the names: equal weights, equal bytes
    return model.eval(), digest.hexdigest()


def operating_point(run: str | Path) -> OperatingPoint | None:
    """The operating point kept in a run folder, if there is one."""
    path = certificate(run)
    return OperatingPoint.from_json(path.read_bytes()) if path.exists() else None
