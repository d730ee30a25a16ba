"""Training: a typed configuration and labelled crops in, a run folder out."""

import warnings
from pathlib import Path

from ..checkpoint import Checkpoint
from ..embed import Embedder
from ..embed.network import operating_point
from ..embed.pytorch import load_model
from .adoption import adopt
from .config import TrainConfig, load_config
from .doctor import Diagnosis, Run, diagnose
from .loop import Outcome, train
from .sgd import RowSGD

__all__ = [
    "Checkpoint", "Diagnosis", "Outcome", "RowSGD", "Run", "TrainConfig", "adopt", "diagnose", "embedder",
    "load_config", "load_model", "operating_point", "train",
]  # fmt: skip


def embedder(run: str | Path, *, certified: bool = True) -> Embedder:
    """Load the Embedder of a run folder. Deprecated: `Embedder.load` takes a run, too."""
    warnings.warn("train.embedder(RUN) will go: use Embedder.load(RUN)", DeprecationWarning, stacklevel=2)
    return Embedder.load(run, certified=certified)
