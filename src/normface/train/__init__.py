"""Training: from a typed configuration and labeled crops to a run folder."""

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
    """Load the Embedder of a run folder. Deprecated: use `Embedder.load`."""
    warnings.warn("train.embedder(RUN) is deprecated: use Embedder.load(RUN)", DeprecationWarning, stacklevel=2)
    return Embedder.load(run, certified=certified)
